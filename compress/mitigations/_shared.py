"""The base class of the mitigations, and settings that several of them have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from compress.configuration.blocks import Block, Fraction, NonNegative
from compress.errors import UserError
from compress.methods import Method

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from compress.configuration.config import Config
    from compress.microbatch import Batch, SampleData

    Array = NDArray[Any]
else:  # names for the annotations of the other files, which do not load torch either
    Array = Batch = Tensor = Any

BiasModel = Literal["shallow", "partial", "partial_encoder", "weak"]
TRAINED_BIAS = frozenset[BiasModel]({"partial_encoder", "weak"})
"""Bias models that are trainings of the run's encoder."""
PARTIAL_BIAS = frozenset[BiasModel]({"partial", "partial_encoder"})
"""Bias models that see one text of a pair alone."""
UNWEIGHTED = 1.0, 1.0
"""Mean and ceiling of the difficulty where all samples weigh alike."""


class Mitigation(Block, Method):
    """A loss of the student: the block `loss` of the configuration, and its arithmetic."""

    name: ClassVar[str] = "loss"
    needs: ClassVar[frozenset[str]] = frozenset()
    hook: str = ""
    """Loss that the student is trained with: the name of a mitigation, or `package.module:function` for
    a function of your own. A student needs one; there is no default."""

    @property
    def shallow(self) -> bool:
        """Whether the difficulty is that of the shallow classifier."""
        return False

    @property
    def bias_model(self) -> BiasModel:
        """Which bias model gives it probabilities, if it uses "bias"."""
        return "shallow"

    @property
    def label(self) -> str:
        """Its name in tables: the hook, and whose difficulty or bias it gets."""
        parts = (self.hook, "shallow" if self.shallow else "")
        return "+".join(filter(None, (*parts, self.bias_model if "bias" in self.needs else "")))

    @property
    def first_model_epochs(self) -> int | None:
        """Epochs of the first model whose mistakes it needs; None if it needs none."""
        return None

    def inputs(self) -> dict[str, Any]:
        """Its settings, and the checksums of the user's files."""
        from compress.files import integrity

        sources = [integrity.digest(file) for file in self.files()]
        return {**self.model_dump(by_alias=True), **({"sources": sources} if sources else {})}

    def sample_data(
        self, teacher: Array | None, difficulty: Array | None, alpha: float, bias: Array | None = None
    ) -> SampleData:
        """What is known of the training samples.

        teacher, bias: probabilities [N, C]; difficulty: d [N].
        """
        from compress.microbatch import SampleData

        return SampleData(teacher, difficulty, bias, alpha=alpha)

    def difficulty_of_mistakes(self, probabilities: Array, labels: Array) -> Array:
        """d [N] from a first model's probabilities [N, C]; for those that need "mistakes"."""
        raise NotImplementedError

    def loss(self, batch: Batch) -> Tensor:
        """Loss of each sample of this micro-batch, float32 [B]."""
        raise NotImplementedError

    def files(self) -> list[Path]:
        """The user's files that it runs."""
        return []

    def locate(self) -> None:
        """Raise UserError if the user's code cannot be found; imports nothing."""

    def load(self) -> None:
        """Import the user's code; UserError for what cannot be used."""

    def trial(self, config: Config, classes: int, device: torch.device) -> None:
        """Call the loss on random batches; UserError for what would fail in training."""
        from compress.mitigations import _trial

        if self.hook:
            _trial.run(self, config, classes, device)

    def refusal(self, why: str) -> UserError:
        """The error of a loss that does not do on a random batch what a training needs."""
        return self.wrong("loss", f"{why} (tried on a random batch)")


class NoLoss(Mitigation):
    """No loss is chosen: enough for the stages that train no student."""

    hook: Literal[""] = ""
    """Empty: no loss is chosen."""


class Lambda(Mitigation):
    """Mitigations that distil from the teacher (Eq. 3)."""

    lambda_: Fraction = Field(default=0.9, alias="lambda")
    """Share of the distillation term in the loss, lambda of Eq. 3; the rest is the cross-entropy with
    the gold label."""


