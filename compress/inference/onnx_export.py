"""A model directory as one ONNX file with dynamic batch and sequence axes, checked against PyTorch.

deepspeed train.py ... --export onnx        writes OUTPUT_DIR/onnx/model.onnx
deepspeed train.py ... --export onnx-int8   and OUTPUT_DIR/onnx_int8/model.onnx (`onnx_int8`)

Layers may differ in width, which no converter expects, so every export is compared with PyTorch. The
exporter is torch's TorchScript one with eager attention: measured beside the newer one (`dynamo=True`),
its files run as fast and are made ten times sooner, without a further package.
"""

import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from compress.errors import UserError, first_line
from compress.files import disk
from compress.models import encoders, model_questions, probe, remote_code

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

PACKAGES = ("onnx", "onnxruntime")
OPSET = 18
AXES = {0: "batch", 1: "sequence"}
TOLERANCE = 1e-4
TRACED = (2, 16)
CHECKED = ((1, 2), TRACED, (3, 33), (5, 128))


def require() -> None:
    """Raise UserError unless the packages are installed that writing and checking a file needs."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(
            f"ONNX needs the package {' and '.join(missing)}; run: pip install -r requirements-onnx.txt"
        )


def export(model_dir: Path, file: Path) -> None:
    """Write the classifier of a directory as ONNX: whole and checked, or not at all.

    Inputs are those of the directory's tokenizer as far as the model uses them, each int64 [B, L], in
    the order `input_ids`, `attention_mask`, `token_type_ids`; output `logits`, float32 [B, C].
    config.json and the tokenizer's files, which hand over just these inputs, are written beside it.
    Older files are replaced on success only.
    Raises UserError for a missing package, a damaged directory, a model that cannot be written as ONNX,
    or logits that differ from PyTorch's by more than `TOLERANCE`.
    """
    require()
    model = encoders.load_compressed(model_dir)
    tokenizer = tokenizer_of(model_dir, model)
    form = InputForm.of(model.config, tokenizer)
    longest = model_questions.usable(
        model, lambda n: random_inputs(model.config, 1, n), 1, CHECKED[-1][1]
    )
    samples = [random_inputs(model.config, b, min(n, longest), True, form) for b, n in CHECKED]
    with torch.inference_mode():
        expected = [model(**sample).logits for sample in samples]
    try:
        with disk.writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as folder:
                temporary, beside = Path(folder) / file.name, Path(folder) / "beside"
                _write(model, samples[CHECKED.index(TRACED)], temporary, model_dir)
                _check(temporary, samples, expected, model_dir)
                remote_code.forget(model.config)
                model.config.save_pretrained(beside)
                if tokenizer is not None:
                    encoders.save_tokenizer(tokenizer, beside)
                for written in (*beside.iterdir(), temporary):
                    written.replace(file.parent / written.name)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror or error}).") from None


def tokenizer_of(model_dir: Path, model: PreTrainedModel) -> PreTrainedTokenizerBase | None:
    """The directory's tokenizer, used as the model takes it; None if it has none."""
    if not encoders.has_tokenizer(model_dir):
        return None
    tokenizer = encoders.load_tokenizer(model_dir)
    texts = encoders.texts_of(model.config) or 2
    probe.fit(model, tokenizer, str(model_dir), texts).settle(tokenizer)
    return tokenizer


@dataclass(frozen=True)
class InputForm:
    """How texts reach a model: whether with segment ids, the padding id, and its side."""

    segments: bool
    pad_id: int
    side: str = "right"

    @staticmethod
    def of(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase | None = None) -> "InputForm":
        """As the tokenizer makes them, else as far as the configuration tells."""
        if tokenizer is None:
            segments = (getattr(config, "type_vocab_size", None) or 0) > 1
            return InputForm(segments, getattr(config, "pad_token_id", None) or 0)
        segments = model_questions.SEGMENTS in tokenizer.model_input_names
        return InputForm(segments, int(tokenizer.pad_token_id or 0), tokenizer.padding_side)


SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "decoder_start_token_id")
"""Names in a model's configuration of the ids of special tokens."""


