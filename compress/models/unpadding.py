"""Transformer blocks that compute real tokens only, one sample after another, without padding.

Between the embeddings and the head the states are [1, T, H], T the real tokens of the micro-batch;
embeddings and head see [B, L, H] as ever. Attention stays within a sample: on a GPU by torch's
attention of variable lengths where there is one for the type, else in the padded shape.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from compress.errors import UserError
from compress.models import architectures

NAME = "without_padding"
PLACES, STARTS = "real_places", "starts"
HALF = (torch.float16, torch.bfloat16)


def arrays(lengths: NDArray[Any]) -> dict[str, NDArray[np.int64]]:
    """Of samples of these lengths [B]: `PLACES` [T] of the tokens in B x L, and `STARTS` [B + 1] in T.

    The padding is on the right.
    """
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    gaps = np.arange(len(lengths)) * int(lengths.max()) - starts[:-1]
    return {PLACES: np.repeat(gaps, lengths) + np.arange(starts[-1]), STARTS: starts}


@dataclass(frozen=True)
class Layout:
    """Where the tokens are. places: [T] in B x L; starts: [B + 1] in T; mask: [B, L], 1 on tokens."""

    places: Tensor
    starts: Tensor
    mask: Tensor

    def packed(self, states: Tensor) -> Tensor:
        """[B, L, H] -> [1, T, H]."""
        return states.flatten(0, 1)[self.places][None]

    def padded(self, states: Tensor) -> Tensor:
        """[1, T, ...] -> [B, L, ...], 0 where there is no token."""
        rows, longest = self.mask.shape
        out = states.new_zeros(rows * longest, *states.shape[2:])
        return out.index_copy(0, self.places, states[0]).view(rows, longest, *states.shape[2:])


def check(model: PreTrainedModel) -> None:
    """Raise UserError for an architecture that needs the padded shape, or without an entry."""
    entry = architectures.ARCHITECTURES.get(model.config.model_type)
    if entry is None or not entry.stack or not model._supports_attention_backend:
        raise UserError(
            f"robust_compression.padding_free: {type(model).__name__} cannot leave out the padding; "
            "set it to false."
        )


def leave_out(model: PreTrainedModel) -> None:
    """Make the blocks of a model skip padding wherever its forward call gets `PLACES` and `STARTS`."""
    _Hooks(model)


def check_side(side: str, key: str) -> None:
    """Raise UserError if padding is on the left; key: of the model in the configuration."""
    if side != "right":
        raise UserError(
            f"robust_compression.padding_free: the tokenizer of {key} pads on the {side}, which the "
            "classifier reads; set it to false."
        )


class _Hooks:
    """The layout of the forward call that runs, and what it changes."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._layout: Layout | None = None
        model.set_attn_implementation(NAME)
        stack = model.get_submodule(architectures.find(model.config).blocks.rpartition(".")[0])
        model.register_forward_pre_hook(self._begin, with_kwargs=True)
        model.register_forward_hook(self._end, always_call=True)
        stack.register_forward_pre_hook(self._pack, with_kwargs=True)
        stack.register_forward_hook(self._pad)

    def _begin(self, _: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:  # noqa: ANN401
        given = {name: kwargs.pop(name) for name in (PLACES, STARTS) if name in kwargs}
        if given:
            self._layout = Layout(given[PLACES], given[STARTS], kwargs["attention_mask"])
        return args, kwargs

    def _end(self, *_: object) -> None:
        self._layout = None

    def _pack(
        self, _: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Tensor, ...], dict[str, Any]] | None:
        if self._layout is None:
            return None
        states, *others = args or (kwargs.pop("hidden_states"),)
        return (self._layout.packed(states), *others), {**kwargs, "layout": self._layout}

    def _pad(self, _: nn.Module, __: object, outputs: Any) -> Any:  # noqa: ANN401  a ModelOutput
        if self._layout is not None:
            outputs.last_hidden_state = self._layout.padded(outputs.last_hidden_state)
        return outputs


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    layout: Layout | None = None,
    **how: Any,  # noqa: ANN401  of transformers' interface
) -> tuple[Tensor, None]:
    """Attention of the tokens of each sample to one another, [1, T, heads, D]; padded without a layout.

    query, key, value: [1, heads, T, D], or [B, heads, L, D] without a layout.
    """
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **how)
    dropout, scale = how.get("dropout", 0.0), how.get("scaling")
    flat = [states.transpose(1, 2) for states in (query, key, value)]
    if query.is_cuda and query.dtype in HALF and not dropout and _kernel_takes(query, scale):
        return _of_variable_length(flat, layout)[None], None
    q, k, v = (layout.padded(states).transpose(1, 2) for states in flat)
    mask = layout.mask.bool()[:, None, None, :]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale)
    return layout.packed(out.transpose(1, 2)), None


def _kernel_takes(query: Tensor, scale: float | None) -> bool:
    """Whether torch's kernel computes attention with this size of heads D and this scale."""
    size = query.shape[-1]
    return size % 8 == 0 and scale in (None, size**-0.5)


def _of_variable_length(states: list[Tensor], layout: Layout) -> Tensor:
    """[T, heads, D], by torch's kernel, scaled by D ** -0.5."""
    from torch.nn.attention.varlen import varlen_attn

    starts, longest = layout.starts.int(), layout.mask.shape[1]
    q, k, v = (each[0] for each in states)
    out = varlen_attn(q, k, v, starts, starts, longest, longest)
    assert isinstance(out, Tensor), "no further outputs are asked for"
    return out


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
