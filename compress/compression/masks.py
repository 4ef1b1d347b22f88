"""The seam to DeepSpeed's compression library: its layers and masks, and nothing beyond.

What: `Masks` turns the linear layers of a plan into the library's compressible layers, moves their
masks along the schedule and applies them in the end; `reduce_layers` makes a student of fewer layers.
Why a seam: the library left DeepSpeed with 0.19.7 (upstream PR #8490), so the rest of the package must
not care. `sparse`, `structured` and `library` beside it are its rooms.

Gaps of the library that are filled here: `sparse_pruning` with method l1 fails in the first step,
because the scheduler reads `schedule_offset_end`, which the parser fills for snip_momentum only;
`redundancy_clean` cuts the layers of a second keyword with the masks of the first, and cannot shrink
what ZeRO 3 has partitioned: here the gathered weights are cut (`compress.models.compressed`);
`student_initialization` prints from every rank.
"""

import contextlib
import copy
import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import deepspeed
import torch
from deepspeed.compression.basic_layer import LinearLayer_Compress
from deepspeed.compression.compress import init_compression, student_initialization
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress import checkpoint
from compress.compression.importance import Importance
from compress.compression.library import exactly
from compress.compression.plan import Plan
from compress.compression.sparse import SparseMasks
from compress.compression.structured import HeadMasks, RowMasks
from compress.methods import Method
from compress.models import architectures, compressed
from compress.models.compressed import Kept, Layer

Scorer = Callable[[Mapping[str, Tensor]], Importance]


