"""Layer reduction: whole Transformer blocks go before the training starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from compress.compression.technique import Technique
from compress.configuration.blocks import Count, Natural
from compress.errors import UserError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

    from compress.compression.masking import Kind


class LayerReduction(Technique):
    """Whole layers go: the student's layers are copies of those that are named."""

    key = "layer_reduction"
    order = 10

    enabled: bool
    """Whether layers go at all."""
    teacher_layer: Annotated[list[Natural], Field(min_length=1)] | Literal["first_half", "every_second"]
    """Layers, from 0, of the model that the student starts from (student.init_from or student.model),
    in the student's order; or "first_half" (Truncated-l6), or "every_second"."""
    keep_number_layer: Count | None = None
    """Number of layers that stay, checked; follows from teacher_layer."""
    module_name_prefix: str | None = None
    """Name of the list of layers, checked; follows from the architecture."""
    other_module_name: list[str] | None = None
    """Modules outside the layers that are copied too; default: all of them."""

    @property
    def active(self) -> bool:
        """Whether it is enabled."""
        return self.enabled

    @property
    def label(self) -> str:
        """The layers that stay, such as `layers_0_1_2`."""
        kept = self.teacher_layer
        return "layers_" + (kept if isinstance(kept, str) else "_".join(map(str, kept)))

    @property
    def removes(self) -> bool:
        """Always; a list of all layers is refused when the model is known."""
        return True

    def kept(self, config: PreTrainedConfig) -> tuple[int, ...]:
        """The blocks that stay of a model of this configuration, in the student's order.

        Raises UserError for a block that the model does not have, or names that are not its own.
        """
        from compress.models import architectures

        path, architecture = "compression_training.layer_reduction", architectures.find(config)
        if architecture.repeated:
            raise UserError(
                f"{path}: the layers of this model are one block that is used again and again, so none "
                "can go; prune its heads, ffn neurons or weights."
            )
        depth = getattr(config, architecture.depth)
        named = {"first_half": range((depth + 1) // 2), "every_second": range(1, depth, 2)}
        chosen = self.teacher_layer
        kept = tuple(named[chosen] if isinstance(chosen, str) else chosen)
        if too_high := [number for number in kept if number >= depth]:
            raise UserError(
                f"{path}.teacher_layer: there is no layer {too_high[0]}; the model has {depth}, from 0."
            )
        if len(set(kept)) < len(kept) or not kept:
            raise UserError(f"{path}.teacher_layer: must list at least one layer, and each once.")
        if kept == tuple(range(depth)):
            raise UserError(f"{path}.teacher_layer: removes nothing, all {depth} layers stay.")
        if self.keep_number_layer is not None and self.keep_number_layer != len(kept):
            raise UserError(
                f"{path}.keep_number_layer is {self.keep_number_layer}, "
                f"but teacher_layer lists {len(kept)} layers."
            )
        if self.module_name_prefix not in (None, architecture.blocks):
            raise UserError(
                f"{path}.module_name_prefix is '{self.module_name_prefix}', "
                f"but the layers of this model are in '{architecture.blocks}'."
            )
        return kept

    def check_others(self, model: PreTrainedModel) -> None:
        """UserError unless the modules to copy are there and lie outside the Transformer blocks.

        A module that holds the blocks would undo the choice.
        """
        from compress.models import architectures

        path, prefix = "compression_training.layer_reduction", architectures.find(model.config).blocks
        for name in self.other_module_name or []:
            if name not in dict(model.named_modules()):
                raise UserError(f"{path}.other_module_name: there is no module '{name}'.")
            if f"{prefix}.".startswith(f"{name}.") or name.startswith(f"{prefix}."):
                raise UserError(
                    f"{path}.other_module_name: '{name}' holds layers; name modules outside '{prefix}'."
                )

    def reduced(
        self, source: PreTrainedModel, layers: Sequence[int], masks: Kind = "native"
    ) -> PreTrainedModel:
        """A student whose blocks are copies of these blocks of `source`, everything else copied too.

        layers: of `kept`; masks: `robust_compression.masks`. Modules outside the blocks that
        other_module_name leaves out are drawn by torch's seed, alike at every ZeRO stage. Of a deferred
        source the student has the parameters themselves.
        """
        from compress.models import architectures, compressed, deferred

        config, later = compressed.reduced(source.config, layers), deferred.deferred(source)
        student = deferred.without_weights(config) if later else compressed.build(config)
        others = outside(source) if self.other_module_name is None else self.other_module_name
        prefix = architectures.find(source.config).blocks
        if masks == "deepspeed":
            from compress.compression import library

            library.copy_layers(student, source, prefix, layers, others)
        else:
            copy_by_name(student, source, prefix, layers, others)
        copied = tuple(f"{name}." for name in (prefix, *others))
        names = (name for name, _ in student.named_parameters())
        deferred.draw(student, {name for name in names if not name.startswith(copied)})
        return student


def copy_by_name(
    student: PreTrainedModel,
    source: PreTrainedModel,
    prefix: str,
    layers: Sequence[int],
    others: Sequence[str],
) -> None:
    """Copy blocks of `source` by number into the student's, in place, and modules by name.

    prefix: name of the list of blocks in both models. Parameters and buffers are found by their names,
    so that a block that lacks one gets no other's: ModernBERT's first has no norm, and a block that
    becomes the first loses its own. ValueError if anything but a norm is lacking.
    """
    from compress.models import deferred

    later = deferred.deferred(source)
    pairs = [(f"{prefix}.{new}", f"{prefix}.{old}") for new, old in enumerate(layers)]
    for new, old in [*pairs, *((name, name) for name in others)]:
        weights = source.get_submodule(old).state_dict(keep_vars=True)
        differ = student.get_submodule(new).load_state_dict(weights, strict=False, assign=later)
        wrong = [name for names in differ for name in names if "norm" not in name.lower()]
        if wrong:
            raise ValueError(f"{new} and {old} differ in '{wrong[0]}'")


def outside(model: PreTrainedModel) -> list[str]:
    """The largest modules with parameters that lie outside the Transformer blocks."""
    from compress.models import architectures

    prefix = architectures.find(model.config).blocks

    def walk(module: nn.Module, name: str) -> list[str]:
        if name == prefix:
            return []
        if name and not prefix.startswith(f"{name}."):
            return [name] if any(True for _ in module.parameters()) else []
        return [
            n for child, m in module.named_children() for n in walk(m, f"{name}.{child}".strip("."))
        ]

    return walk(model, "")
