"""Feed-forward neurons by learned scores of each layer: `row_pruning` with method "topk"."""

from __future__ import annotations

from typing import Literal

from compress.compression.pruners.neurons import Neurons, NeuronTechnique
from compress.compression.technique import Schedule
from compress.compression.units import LearnedUnits, UnitPruner


class NeuronScoreSchedule(Schedule):
    """What holds for all groups of ffn neurons."""

    method: Literal["topk"]
    """topk: the neurons of each layer with the highest learned scores stay."""


class LearnedNeurons(LearnedUnits, Neurons):
    """Learned scores on ffn neurons."""

    name = "learned_neurons"


class NeuronScores(NeuronTechnique[NeuronScoreSchedule]):
    """Ffn neurons of the lowest learned scores go."""

    method = "topk"

    @property
    def learned(self) -> bool:
        """Always."""
        return True

    @property
    def pruner(self) -> type[UnitPruner]:
        """See `LearnedNeurons`."""
        return LearnedNeurons
