"""The student's ONNX file in 8-bit integers in metrics.json: what it costs and what it saves."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compress.models import encoders
from compress.reporting import summary
from compress.runtime import ranks
from compress.scoring import evaluation, flips, gain, measures
from compress.stages import latency, scores
from compress.stages.context import Context
from compress.stages.onnx import FILE, Int8Scores, Onnx, OnnxInt8
from compress.stages.scores import Scores
from compress.stages.stage import obtain
from compress.stages.workspace import Artefact


@dataclass(frozen=True)
class Int8:
    """Scores of the file in 8-bit integers, and the ONNX files of the student, `float` and `int8`."""

    scores: Artefact
    files: Mapping[str, Path]


def load(context: Context) -> Int8:
    """Both, made if they are missing; all ranks call it."""
    made = {"float": Onnx(), "int8": OnnxInt8()}
    files = {name: obtain(stage, context).path / FILE for name, stage in made.items()}
    return Int8(obtain(Int8Scores(), context), files)


def figures(
    context: Context, made: Int8, student: evaluation.Scores, parameters: int
) -> dict[str, Any]:
    """Accuracies, `difference` to the student with 95 % intervals, `latency`, and `agreement`.

    student, parameters: scores of the student in PyTorch, and its size. On the main rank.
    """
    raw, metric = context.data, context.config.robust.evaluation.metric
    found = scores.load(context, made.scores)
    both = student, found
    before, after = (evaluation.summary(one, raw.dev, raw.ood, None, metric) for one in both)
    own, other = (evaluation.answers(one, raw.dev, raw.ood) for one in both)
    hits = [{name: one.right for name, one in sets.items()} for sets in (own, other)]
    sizes = {f"ood_{name}": split.set_size for name, split in raw.ood.items()}
    other_metric = metric != measures.ACCURACY
    measured = measures.replicates(metric, own, other, sizes) if other_metric else None
    tokens = int(np.median(context.for_student().columns["dev"].lengths))
    config = encoders.load_config(made.files["float"].parent)
    return {
        **after,
        "difference": gain.figures((before, after), (hits[0], hits[1]), sizes, measured),
        **agreement(found, student, made.files),
        "latency": latency.measure_files(made.files, config, parameters, tokens),
    }


def agreement(
    found: evaluation.Scores, student: evaluation.Scores, files: Mapping[str, Path]
) -> dict[str, Any]:
    """`same_answer`: by set the samples of the student's class, with interval; `bytes` of the files.

    found: scores of the file in 8-bit integers.
    """
    pairs = {"dev": (found.dev, student.dev)}
    pairs |= {f"ood_{name}": (one, student.ood[name]) for name, one in found.ood.items()}
    same = {name: one.argmax(axis=1) == two.argmax(axis=1) for name, (one, two) in pairs.items()}
    return {
        "same_answer": {name: flips.part(equal) for name, equal in same.items()},
        "bytes": {name: file.stat().st_size for name, file in files.items()},
    }


def sentence(context: Context) -> str:
    """Size of the file, and how often it answers as the student does; all ranks call it."""
    student, made = obtain(Scores("student"), context), load(context)

    def figures_of() -> dict[str, Any]:
        found, own = (scores.load(context, one) for one in (made.scores, student))
        return agreement(found, own, made.files)

    return summary.int8_agreement(ranks.on_main(figures_of))