class Smoothing(Mitigation):
    """Mitigations that smooth the teacher alike for all samples."""

    smoothing: Fraction = 0.9
    """Exponent d of Eq. 2 that the teacher's probabilities of every sample are raised to; 1 leaves them
    as they are, 0 makes them uniform."""


class Gamma(Mitigation):
    """Mitigations with the focal weight."""

    gamma: NonNegative = 2.0
    """Exponent of the focal weight (1 - p)^gamma, p the probability of the gold label; 0 weighs all
    samples alike."""


class Floor(Mitigation):
    """Mitigations with a lambda of each sample."""

    floor: Fraction = 0.0
    """Least share of lambda that the hardest sample keeps; the rest of its loss is the gold label."""


class FromDifficulty(Mitigation):
    """Mitigations that use the difficulty of each sample."""

    difficulty: Literal["variance", "shallow"] = "variance"
    """What v of Eq. 1 is: `variance` of the loss over pruned sub-networks, or the error of a `shallow`
    classifier that sees bags of words, which needs no sub-networks."""

    @property
    def shallow(self) -> bool:
        """Whether the difficulty is that of the shallow classifier."""
        return self.difficulty == "shallow"


class FromBias(Mitigation):
    """Mitigations that use the probabilities of a bias model, which solves what a shortcut solves."""

    bias: BiasModel = "shallow"
    """The bias model: `shallow`, bags of words of both texts and their overlap, of a single text its
    words and length; `partial`, bags of words of one text of a pair (hypothesis, claim);
    `partial_encoder`, the run's encoder trained on that text alone; `weak`, the run's encoder trained
    on 2,000 samples. None is trained on the samples that it judges."""
    calibrate: bool = True
    """Whether the bias model's probabilities are calibrated: each to the power of 1/T, normalised, with
    the temperature T at which they fit the training labels best. A model that is surer than it is right
    counts for too much (Xiong et al. 2021)."""

    @property
    def bias_model(self) -> BiasModel:
        """Which bias model gives it probabilities."""
        return self.bias

    @property
    def label(self) -> str:
        """Says so if the bias model is not calibrated."""
        return super().label + ("" if self.calibrate else "+uncalibrated")


class Weighting(Mitigation):
    """Mitigations that weight samples by their difficulty, mean 1 over the training set."""

    warmup: Fraction = 0.0
    """Fraction of the student's training over which sample weights set in; 0: from the first step."""
    max_weight: Annotated[float, Field(ge=1)] | None = None
    """No sample counts more than this many times the mean; null: no bound."""

    def sample_data(
        self, teacher: Array | None, difficulty: Array | None, alpha: float, bias: Array | None = None
    ) -> SampleData:
        """With the mean and the bound of the weights.

        Raises UserError if no weights of mean 1 stay within `max_weight`.
        """
        from compress.microbatch import SampleData

        scale = UNWEIGHTED if difficulty is None else self.scale(difficulty)
        return SampleData(teacher, difficulty, bias, *scale, alpha)

    def scale(self, difficulty: Array) -> tuple[float, float]:
        """Mean and ceiling of the difficulty d [N] that the weights are computed with, as in `Batch`.

        Raises UserError as `sample_data` does.
        """
        from compress import uncertainty

        if not difficulty.any():
            raise UserError(
                "robust_compression.uncertainty.alpha: every sample has difficulty 0 and would weigh "
                "nothing; raise it."
            )
        ceiling = uncertainty.ceiling(difficulty, self.max_weight) if self.max_weight else 1.0
        mean = float(difficulty.clip(max=ceiling).mean())
        if not mean:
            raise UserError(
                f"robust_compression.loss.max_weight: {self.max_weight:g} cannot be kept, because "
                "most samples have difficulty 0; raise uncertainty.alpha."
            )
        return mean, ceiling
