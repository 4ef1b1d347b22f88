"""Stage evaluate: both models on dev and OOD, F_bias, TensorBoard, report.html, metrics.json."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress import uncertainty
from compress.configuration.config import Config
from compress.data.tasks import Task
from compress.files import artefacts, ownership
from compress.reporting import card, report, summary
from compress.runtime import provenance, ranks
from compress.scoring import bias, chance, evaluation, flips, gain, measures
from compress.stages import (
    difficulty,
    events,
    int8_figures,
    model_figures,
    partial_input,
    scores,
    shallow,
)
from compress.stages.context import Context
from compress.stages.int8_figures import Int8
from compress.stages.partial_input import PartialInput
from compress.stages.plain import Plain
from compress.stages.shallow import Shallow
from compress.stages.stage import obtain
from compress.stages.student import Student
from compress.stages.teacher import Teacher, train_figure
from compress.stages.workspace import Artefact


@dataclass(frozen=True)
class Finished:
    """What is reported of a run: its artefacts, and the scores of its models by role.

    plain: the student with the plain loss, if it is asked for; hardness: the loss matrix; shortcut: the
    partial-input classifier; guess: the shallow one if that gave the loss its difficulty; choice: how
    alpha was chosen; int8: the student as an ONNX file in 8-bit integers, if it is exported.
    """

    teacher: Artefact
    plain: Artefact | None
    hardness: Artefact | None
    student: Artefact
    shortcut: Artefact
    guess: Artefact | None
    choice: Artefact | None
    scores: Mapping[str, evaluation.Scores]
    int8: Int8 | None = None

    @property
    def stages(self) -> dict[str, Artefact]:
        """The artefacts of the stages, by name."""
        made = {"teacher": self.teacher, "difficulty": self.hardness}
        made |= {"plain": self.plain, "student": self.student}
        return {name: artefact for name, artefact in made.items() if artefact is not None}


def make(
    context: Context, hardness: Artefact | None, choice: Artefact | None, int8: bool = False
) -> None:
    """Accuracies of the models on dev and OOD, F_bias; events, report.html, metrics.json.

    hardness: the loss matrix, if there is one; choice: how alpha was chosen; int8: whether the student
    is exported in 8-bit integers. `hits.npz` keeps for each model and set which samples it got right.
    All ranks score; the main rank reports alone.
    """
    began = time.perf_counter()
    scored = {role: obtain(scores.Scores(role), context) for role in scores.roles(context.config)}
    shortcut = obtain(PartialInput(), context)
    guess = obtain(Shallow(), context) if context.config.robust.loss.shallow else None
    teacher, student = obtain(Teacher(), context), obtain(Student(), context)
    plain = obtain(Plain(), context) if "plain" in scored else None
    exported = int8_figures.load(context) if int8 else None

    def report_all() -> None:
        every: dict[str, evaluation.Scores] = {
            role: scores.load(context, one) for role, one in scored.items()
        }
        made = Finished(teacher, plain, hardness, student, shortcut, guess, choice, every, exported)
        _report(context, made, began)

    ranks.on_main(report_all)


def _report(context: Context, made: Finished, began: float) -> None:
    """Write metrics.json, hits.npz, the model card, the report and the events; print the table.

    metrics.json says that all of them are there and of one run: it goes before the first is replaced,
    once the new figures are on the disk, and gets its name last.
    """
    folder = context.output_dir
    view = None if made.hardness is None else difficulty_view(context, made.hardness, made.guess)
    out = _metrics(context, made, view)
    out["artefacts"]["evaluate"]["seconds"] = time.perf_counter() - began
    out["seconds"] = {name: origin["seconds"] for name, origin in out["artefacts"].items()}
    file = folder / "metrics.json"
    with artefacts.replacing(file) as figures, artefacts.replacing(folder / "hits.npz") as hits:
        artefacts.write_json(figures, out)
        _write_hits(context, made, hits)
        file.unlink(missing_ok=True)
        card.write(made.student.path / "model", model_figures.about(context), out)
        report.write_report(folder / "report.html", out, context.config.merged, view)
        events.write(context, out, view)
        context.monitor.flush()
    ranks.say(summary.terminal(out))
    ranks.say(f"figures: {file}")
    ranks.say(f"report: {folder / 'report.html'}")


def _metrics(context: Context, made: Finished, view: report.DifficultyView | None) -> dict[str, Any]:
    """metrics.json without the seconds."""
    v = hard = None
    if made.hardness is not None:
        v = difficulty.load_variance(made.hardness.path, "dev")
        hard = uncertainty.hard_half(v)
    out = collect(context, made.scores, hard)
    out["student"] |= artefacts.read_json(made.student.path / "student.json")
    if made.plain is not None:
        out["plain"] |= artefacts.read_json(made.plain.path / "student.json")
    shown = {role: one for role, one in made.scores.items() if role in made.stages}
    out["easy_hard"] = easy_hard(context, made.shortcut, shown, v)
    out["teacher"] |= train_figure(context, made.teacher)
    metric = context.config.robust.evaluation.metric
    judged = train_figure(context, made.teacher, metric) | {"dev": out["teacher"]["measure"]["dev"]}
    on_teacher = chance.notes(judged, context.data.splits(), metric)
    for compared in [out, *([out["plain"]] if "plain" in out else [])]:
        compared["notes"] = on_teacher + compared["notes"]
    out["remarks"] += remarks_on_best_dev(out)
    models = {role: made.stages[role] for role in shown}
    model_figures.add(out, context, models)
    if made.int8 is not None:
        own = made.scores["student"]
        out["int8"] = int8_figures.figures(context, made.int8, own, out["student"]["params"])
    if view is not None:
        out["difficulty"] = _difficulty_metrics(context, view, made.guess)
        if made.choice is not None:
            candidates = artefacts.read_json(made.choice.path / "choice.json")["candidates"]
            out["difficulty"]["alpha_candidates"] = candidates
    out["reused"] = [name for name, artefact in made.stages.items() if artefact.reused]
    out["keys"] = {name: artefact.key for name, artefact in made.stages.items()}
    out["keys"]["evaluate"] = ownership.figures_key(context.config)
    out["stamp"] = ownership.stamp(context.config)
    out["artefacts"] = {name: artefact.origin for name, artefact in made.stages.items()}
    out["artefacts"]["evaluate"] = provenance.now(context.device)
    return out


def collect(
    context: Context, models: Mapping[str, evaluation.Scores], hard: NDArray[np.bool_] | None
) -> dict[str, Any]:
    """metrics.json from the scores of the models by role, without sizes, difficulty and seconds.

    Of the student with the plain loss, if there is one: `plain`, with its own bias and notes, and
    `gain`. Of a teacher with the plain loss beside another: `plain_teacher`, with the bias of both
    students against it. `flips` of a student: samples by set that only the teacher or only it gets
    right.
    """
    robust, raw = context.config.robust, context.data
    metric = robust.evaluation.metric
    what = None if metric == measures.ACCURACY else measures.NAMES[metric]
    every = {name: evaluation.summary(s, raw.dev, raw.ood, hard, metric) for name, s in models.items()}
    pairs = {name: (m["measure"]["dev"], m["measure"]["ood_pooled"]) for name, m in every.items()}
    answers = {name: evaluation.answers(s, raw.dev, raw.ood) for name, s in models.items()}
    judged = partial(evaluation.notes, every["teacher"], dev=raw.dev, ood=raw.ood, metric=metric)
    hits = {name: {n: one.right for n, one in sets.items()} for name, sets in answers.items()}
    sizes = {f"ood_{name}": split.set_size for name, split in raw.ood.items()}

    def drawn(first: str, second: str) -> dict[str, bias.Pair]:
        return measures.replicates(metric, answers[first], answers[second], sizes)

    def compared(role: str, teacher: str = "teacher") -> dict[str, Any]:
        deltas = bias.deltas(drawn(teacher, role))
        return bias.figures(pairs[teacher], pairs[role], deltas, what)

    found = compared("student")
    both = {name: every[name] | found.pop(name) for name in ("teacher", "student")}
    both["student"]["flips"] = flips.figures(hits["teacher"], hits["student"])
    if "plain" in models:
        other = compared("plain")
        own = other.pop("student")
        del other["teacher"]
        both["plain"] = every["plain"] | own | other
        both["plain"]["notes"] = judged(every["plain"], name=scores.NAMES["plain"])
        both["plain"]["flips"] = flips.figures(hits["teacher"], hits["plain"])
        pair = (hits["plain"], hits["student"])
        measured = drawn("plain", "student") if what else None
        found["gain"] = gain.figures((every["plain"], every["student"]), pair, sizes, measured)
    if (name := "plain_teacher") in models:
        found[name] = dict(every[name])
        for role in ("student", "plain"):
            other = compared(role, name)
            del other["student"]
            found[name] |= {**other.pop("teacher"), role: other}
    return {
        "task": robust.task.name,
        "seed": robust.seed,
        "compression": context.config.compression_label,
        "mitigation": context.config.mitigation_label,
        "metric": metric,
        **both,
        **found,
        "notes": judged(every["student"]),
        "remarks": _remarks_on_the_teacher(context.config, bool(raw.ood)),
        "data_notes": [*raw.notes, *context.cut_notes()],
        "at_chance": evaluation.at_chance(both["teacher"], raw.ood, metric),
        "vanished": evaluation.vanished(every["teacher"], every["student"], raw.dev),
        "samples": {
            "train": len(raw.train),
            "dev": len(raw.dev),
            "ood": {name: len(split) for name, split in raw.ood.items()},
        },
        "set_sizes": {name: split.set_size for name, split in raw.splits().items()},
    }


def remarks_on_best_dev(metrics: Mapping[str, Any]) -> list[str]:
    """A sentence about each student whose epoch was chosen by its dev accuracy."""
    return [
        f"the {scores.NAMES[role]} is that of epoch {best['epoch']} of {best['epochs']}, chosen by dev "
        "accuracy (student.keep); so its dev accuracy is the highest of several."
        for role in summary.roles(metrics)
        if (best := metrics[role].get("best_dev"))
    ]


def _remarks_on_the_teacher(config: Config, ood: bool) -> list[str]:
    """Sentences about a teacher that is trained with another loss than the plain one.

    ood: whether there is an OOD set, and with it an F_bias.
    """
    if not (loss := config.robust.teacher_loss):
        return []
    trained = f"trained with the loss {loss} (teacher.loss), not with"
    if not ood:
        said = [f"The teacher is {trained} the plain loss."]
    else:
        said = [f"F_bias compares with a teacher that is {trained} one of the plain loss."]
    if config.robust.plain_teacher:
        said.append("The student with the plain loss started from a teacher with the plain loss.")
    return said


def easy_hard(
    context: Context,
    shortcut: Artefact,
    both: Mapping[str, evaluation.Scores],
    v: NDArray[np.float64] | None,
) -> dict[str, Any]:
    """Accuracies on the dev samples that a partial-input classifier gets right (easy) and wrong (hard).

    v: variance of the dev losses [N]; agreement is the share of samples that it puts on the same side
    when it is cut so that as many are hard (Du et al. 2023, Sec. 4.1).
    """
    hard, dev = partial_input.load(shortcut), context.data.dev
    out: dict[str, Any] = {
        "text": _seen(context.data.task),
        "majority": float(np.bincount(dev.labels).max() / len(dev)),
        "easy": int((~hard).sum()),
        "hard": int(hard.sum()),
        "agreement": None if v is None else uncertainty.cut_agreement(v, hard),
    }
    for name, one in both.items():
        hits = evaluation.correct(one.dev, dev)
        easy, difficult = (float(hits[m].mean()) if m.any() else None for m in (~hard, hard))
        gap = None if easy is None or difficult is None else easy - difficult
        out[name] = {"easy": easy, "hard": difficult, "gap": gap}
    return out


def _seen(task: Task) -> str:
    """What the partial-input classifier sees: a column, or what of the only one."""
    if task.single:
        return f"words of the {task.texts[0]} (without their order) and its length"
    return task.texts[task.partial]


def _write_hits(context: Context, made: Finished, file: Path) -> None:
    """Write `hits.npz`: `<model>/<set>`, whether each sample was right; `hard` of dev; subsets.

    Those of dev where a definition names some; a study shows them. `subgroup/<set>` [S, N], which
    samples are of each of the S subsets that `subgroup_names/<set>` names. `gold/<set>` and
    `predicted/<model>/<set>`, classes, where Delta is taken of something else than the accuracy.
    """
    raw = context.data
    arrays: dict[str, Any] = {"hard": partial_input.load(made.shortcut)}
    if raw.dev.subgroups or (raw.task.defined and raw.dev.subsets):
        arrays["subset/dev"] = evaluation.subset_keys(raw.dev)
    for name, split in raw.ood.items():
        arrays[f"subset/ood_{name}"] = evaluation.subset_keys(split)
    for name, split in raw.splits().items():
        if name != "train" and (found := evaluation.subgroups(split)):
            arrays[f"subgroup/{name}"] = np.stack(list(found.values()))
            arrays[f"subgroup_names/{name}"] = np.array(list(found))
    kept = context.config.robust.evaluation.metric != measures.ACCURACY
    for role, one in made.scores.items():
        for name, own in evaluation.answers(one, raw.dev, raw.ood).items():
            arrays[f"{role}/{name}"] = own.right
            if kept:
                arrays[f"gold/{name}"] = own.gold.astype(np.int16)
                arrays[f"predicted/{role}/{name}"] = own.predicted.astype(np.int16)
    with file.open("wb") as target:
        np.savez_compressed(target, **arrays)


def difficulty_view(
    context: Context, hardness: Artefact, guess: Artefact | None
) -> report.DifficultyView:
    """What the report shows of the loss matrix of train, and of the difficulty that the loss used.

    guess: the shallow classifier if that gave the loss its difficulty.
    """
    train, block = context.data.train, context.config.robust.uncertainty
    v = difficulty.load_variance(hardness.path, "train")
    used = v if guess is None else _errors(context, guess)
    d = difficulty.sample_difficulty(context, used)
    truth = train.subsets.get("alignment") if context.data.task.name == "synthetic" else None
    order, count = np.argsort(-used, kind="stable"), context.config.robust.evaluation.sentences

    def sentence(index: int) -> report.Sentence:
        texts = tuple(column[0] for column in train.texts[np.array([index])])
        label = train.names[train.labels[index]]
        known = truth[index] if truth is not None else None
        return report.Sentence(texts, label, float(d[index]), float(v[index]), known)

    return report.DifficultyView(
        variance=v,
        difficulty=d,
        sparsities=tuple(block.sparsities),
        mean_loss=difficulty.mean_losses(hardness.path, "train"),
        truth=np.array(truth) if truth is not None else None,
        hardest=[sentence(i) for i in order[:count]],
        easiest=[sentence(i) for i in order[::-1][:count]],
    )


def _errors(context: Context, guess: Artefact) -> NDArray[np.float64]:
    """1 - p(gold label) of the shallow classifier for every training sample, [N]."""
    return shallow.load(guess, context.data.train.labels)


def _difficulty_metrics(
    context: Context, view: report.DifficultyView, guess: Artefact | None
) -> dict[str, Any]:
    """Settings of the difficulty; AUROC for the conflicting samples where they are known."""
    keys = {"protocol", "sparsities", "normalisation", "alpha", "quantile"}
    out = context.config.robust.uncertainty.model_dump(include=keys)
    out["auroc"] = uncertainty.agreement(view.variance, view.truth)
    if guess is not None:
        out["shallow_auroc"] = uncertainty.agreement(_errors(context, guess), view.truth)
    return out
