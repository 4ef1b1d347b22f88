"""Published results that a study is held against.

Accuracies in percent and F_bias as printed in Tables 1-6 of Du et al., "Robustness Challenges in
Model Distillation and Pruning for Natural Language Understanding", EACL 2023 (arXiv 2110.08419v2):
BERT-base uncased, full data, means of three runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

OOD_SIZES = {"hans": 30000, "sym1": 712, "sym2": 712, "paws_wiki": 8000, "paws_qqp": 677}

# task -> (dev, {OOD set: accuracy}) of the teacher, BERT-base uncased
TEACHER = {
    "mnli": (84.2, {"hans": 59.8}),
    "fever": (86.2, {"sym1": 58.9, "sym2": 64.5}),
    "qqp": (90.9, {"paws_wiki": 48.9, "paws_qqp": 34.7}),
}

# (table, row, task, dev, {OOD set: accuracy}, F_bias)
ENTRIES = [
    (1, "20%", "mnli", 84.4, {"hans": 55.5}, 1.182),
    (1, "20%", "fever", 86.5, {"sym1": 57.0, "sym2": 64.6}, 1.045),
    (1, "20%", "qqp", 90.7, {"paws_wiki": 47.2, "paws_qqp": 33.5}, 1.037),
    (1, "40%", "mnli", 84.0, {"hans": 54.7}, 1.204),
    (1, "40%", "fever", 86.4, {"sym1": 57.2, "sym2": 64.0}, 1.051),
    (1, "40%", "qqp", 90.5, {"paws_wiki": 46.6, "paws_qqp": 32.4}, 1.049),
    (1, "60%", "mnli", 83.4, {"hans": 52.8}, 1.266),
    (1, "60%", "fever", 86.3, {"sym1": 56.9, "sym2": 63.3}, 1.068),
    (1, "60%", "qqp", 90.2, {"paws_wiki": 45.9, "paws_qqp": 31.8}, 1.061),
    (1, "70%", "mnli", 81.8, {"hans": 52.2}, 1.249),
    (1, "70%", "fever", 85.9, {"sym1": 56.6, "sym2": 63.3}, 1.063),
    (1, "70%", "qqp", 89.5, {"paws_wiki": 45.4, "paws_qqp": 30.7}, 1.065),
    (2, "distilbert", "mnli", 82.3, {"hans": 51.2}, 1.289),
    (2, "distilbert", "fever", 84.5, {"sym1": 51.9, "sym2": 60.4}, 1.183),
    (2, "distilbert", "qqp", 89.9, {"paws_wiki": 48.1, "paws_qqp": 34.6}, 1.006),
    (2, "minilm", "mnli", 83.1, {"hans": 51.4}, 1.309),
    (2, "minilm", "fever", 84.2, {"sym1": 53.4, "sym2": 60.7}, 1.137),
    (2, "minilm", "qqp", 89.9, {"paws_wiki": 46.8, "paws_qqp": 31.0}, 1.039),
    (2, "truncated-l6", "mnli", 80.8, {"hans": 51.6}, 1.247),
    (2, "truncated-l6", "fever", 84.4, {"sym1": 52.6, "sym2": 60.4}, 1.163),
    (2, "truncated-l6", "qqp", 90.0, {"paws_wiki": 46.0, "paws_qqp": 32.4}, 1.056),
    (2, "pretrained-l6", "mnli", 81.6, {"hans": 52.2}, 1.229),
    (2, "pretrained-l6", "fever", 85.8, {"sym1": 54.7, "sym2": 62.6}, 1.115),
    (2, "pretrained-l6", "qqp", 90.0, {"paws_wiki": 46.4, "paws_qqp": 33.9}, 1.045),
    (3, "116heads-v1", "mnli", 84.1, {"hans": 55.5}, 1.172),
    (3, "116heads-v2", "mnli", 84.2, {"hans": 53.7}, 1.25),
    (3, "116heads-v3", "mnli", 84.0, {"hans": 55.3}, 1.176),
    (4, "vanilla", "mnli", 84.0, {"hans": 54.7}, 1.204),
    (4, "vanilla", "fever", 86.4, {"sym1": 57.2, "sym2": 64.0}, 1.051),
    (4, "vanilla", "qqp", 90.5, {"paws_wiki": 46.6, "paws_qqp": 32.4}, 1.049),
    (4, "distil", "mnli", 84.1, {"hans": 56.2}, 1.145),
    (4, "distil", "fever", 86.3, {"sym1": 58.4, "sym2": 64.5}, 1.013),
    (4, "distil", "qqp", 90.5, {"paws_wiki": 47.3, "paws_qqp": 33.2}, 1.032),
    (4, "smooth", "mnli", 84.2, {"hans": 56.5}, 1.135),
    (4, "smooth", "fever", 86.2, {"sym1": 60.7, "sym2": 65.8}, 0.937),
    (4, "smooth", "qqp", 90.7, {"paws_wiki": 47.2, "paws_qqp": 33.8}, 1.036),
    (4, "focal", "mnli", 84.0, {"hans": 56.7}, 1.122),
    (4, "focal", "fever", 86.4, {"sym1": 59.4, "sym2": 65.2}, 0.981),
    (4, "focal", "qqp", 90.7, {"paws_wiki": 46.2, "paws_qqp": 32.1}, 1.06),
    (4, "jtt", "mnli", 83.8, {"hans": 56.3}, 1.132),
    (4, "jtt", "fever", 86.2, {"sym1": 58.1, "sym2": 64.9}, 1.008),
    (4, "jtt", "qqp", 90.4, {"paws_wiki": 47.3, "paws_qqp": 33.7}, 1.03),
    (4, "rmc", "mnli", 84.2, {"hans": 58.6}, 1.049),
    (4, "rmc", "fever", 86.1, {"sym1": 61.9, "sym2": 66.4}, 0.897),
    (4, "rmc", "qqp", 90.4, {"paws_wiki": 47.6, "paws_qqp": 34.3}, 1.023),
    (5, "vanilla", "mnli", 83.1, {"hans": 51.4}, 1.309),
    (5, "vanilla", "fever", 84.2, {"sym1": 53.4, "sym2": 60.7}, 1.137),
    (5, "vanilla", "qqp", 89.9, {"paws_wiki": 46.8, "paws_qqp": 31.0}, 1.039),
    (5, "distil", "mnli", 83.1, {"hans": 53.7}, 1.221),
    (5, "distil", "fever", 83.8, {"sym1": 56.5, "sym2": 61.0}, 1.052),
    (5, "distil", "qqp", 89.6, {"paws_wiki": 46.7, "paws_qqp": 31.8}, 1.037),
    (5, "smooth", "mnli", 82.7, {"hans": 53.8}, 1.206),
    (5, "smooth", "fever", 83.7, {"sym1": 56.9, "sym2": 62.1}, 1.017),
    (5, "smooth", "qqp", 89.4, {"paws_wiki": 46.8, "paws_qqp": 32.2}, 1.032),
    (5, "focal", "mnli", 83.2, {"hans": 55.6}, 1.145),
    (5, "focal", "fever", 83.8, {"sym1": 54.7, "sym2": 61.4}, 1.081),
    (5, "focal", "qqp", 90.3, {"paws_wiki": 46.8, "paws_qqp": 33.2}, 1.041),
    (5, "jtt", "mnli", 82.8, {"hans": 55.7}, 1.129),
    (5, "jtt", "fever", 83.5, {"sym1": 53.8, "sym2": 61.7}, 1.085),
    (5, "jtt", "qqp", 90.1, {"paws_wiki": 47.0, "paws_qqp": 32.9}, 1.034),
    (5, "rmc", "mnli", 83.7, {"hans": 57.8}, 1.068),
    (5, "rmc", "fever", 85.3, {"sym1": 58.0, "sym2": 63.3}, 1.017),
    (5, "rmc", "qqp", 90.5, {"paws_wiki": 47.0, "paws_qqp": 33.4}, 1.038),
]

# The entries in which the paper disagrees with itself -> the value that follows from its accuracies.
EXCEPTIONS = {
    (2, "distilbert", "mnli"): 1.304,
    (2, "minilm", "mnli"): 1.316,
    (2, "pretrained-l6", "mnli"): 1.243,
    (5, "vanilla", "mnli"): 1.316,
}

# (table, row) -> F_bias averaged over mnli, fever and qqp, as printed (Table 3 has mnli alone)
AVERAGES = {
    (1, "20%"): 1.088,
    (1, "40%"): 1.101,
    (1, "60%"): 1.132,
    (1, "70%"): 1.127,
    (2, "distilbert"): 1.159,
    (2, "minilm"): 1.162,
    (2, "truncated-l6"): 1.155,
    (2, "pretrained-l6"): 1.13,
    (4, "vanilla"): 1.101,
    (4, "distil"): 1.063,
    (4, "smooth"): 1.036,
    (4, "focal"): 1.054,
    (4, "jtt"): 1.057,
    (4, "rmc"): 0.99,
    (5, "vanilla"): 1.162,
    (5, "distil"): 1.103,
    (5, "smooth"): 1.085,
    (5, "focal"): 1.089,
    (5, "jtt"): 1.083,
    (5, "rmc"): 1.041,
}

# (name, dev, hans, accuracy on hard and on easy samples, gap), Table 6
TABLE6 = [
    ("minilm-vanilla", 83.1, 51.4, 73.2, 90.9, 17.7),
    ("minilm-rmc", 83.7, 57.8, 74.9, 90.6, 15.7),
    ("40%-vanilla", 84.0, 54.7, 74.9, 91.0, 16.1),
    ("40%-rmc", 84.2, 58.6, 75.9, 90.3, 14.4),
]
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
    """A printed row for one task: accuracies as fractions, OOD by our names of the sets, F_bias."""

    dev: float
    ood: Mapping[str, float]
    f_bias: float | None = None

    @property
    def pooled(self) -> float:
        """Accuracy over the pooled samples of the OOD sets."""
        sizes = {name: OOD_SIZES[name.removeprefix("ood_")] for name in self.ood}
        return sum(sizes[n] * a for n, a in self.ood.items()) / sum(sizes.values())


@dataclass(frozen=True)
class Halves:
    """A row of Table 6 (MNLI), in per cent."""

    dev: float
    hans: float
    easy: float
    hard: float
    gap: float


def entry(table: str, task: str, compression: str, mitigation: str) -> Entry | None:
    """The published row of a student; None if there is none. The three draws of Table 3 are averaged.

    table: table1 to table5, or a figure of `SOURCES`.
    """
    for source in SOURCES.get(table, (table,)):
        rows = [(_number(source), row, task) for row in _rows(source, compression, mitigation)]
        found = [one[3:] for one in ENTRIES if one[:3] in rows]
        if found:
            devs, sets, biases = zip(*found, strict=True)
            ood = {name: fmean(one[name] for one in sets) for name in sets[0]}
            return _entry(fmean(devs), ood, fmean(biases))
    return None


def average(table: str, compression: str, mitigation: str) -> float | None:
    """Published F_bias of a student averaged over the three tasks; None where none is printed."""
    rows = [(_number(table), row) for row in _rows(table, compression, mitigation)]
    return next((AVERAGES[row] for row in rows if row in AVERAGES), None)


def has_averages(table: str | None) -> bool:
    """Whether the paper prints averages over the tasks in a table."""
    return table is not None and any(number == _number(table) for number, _ in AVERAGES)


def _number(table: str) -> int:
    return int(table[5:]) if table.startswith("table") else 0


def _rows(table: str, compression: str, mitigation: str) -> list[str]:
    """Rows that are this student: by compression in Tables 1 to 3 (vanilla), by loss in 4 and 5."""
    if table in STANDS_FOR:
        return [mitigation] if compression in STANDS_FOR[table] else []
    same = [row for row, name in COMPRESSIONS.items() if name == compression]
    return same if mitigation == "vanilla" else []


def ood_sets(task: str) -> list[str]:
    """The OOD sets of the paper for a task, by our names; empty for a task of another kind."""
    return sorted(f"ood_{name}" for name in TEACHER[task][1]) if task in TEACHER else []


def easy_hard(task: str, compression: str, mitigation: str) -> Halves | None:
    """The row of a student in Table 6; None if there is none."""
    rows = {"40%": STANDS_FOR["table4"], "minilm": STANDS_FOR["table5"]}
    for name, dev, hans, hard, easy, gap in TABLE6:
        row, _, loss = name.partition("-")
        if (task, loss) == ("mnli", mitigation) and compression in rows[row]:
            return Halves(dev=dev, hans=hans, easy=easy, hard=hard, gap=gap)
    return None


def teacher(task: str) -> Entry | None:
    """The published row of the teacher, without F_bias; None for a task of another kind."""
    return _entry(*TEACHER[task]) if task in TEACHER else None


def _entry(dev: float, ood: Mapping[str, float], f_bias: float | None = None) -> Entry:
    """From accuracies in per cent, with the paper's names of the OOD sets."""
    return Entry(dev / 100, {f"ood_{n}": value / 100 for n, value in ood.items()}, f_bias)
