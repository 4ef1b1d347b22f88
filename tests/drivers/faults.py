"""Started by test_faults.py: whole runs in this process, each with a fault that comes while it runs.

    python tests/drivers/faults.py FOLDER MODEL

Writes FOLDER/errors.json: the sentence that ended each run, by the name of its fault.
"""

import errno
import json
import sys
from pathlib import Path

import torch
from transformers import BertForSequenceClassification

sys.path.insert(0, str(Path(__file__).parents[2]))

from compress import run
from compress.configuration import config
from compress.errors import UserError
from compress.models.weight_files import WeightWriter
from compress.runtime import ranks
from compress.training import distributed

ROOT = Path(__file__).parents[2]
HOOKS = """
import torch.nn.functional as F

def late(logits, labels, teacher, difficulty, weights):
    gold = F.cross_entropy(logits.float(), labels, reduction="none")
    return gold / 0 if 0.3 < weights.progress < 0.5 else gold

def fails(logits, labels, teacher, difficulty, weights):
    if 0.3 < weights.progress < 0.5:
        raise KeyError("late")
    return F.cross_entropy(logits.float(), labels, reduction="none")
"""


def forward_that_fails(kind: str):
    plain = BertForSequenceClassification.forward

    def forward(self, *args, **inputs):
        scored = not self.training and len(inputs["input_ids"]) > 8  # not the probe before the run
        if kind == ("training" if self.training else "scoring" if scored else ""):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return plain(self, *args, **inputs)

    return plain, forward


def crash_in_export(files: list[str], common: list[str], folder: Path, device) -> dict:
    """What a run says whose disk is full while the teacher is exported, and the same command again."""
    often = "robust_compression.checkpoint.every_steps=8"
    settings = config.load(files, [*common, "robust_compression.loss.hook=vanilla", often])
    plain, said = WeightWriter.close, []

    def full(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(self.folder))

    WeightWriter.close, ranks.say = full, said.append
    try:
        run.execute(run.prepare(settings, folder / "export", device), "all")
    except UserError as error:
        said.append(str(error))
    WeightWriter.close = plain
    there = (folder / "export").rglob("model.safetensors")
    found = {"error": said[-1], "half": [str(file) for file in there]}
    said.clear()
    run.execute(run.prepare(settings, folder / "export", device), "all")
    return {**found, "again": said}


def main() -> None:
    folder, model = Path(sys.argv[1]), sys.argv[2]
    (folder / "late_hooks.py").write_text(HOOKS)
    sys.path.insert(0, str(folder))
    files = [str(ROOT / f"ds_configs/{name}.json") for name in ("zero2", "tasks/synthetic")]
    files.append(str(ROOT / "ds_configs/compression/imp60.json"))
    common = [
        f"robust_compression.model={model}",
        'robust_compression.task.synthetic={"train": 64, "dev": 24, "ood": 24}',
        "robust_compression.epochs=1",
        "robust_compression.uncertainty.sparsities=[0.3, 0.6]",
        "robust_compression.uncertainty.epochs=1",
        "train_batch_size=8",
        "gradient_accumulation_steps=2",
    ]
    device, errors = distributed.start(), {}
    for fault in ("training", "scoring", "late", "fails"):
        hook = f"late_hooks:{fault}" if fault in ("late", "fails") else "vanilla"
        settings = config.load(files, [*common, f"robust_compression.loss.hook={hook}"])
        plain, BertForSequenceClassification.forward = forward_that_fails(fault)
        try:
            run.execute(run.prepare(settings, folder / fault, device), "all")
        except UserError as error:
            errors[fault] = str(error)
        BertForSequenceClassification.forward = plain
    errors["export"] = crash_in_export(files, common, folder, device)
    (folder / "errors.json").write_text(json.dumps(errors))
    distributed.stop()


if __name__ == "__main__":
    main()
