"""The weights of the epoch with the best dev accuracy, for `student.keep` "best_dev"."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from compress.compression.masks import Masks
from compress.runtime import ranks
from compress.training.engine import gather_weights
from compress.training.trainer import AfterEpoch, Trainer


class BestDev(AfterEpoch):
    """Measures like `watch`; keeps the weights of the best epoch.

    Epochs before pruning is complete do not count: their model is larger than the one that is asked
    for. Of equal epochs the first is kept. The main rank holds the whole weights once more.

    weights: gathered on the main rank, empty before an epoch counts; kept: `epoch`, `epochs`, `dev`.
    """

    def __init__(self, watch: AfterEpoch, masks: Masks) -> None:
        """watch: gives dev accuracy as `{"dev": accuracy}`, the same on all ranks."""
        self._watch, self._masks = watch, masks
        self._step = 0
        self.weights: dict[str, Tensor] = {}
        self.kept: dict[str, float] = {}

    def __call__(self, trainer: Trainer) -> dict[str, float]:
        """What `watch` gives."""
        values = self._watch(trainer)
        better = values["dev"] > self.kept.get("dev", -1.0)
        if better and trainer.step >= self._masks.complete_from:
            self.weights, self._step = gather_weights(trainer.engine), trainer.step
            epoch, epochs = (n // trainer.steps_per_epoch for n in (trainer.step, trainer.total_steps))
            self.kept = {"epoch": epoch, "epochs": epochs, "dev": values["dev"]}
        return values

    def state_dict(self) -> dict[str, Any]:
        """All state, for `load_state_dict`."""
        return {"step": self._step, "weights": self.weights, "kept": self.kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict()` was taken."""
        self._step, self.weights, self.kept = state["step"], state["weights"], state["kept"]

    def settle(self, trainer: Trainer) -> bool:
        """Print which epoch is kept; whether it is another than the last, which always counts."""
        kept = self.kept
        ranks.say(
            f"{trainer.name}: epoch {kept['epoch']} of {kept['epochs']} is kept, the best on dev "
            f"({100 * kept['dev']:.1f} %) since pruning is complete"
        )
        return self._step < trainer.step
