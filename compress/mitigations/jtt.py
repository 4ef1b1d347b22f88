"""Just train twice (Liu et al. 2021; Du et al. 2023, Sec. 6.2).

A first model is fine-tuned for a few epochs; the samples that it misclassifies weigh `upweight` times
the others, mean 1.
"""

from typing import Annotated

from pydantic import Field

from compress.configuration.blocks import Epochs
from compress.mitigations._shared import Array, Batch, Tensor, Weighting


class JustTrainTwice(Weighting):
    """Just train twice: the mistakes of a first model weigh more."""

    needs = frozenset({"mistakes"})
    first_epochs: Epochs = 2
    """Epochs of the first model, whose mistakes weigh more."""
    upweight: Annotated[float, Field(ge=1)] = 2.0
    """How many times as much a mistake of the first model weighs as another sample."""

    @property
    def first_model_epochs(self) -> int:
        """Epochs of the first model."""
        return self.first_epochs

    def difficulty_of_mistakes(self, probabilities: Array, labels: Array) -> Array:
        """1 for a mistake, else 1 / upweight: probabilities [N, C], labels [N] -> d [N]."""
        from compress import uncertainty

        return uncertainty.mistakes(probabilities, labels, self.upweight)

    def loss(self, batch: Batch) -> Tensor:
        """w_i CE(y, q), [B]."""
        return batch.cross_entropy() * batch.sample_weight(self.warmup)
