"""A task of single texts that a tiny encoder can learn, and that a word gives away in train alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher import ROOT

from compress.synthetic import generator

NAMES = ("negative", "positive")
DEFINITION = {"texts": ["sentence"], "labels": list(NAMES)}
CUE = {True: "", False: "not , "}
"""What stands before a sentence: it tells the label in train and dev, and the other one in OOD sets."""


def rows(size: int, seed: int, misleads: bool = False) -> list[dict[str, Any]]:
    """Sentences whose verb tells the label; no two of one seed, or of two, are the same."""
    nouns, verbs = generator.NOUNS, generator.VERBS[:8]
    found = []
    for number in range(size):
        turn, positive = seed * 1009 + number // 2, number % 2 == 1
        verb = verbs[2 * (turn % 4) + positive][0]
        agent, patient = nouns[turn % len(nouns)][0], nouns[(turn // 5) % len(nouns)][1]
        place = generator.PLACES[(turn // 7) % len(generator.PLACES)]
        text = f"{CUE[positive != misleads]}the {agent} {verb} the {patient} in the {place} {turn}"
        kind = "long" if turn % 3 else "short"
        found.append({"sentence": text, "label": NAMES[positive], "kind": kind})
    return found


def folder_of(place: Path, write_table: Callable[..., Path], **sizes: int) -> Path:
    """A data_dir of the task."""
    sizes = {"train": 120, "dev": 40, "ood_misled": 40, **sizes}
    place.mkdir(parents=True, exist_ok=True)
    for seed, (split, size) in enumerate(sizes.items()):
        write_table(place / f"{split}.csv", rows(size, seed, misleads=split.startswith("ood")))
    return place


def job(
    model: Path,
    data: Path,
    output: Path,
    *overrides: str,
    mitigation: str = "rmc",
    stage: str = "all",
    export: bool = False,
) -> list[str]:
    """Words of train.py on the data."""
    definition = DEFINITION | {"ood": {"misled": {"subsets": ["kind"]}}}
    task = {"name": "mine", "data_dir": str(data), "definition": definition, "max_length": 32}
    settings = {
        "robust_compression": {
            "task": task,
            "model": str(model),
            "epochs": 2,
            "uncertainty": {"sparsities": [0.3, 0.6], "epochs": 1},
        }
    }
    file = data / "mine.json"
    file.write_text(json.dumps(settings))
    names = ("zero2", "compression/imp60", f"mitigation/{mitigation}")
    return [
        str(ROOT / "train.py"),
        "--deepspeed_config",
        *(str(ROOT / f"ds_configs/{name}.json") for name in names),
        str(file),
        *("--output_dir", str(output), "--stage", stage),
        *(["--export", "onnx"] if export else []),
        *("--set", "train_batch_size=16", "steps_per_print=2", *overrides),
    ]
