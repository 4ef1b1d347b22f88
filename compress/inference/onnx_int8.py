"""An ONNX file in 8-bit integers: weights once, activations while it runs (dynamic quantisation).

Weights [in, out] become signed integers with a scale for each output, activations unsigned ones with a
scale for each tensor of a batch, so no calibration data is needed (Krishnamoorthi 2018, arXiv
1806.08342; onnxruntime's `quantize_dynamic`). The scale of an activation is that of its whole batch:
in another batch the logits of a sample differ a little.
"""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from compress.errors import UserError, first_line
from compress.files import artefacts
from compress.inference import onnx_export
from compress.models import encoders

OPTIONS = {"per_channel": True, "reduce_range": True}
"""A scale for each output of a layer, and 7 bits of a weight: on processors without VNNI the sums of
products of 8 bits overflow. Measured with a MiniLM: per channel half of the error in the logits or
less, and 7 bits as fast."""
CPU = torch.device("cpu")


def quantise(source: Path, file: Path) -> None:
    """Write an ONNX file in 8-bit integers, with the configuration and tokenizer beside the source.

    source: of `onnx_export.export`; file: in a new directory. Raises UserError if it cannot be
    quantised or run.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    for beside in source.parent.iterdir():
        if beside.name not in {source.name, artefacts.MARKER}:
            shutil.copyfile(beside, file.parent / beside.name)
    quiet, level = logging.getLogger(), logging.getLogger().level
    quiet.setLevel(logging.ERROR)  # it advises a preparation that changes nothing in these graphs
    try:
        quantize_dynamic(source, file, weight_type=QuantType.QInt8, **OPTIONS)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{source}: cannot be quantised ({first_line(error)}).") from None
    finally:
        quiet.setLevel(level)
    config = encoders.load_config(file.parent)
    running = onnx_export.session(file, 1, CPU)
    for shape in (onnx_export.TRACED, (3, 7)):
        if not np.isfinite(onnx_export.random_call(running, config, *shape)()).all():
            raise UserError(f"{source}: in 8-bit integers its logits are not finite.")


class Forward:
    """Logits [B, C] of an ONNX file, each sample alone and without padding.

    So they do not depend on the other samples of a batch, nor on the number of ranks.
    """

    def __init__(self, file: Path) -> None:
        """Open the file on the CPU, with PyTorch's number of threads."""
        self.running = onnx_export.session(file, torch.get_num_threads(), CPU)

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """See the class; inputs [B, L] with `attention_mask`."""
        real = inputs["attention_mask"].bool()
        rows = [
            {name: tensor[row, real[row]][None] for name, tensor in inputs.items()}
            for row in range(len(real))
        ]
        return torch.from_numpy(np.concatenate([onnx_export.call(self.running, row)() for row in rows]))
