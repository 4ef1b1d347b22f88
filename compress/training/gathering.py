"""The weights of a trained model on the main rank, one Transformer block at a time.

No rank ever holds more of the whole model than a block, or a module outside the blocks.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn

from compress.errors import UserError
from compress.files import disk
from compress.models import deferred
from compress.models.blocks import portions
from compress.runtime import ranks, watchdog
from compress.training.engine import release_weights

Portion = dict[str, Tensor]


def of_engine(engine: deepspeed.DeepSpeedEngine) -> Iterator[Portion]:
    """Parameters as float32, and buffers, on the CPU of the main rank; empty portions on the others.

    Under bf16 and fp16 these are the rounded weights that the engine computes with. Collective under
    ZeRO 3, where one is gathered at a time: 0.19.6 waits for the last of several with gloo (upstream PR
    #8539).
    """
    model: nn.Module = engine.module
    partitioned = engine.zero_optimization_stage() == 3
    release_weights(engine)  # a pass of scores has fetched ahead what no backward pass has used
    named: dict[str, Any] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for names in portions(model):
        found = dict[str, Tensor]()
        for name in names:
            value = named[name]
            enabled = partitioned and isinstance(value, nn.Parameter)
            with deepspeed.zero.GatheredParameters([value] if enabled else [], enabled=enabled):
                if ranks.is_main():
                    found[name] = _copied(value)
        yield found


def _copied(value: Tensor) -> Tensor:
    plain = value.detach().float() if value.is_floating_point() else value.detach()
    return plain.to("cpu", copy=True)


def of_model(model: nn.Module) -> Iterator[Portion]:
    """The same of a model without an engine, deferred or not; nothing is collective."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for names in portions(model) if ranks.is_main() else []:
        yield {name: _copied(deferred.values(named[name])) for name in names}


def each(found: Iterator[Portion], take: Callable[[Portion], None], place: Path) -> None:
    """Have the main rank take all portions; place: where it writes them.

    All ranks go through all portions, so that none waits for a main rank that has failed; its error
    ends all of them afterwards.
    """
    failed: Exception | None = None
    try:
        for portion in found:
            if ranks.is_main() and failed is None:
                try:
                    with disk.writing(place), torch.no_grad():
                        take(portion)
                except (UserError, OSError) as error:
                    failed = error
            watchdog.beat()
    except UserError as error:  # of a file that the main rank reads; nothing is collective there
        failed = error
    with ranks.sharing_errors():
        if failed is not None:
            raise failed
