"""Out of memory, on a GPU or in main memory: one sentence with the sizes and what to set."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from compress import ranks
from compress.configuration.config import Config
from compress.errors import UserError

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


@contextmanager
def training(where: str, shape: list[int], split: tuple[int, int], config: Config) -> Iterator[None]:
    """Context: one optimiser step.

    shape: of its micro-batch [samples, tokens], filled in meanwhile; split: the run's micro-batch and
    accumulation steps.

    Raises UserError in place of an error that says that memory does not suffice.
    """
    with explained(lambda: _training(where, shape, split, config)):
        yield


def _training(where: str, shape: list[int], split: tuple[int, int], config: Config) -> str:
    micro, accumulation = split
    samples, tokens = shape or [micro, config.robust.task.max_length]
    advice = []
    smaller = next((n for n in range(micro // 2, 0, -1) if micro % n == 0), None)
    if smaller:
        parts = f"gradient_accumulation_steps to {accumulation * micro // smaller}"
        advice.append(f"set train_micro_batch_size_per_gpu to {smaller} and {parts}")
    advice.append(f"lower {LENGTH} ({config.robust.task.max_length})")
    advice += _partition(config)
    return (
        f"{where}: out of memory with a micro-batch of {samples} samples, padded to {tokens} tokens; "
        f"{_or(advice)}."
    )


@contextmanager
def building(name: str, config: Config) -> Iterator[None]:
    """Context: the engine of a model is made; UserError if memory does not suffice."""

    def sentence() -> str:
        advice = [*_partition(config), "take a smaller robust_compression.model"]
        return (
            f"{name}: out of memory already for the weights and the optimiser, before the first "
            f"step; {_or(advice)}."
        )

    with explained(sentence):
        yield


@contextmanager
def scoring(where: str, inputs: Mapping[str, Tensor], config: Config) -> Iterator[None]:
    """Context: a forward pass without training over `inputs` [B, L]; UserError as in `training`."""

    def sentence() -> str:
        samples, tokens = inputs["input_ids"].shape
        size = config.robust.evaluation.batch_size
        advice = [f"lower {LENGTH} ({config.robust.task.max_length})"]
        if samples > 1:
            advice.insert(0, f"set robust_compression.evaluation.batch_size to {size // 2}, now {size}")
        return (
            f"{where}: out of memory while scoring {samples} samples, padded to {tokens} tokens; "
            f"{_or(advice)}."
        )

    with explained(sentence):
        yield


@contextmanager
def anywhere(where: Callable[[], str]) -> Iterator[None]:
    """Context: a whole run; UserError that names the place `where` if memory does not suffice."""
    keys = ("train_micro_batch_size_per_gpu", "robust_compression.evaluation.batch_size", LENGTH)
    with explained(lambda: f"{where() or 'the start'}: out of memory; lower {_or(keys)}."):
        yield


def _partition(config: Config) -> list[str]:
    """What would spread or move the optimiser and the weights."""
    zero, out = config.deepspeed.zero_optimization, []
    if zero.stage < 3 and ranks.world_size() > 1:
        out.append("set zero_optimization.stage to 3")
    on_gpu = torch.accelerator.current_accelerator() is not None
    if on_gpu and zero.offload_optimizer is None and zero.stage > 0:
        out.append('set zero_optimization.offload_optimizer to {"device": "cpu"}')
    return out


def _or(parts: Sequence[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"
