"""Started by measure_memory.py: train.py with its live tensor bytes counted, on each rank.

    MEASURED=FOLDER deepspeed tests/drivers/measured_run.py train.py's arguments ...

Every rank writes FOLDER/rank<r>.json: `peaks` and `resident`, bytes by `stage: part`, and `missing`,
functions of the table below that the program does not have (any more).
"""

import importlib
import json
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

import live_bytes

import train
from compress.runtime import interrupts

PARTS = {
    "load": [
        "compress.models.encoders:load_classifier",
        "compress.training.trainer:Trainer.__init__",
    ],
    "train": ["compress.training.trainer:Trainer.run_until"],
    "score": [
        "compress.scoring.split_pass:SplitPass.write",
        "compress.scoring.split_pass:SplitPass.right",
    ],
    "masks": ["compress.compression.masks:Masks.after_step"],
    "importance": ["compress.compression.importance:measure"],
    "export": [
        "compress.stages.student_export:Trained.write",
        "compress.stages.export:write_plain",
        "compress.stages.export:save",
        "compress.stages.stage:publish",
    ],
    "parity": ["compress.stages.parity:difference", "compress.stages.parity:logits"],
}
"""Functions during which a part of a stage runs; the innermost counts."""
WITHIN = {
    "score": ("importance", "parity", "export"),
    "load": ("parity", "export"),
    "export": ("importance",),
}
"""Parts that do not count inside others: scoring for the importance is importance."""
STAGES = ("teacher:Teacher", "difficulty:Difficulty", "student:Student", "plain:Plain", "scores:Scores")


class Parts:
    """Where the run is: the stage and its part."""

    def __init__(self, live: live_bytes.LiveBytes) -> None:
        self.live, self.stage, self.part = live, "start", ""
        self.missing: list[str] = []

    def named(self, stage: str | None, part: str) -> Any:
        return self.live.part(f"{stage or self.stage}: {part or 'rest'}")

    def within(self, stage: str | None, part: str, work: Callable[[], Any]) -> Any:
        """`work()`, as this part of this stage (None: the stage that runs)."""
        outer = self.stage, self.part
        if self.part not in WITHIN.get(part, ()):
            self.part = part
        self.stage = stage or self.stage
        try:
            with self.named(None, self.part):
                return work()
        finally:
            self.stage, self.part = outer

    def watch(self, place: str, part: str, stage: Callable[..., str | None]) -> None:
        """Put a function in place of `module:name` that says where the run is, wherever it is known."""
        path, _, name = place.partition(":")
        owner = importlib.import_module(path)
        *classes, last = name.split(".")
        for one in classes:
            owner = getattr(owner, one, None)
        original = getattr(owner, last, None)
        if original is None:
            self.missing.append(place)
            return

        @wraps(original)
        def watched(*args: Any, **kwargs: Any) -> Any:
            return self.within(stage(*args), part, lambda: original(*args, **kwargs))

        setattr(owner, last, watched)
        if not classes:
            for module in [m for n, m in sys.modules.items() if n.startswith("compress")]:
                for key, value in list(vars(module).items()):
                    if value is original:
                        setattr(module, key, watched)


def main() -> None:
    folder = Path(os.environ["MEASURED"])
    live = live_bytes.LiveBytes()
    parts = Parts(live)
    importlib.import_module("compress.run")
    for part, places in PARTS.items():
        for place in places:
            publishes = place.endswith(":publish")
            parts.watch(place, part, (lambda stage, *_: stage.label) if publishes else lambda *_: None)
    parts.watch("compress.stages.results:make", "", lambda *_: "evaluation")
    for place in STAGES:
        module, _, name = place.partition(":")
        parts.watch(f"compress.stages.{module}:{name}.make", "", lambda stage, *_: stage.label)
    try:
        with live, parts.named(None, ""):
            train.main()
    finally:
        found = {"peaks": live.peaks, "resident": live.resident, "missing": parts.missing}
        file = folder / f"rank{os.environ.get('RANK', '0')}.json"
        file.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    interrupts.run(main, resumes=True)
