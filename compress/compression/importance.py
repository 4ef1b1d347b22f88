"""Importance of attention heads and ffn neurons: how much the loss of the training depends on each.

I(h,l) = E_x |dL(x) / d xi(h,l)|, xi = 1 a gate on the head's output (Michel et al. 2019; Du et al.
2023, App. A) or on a neuron's activation (Molchanov et al. 2017). There is one gate per sample, so that
a single backward pass gives the gradient of each sample's own loss. Measured on the model in training,
in its precision, each rank on its share of the samples; no gradient of a weight is computed.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.configuration.config import Config, batch_split
from compress.data.batches import Indices, scoring_batches, share
from compress.data.columns import Columns
from compress.errors import UserError
from compress.microbatch import SampleData
from compress.mitigations import Mitigation
from compress.models.blocks import find_blocks
from compress.runtime import ranks, watchdog

if TYPE_CHECKING:
    from compress.training.passes import Passes

BATCH = 32
"""Samples of a pass of each rank, at most."""
SCALES = (2.0**10, 1.0, 2.0**-10)
"""Of the loss, in turn, until all gradients are finite: those of a sample's loss in its hidden states
are too small for fp16, whose smallest number is 6e-8 and whose largest is 65504. Powers of two change
no digit."""


@dataclass(frozen=True)
class Importance:
    """Mean absolute gradient over the samples, float64: heads [H] and ffn neurons [I] of each layer."""

    heads: list[Tensor]
    neurons: list[Tensor]


@dataclass(frozen=True)
class Objective:
    """The loss of a training at its end, and what is known of each sample."""

    mitigation: Mitigation
    known: SampleData

    def loss(self, indices: Indices, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of the samples `indices`, [B], none normalised by the others."""
        batch = self.known.batch(indices, logits, labels, batch_mean=torch.ones(()))
        return self.mitigation.loss(batch)


def _unwatched(_: Mapping[str, Tensor]) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True)
class Measurement:
    """What importance is measured on.

    indices: of samples of `data`; batch_size: samples of a pass of each rank; watched: context of a
    pass over inputs [B, L].
    """

    data: Columns
    indices: Indices
    objective: Objective
    device: torch.device
    batch_size: int = BATCH
    watched: Callable[[Mapping[str, Tensor]], AbstractContextManager[None]] = _unwatched


def sample(size: int, count: int, seed: int) -> Indices:
    """Indices [min(count, size)] of the training samples that importance is measured on."""
    return np.sort(np.random.default_rng((seed, 0x1A)).permutation(size)[:count])


def batch_size(config: Config, parts: int) -> int:
    """Samples of a pass of each of `parts` ranks: as fit into a step and a pass of the evaluation."""
    micro, _ = batch_split(config, parts)
    return min(BATCH, micro, config.robust.evaluation.batch_size)


def measure(passes: "Passes", what: Measurement) -> Importance:
    """Importance under the loss of a training, the mean over these samples, equal on all ranks.

    The model and its engine, if it has one, are afterwards what they were. Collective. Raises UserError
    if a gradient is not finite.
    """
    sizes = [units for b in find_blocks(passes.model) for units in (b.heads, b.neurons)]
    for scale in SCALES:
        with passes.running(), torch.enable_grad():
            own = _sums(passes, what, sizes, scale)
        sums = torch.as_tensor(ranks.all_sum(own.cpu().numpy()))
        if sums.isfinite().all():
            means = (sums / (scale * len(what.indices))).split(sizes)
            return Importance(list(means[0::2]), list(means[1::2]))
    raise UserError(
        "the importance of heads and neurons is not finite: the training diverged or its weights are "
        "damaged; lower optimizer.params.lr, or use bf16 instead of fp16."
    )


def _sums(passes: "Passes", what: Measurement, sizes: list[int], scale: float) -> Tensor:
    """Sums of absolute gradients over this rank's samples, times scale: all layers in turn, float64."""
    total = torch.zeros(sum(sizes), dtype=torch.float64, device=what.device)
    each, data = what.batch_size * ranks.world_size(), what.data
    for batch in scoring_batches(data.lengths[what.indices], each):
        chosen, weight = share(what.indices[batch], ranks.rank(), ranks.world_size())
        valid = torch.as_tensor(weight, dtype=torch.float64, device=what.device)
        labels = torch.as_tensor(data.labels[chosen]).long().to(what.device)
        inputs = data.batch(chosen, what.device)
        with what.watched(inputs), gated(passes.model, len(chosen), what.device) as gates:
            loss = what.objective.loss(chosen, passes.logits(inputs), labels)
            gradients = passes.gradients(loss.sum() * scale, gates)
        for part, gradient in zip(total.split(sizes), gradients, strict=True):
            part += valid @ gradient.double().abs()
        watchdog.beat()
    return total


@contextmanager
def gated(model: PreTrainedModel, samples: int, device: torch.device) -> Iterator[list[Tensor]]:
    """Context: yields gates of ones for each sample, of a model's layers in turn: [B, H] before the
    attention output, then [B, I] before the feed-forward output; float32.

    They come before the hooks of the engine, which releases the weights of a layer when the gradient
    of its input is there.
    """
    modules, gates, handles = dict(model.named_modules()), [], []
    for block in find_blocks(model):
        for name, units in ((block.attention_output, block.heads), (block.output, block.neurons)):
            gate = torch.ones(samples, units, device=device, requires_grad=True)
            gates.append(gate)
            hook = _through(gate)
            handles.append(modules[name].register_forward_pre_hook(hook, prepend=True))
    try:
        yield gates
    finally:
        for handle in handles:
            handle.remove()


def _through(gate: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (_Gate.apply(inputs[0], gate), *inputs[1:])

    return hook


class _Gate(torch.autograd.Function):
    """Product of states [B, L, H] and gates of one [B, units], which the forward pass leaves out.

    The gradient of a gate is summed in float32 whatever the type of the states is.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, gate: Tensor) -> Tensor:  # noqa: ANN401  of autograd
        """The states."""
        ctx.save_for_backward(states)
        ctx.units = gate.shape[1]
        return states.view_as(states)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401  of autograd
        """Gradients of states and gates."""
        [gradient] = gradients
        [states] = ctx.saved_tensors
        wide = torch.promote_types(torch.float32, gradient.dtype)
        product = gradient.to(wide) * states.to(wide)
        return gradient, product.unflatten(-1, (ctx.units, -1)).sum(dim=(1, 3)).float()
