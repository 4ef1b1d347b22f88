"""A finished run in the monitors: hparams and texts, and histograms of the difficulty."""

from collections.abc import Mapping
from typing import Any

from compress.reporting import markdown, notes, summary
from compress.reporting.report import DifficultyView
from compress.scoring import measures
from compress.stages.context import Context

SETTINGS = ("task", "compression", "mitigation", "seed")


def write(context: Context, metrics: Mapping[str, Any], view: DifficultyView | None) -> None:
    """Write the figures of metrics.json, and the difficulty of the training samples if there is one.

    The names sort behind those of the curves, which TensorBoard therefore shows first.
    """
    monitor, robust = context.monitor, context.config.robust
    settings = {name: metrics[name] for name in SETTINGS}
    settings["metric"] = metrics.get("metric", measures.ACCURACY)
    settings |= {"model": robust.model, "alpha": robust.uncertainty.alpha}
    if (share := getattr(robust.loss, "lambda_", None)) is not None:
        settings["lambda"] = share
    monitor.results(settings, figures(metrics))
    texts = (
        summary.verdict(metrics),
        *summary.gain(metrics),
        *summary.flips(metrics),
        *summary.size(metrics),
        *summary.int8(metrics),
        *metrics.get("remarks", []),
        *notes.against(metrics),
    )
    parts = [markdown.table(summary.cells(metrics)), *map(markdown.text, texts)]
    monitor.text("results", "\n\n".join(parts))
    if view is None:
        return
    monitor.histogram("uncertainty/d", view.difficulty)
    monitor.histogram("uncertainty/variance", view.variance)
    header = [*context.data.task.texts, "label", "variance", "d"]
    for name, sentences in (("hardest", view.hardest), ("easiest", view.easiest)):
        rows = [[*s.texts, s.label, f"{s.variance:.4f}", f"{s.difficulty:.3f}"] for s in sentences]
        monitor.table(f"uncertainty/{name}", header, rows)


def figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Accuracy of the models on every set, difference of the Deltas, F_bias, sizes; by name.

    What Delta is taken of too, if that is not the accuracy.
    """
    found: dict[str, float | None] = {}
    for role in summary.roles(metrics):
        model = metrics[role]
        found |= {f"{role} dev": model["dev"], f"{role} delta": model["delta"]}
        found |= {f"{role} ood {name}": accuracy for name, accuracy in model["ood"].items()}
        if what := summary.measure_name(metrics):
            own = model["measure"]
            found |= {f"{role} dev {what}": own["dev"], f"{role} ood {what}": own["ood_pooled"]}
    found["delta difference"] = (metrics["delta_difference"] or {}).get("value")
    found["f_bias"] = metrics["f_bias"]
    if "plain" in metrics:
        found["plain f_bias"] = metrics["plain"]["f_bias"]
    found["student parameters"] = metrics["student"]["params"]
    found["student sparsity"] = metrics["student"]["sparsity"]
    return {name: float(value) for name, value in found.items() if value is not None}
