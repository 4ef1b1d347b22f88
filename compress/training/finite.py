"""A training ends before the optimiser step in which a loss or a gradient is not finite.

So the weights, and the checkpoints, stay those before it. All ranks see it alike.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import get_total_norm

from compress.configuration.config import Config
from compress.data.batches import Indices
from compress.errors import UserError
from compress.runtime import ranks
from compress.training.shards import Shard

SHOWN = 8
"""Rows that a message names."""
AT_ONCE = 1 << 24
"""Values of gradients that are looked at together."""


class FiniteCheck:
    """The values of one optimiser step on this rank."""

    def __init__(self, gradients: Iterable[Shard]) -> None:
        """gradients: shards whose gradients are looked at; none in float16, where the scale adapts."""
        self._shards = list(gradients)
        self._parts: list[tuple[Indices, Tensor, Tensor, Tensor]] = []

    def add(self, rows: Indices, valid: Tensor, loss: Tensor, outputs: Tensor) -> None:
        """The losses and cross-entropies of a micro-batch, [m] each; rows: numbers of its samples."""
        self._parts.append((rows, valid, loss.detach(), outputs.detach()))

    def failed(self) -> bool:
        """Whether a loss or a gradient of any rank is not finite; between backward pass and step."""
        figures = [(loss * valid).sum() for _, valid, loss, _ in self._parts]
        figures += [norm.to(figures[0].device, figures[0].dtype) for norm in self._norms()]
        wrong = ~torch.isfinite(torch.stack(figures)).all()
        if ranks.world_size() > 1:
            flag = wrong.to(torch.float32)
            dist.all_reduce(flag, dist.ReduceOp.MAX)
            wrong = flag > 0
        return bool(wrong)

    def _norms(self) -> Iterator[Tensor]:
        """Norms [] of some gradients each, in few kernels; not finite from 2e19 on.

        Not of all at once: under ZeRO 3 DeepSpeed hands out copies.
        """
        batch, size = list[Tensor](), 0
        for shard in self._shards:
            gradient = shard.gradient if shard.length else None
            if gradient is not None:
                batch.append(gradient)
                size += gradient.numel()
            if size >= AT_ONCE:
                yield get_total_norm(batch)
                batch, size = [], 0
        if batch:
            yield get_total_norm(batch)

    def forget(self) -> None:
        """The step is done."""
        self._parts.clear()

    def error(self, name: str, where: str, hook: str | None) -> UserError:
        """The sentence with the samples; hook: name of the user's function that gives the loss."""
        every = [part for part in ranks.gathered(self._rows) if not isinstance(part, str)]
        bad, outputs_bad, all_rows = (sorted({n for part in every for n in part[k]}) for k in range(3))
        rows = f"training sample{'s' if len(bad or all_rows) > 1 else ''} {_listed(bad or all_rows)}"
        if not bad:
            return UserError(
                f"{name}: a gradient is not finite {where}, though the losses of {rows} are; lower "
                "optimizer.params.lr or set gradient_clipping, and look at the loss if it is your own."
            )
        if hook is not None and not outputs_bad:
            return UserError(
                f"robust_compression.loss.hook: '{hook}' gives {name} a loss that is not finite "
                f"{where} for {rows}, though the model's outputs are; correct the function."
            )
        also = f", look at robust_compression.loss.hook ('{hook}')" if hook else ""
        return UserError(
            f"{name}: the loss is not finite {where} for {rows}; lower optimizer.params.lr, set "
            f"gradient_clipping, use bf16 instead of fp16{also}."
        )

    def _rows(self) -> tuple[list[int], list[int], list[int]]:
        """Samples whose loss, and whose cross-entropy, is not finite; and all of this rank."""
        loss, outputs, every = list[int](), list[int](), list[int]()
        for rows, valid, losses, entropies in self._parts:
            counts = valid.cpu().numpy() > 0
            every += rows[counts].tolist()
            for found, values in ((loss, losses), (outputs, entropies)):
                found += rows[counts & ~np.isfinite(values.float().cpu().numpy())].tolist()
        return loss, outputs, every


def _listed(rows: Sequence[int]) -> str:
    """The first rows, counted from 0 as in the training set."""
    more = len(rows) - SHOWN
    return ", ".join(map(str, rows[:SHOWN])) + (f" and {more} more" if more > 0 else "")


def where(step: int, steps_per_epoch: int) -> str:
    """Such as `at step 12 (epoch 2)`; step: counted from 1."""
    return f"at step {step} (epoch {(step - 1) // steps_per_epoch + 1})"


def left_out(config: Config) -> bool:
    """Whether gradients are left to DeepSpeed, which skips a step; or lie on NVMe."""
    engine = config.deepspeed
    half = engine.fp16 is not None and engine.fp16.enabled
    asked = engine.bf16 is not None and engine.bf16.enabled and engine.bf16.check_grad_overflow
    autocast = engine.torch_autocast
    scaled = autocast is not None and autocast.enabled and autocast.dtype == "float16"
    offload = engine.zero_optimization.offload_optimizer
    far = offload is not None and offload.device == "nvme"
    return bool(half or asked or scaled or far)


def copied(config: Config, device: torch.device) -> bool:
    """Whether gradients are copied from the device to the CPU: DeepSpeed does not wait for the last."""
    offload = config.deepspeed.zero_optimization.offload_optimizer
    return device.type != "cpu" and offload is not None and offload.device != "none"