class Masks(Method):
    """Masks of a model under training: the position of the schedule is the caller's step."""

    name = "masks"

    def __init__(self, model: PreTrainedModel, plan: Plan, scorer: Scorer | None = None) -> None:
        """Convert the layers of the plan; all masks are 1 until the first refresh.

        scorer: measures importance on plain weights, called where the plan asks for it.
        """
        self.blocks = architectures.blocks(model) if plan.structured else []
        self.sparse = SparseMasks(plan)
        self.heads, self.rows = HeadMasks(plan, self.blocks), RowMasks(plan, self.blocks)
        self._scorer = scorer
        self._living: dict[str, tuple[Tensor | None, Tensor | None]] = {}
        self._engine: deepspeed.DeepSpeedEngine | None = None
        self._weights: Callable[[], Mapping[str, Tensor]] = model.state_dict
        self._techniques = [
            technique for technique in (self.heads, self.rows, self.sparse) if technique.groups
        ]
        if self._techniques:
            init_compression(model, self.engine_block())
        modules = dict(model.named_modules())
        for technique in self._techniques:
            technique.bind(modules)

    def engine_block(self) -> dict[str, Any]:
        """`compression_training` for the engine's configuration; empty without a technique."""
        if not self._techniques:
            return {}
        blocks = [technique.library_block() for technique in self._techniques]
        return {"compression_training": {key: v for block in blocks for key, v in block.items()}}

    def bind(self, engine: deepspeed.DeepSpeedEngine) -> None:
        """Bind to the initialised engine: its scheduler's missing key, its dtype and device."""
        methods = engine.compression_scheduler.different_compression_methods
        methods["sparse_pruning"]["shared_parameters"].setdefault("schedule_offset_end", 0)
        self._engine = engine
        self._weights = partial(checkpoint.gather, engine, everywhere=True)
        for technique in self._techniques:
            technique.to_weights_dtype()

    def _whole(self, layer: LinearLayer_Compress) -> AbstractContextManager[None]:
        if self._engine is not None and self._engine.zero_optimization_stage() == 3:
            return deepspeed.zero.GatheredParameters([layer.weight])
        return nullcontext()

    def after_step(self, step: int) -> None:
        """Prune where the schedule says so."""
        self.refresh(step)

    def scalars(self) -> dict[str, float]:
        """Share of pruned weights, to be logged."""
        return {"sparsity": self.sparsity()}

    def refresh(self, step: int) -> bool:
        """Prune where the schedule of `step` says so, heads and rows first; whether a mask changed.

        Runs on all ranks alike: weights and importance are equal there, and so are the masks.
        """
        importance = None
        if self.heads.needs_importance(step) or self.rows.needs_importance(step):
            assert self._scorer is not None
            importance = self._scorer(self.apply(self._weights()))
        changed = self.heads.refresh(step, importance)
        changed |= self.rows.refresh(step, importance)
        self._living = self._find_living() if changed else self._living
        return self.sparse.refresh(step, self._whole, self._alive) or changed

    def _alive(self, name: str) -> tuple[Tensor | None, Tensor | None]:
        """Indices of rows and columns of a layer that chosen heads and rows leave; None for all."""
        return self._living.get(name, (None, None))

    def _find_living(self) -> dict[str, tuple[Tensor | None, Tensor | None]]:
        living: dict[str, tuple[Tensor | None, Tensor | None]] = {}
        for number in () if self.heads.learned else self.heads.numbers:
            block, width = self.blocks[number], torch.arange(self.blocks[number].head_size)
            kept = torch.cat([h * block.head_size + width for h in self.heads.kept[number]])
            living |= dict.fromkeys(block.projections, (kept, None))
            living[block.attention_output] = (None, kept)
        for number in () if self.rows.learned else self.rows.numbers:
            block, kept = self.blocks[number], torch.tensor(self.rows.kept[number])
            living |= {block.intermediate: (kept, None), block.output: (None, kept)}
        return living

    def sparsity(self) -> float:
        """Share of pruned weights among those that heads and rows leave (0 without sparse groups)."""
        pruned, total = self.sparse.counts(self._alive)
        return pruned / total if total else 0.0

    def sparsity_of(self, small: PreTrainedModel) -> float:
        """Share of zeros in the sparse layers of the finished model (0 without sparse groups)."""
        modules = dict(small.named_modules())
        weights = [modules[name].weight for name in self.sparse.layers]
        total = sum(weight.numel() for weight in weights)
        return sum(int((weight == 0).sum()) for weight in weights) / total if total else 0.0

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """State of each technique: masks by layer name, or how much of learned scores stays."""
        return {
            "sparse": self.sparse.state_dict(),
            "heads": self.heads.state_dict(),
            "rows": self.rows.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Put back masks of `state_dict`."""
        self.heads.load_state_dict(state["heads"])
        self.rows.load_state_dict(state["rows"])
        self._living = self._find_living()
        self.sparse.load_state_dict(state["sparse"])

    def apply(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Plain weights of full size from a masked state dict: pruned weights 0, no masks left."""
        plain = dict(weights)
        for technique in self._techniques:
            technique.apply(plain)
        return plain

    def kept(self) -> list[Kept] | None:
        """What each block keeps, once `apply` has seen the final weights; None if nothing goes."""
        if not self.blocks:
            return None
        return [
            Kept(
                self.heads.kept.get(n, tuple(range(block.heads))),
                self.rows.kept.get(n, tuple(range(block.rows))),
            )
            for n, block in enumerate(self.blocks)
        ]

    def shrink(self, plain: Mapping[str, Tensor], model: PreTrainedModel) -> PreTrainedModel:
        """A model of real dimensions with the weights of `apply`.

        model: uncompressed, of the shape that training started from; its weights do not matter.
        """
        config, kept = copy.deepcopy(model.config), self.kept()
        weights = {name: plain[name] for name in model.state_dict()}
        if kept is not None:
            weights = compressed.cut(weights, model, kept)
            compressed.describe(config, [Layer(len(k.heads), len(k.rows)) for k in kept])
        small = compressed.build(config)
        small.load_state_dict(weights)
        return small

    def chosen_heads(self) -> dict[str, Any]:
        """The choice of heads in DeepSpeed's terms: a group a layer, to read, edit and run again."""
        if not self.heads.groups:
            return {}
        groups = {}
        for number in self.heads.numbers:
            block, gone = self.blocks[number], sorted(self.heads.gone(number))
            groups[f"layer_{number}"] = {
                "params": {"dense_ratio": 1 - len(gone) / block.heads, "pruned_heads": gone},
                "modules": [exactly(block.attention_output)],
                "related_modules": [[exactly(name) for name in block.projections]],
            }
        sizes = {self.blocks[number].heads for number in self.heads.numbers}
        shared = {"enabled": True, "method": "importance"}
        if len({block.heads for block in self.blocks}) == 1:
            shared["num_heads"] = sizes.pop()
        return {"head_pruning": {"shared_parameters": shared, "different_groups": groups}}


def reduce_layers(
    source: PreTrainedModel, layers: Sequence[int], others: Sequence[str] | None = None
) -> PreTrainedModel:
    """A student whose blocks are copies of these blocks of `source`, everything else copied too.

    others: modules outside the blocks to copy (default: all); those that are left out are fresh.
    """
    student = compressed.build(compressed.reduced(source.config, layers))
    block = {
        "enabled": True,
        "keep_number_layer": len(layers),
        "module_name_prefix": architectures.find(source.config).blocks,
        "teacher_layer": list(layers),
        "other_module_name": list(others) if others is not None else outside(source),
    }
    with contextlib.redirect_stdout(io.StringIO()):
        student_initialization(student, source, {"compression_training": {"layer_reduction": block}})
    return student


def outside(model: PreTrainedModel) -> list[str]:
    """The largest modules with parameters that lie outside the Transformer blocks."""
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
