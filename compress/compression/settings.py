"""`compression_training`: DeepSpeed's schema as far as it is supported, and additions to it.

The additions: method "importance" for heads and ffn neurons, `target_heads` and `pruned_heads` of a
head group, "first_half" and "every_second" for `teacher_layer`, an end for every schedule. The blocks
are found in `pruners/`; those of one key differ by shared_parameters.method.
"""

from __future__ import annotations

import inspect
from itertools import combinations
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Discriminator, Field, Tag, create_model

from compress.compression import pruners
from compress.compression.pruners.layers import LayerReduction
from compress.compression.technique import PruningTechnique, Technique
from compress.configuration.blocks import Block
from compress.method_files import subclasses_in, wrong
from compress.untyped import Json

if TYPE_CHECKING:
    from compress.configuration.robust_schema import RobustCompression


class _CompressionTraining(Block):
    """`compression_training`: what makes the student smaller. Order within a run: layers, heads and ffn
    neurons, single weights.
    """

    @property
    def active(self) -> list[Technique]:
        """The blocks that are enabled, in the order of their work."""
        blocks = [getattr(self, key) for key in type(self).model_fields]
        return sorted((b for b in blocks if b is not None and b.active), key=lambda block: block.order)

    @property
    def pruning(self) -> list[PruningTechnique]:
        """Those of `active` that work with masks."""
        return [block for block in self.active if isinstance(block, PruningTechnique)]

    @property
    def measures(self) -> bool:
        """Whether heads or ffn neurons are chosen by importance."""
        return any(block.chooses == "importance" for block in self.pruning)

    @property
    def layers(self) -> LayerReduction | None:
        """The layer reduction, if it is enabled."""
        return next((block for block in self.active if isinstance(block, LayerReduction)), None)

    @property
    def name(self) -> str:
        """Short name of the compression, such as `imp40` or `heads20+rows50`; `none` without any."""
        return "+".join(block.label for block in self.active) or "none"

    @property
    def removes(self) -> bool:
        """Whether any enabled block asks for less than the whole (layers are counted later)."""
        return any(block.removes for block in self.active)

    @property
    def learned(self) -> bool:
        """Whether any enabled block learns its scores."""
        return any(block.learned for block in self.active)

    def takes(self, robust: RobustCompression) -> set[str]:
        """The keys of `robust_compression` that have an effect on any enabled block, dotted."""
        return {key for block in self.active for key in block.takes(robust)}


def techniques() -> list[type[Technique]]:
    """The blocks of all modules in `pruners/`, by key and method.

    Raises UserError, naming the file, for a class without its name there, or with that of another.
    """
    found = [block for blocks in subclasses_in(pruners, Technique).values() for block in blocks]
    for block in found:
        for name, kind in (("key", str), ("order", int), ("method", str)):
            if not isinstance(getattr(block, name, None), kind):
                raise wrong(block, f"must have a value of '{name}', {kind.__name__}")
    for first, second in combinations(found, 2):
        if (first.key, first.method) == (second.key, second.method):
            other = f"{second.__name__} in {inspect.getfile(second)}"
            raise wrong(first, f"has the same 'key' and 'method' as {other}; give one of them another")
    for block in found:
        others = [one for one in found if one.key == block.key]
        if len(others) > 1 and sum(map(_is_default, others)) != 1:
            files = " and ".join(inspect.getfile(one) for one in others if one is not block)
            why = "and exactly one of them must have a default for shared_parameters.method"
            raise wrong(block, f"has the key '{block.key}', as a class in {files}, {why}")
    return sorted(found, key=lambda block: (block.key, block.method))


def _is_default(block: type[Technique]) -> bool:
    shared = block.model_fields.get("shared_parameters")
    method = getattr(shared and shared.annotation, "model_fields", {}).get("method")
    return method is not None and not method.is_required()


def _union(blocks: list[type[Technique]]) -> Any:  # noqa: ANN401  an annotation
    """The type of a key: its block, or one of several by shared_parameters.method.

    Without a method it is the block whose method has a default.
    """
    if len(blocks) == 1:
        return blocks[0]
    default = next(block.method for block in blocks if _is_default(block))

    def method(values: Json) -> str:
        if isinstance(values, Technique):
            return values.method
        shared = values.get("shared_parameters") if isinstance(values, dict) else None
        given = shared.get("method") if isinstance(shared, dict) else None
        return given if isinstance(given, str) else default

    members = tuple(Annotated[block, Tag(block.method)] for block in blocks)
    names = " or ".join(f"'{block.method}'" for block in blocks)
    chooser = Discriminator(
        method,
        custom_error_type="method",
        custom_error_message=f"input should be {names}",
        custom_error_context={"below": "shared_parameters.method"},
    )
    return Annotated[Union[members], chooser]  # noqa: UP007  a union of a tuple


if TYPE_CHECKING:
    CompressionTraining = _CompressionTraining
else:
    _by_key: dict[str, list[type[Technique]]] = {}
    for _block in techniques():
        _by_key.setdefault(_block.key, []).append(_block)
    _fields = {key: (_union(blocks), Field(None)) for key, blocks in _by_key.items()}
    _about = _CompressionTraining.__doc__
    CompressionTraining = create_model(
        "CompressionTraining", __base__=_CompressionTraining, __doc__=_about, **_fields
    )
