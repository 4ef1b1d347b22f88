"""The term `attention`: the student's attention is pulled to the teacher's (after TinyBERT's Eq. 7).

Compared are probabilities before dropout. transformers returns them after it, which would add
p^2 r / (1 - r) to (p - t)^2 for dropout rate r and flatten the attention; fast kernels return none.
`expose` makes a model return them, without a change of logits, parameters or saved files.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

from compress.layerwise.terms import Term
from compress.models import architectures
from compress.models.blocks import find_blocks

NAME = "probabilities_before_dropout"


class Attention(Term):
    """Distance of attention probabilities."""

    name = "attention"
    field = "attentions"

    def prepare(self, student: PreTrainedModel, teacher: PreTrainedModel) -> None:
        """Let both models return probabilities before dropout."""
        expose(student)
        expose(teacher)

    def distance(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        """Mean squared difference over heads and pairs of real tokens (after Eq. 7).

        student: probabilities [B, A, L, L]; teacher: [B, A', L, L]; mask: [B, L]. Where A differs from
        A', both are averaged over their heads first. Returns [B].
        """
        pair = student.float(), teacher.float()
        if student.shape[1] != teacher.shape[1]:
            pair = pair[0].mean(dim=1, keepdim=True), pair[1].mean(dim=1, keepdim=True)
        squares = (pair[0] - pair[1]).square().mean(dim=1)
        real = mask.bool()
        pairs = real.unsqueeze(2) & real.unsqueeze(1)
        return torch.where(pairs, squares, 0.0).sum(dim=(1, 2)) / pairs.sum(dim=(1, 2))


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **_: Any,  # noqa: ANN401  what other kernels need
) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention in transformers' interface.

    query: [B, A, L, D]; key, value: [B, G, L, D], A / G queries in turn to each; attention_mask: added
    to the scores; softcap: scores stay within +-softcap (Gemma 2). Returns the output [B, L, A, D],
    with dropout, and the probabilities [B, A, L, L], without.
    """
    shared = query.shape[1] // key.shape[1]
    if shared > 1:
        key, value = (each.repeat_interleave(shared, dim=1) for each in (key, value))
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = (scores / softcap).tanh() * softcap
    if attention_mask is not None:
        scores = scores + attention_mask
    probabilities = scores.softmax(dim=-1)
    dropped = F.dropout(probabilities, dropout, module.training)
    return (dropped @ value).transpose(1, 2).contiguous(), probabilities


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, eager_mask)


def expose(model: PreTrainedModel) -> None:
    """Let `output_attentions=True` give probabilities before dropout, in place.

    An attention that does not use transformers' interface gets two hooks. The model is one of
    `compress.models.architectures`; UserError for another.
    """
    if not architectures.find(model.config).own_attention:
        model.set_attn_implementation(NAME)
        return
    for block in find_blocks(model):
        _return_what_dropout_takes(model.get_submodule(block.attention))


def _return_what_dropout_takes(attention: nn.Module) -> None:
    taken: list[Tensor] = []

    def before(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        taken[:] = arguments[:1]

    def after(_: nn.Module, __: object, output: tuple[Tensor, Tensor | None]) -> tuple[Any, ...]:
        probabilities = taken.pop()
        return output if output[1] is None else (output[0], probabilities)

    attention.get_submodule("dropout").register_forward_pre_hook(before)
    attention.register_forward_hook(after)
