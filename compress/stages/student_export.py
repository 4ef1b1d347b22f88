"""The trained student on disk, block by block, and its parity with the one in training.

A run in float32 is compared by the engine's logits. One in lower precision, whose logits are rounded,
is compared with the weights of full size in float32, 0 where pruned, written for that and deleted.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from compress.compression.masks import Masks
from compress.methods import Method
from compress.models import encoders, remote_code
from compress.models.weight_files import WeightFiles
from compress.runtime import ranks
from compress.scoring.split_pass import SplitPass
from compress.stages import export, parity
from compress.stages.context import Context
from compress.training import gathering
from compress.training.gathering import Portion
from compress.training.trainer import Trainer


@contextmanager
def _full_float32() -> Iterator[None]:
    """Context without TF32, which the configuration or the environment may have switched on."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@dataclass(frozen=True)
class Written:
    """Weights of a finished training; expected: the engine's logits [N, C] on the first dev samples.

    weights: directory of the cut ones; reference: of a model of full size, where it is the measure.
    """

    weights: Path
    reference: Path | None
    expected: NDArray[np.float64] | None

    def parity(self, run: Context, model: Path) -> float:
        """See `parity.difference`; model: the exported directory. On the main rank alone."""
        dev = run.columns["dev"].head(parity.SAMPLES)
        expected = self.expected
        with _full_float32():
            if expected is None:
                assert self.reference is not None, "something is compared with"
                expected = parity.logits(self.reference, dev, run.device)
                shutil.rmtree(self.reference, ignore_errors=True)
            return parity.difference(model, expected, dev, run.device)


@dataclass(frozen=True)
class Trained:
    """A student whose training is done; shape: an empty model of its full size."""

    trainer: Trainer
    masks: Masks
    methods: Sequence[Method]
    shape: PreTrainedModel

    def write(self, run: Context, folder: Path) -> Written:
        """Write the weights, and find what they are compared with; all ranks."""
        weights = folder / "weights"
        reference = folder / "reference" if run.config.deepspeed.low_precision else None
        self._stream(weights, reference)
        with _full_float32():
            return Written(weights, reference, self._expected(run) if reference is None else None)

    def _stream(self, weights: Path, reference: Path | None) -> None:
        """Write what the masks leave into `weights`, and the uncut weights into `reference`."""
        names = self.shape.state_dict().keys()
        cut, *uncut = export.begin(weights, *([reference] if reference else []))

        def take(portion: Portion) -> None:
            plain = reduce(lambda plain, method: method.finish(plain), self.methods, portion)
            plain = {name: value for name, value in plain.items() if name in names}
            for writer in uncut:
                writer.add(plain.items())
            cut.add(self.masks.cut(plain, self.shape).items())

        export.write(gathering.of_engine(self.trainer.engine), take, cut, *uncut)
        if reference and ranks.is_main():
            remote_code.write_config(self.shape, reference)

    def _expected(self, run: Context) -> NDArray[np.float64]:
        dev = run.columns["dev"].head(parity.SAMPLES)
        self.trainer.engine.eval()
        return SplitPass(self.trainer.forward, dev, parity.SAMPLES, run.device).logits()

    def small(self) -> PreTrainedModel:
        """The exported model without its weights."""
        return encoders.of_config(self.masks.small(self.shape.config))

    def sparsity(self, model: Path) -> float:
        """Of the exported directory; see `Masks.sparsity_of`."""
        return self.masks.sparsity_of(WeightFiles(model).read)
