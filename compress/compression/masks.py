"""All pruners of a training as one method, in the order of their work.

Heads and ffn neurons come first, single weights last, because sparsity is counted on what the others
leave. At the end the gathered weights are cut (`compress.models.compressed`): the library's
`redundancy_clean` cuts the layers of a second keyword with the masks of the first, and cannot shrink
what ZeRO 3 has partitioned.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from compress.compression import masking
from compress.compression.importance import Importance
from compress.compression.masking import Kind, Remaining
from compress.compression.pruner import Pruner, PruningState
from compress.compression.units import UnitPruner
from compress.methods import Method, Run
from compress.models import compressed
from compress.models.blocks import Block, find_blocks
from compress.models.compressed import Kept, Layer

if TYPE_CHECKING:
    import deepspeed

Scorer = Callable[[Any], Importance]
"""Gives the importance of the heads and ffn neurons of the model of an engine; alike on all ranks."""


class Masks(Method):
    """The masks of a model in training; all are 1 until the first refresh."""

    name = "masks"

    def __init__(
        self, pruners: Iterable[Pruner] = (), scorer: Scorer | None = None, kind: Kind = "native"
    ) -> None:
        """pruners: as resolved, in the order of their work; kind: `robust_compression.masks`.

        scorer: measures importance with the engine, called where a pruner asks for it.
        """
        self.pruners = [pruner.fresh() for pruner in pruners]
        self.blocks: list[Block] = []
        self._scorer = scorer
        self._remaining: Remaining = {}
        self._sparsity = 0.0
        self._kind = kind
        self._masking = masking.choose(kind)
        self._engine: deepspeed.DeepSpeedEngine | None = None

    @property
    def units(self) -> list[UnitPruner]:
        """The pruners that remove heads or ffn neurons."""
        return [pruner for pruner in self.pruners if isinstance(pruner, UnitPruner)]

    @property
    def sparse(self) -> list[Pruner]:
        """The pruners that remove single weights."""
        return [pruner for pruner in self.pruners if not pruner.cuts]

    @property
    def complete_from(self) -> int:
        """The step from which on nothing more is removed; 0 without a pruner."""
        return max((pruner.last for pruner in self.pruners), default=0)

    def attach(self, model: PreTrainedModel, run: Run | None = None) -> None:
        """Give the layers that carry masks their masks, in place."""
        self.blocks = find_blocks(model) if self.units else []
        for pruner in self.pruners:
            pruner.blocks = self.blocks
        self._masking.prepare(model, self.pruners)

    def engine_block(self) -> dict[str, Any]:
        """`compression_training` for the engine's configuration, where DeepSpeed's library masks."""
        return self._masking.engine_block(self.pruners)

    def scores(self) -> list[nn.Parameter]:
        """Learned scores, which are trained at a rate of their own."""
        return self._masking.scores()

    def bind(self, engine: "deepspeed.DeepSpeedEngine") -> None:
        """Called once, after the engine is built."""
        self._masking.bind(engine)
        self._engine = engine

    def before_step(self) -> None:
        """Zero the gradients of pruned weights."""
        self._masking.before_step()

    def after_step(self, step: int) -> None:
        """Prune where the schedules of `step` say so.

        Runs on all ranks alike: importance is equal there, and so are the masks. It is that of the
        masked model: what is pruned is held at 0, or the masks are in the forward pass.
        """
        self._masking.after_step()
        importance = None
        if any(pruner.needs_importance(step) for pruner in self.pruners):
            assert self._scorer is not None
            importance = self._scorer(self._engine)
        refreshed = False
        for pruner in self.pruners:
            if pruner.refresh(step, PruningState(self._remaining, importance)):
                refreshed = True
                if pruner.cuts:
                    self._find_remaining()
        if refreshed:
            self._refreshed()

    def weights_changed(self) -> None:
        """Called when weights and learned scores have been set from outside."""
        self._masking.after_step()

    def _refreshed(self) -> None:
        self._masking.refresh()
        counts = [pruner.counts(self._remaining) for pruner in self.sparse]
        total = sum(count for _, count in counts)
        self._sparsity = sum(pruned for pruned, _ in counts) / total if total else 0.0

    def _find_remaining(self) -> None:
        self._remaining = {k: v for pruner in self.pruners for k, v in pruner.remaining().items()}

    def scalars(self) -> dict[str, float]:
        """The sparsity, where single weights go."""
        return {"sparsity": self.sparsity()}

    def sparsity(self) -> float:
        """Share of pruned weights among those that heads and neurons leave (0 if none are pruned)."""
        return self._sparsity

    def sparsity_of(self, read: Callable[[str], Tensor]) -> float:
        """Share of zeros in the sparse layers of the finished model (0 if none are pruned).

        read: gives a tensor of it by name.
        """
        zeros = total = 0
        for pruner in self.sparse:
            for name in pruner.carriers:
                weight = read(f"{name}.weight")
                zeros, total = zeros + int((weight == 0).sum()), total + weight.numel()
        return zeros / total if total else 0.0

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """State of each pruner, by its name."""
        return {pruner.name: pruner.state_dict() for pruner in self.pruners}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Put back what `state_dict` gave."""
        for pruner in self.pruners:
            pruner.load_state_dict(state[pruner.name])
        self._find_remaining()
        self._refreshed()

    def finish(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gathered weights of full size without masks, what is pruned is 0; changes the dictionary.

        weights: of the whole model, or of some of its blocks and of modules outside them.
        """
        for pruner in self.pruners:
            weights = pruner.finish(weights)
        return weights

    def kept(self) -> list[Kept] | None:
        """What each block keeps, once `finish` has seen the final weights; None if nothing goes."""
        if not self.blocks:
            return None
        units = {pruner.unit: pruner.kept for pruner in self.units}
        return [
            Kept(
                units.get("heads", {}).get(n, tuple(range(block.heads))),
                units.get("neurons", {}).get(n, tuple(range(block.neurons))),
            )
            for n, block in enumerate(self.blocks)
        ]

    def cut(self, plain: Mapping[str, Tensor], model: PreTrainedModel) -> dict[str, Tensor]:
        """What `finish` gave without the heads and ffn neurons that go.

        model: uncompressed, of the shape that training started from; its weights do not matter. What is
        not in it, such as learned scores, is left out.
        """
        names = model.state_dict().keys()
        weights, kept = {name: plain[name] for name in plain if name in names}, self.kept()
        return weights if kept is None else compressed.cut(weights, model, kept)

    def small(self, config: PreTrainedConfig) -> PreTrainedConfig:
        """A copy of the uncompressed configuration with the sizes that `kept` leaves."""
        config, kept = copy.deepcopy(config), self.kept()
        if kept is not None:
            compressed.describe(config, [Layer(len(k.heads), len(k.neurons)) for k in kept])
        return config

    def close(self) -> None:
        """Let go of the model; what is kept stays known."""
        self._masking, self._engine = masking.choose(self._kind), None
        for pruner in self.pruners:
            pruner.masks, pruner.weights = {}, None

    def chosen(self) -> dict[str, Any]:
        """What was chosen, as `compression_training` to read, edit and run again; empty for nothing."""
        return {key: block for pruner in self.pruners for key, block in pruner.chosen().items()}
