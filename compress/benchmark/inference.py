"""`inference`: how fast teacher and students are, and which share of the possible speed-up they reach.

Every model is timed in one process, in turns; the median is compared with the first directory. The
ratio of floating-point operations bounds each speed-up. Inputs are random tokens without padding.
Writes inference.md, .json and .png into the output directory and prints the table.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm
from transformers import PreTrainedModel

from compress.errors import UserError
from compress.inference import onnx_export, timing
from compress.inference.timing import Call, forward_call
from compress.models import directories, encoders, probe
from compress.reporting import benchmark_report
from compress.reporting.benchmark_report import Model, Timing
from compress.runtime import memory

RUNTIMES = ("torch", "onnxruntime")
Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Setting:
    """Each runtime is timed with each batch size and length, on one device, `repeats` times."""

    batches: tuple[int, ...]
    lengths: tuple[int, ...]
    runtimes: tuple[str, ...]
    threads: int
    device: torch.device
    repeats: int
    warmups: int = 3


def flops(model: PreTrainedModel, inputs: Inputs) -> int:
    """Floating-point operations of one forward pass: matrix products, 2 for each multiply and add.

    Counted while the model runs, with eager attention, since a fused kernel hides its products. What is
    not a matrix product (look-ups, norms, softmax, activations) is not counted.
    """
    before = model.config._attn_implementation
    if before != "eager":
        model.set_attn_implementation("eager")
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(**inputs)
    finally:
        if before != "eager":
            model.set_attn_implementation(before)
    return counter.get_total_flops()


def check(paths: Sequence[Path], setting: Setting) -> None:
    """Raise UserError for a missing runtime or directory, or a length beyond a model's positions."""
    if "onnxruntime" in setting.runtimes:
        onnx_export.require()
        onnx_export.provider(setting.device)
    longest = max(setting.lengths)
    for path in paths:
        directories.check(path)
        positions = probe.longest(path, longest)
        if longest > positions:
            raise UserError(f"--length {longest}: {path} has {positions} positions.")


def measure(paths: Sequence[Path], setting: Setting) -> tuple[list[Model], list[Timing]]:
    """Sizes and timings of the models; the first directory is what the others are compared with.

    Raises UserError for a damaged directory.
    """
    names = benchmark_report.short_names(paths)
    loaded = [_load(path, setting.device) for path in paths]
    models = [one.model for one in loaded]
    sizes = [
        Model(name, str(path), encoders.parameters(model), encoders.nonzero_parameters(model))
        for name, path, model in zip(names, paths, models, strict=True)
    ]
    shapes = [(batch, length) for length in setting.lengths for batch in setting.batches]
    counts = {}
    for shape in shapes:
        with _fitting(shape):
            counts[shape] = [flops(one.model, one.inputs(shape, setting.device)) for one in loaded]
    timings = []
    with tqdm(total=len(setting.runtimes) * len(shapes), desc="measuring", disable=None) as bar:
        for runtime in setting.runtimes:
            with _running(runtime, paths, loaded, setting) as prepare:
                for shape in shapes:
                    with _fitting(shape):
                        calls = prepare(shape)
                        wait = timing.synchroniser(setting.device)
                        found = timing.interleaved(calls, setting.repeats, setting.warmups, wait)
                    timings += [
                        Timing(name, runtime, *shape, count, tuple(seconds))
                        for name, count, seconds in zip(names, counts[shape], found, strict=True)
                    ]
                    bar.update()
    return sizes, timings


def _fitting(shape: tuple[int, int]) -> AbstractContextManager[None]:
    """Context: UserError if memory does not suffice for a shape (batch, length)."""
    place = f"--batch {shape[0]} --length {shape[1]}"
    return memory.explained(lambda: f"{place}: does not fit into memory; choose smaller ones.")


@dataclass(frozen=True)
class _Loaded:
    """A model on the device, and how texts reach it."""

    model: PreTrainedModel
    form: onnx_export.InputForm

    def inputs(self, shape: tuple[int, int], device: torch.device) -> dict[str, Tensor]:
        return timing.random_tokens(self.model, shape, device, self.form)


def _load(path: Path, device: torch.device) -> _Loaded:
    model = timing.ready(encoders.load_compressed(path), device)
    return _Loaded(model, onnx_export.InputForm.of(model.config, onnx_export.tokenizer_of(path, model)))


@contextmanager
def _running(
    runtime: str, paths: Sequence[Path], loaded: Sequence[_Loaded], setting: Setting
) -> Iterator[Callable[[tuple[int, int]], list[Call]]]:
    """Context: yields a function that makes one call a model for a shape (batch, length)."""
    if runtime == "torch":
        yield lambda shape: [
            forward_call(one.model, one.inputs(shape, setting.device)) for one in loaded
        ]
        return
    with tempfile.TemporaryDirectory() as folder:
        sessions = []
        for number, path in enumerate(paths):
            file = Path(folder) / str(number) / "model.onnx"
            onnx_export.export(path, file)
            sessions.append(onnx_export.session(file, setting.threads, setting.device))

        cpu = torch.device("cpu")

        def prepare(shape: tuple[int, int]) -> list[Call]:
            pairs = zip(sessions, loaded, strict=True)
            return [onnx_export.call(session, one.inputs(shape, cpu)) for session, one in pairs]

        yield prepare


def make_folder(output: Path) -> None:
    """Make the directory of the results; UserError if it cannot be made."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {output}: {error.strerror or error}.") from None


def run(options: argparse.Namespace) -> str:
    """Measure, write the table, the picture and the figures; the table."""
    setting = Setting(
        batches=tuple(dict.fromkeys(options.batch)),
        lengths=tuple(dict.fromkeys(options.length)),
        runtimes=tuple(dict.fromkeys(options.runtime)),
        threads=options.threads,
        device=encoders.find_device(options.device),
        repeats=options.repeats,
    )
    check(options.dirs, setting)
    make_folder(options.output)
    torch.set_num_threads(setting.threads)
    machine = timing.machine(setting.device, setting.threads)
    sizes, timings = measure(options.dirs, setting)
    return benchmark_report.write(options.output, machine, sizes, timings)
