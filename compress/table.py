"""Means and standard deviations over seeds, from the metrics.json of finished runs, as Markdown.

python -m compress.table runs/synthetic/*
"""

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from compress.errors import UserError, fail

Group = tuple[str, str, str]


def load(folders: Iterable[Path]) -> dict[Group, list[dict[str, Any]]]:
    """Metrics by (task, compression, mitigation); UserError for a folder without finished metrics."""
    runs: dict[Group, list[dict[str, Any]]] = defaultdict(list)
    for folder in folders:
        file = folder / "metrics.json"
        try:
            metrics = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: cannot be read ({error}).") from None
        group = runs[metrics["task"], metrics["compression"], metrics["mitigation"]]
        if any(other["seed"] == metrics["seed"] for other in group):
            raise UserError(
                f"{file}: another run has the same task, compression, mitigation and seed "
                f"({metrics['seed']}); tabulate one of them."
            )
        group.append(metrics)
    return dict(runs)


def _percent(values: list[float]) -> str:
    return _spread([100 * value for value in values], 1)


def _spread(values: list[float], digits: int) -> str:
    """Mean ± sample standard deviation; the deviation only for more than one value."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def _row(name: str, models: list[Mapping[str, Any]], biases: list[float | None]) -> list[str]:
    known = [bias for bias in biases if bias is not None]
    sets = [_percent([m["ood"][name] for m in models]) for name in sorted(models[0]["ood"])]
    pooled = [_percent([m["ood_pooled"] for m in models])] if len(sets) > 1 else []
    delta = _spread([m["delta"] for m in models], 3)
    bias = _spread(known, 2) if known else "-"
    if known and len(known) < len(biases):
        bias += f" ({len(known)} of {len(biases)})"
    return [name, str(len(models)), _percent([m["dev"] for m in models]), *sets, *pooled, delta, bias]


def markdown(runs: Mapping[Group, list[dict[str, Any]]]) -> str:
    """One table for each task: the teachers (one a seed), then each compression x mitigation."""
    blocks = []
    for task in sorted({group[0] for group in runs}):
        chosen = {group: found for group, found in runs.items() if group[0] == task}
        teachers = {m["seed"]: m["teacher"] for found in chosen.values() for m in found}
        names = sorted(next(iter(teachers.values()))["ood"])
        pooled = ["OOD pooled"] if len(names) > 1 else []
        header = [task, "seeds", "dev", *names, *pooled, "Delta", "F_bias"]
        rows = [_row("teacher", list(teachers.values()), [None])]
        for (_, compression, mitigation), found in sorted(chosen.items()):
            biases = [m["f_bias"] for m in found]
            rows.append(_row(f"{compression} {mitigation}", [m["student"] for m in found], biases))
        lines = [header, ["---"] * len(header), *rows]
        blocks.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(blocks)


def main() -> None:
    """Print the table of the run directories on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", nargs="+", type=Path)
    sys.stdout.write(markdown(load(parser.parse_args().runs)) + "\n")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        fail(error)
