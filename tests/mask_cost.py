"""What masks cost: a step with them over one without, a refresh, and their memory on a rank.

    python tests/mask_cost.py [--model base] [--rounds 5] [--compressions imp60 movement40 ...]
    deepspeed --num_accelerators 2 tests/mask_cost.py --stage 3 --memory

One engine without masks and one for each kind of masks are built in one process group on random weights
and take turns, a step each, on the same batch; the median of the ratios within a round is printed with
the smallest and the largest. Not part of the suite: timings need a machine without other work.
"""

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepspeed
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedModel

sys.path.insert(0, str(Path(__file__).parents[1]))

from compress.compression import resolved
from compress.compression.importance import Importance
from compress.compression.masks import Masks
from compress.configuration import config
from compress.models.blocks import find_blocks
from compress.runtime import ranks, versions
from compress.training import distributed
from compress.training.engine import engine_settings, parameter_groups

ROOT = Path(__file__).parents[1]
SIZES = {
    "base": {},
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536},
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
}
STEPS = 1000
WARM_UP = 12
"""Steps before the first measured one, in which equal scores come apart."""


@dataclass
class Student:
    """An engine and its masks, complete or on their way."""

    name: str
    engine: Any
    masks: Masks
    refresh: float = 0.0

    def step(self, batch: dict[str, torch.Tensor], number: int) -> float:
        """One optimiser step as the trainer does it, in seconds."""
        began = time.perf_counter()
        self.engine.backward(self.engine(**batch).loss)
        self.masks.before_step()
        self.engine.step()
        self.masks.after_step(number)
        return time.perf_counter() - began


def importance(model: PreTrainedModel) -> Importance:
    blocks = find_blocks(model)
    torch.manual_seed(1)
    heads = [torch.rand(block.heads, dtype=torch.float64) for block in blocks]
    return Importance(heads, [torch.rand(block.neurons, dtype=torch.float64) for block in blocks])


def build(options: argparse.Namespace, compression: str | None, kind: str) -> Student:
    """An engine; with a compression its masks are brought to their end, the last refresh timed."""
    files = [ROOT / f"ds_configs/{n}.json" for n in (f"zero{options.stage}", "tasks/synthetic")]
    files += [ROOT / f"ds_configs/compression/{compression}.json"] if compression else []
    given = ["robust_compression.model=none", f"train_batch_size={options.batch * ranks.world_size()}"]
    given += [f"robust_compression.masks={kind}"] if compression else []
    settings = config.load(files, [*given, 'robust_compression.loss={"hook":"vanilla"}', *options.set])
    torch.manual_seed(0)
    shape = BertConfig(num_labels=2, **SIZES[options.model])
    model = AutoModelForSequenceClassification.from_config(shape)
    pruners: tuple = ()
    if compression:
        found = resolved.pruners(settings, model, STEPS * settings.deepspeed.train_batch_size // 3)
        pruners = found
    scores = importance(model) if compression else None
    masks = Masks(pruners, lambda _: scores, kind)
    masks.attach(model, None)
    groups = parameter_groups(model, settings, masks.scores())
    block = engine_settings(settings, STEPS, options.batch, 1, groups) | masks.engine_block()
    engine = deepspeed.initialize(model=model, model_parameters=groups, config=block)[0]
    masks.bind(engine)
    student = Student(kind if compression else "none", engine, masks)
    engine.train()
    if compression:
        began = time.perf_counter()
        masks.after_step(masks.complete_from)
        student.refresh = time.perf_counter() - began
    return student


def mask_bytes(student: Student) -> int:
    """Bytes of masks on this rank, and of the library's buffers."""
    zeroing = getattr(student.masks._masking, "_zeroing", None)
    if zeroing is not None:
        return sum(mask.numel() * mask.element_size() for mask in zeroing.kept.values())
    return sum(
        b.numel() * b.element_size() for n, b in student.engine.module.named_buffers() if "_mask" in n
    )


def measure(options: argparse.Namespace, compression: str) -> dict[str, Any]:
    kinds = ["native"] if options.memory or not versions.has_library() else ["native", "deepspeed"]
    students = [build(options, compression, kind) for kind in kinds]
    pruned = {
        p.name: sum(w.numel() for w in _weights(s, p)) for s in students[:1] for p in s.masks.pruners
    }
    found: dict[str, Any] = {
        "compression": compression,
        "ranks": ranks.world_size(),
        "stage": options.stage,
        "weights": pruned,
        "refresh": {s.name: round(s.refresh, 3) for s in students},
        "bytes": {s.name: mask_bytes(s) for s in students},
    }
    if options.memory:
        return found
    students.insert(0, build(options, None, "native"))
    torch.manual_seed(2)
    ids = torch.randint(5, 30000 if options.model != "tiny" else 1000, (options.batch, options.length))
    batch = {"input_ids": ids, "labels": torch.zeros(options.batch, dtype=torch.long)}
    after = STEPS - 1
    for _ in range(WARM_UP):
        for student in students:
            student.step(batch, after)
    rounds = [{s.name: s.step(batch, after) for s in students} for _ in range(options.rounds)]
    found["seconds"] = {
        s.name: round(statistics.median(r[s.name] for r in rounds), 3) for s in students
    }
    for name in kinds:
        ratios = [r[name] / r["none"] for r in rounds]
        found[f"{name}_ratio"] = [round(f(ratios), 3) for f in (statistics.median, min, max)]
    for student in students:
        student.engine.destroy()
    return found


def _weights(student: Student, pruner: Any) -> list[torch.Tensor]:
    modules = dict(student.engine.module.named_modules())
    sizes = [getattr(modules[n].weight, "ds_shape", modules[n].weight.shape) for n in pruner.carriers]
    return [torch.empty(size, device="meta") for size in sizes]


def main() -> None:
    parser = argparse.ArgumentParser(description="What masks cost.")
    parser.add_argument("--model", choices=SIZES, default="base")
    parser.add_argument("--stage", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16, help="rows of each rank")
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="refresh and memory only")
    parser.add_argument("--set", nargs="*", default=[])
    parser.add_argument("--compressions", nargs="+", default=["imp60", "movement40"])
    parser.add_argument("--local_rank", type=int)
    options = parser.parse_args()
    distributed.start()
    for compression in options.compressions:
        found = measure(options, compression)
        if ranks.is_main():
            print(json.dumps({**found, "threads": os.environ.get("OMP_NUM_THREADS")}), flush=True)
    distributed.stop()


if __name__ == "__main__":
    main()
