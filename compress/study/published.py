"""Published results that a study is compared with.

Accuracies in percent and F_bias as printed in Tables 1-6 of Du et al., "Robustness Challenges in
Model Distillation and Pruning for Natural Language Understanding", EACL 2023 (arXiv 2110.08419v2):
BERT-base uncased, full data, means of three runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from compress.scoring import metrics

OOD_SIZES = {
    "ood_hans": 30000,
    "ood_sym1": 712,
    "ood_sym2": 712,
    "ood_paws_wiki": 8000,
    "ood_paws_qqp": 677,
}
TEACHER = {
    "mnli": (84.2, {"ood_hans": 59.8}),
    "fever": (86.2, {"ood_sym1": 58.9, "ood_sym2": 64.5}),
    "qqp": (90.9, {"ood_paws_wiki": 48.9, "ood_paws_qqp": 34.7}),
}
"""Task -> accuracy of the teacher, BERT-base uncased, on dev and on each OOD set."""

PRINTED = """
table1 20%             84.4 55.5 1.182   86.5 57.0 64.6 1.045   90.7 47.2 33.5 1.037   1.088
table1 40%             84.0 54.7 1.204   86.4 57.2 64.0 1.051   90.5 46.6 32.4 1.049   1.101
table1 60%             83.4 52.8 1.266   86.3 56.9 63.3 1.068   90.2 45.9 31.8 1.061   1.132
table1 70%             81.8 52.2 1.249   85.9 56.6 63.3 1.063   89.5 45.4 30.7 1.065   1.127
table2 distilbert      82.3 51.2 1.289   84.5 51.9 60.4 1.183   89.9 48.1 34.6 1.006   1.159
table2 minilm          83.1 51.4 1.309   84.2 53.4 60.7 1.137   89.9 46.8 31.0 1.039   1.162
table2 truncated-l6    80.8 51.6 1.247   84.4 52.6 60.4 1.163   90.0 46.0 32.4 1.056   1.155
table2 pretrained-l6   81.6 52.2 1.229   85.8 54.7 62.6 1.115   90.0 46.4 33.9 1.045   1.130
table3 116heads-v1     84.1 55.5 1.172
table3 116heads-v2     84.2 53.7 1.250
table3 116heads-v3     84.0 55.3 1.176
table4 vanilla         84.0 54.7 1.204   86.4 57.2 64.0 1.051   90.5 46.6 32.4 1.049   1.101
table4 distil          84.1 56.2 1.145   86.3 58.4 64.5 1.013   90.5 47.3 33.2 1.032   1.063
table4 smooth          84.2 56.5 1.135   86.2 60.7 65.8 0.937   90.7 47.2 33.8 1.036   1.036
table4 focal           84.0 56.7 1.122   86.4 59.4 65.2 0.981   90.7 46.2 32.1 1.060   1.054
table4 jtt             83.8 56.3 1.132   86.2 58.1 64.9 1.008   90.4 47.3 33.7 1.030   1.057
table4 rmc             84.2 58.6 1.049   86.1 61.9 66.4 0.897   90.4 47.6 34.3 1.023   0.990
table5 vanilla         83.1 51.4 1.309   84.2 53.4 60.7 1.137   89.9 46.8 31.0 1.039   1.162
table5 distil          83.1 53.7 1.221   83.8 56.5 61.0 1.052   89.6 46.7 31.8 1.037   1.103
table5 smooth          82.7 53.8 1.206   83.7 56.9 62.1 1.017   89.4 46.8 32.2 1.032   1.085
table5 focal           83.2 55.6 1.145   83.8 54.7 61.4 1.081   90.3 46.8 33.2 1.041   1.089
table5 jtt             82.8 55.7 1.129   83.5 53.8 61.7 1.085   90.1 47.0 32.9 1.034   1.083
table5 rmc             83.7 57.8 1.068   85.3 58.0 63.3 1.017   90.5 47.0 33.4 1.038   1.041
"""
"""Table and row; of each task as in `TEACHER`: accuracy on dev and the OOD sets, F_bias; last, where it
is printed (Table 3 has MNLI alone), F_bias averaged over the tasks."""

TABLE6 = {
    ("table5", "vanilla"): {"dev": 83.1, "hans": 51.4, "easy": 90.9, "hard": 73.2, "gap": 17.7},
    ("table5", "rmc"): {"dev": 83.7, "hans": 57.8, "easy": 90.6, "hard": 74.9, "gap": 15.7},
    ("table4", "vanilla"): {"dev": 84.0, "hans": 54.7, "easy": 91.0, "hard": 74.9, "gap": 16.1},
    ("table4", "rmc"): {"dev": 84.2, "hans": 58.6, "easy": 90.3, "hard": 75.9, "gap": 14.4},
}
"""Table of the same compression (MiniLM, 40 % sparsity) and loss -> MNLI, the two halves of dev."""
FIGURE1_GAPS = {0.40: 16.1, 0.85: 22.7}
AGREEMENT = 82.8
"""Share of MNLI dev on which variance and a hypothesis-only classifier agree, per cent (Sec. 4.1)."""

COMPRESSIONS = {
    "20%": "imp20",
    "40%": "imp40",
    "60%": "imp60",
    "70%": "imp70",
    "distilbert": "distilbert",
    "minilm": "minilm_l6",
    "truncated-l6": "layers_first_half",
    "pretrained-l6": "pretrained_l6",
    **dict.fromkeys(("116heads-v1", "116heads-v2", "116heads-v3"), "heads20"),
}
"""Row of Tables 1 to 3 -> the file in ds_configs/compression that asks for the same."""

STANDS_FOR = {"table4": ("imp40",), "table5": (COMPRESSIONS["minilm"], "layers_first_half")}
"""Tables by mitigation -> compressions they may stand beside (layer reduction in the small study)."""
MODELS = {"table4": "BERT-base at 40 % sparsity", "table5": "MiniLM of 6 layers, 66M parameters"}

SOURCES = {"figure3": ("table1", "table4")}
"""A figure -> the tables that print the numbers of its points: vanilla, and all losses at 40 %."""


@dataclass(frozen=True)
class Entry:
    """A printed row for one task: accuracies as fractions, OOD by `ood_<name>`, F_bias."""

    dev: float
    ood: Mapping[str, float]
    f_bias: float | None = None

    @property
    def pooled(self) -> float:
        """Accuracy over the pooled samples of the OOD sets."""
        return metrics.pooled(self.ood, OOD_SIZES)


def _parse() -> tuple[dict[tuple[str, str, str], Entry], dict[tuple[str, str], float]]:
    """Entries by table, row and task, and averages by table and row."""
    entries: dict[tuple[str, str, str], Entry] = {}
    averages: dict[tuple[str, str], float] = {}
    for line in PRINTED.strip().splitlines():
        table, row, *texts = line.split()
        values = iter(map(float, texts))
        for task in ["mnli"] if table == "table3" else TEACHER:
            sets = TEACHER[task][1]
            dev, *ood = (next(values) / 100 for _ in ["dev", *sets])
            entries[table, row, task] = Entry(dev, dict(zip(sets, ood, strict=True)), next(values))
        averages.update(((table, row), mean) for mean in values)
    return entries, averages


ENTRIES, AVERAGES = _parse()


def entry(table: str, task: str, compression: str, mitigation: str) -> Entry | None:
    """The published row of a student; None if there is none. The three draws of Table 3 are averaged.

    table: table1 to table5, or a figure of `SOURCES`.
    """
    for source in SOURCES.get(table, (table,)):
        rows = [(source, row, task) for row in _rows(source, compression, mitigation)]
        if found := [ENTRIES[row] for row in rows if row in ENTRIES]:
            ood = {name: fmean(one.ood[name] for one in found) for name in found[0].ood}
            biases = [one.f_bias for one in found if one.f_bias is not None]
            return Entry(fmean(one.dev for one in found), ood, fmean(biases))
    return None


def average(table: str, compression: str, mitigation: str) -> float | None:
    """Published F_bias of a student averaged over the three tasks; None where none is printed."""
    rows = [(table, row) for row in _rows(table, compression, mitigation)]
    return next((AVERAGES[row] for row in rows if row in AVERAGES), None)


def has_averages(table: str | None) -> bool:
    """Whether the paper prints averages over the tasks in a table."""
    return any(name == table for name, _ in AVERAGES)


def _rows(table: str, compression: str, mitigation: str) -> list[str]:
    """Rows that are this student: by compression in Tables 1 to 3 (vanilla), by loss in 4 and 5."""
    if table in STANDS_FOR:
        return [mitigation] if compression in STANDS_FOR[table] else []
    same = [row for row, name in COMPRESSIONS.items() if name == compression]
    return same if mitigation == "vanilla" else []


def ood_sets(task: str) -> list[str]:
    """The OOD sets of the paper for a task; empty for a task of another kind."""
    return sorted(TEACHER[task][1]) if task in TEACHER else []


def easy_hard(task: str, compression: str, mitigation: str) -> Mapping[str, float] | None:
    """The row of a student in Table 6, in percent; None if there is none."""
    for (table, loss), row in TABLE6.items():
        if (task, loss) == ("mnli", mitigation) and compression in STANDS_FOR[table]:
            return row
    return None


def teacher(task: str) -> Entry | None:
    """The published row of the teacher, without F_bias; None for a task of another kind."""
    if task not in TEACHER:
        return None
    dev, ood = TEACHER[task]
    return Entry(dev / 100, {name: accuracy / 100 for name, accuracy in ood.items()})
