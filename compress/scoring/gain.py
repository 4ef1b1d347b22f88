"""What a mitigation changes: the student against the same student trained with the plain loss.

Differences of accuracy on dev, on each OOD set and pooled, and of Delta, with the 95 % intervals of a
paired bootstrap over the samples (Efron and Tibshirani 1993, Ch. 10); the two models stay as they are.
"""

from collections.abc import Mapping
from typing import Any

from compress.scoring import bias, bootstrap
from compress.scoring.bias import Hits

Model = Mapping[str, Any]
MEASURED = ("dev", "ood_pooled")


def figures(
    models: tuple[Model, Model],
    hits: tuple[Hits, Hits],
    sizes: Mapping[str, int],
    measured: Mapping[str, bias.Pair] | None = None,
) -> Model:
    """Student less plain student: `dev`, `ood_<set>`, `ood_pooled` and `delta`: value and interval.

    models: accuracies of the plain student and of the student (`evaluation.summary`); hits, sizes: see
    `bias.accuracies`; measured: replicates of what Delta is taken of, if that is not the accuracy: then
    there are `measure_dev` and `measure_ood_pooled` too. What one of them lacks is left out.
    """
    drawn = bias.accuracies(*hits, sizes)
    apart = {name: student - plain for name, (plain, student) in drawn.items()}
    for name in MEASURED if measured else ():
        plain_values, values = (measured or {})[name]
        apart[f"measure_{name}"] = values - plain_values
    replicates = bias.deltas(measured or drawn)
    apart["delta"] = replicates.student - replicates.teacher
    plain, student = map(_values, models)
    return {
        name: {
            "value": student[name] - plain[name],
            "interval": bias.known(bootstrap.interval(apart[name])),
        }
        for name in apart
        if student[name] is not None and plain[name] is not None
    }


def _values(model: Model) -> Model:
    """Accuracies and Delta by the names of the differences."""
    each = {f"ood_{name}": accuracy for name, accuracy in model["ood"].items()}
    each |= {f"measure_{name}": model["measure"][name] for name in MEASURED if "measure" in model}
    return each | {name: model[name] for name in ("dev", "ood_pooled", "delta")}
