"""The weights of the epoch with the best dev accuracy, for `student.keep` "best_dev"."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from compress.compression.masks import Masks
from compress.errors import UserError
from compress.runtime import ranks
from compress.training import shards
from compress.training.trainer import AfterEpoch, Trainer


class BestDev(AfterEpoch):
    """Measures like `watch`; keeps the weights of the best epoch.

    Epochs before pruning is complete do not count: their model is larger than the one that is asked
    for. Of equal epochs the first is kept. Each rank holds the part that it trains once more, float32
    on the CPU.

    kept: `epoch`, `epochs`, `dev`.
    """

    def __init__(self, trainer: Trainer, watch: AfterEpoch, masks: Masks) -> None:
        """watch: gives dev accuracy as `{"dev": accuracy}`, the same on all ranks."""
        self._trainer, self._watch, self._masks = trainer, watch, masks
        self._step = 0
        self._weights: dict[str, Tensor] = {}
        self.kept: dict[str, float] = {}

    def __call__(self, trainer: Trainer) -> dict[str, float]:
        """What `watch` gives."""
        values = self._watch(trainer)
        better = values["dev"] > self.kept.get("dev", -1.0)
        if better and trainer.step >= self._masks.complete_from:
            self._weights, self._step = shards.copied(trainer.engine), trainer.step
            epoch, epochs = (n // trainer.steps_per_epoch for n in (trainer.step, trainer.total_steps))
            self.kept = {"epoch": epoch, "epochs": epochs, "dev": values["dev"]}
        return values

    def state_dict(self) -> dict[str, Any]:
        """All state, for `load_state_dict`: of the weights what this rank writes."""
        parts = shards.trained(self._trainer.engine) if self._weights else {}
        weights = {name: part.owned(self._weights[name]) for name, part in parts.items()}
        return {"step": self._step, "weights": weights, "kept": self.kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict()` was taken, on any number of ranks."""
        self._step, self.kept, saved = state["step"], state["kept"], state["weights"]
        if self.kept and (not saved or any(isinstance(value, Tensor) for value in saved.values())):
            raise UserError(
                f"{self._trainer.name}: this training was begun by an earlier version, which kept the "
                "best weights whole; delete the directory student.unfinished of its output directory."
            )
        parts = shards.trained(self._trainer.engine) if saved else {}
        self._weights = {
            name: saved[name].read(part.start, part.length).clone() for name, part in parts.items()
        }

    def settle(self) -> None:
        """Put the weights of the best epoch back, and print which it is. It counts: the last always."""
        trainer, kept = self._trainer, self.kept
        ranks.say(
            f"{trainer.name}: epoch {kept['epoch']} of {kept['epochs']} is kept, the best on dev "
            f"({100 * kept['dev']:.1f} %) since pruning is complete"
        )
        if self._step < trainer.step:
            shards.put_back(trainer.engine, self._weights)
            self._masks.weights_changed()
