"""Metrics of a run that never was, its report written, and the page read back."""

from html.parser import HTMLParser

import numpy as np

from compress.reporting.report import DifficultyView, Sentence, write_report

HANS = {
    "lexical_overlap, entailment": (0.97, 0.96),
    "lexical_overlap, not_entailment": (0.31, 0.11),
    "subsequence, entailment": (0.98, 0.99),
    "subsequence, not_entailment": (0.2, 0.08),
}


def model(dev, ood, side, **more):
    subsets = {name: {"accuracy": pair[side], "samples": 5000} for name, pair in HANS.items()}
    return {
        "model": "bert-base-uncased",
        "params": 109_484_547,
        "nonzero_params": 109_484_547,
        "dev": dev,
        "ood": {"hans": ood},
        "ood_pooled": ood,
        "delta": (dev - ood) / dev,
        "dev_easy": 0.93,
        "dev_hard": 0.75,
        "dev_subsets": {"alignment: aligned": {"accuracy": 0.99, "samples": 950}},
        "ood_subsets": {"hans": subsets},
        **more,
    }


def origin(seconds, device="cpu", torch="2.13.0"):
    """Where an artefact comes from."""
    return {
        "versions": {"deepspeed": "0.19.6", "torch": torch, "transformers": "5.23.0"},
        "device": device,
        "ranks": 2,
        "peak_memory_bytes": {"host": 700_000_000},
        "command": "train.py",
        "seconds": seconds,
    }


def metrics(teacher=(0.842, 0.598), student=(0.838, 0.551)):
    old = model(*teacher, 0)
    new = model(*student, 1, nonzero_params=75_500_123, dev_hard=0.713, sparsity=0.4)
    return {
        "task": "mnli",
        "seed": 42,
        "compression": "imp40",
        "mitigation": "rmc",
        "teacher": old,
        "student": new,
        "f_bias": new["delta"] / old["delta"] if old["delta"] > 0 else None,
        "notes": [],
        "at_chance": {},
        "vanished": [],
        "samples": {"train": 4000, "dev": 1000, "ood": {"hans": 30000}},
        "set_sizes": {"train": 4000, "dev": 1000, "ood_hans": 30000},
        "seconds": {"teacher": 31.2, "difficulty": 155.0, "student": 30.1, "evaluate": 8.0},
        "reused": ["teacher"],
        "difficulty": {
            "protocol": "trajectory",
            "normalisation": "minmax",
            "alpha": 0.5,
            "sparsities": [0.2, 0.4, 0.85],
            "auroc": 0.98,
        },
        "artefacts": {
            "teacher": origin(31.2, torch="2.12.0"),
            "difficulty": origin(155.0),
            "student": origin(30.1),
            "evaluate": origin(8.0, device="cuda:0"),
        },
    }


def two_sets(found):
    for role in ("teacher", "student"):
        found[role]["ood"] = {"v1": 0.7, "v2": 0.6}
        found[role]["ood_subsets"] = {}
    return found


def view(samples=600, text="An actor slept."):
    generator = np.random.default_rng(0)
    truth = np.where(generator.random(samples) < 0.1, "conflicting", "aligned")
    variance = np.where(truth == "aligned", 0.01, 1.0) * generator.exponential(1.0, samples)
    difficulty = 0.5 + 0.5 * variance / variance.max()
    hardest = [Sentence((text, "A claim."), "refutes", 0.9871, 1.234, "conflicting")]
    easiest = [Sentence(("Easy one.",), "supports", 0.5, 1.4e-6, None)]
    losses = np.array([0.1, 0.2, 0.9])
    return DifficultyView(variance, difficulty, (0.2, 0.4, 0.85), losses, truth, hardest, easiest)


class Page(HTMLParser):
    """Tables as rows of cell texts, all attributes by tag, ids, and the words outside of SVG."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, source):
        super().__init__()
        self.tables, self.named, self.tags, self.ids, self.words = [], {}, [], [], []
        self.open = []
        self.feed(source)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
            self.named[attrs.get("id")] = self.tables[-1]
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "svg" not in self.open and "style" not in self.open:
            self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def writing(folder):
    """Function (metrics, difficulty, config) -> source of the page; it is all that is left behind."""

    def written(found, difficulty=None, config=None):
        path = folder / "report.html"
        write_report(path, found, config or {}, difficulty)
        assert [file.name for file in folder.iterdir()] == ["report.html"]
        return path.read_text(encoding="utf-8")

    return written
