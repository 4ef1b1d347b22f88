"""Importance of attention heads and ffn neurons: how much the loss of the training depends on each.

I(h,l) = E_x |dL(x) / d xi(h,l)|, xi = 1 a multiplicative mask on the head's output (Michel et al. 2019;
Du et al. 2023, App. A) or on a neuron's activation (Molchanov et al. 2017). There is one mask per
sample, so that a single backward pass gives the gradient of each sample's own loss. Measured on a plain
float32 copy of the model, alike under every ZeRO stage.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.data.batches import Indices, scoring_batches, share
from compress.data.columns import Columns
from compress.microbatch import SampleData
from compress.mitigations import Mitigation
from compress.models.blocks import find_blocks
from compress.runtime import ranks, watchdog

BATCH = 32
"""Samples of a pass of each rank."""


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


def sample(size: int, count: int, seed: int) -> Indices:
    """Indices [min(count, size)] of the training samples that importance is measured on."""
    return np.sort(np.random.default_rng((seed, 0x1A)).permutation(size)[:count])


def measure(
    model: PreTrainedModel, data: Columns, indices: Indices, objective: Objective, device: torch.device
) -> Importance:
    """Importance under the loss of a training, the mean over these samples, equal on all ranks.

    model: plain, removed heads and neurons switched off; its parameters need no gradient afterwards.
    """
    model.eval().requires_grad_(False)
    torch.nn.Module.to(model, device)
    blocks = find_blocks(model)
    sums = [torch.zeros(n, dtype=torch.float64) for b in blocks for n in (b.heads, b.neurons)]
    for batch in scoring_batches(data.lengths[indices], BATCH * ranks.world_size()):
        chosen, weight = share(indices[batch], ranks.rank(), ranks.world_size())
        valid = torch.as_tensor(weight, dtype=torch.float64)
        labels = torch.as_tensor(data.labels[chosen]).long().to(device)
        with masked(model, len(chosen), device) as masks, torch.enable_grad():
            logits = model(**data.batch(chosen, device)).logits
            gradients = torch.autograd.grad(objective.loss(chosen, logits, labels).sum(), masks)
        watchdog.beat()
        for total, gradient in zip(sums, gradients, strict=True):
            total += (gradient.double().cpu().abs() * valid[:, None]).sum(dim=0)
    means = [torch.as_tensor(ranks.all_sum(total.numpy())) / len(indices) for total in sums]
    return Importance(means[0::2], means[1::2])


@contextmanager
def masked(model: PreTrainedModel, samples: int, device: torch.device) -> Iterator[list[Tensor]]:
    """Context: yields masks of ones for each sample, of a model's layers in turn: [B, H] before the
    attention output, then [B, I] before the feed-forward output.
    """
    modules, masks, handles = dict(model.named_modules()), [], []
    for block in find_blocks(model):
        for name, groups in ((block.attention_output, block.heads), (block.output, block.neurons)):
            mask = torch.ones(samples, groups, device=device, requires_grad=True)
            masks.append(mask)
            handles.append(modules[name].register_forward_pre_hook(_multiply(mask)))
    try:
        yield masks
    finally:
        for handle in handles:
            handle.remove()


def _multiply(mask: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = inputs[0]
        each = hidden.shape[-1] // mask.shape[1]
        return (hidden * mask.repeat_interleave(each, dim=1)[:, None, :], *inputs[1:])

    return hook