def random_inputs(
    config: PreTrainedConfig,
    batch: int,
    length: int,
    padded: bool = False,
    form: InputForm | None = None,
) -> dict[str, Tensor]:
    """Inputs [B, L] of random token ids, the second half of each row as the second text.

    No id is a special one, but the last real token of a row ends the text where the model has such a
    token: BART's classifier reads its state there. padded: each row but the first has padding, one
    token more than the row before, as far as at least one real token stays; without it all tokens are
    real. Torch's own random state stays as it is.
    """
    form = form or InputForm.of(config)
    generator = torch.Generator().manual_seed(0)
    special = {value for name in SPECIAL if isinstance(value := getattr(config, name, None), int)}
    usable = torch.ones(config.vocab_size, dtype=torch.bool)
    usable[[number for number in special | {form.pad_id} if 0 <= number < len(usable)]] = False
    ordinary = usable.nonzero().flatten()
    ids = ordinary[torch.randint(len(ordinary), (batch, length), generator=generator)]
    real = length - torch.arange(batch).clamp(max=length - 1) if padded else torch.tensor([length])
    mask = (torch.arange(length) < real[:, None]).long().expand(batch, length).contiguous()
    end = getattr(config, "eos_token_id", None)
    if isinstance(end, int) and end != form.pad_id:
        ids[torch.arange(batch), mask.sum(dim=1) - 1] = end
    inputs = {"input_ids": ids.where(mask > 0, form.pad_id), "attention_mask": mask}
    if form.segments:
        inputs[model_questions.SEGMENTS] = (torch.arange(length) >= length // 2).long() * mask
    if form.side == "left":
        return {name: tensor.flip(1) for name, tensor in inputs.items()}
    return inputs


def provider(device: torch.device) -> tuple[str, dict[str, int]]:
    """onnxruntime's name of the device; UserError for a GPU that this onnxruntime cannot use."""
    import onnxruntime

    if device.type != "cuda":
        return "CPUExecutionProvider", {}
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise UserError(
            "this onnxruntime runs on the CPU only; run: pip install onnxruntime-gpu (in place of "
            "onnxruntime), or choose --runtime torch or --device cpu."
        )
    return "CUDAExecutionProvider", {"device_id": device.index or 0}


def session(file: Path, threads: int, device: torch.device) -> "InferenceSession":
    """An onnxruntime session of the file on the device; its threads sleep between two runs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(file, options, providers=[provider(device)])


def call(
    running: "InferenceSession", inputs: Mapping[str, Tensor]
) -> Callable[[], NDArray[np.float32]]:
    """A call that computes the logits [B, C] of inputs [B, L], of which the file takes its own."""
    given = {node.name: inputs[node.name].cpu().numpy() for node in running.get_inputs()}

    def logits() -> NDArray[np.float32]:
        return np.asarray(running.run(["logits"], given)[0])

    return logits


def random_call(
    running: "InferenceSession", config: PreTrainedConfig, batch: int, length: int
) -> Callable[[], NDArray[np.float32]]:
    """`call` on random tokens [B, L] without padding; config: of the model."""
    segments = any(node.name == model_questions.SEGMENTS for node in running.get_inputs())
    form = InputForm(segments, getattr(config, "pad_token_id", None) or 0)
    return call(running, random_inputs(config, batch, length, form=form))


class _Logits(nn.Module):
    """The model as a function from tensors to logits, as the exporter needs it."""

    def __init__(self, model: PreTrainedModel, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.model(**dict(zip(self.names, tensors, strict=True))).logits


def _write(model: PreTrainedModel, sample: dict[str, Tensor], file: Path, model_dir: Path) -> None:
    if model.config._attn_implementation != "eager":
        model.set_attn_implementation("eager")
    names = list(sample)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing warns of constants: `_check` looks for them
            torch.onnx.export(
                _Logits(model, names).eval(),
                tuple(sample.values()),
                file,
                dynamo=False,
                opset_version=OPSET,
                input_names=names,
                output_names=["logits"],
                dynamic_axes=dict.fromkeys(names, AXES) | {"logits": {0: "batch"}},
            )
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"{model_dir}: cannot be written as ONNX ({first_line(error)}).") from None
    if any(other != file for other in file.parent.iterdir()):
        raise UserError(f"{model_dir}: is too large for one ONNX file (2 GiB).")


def _check(
    file: Path, samples: list[dict[str, Tensor]], expected: list[Tensor], model_dir: Path
) -> None:
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    broken = (errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.RuntimeException)
    try:
        running = session(file, 1, torch.device("cpu"))
        for sample, target in zip(samples, expected, strict=True):
            difference = float(np.abs(call(running, sample)() - target.numpy()).max())
            if not difference <= TOLERANCE:
                raise UserError(
                    f"{model_dir}: its ONNX file differs from PyTorch by {difference:.2g} in the "
                    f"logits of a batch {tuple(sample['input_ids'].shape)}, {TOLERANCE:g} is allowed; "
                    "nothing was written."
                )
    except broken as error:
        raise UserError(
            f"{model_dir}: onnxruntime cannot run its ONNX file ({first_line(error)})."
        ) from None
