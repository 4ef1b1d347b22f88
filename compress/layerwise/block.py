"""The block `layerwise` of the configuration."""

from typing import Annotated

from pydantic import Field

from compress.configuration.blocks import Block, Natural, NonNegative

LayerPair = Annotated[list[Natural], Field(min_length=2, max_length=2)]


class LayerwiseBlock(Block):
    """Layer-wise distillation, added to the loss; a field with a weight is a file of this folder.

    `cache_gib` changes what a step costs, not what it computes.
    """

    hidden: NonNegative = 0.0
    """Weight of the distance between the hidden states of student and teacher; 0: off."""
    attention: NonNegative = 0.0
    """Weight of the distance between the attention probabilities of student and teacher; 0: off."""
    layer_map: Annotated[list[LayerPair], Field(min_length=1)] | None = None
    """Pairs [student layer, teacher layer], counted from 0; null: the student's layers are spread
    evenly over the teacher's."""
    cache_gib: NonNegative = 0.0
    """GiB of disk in the cache that the teacher's hidden states of train may take: tokens of train x
    its width x mapped layers x 4 bytes. If they fit, they are computed once, and a training with
    `hidden` alone then runs no teacher; if not, a line says so and it runs in every step. Results are
    the same within rounding. 0, the default: never, because they take tens of GB for some 100,000
    samples, which only the user can grant."""

    @property
    def weights(self) -> dict[str, float]:
        """The weights above 0, by name of the term."""
        weights = self.model_dump(exclude={"layer_map", "cache_gib"})
        return {name: weight for name, weight in weights.items() if weight > 0}

    @property
    def any(self) -> bool:
        """Whether there are such terms."""
        return bool(self.weights)
