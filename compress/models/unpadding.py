"""Transformer blocks that compute real tokens only, one sample after another, without padding.

Between the embeddings and the head the states are [1, T, H], T the real tokens of the micro-batch;
embeddings and head see [B, L, H] as ever. Attention stays within a sample: on a GPU by torch's
attention of variable lengths where there is one for the type, else in the padded shape. A causal mask
or a sliding window always takes the padded shape.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
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
CAPABILITY, LARGEST_HEAD = (8, 0), 256
"""Of torch's flash attention: the first compute capability with it, and the largest size of heads."""


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
    if (why := _obstacle(model)) is not None:
        raise UserError(
            f"robust_compression.padding_free: {type(model).__name__} cannot leave out the padding, "
            f"because {why}; set it to false."
        )


def _obstacle(model: PreTrainedModel) -> str | None:
    entry = architectures.ARCHITECTURES.get(model.config.model_type)
    if entry is None:
        return "no entry says where its blocks are (docs/extending.md)"
    if entry.own_attention or not model._supports_attention_backend:
        return "it computes attention in code of its own, which takes padded batches only"
    if not model._supports_sdpa:
        return "transformers does not run it with torch's fused attention (Gemma 2 limits its scores)"
    return None


def check_side(side: str, key: str) -> None:
    """Raise UserError if padding is on the left; key: of the model in the configuration."""
    if side != "right":
        raise UserError(
            f"robust_compression.padding_free: the tokenizer of {key} pads on the {side}, which the "
            "classifier reads; set it to false."
        )


def leave_out(model: PreTrainedModel) -> None:
    """Make the blocks of a model skip padding wherever its forward call gets `PLACES` and `STARTS`.

    The layout is an argument of every call below, so that it is there when activations are computed
    again.
    """
    model.set_attn_implementation(NAME)
    entry = architectures.find(model.config)
    first = last = model.get_submodule(entry.blocks.rpartition(".")[0])
    if not entry.stack:
        layers = model.get_submodule(entry.blocks)
        assert isinstance(layers, nn.ModuleList)
        first, last = layers[0], layers[-1]
        for layer in layers:
            layer.register_forward_pre_hook(_turn, with_kwargs=True)
    model.register_forward_pre_hook(_begin, with_kwargs=True)
    first.register_forward_pre_hook(_pack, with_kwargs=True)
    last.register_forward_hook(_pad, with_kwargs=True)


Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def _begin(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    """Of the classifier: the layout takes the place of its arrays."""
    places, starts = (kwargs.pop(name, None) for name in (PLACES, STARTS))
    if places is not None:
        kwargs["layout"] = Layout(places, starts, kwargs["attention_mask"])
    return args, kwargs


def _pack(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    """Of the first block, or of all together: states without padding."""
    if (layout := kwargs.get("layout")) is not None:
        states, *others = args or (kwargs.pop("hidden_states"),)
        args = (layout.packed(states), *others)
    return args, kwargs


def _turn(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    """Of a block: cosine and sine [1 or B, L, D] of the rotary positions, one row a token."""
    if (layout := kwargs.get("layout")) is not None:
        rows = len(layout.mask)
        both = kwargs["position_embeddings"]
        kwargs["position_embeddings"] = tuple(layout.packed(e.expand(rows, -1, -1)) for e in both)
    return args, kwargs


def _pad(_: nn.Module, __: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> Any:  # noqa: ANN401  a Tensor or ModelOutput
    """Of the last block, or of all together: states with padding again."""
    if (layout := kwargs.get("layout")) is None:
        return outputs
    if isinstance(outputs, Tensor):
        return layout.padded(outputs)
    outputs.last_hidden_state = layout.padded(outputs.last_hidden_state)
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

    query, key, value: [1, heads, T, D], or [B, heads, L, D] without a layout; attention_mask: of the
    padded shape, used where a token does not see the whole sample (causal, sliding window).
    """
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **how)
    dropout, scale = how.get("dropout", 0.0), how.get("scaling")
    flat = [states.transpose(1, 2) for states in (query, key, value)]
    partial = getattr(module, "is_causal", False) or how.get("sliding_window") is not None
    grouped = query.shape[1] != key.shape[1]
    if _kernel_takes(query, scale) and not (dropout or partial or grouped):
        return _of_variable_length(flat, layout)[None], None
    q, k, v = (layout.padded(states).transpose(1, 2) for states in flat)
    if not partial:
        attention_mask = layout.mask.bool()[:, None, None, :]
    out, _ = sdpa_attention_forward(module, q, k, v, attention_mask, **how)
    return layout.packed(out), None


def _kernel_takes(query: Tensor, scale: float | None) -> bool:
    """Whether torch's flash attention takes this device, type, size of heads D and scale."""
    if not query.is_cuda or torch.cuda.get_device_capability(query.device) < CAPABILITY:
        return False
    size = query.shape[-1]
    fits = size % 8 == 0 and size <= LARGEST_HEAD
    return query.dtype in HALF and fits and scale in (None, size**-0.5)


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
