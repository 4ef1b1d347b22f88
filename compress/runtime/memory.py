"""Memory that is available; out of memory, there or on a GPU, as a sentence with what to set."""

import ctypes
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress

import psutil
import torch
from torch import Tensor

from compress.configuration import effects
from compress.configuration.config import Config
from compress.errors import UserError
from compress.runtime import cgroups, ranks

SIGNS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "ALLOC_FAILED",
    "unable to allocate",
    "failed to allocate",
    "no memory",
)
LENGTH = "robust_compression.task.max_length"


def available(device: torch.device | None = None) -> int:
    """Bytes of main memory that are available, within the limits of the cgroups (version 2).

    device: a GPU, whose memory is meant then, with what torch keeps of it for this process.
    """
    if device is not None and device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    free = int(psutil.virtual_memory().available)
    for folder in cgroups.folders():
        with suppress(OSError, ValueError):  # "max": no limit
            limit, used = (int((folder / f"memory.{n}").read_text()) for n in ("max", "current"))
            free = min(free, limit - used)
    return free


def give_back() -> None:
    """Free objects that refer to themselves, as models and engines do, and what the C library keeps.

    glibc holds free blocks of less than 32 MiB for later ones: after a training, twice the bytes of a
    model of 59 million weights.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def exhausted(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign.lower() in text for sign in SIGNS)


@contextmanager
def explained(sentence: Callable[[], str]) -> Iterator[None]:
    """Context: an error that says that memory does not suffice becomes a UserError of the sentence."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not exhausted(error):
            raise
        raise UserError(sentence()) from None


def training(
    where: str, shape: list[int], split: tuple[int, int], config: Config
) -> AbstractContextManager[None]:
    """Context of one optimiser step: UserError if memory does not suffice.

    shape: [samples, tokens] of its micro-batch, filled in meanwhile; split: micro-batch and
    accumulation steps of the run.
    """

    def sentence() -> str:
        micro, accumulation = split
        samples, tokens = shape or [micro, config.robust.task.max_length]
        advice = [f"lower {LENGTH} ({config.robust.task.max_length})", *_partition(config)]
        smaller = next((n for n in range(micro // 2, 0, -1) if micro % n == 0), None)
        if smaller:
            advice.insert(
                0,
                f"set train_micro_batch_size_per_gpu to {smaller} and gradient_accumulation_steps to "
                f"{accumulation * micro // smaller}",
            )
        return (
            f"{where}: out of memory with a micro-batch of {samples} samples, padded to {tokens} "
            f"tokens; {_or(advice)}."
        )

    return explained(sentence)


def building(name: str, config: Config) -> AbstractContextManager[None]:
    """Context in which the engine of a model is made: UserError if memory does not suffice."""
    advice = [*_partition(config), "take a smaller robust_compression.model"]
    return explained(
        lambda: (
            f"{name}: out of memory already for the weights and the optimiser, before the first "
            f"step; {_or(advice)}."
        )
    )


def scoring(
    where: str, inputs: Mapping[str, Tensor], config: Config, each: int | None = None
) -> AbstractContextManager[None]:
    """Context of a pass without an optimiser step over `inputs` [B, L]: UserError as in `training`.

    each: samples of a pass, where they are fewer than `evaluation.batch_size`.
    """
    samples, tokens = inputs["input_ids"].shape
    size = config.robust.evaluation.batch_size
    advice = [f"lower {LENGTH} ({config.robust.task.max_length})"]
    if samples > 1:
        fewer = (each or size) // 2
        advice.insert(0, f"set robust_compression.evaluation.batch_size to {fewer}, now {size}")
    return explained(
        lambda: (
            f"{where}: out of memory while scoring {samples} samples, padded to {tokens} tokens; "
            f"{_or(advice)}."
        )
    )


def anywhere(where: Callable[[], str]) -> AbstractContextManager[None]:
    """Context of a whole run: UserError that names the place `where` if memory does not suffice."""
    keys = ("train_micro_batch_size_per_gpu", "robust_compression.evaluation.batch_size", LENGTH)
    return explained(lambda: f"{where() or 'the start'}: out of memory; lower {_or(keys)}.")


def _partition(config: Config) -> list[str]:
    """Settings that would spread or move the optimiser and the weights."""
    zero, advice = config.deepspeed.zero_optimization, []
    if zero.stage < 3 and ranks.world_size() > 1:
        advice.append("set zero_optimization.stage to 3")
    on_gpu = torch.accelerator.current_accelerator() is not None
    if on_gpu and zero.offload_optimizer is None and zero.stage > 0:
        clips = config.deepspeed.gradient_clipping and zero.stage < 3
        refused = clips and effects.native_zeros(config.robust, config.compression)
        also = "zero_optimization.stage to 3 and " if refused else ""
        advice.append(f'set {also}zero_optimization.offload_optimizer to {{"device": "cpu"}}')
    return advice


def _or(parts: Sequence[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"
