"""Finished runs of a study without any training: metrics.json and hits.npz with known accuracies."""

import json

import numpy as np
from launcher import ROOT

from compress.files import ownership
from compress.runtime import versions
from compress.study import plan, result_rows

STUDY = {
    "title": "A small study",
    "published": "table4",
    "tasks": ["fever"],
    "compressions": ["imp40", "imp60"],
    "mitigations": ["vanilla", "rmc"],
    "seeds": [1, 2],
}
SETS = {"dev": 400, "ood_sym1": 300, "ood_sym2": 100}
DEV = ("dev", "")
ORIGIN = {"device": "cpu", "ranks": 2, "versions": versions.report()}


def study_file(folder, **changes):
    """A study beside the shipped configurations: names are found as in ds_configs/studies/."""
    own = folder / "own/studies"
    own.mkdir(parents=True, exist_ok=True)
    for part in ("tasks", "compression", "mitigation", "zero2.json", "minilm_cpu.json"):
        target = own.parent / part
        if not target.exists():
            target.symlink_to(ROOT / "ds_configs" / part)
    ood = folder / "ood"
    ood.mkdir(exist_ok=True)
    (ood / "ood_sym1.jsonl").touch()
    changes = {"set": [f"robust_compression.task.ood_dir={ood}"], **changes}
    file = own / "study.json"
    values = {key: value for key, value in {**STUDY, **changes}.items() if value is not None}
    file.write_text(json.dumps(values))
    return file


def outcome(generator, size, accuracy):
    """Exactly round(size * accuracy) hits, shuffled."""
    hits = np.zeros(size, dtype=bool)
    hits[: round(size * accuracy)] = True
    return generator.permutation(hits)


def finish(run, student=None, teacher=None, sizes=SETS, wholes=None, dev=None, **changes):
    """Write what a finished run leaves; student, teacher: accuracy by set; sizes: samples by set;
    wholes: of the whole sets if these are parts; dev: subset of each dev sample."""
    generator = np.random.default_rng([run.seed, len(run.name)])
    same = np.random.default_rng(run.seed)
    sparsity = {"imp20": 0.2, "imp40": 0.4, "imp60": 0.6, "imp85": 0.85}.get(run.compression)
    usual = dict.fromkeys(sizes, 0.6) | {"dev": 0.9, "ood_sym2": 0.7}
    teacher = usual | (teacher or {})
    student = (
        {name: accuracy - 0.1 for name, accuracy in usual.items()} | {"dev": 0.88} | (student or {})
    )
    hits, metrics = {"hard": np.arange(sizes["dev"]) % 4 == 0}, {}
    for role, given, draw in (("teacher", teacher, same), ("student", student, generator)):
        for name, size in sizes.items():
            hits[f"{role}/{name}"] = outcome(draw, size, given[name])
        metrics[role] = {
            "params": 1000,
            "nonzero_params": 1000 if role == "teacher" else 600,
            "sparsity": sparsity if role == "student" else None,
        }
    kinds = np.array(["kind a, REFUTES", "kind b, REFUTES", "kind b, SUPPORTS"])
    if dev is not None:
        hits["subset/dev"] = dev
    if "ood_sym1" in sizes:
        hits["subset/ood_sym1"] = kinds[np.arange(sizes["ood_sym1"]) % 3]
    metrics |= {
        "stamp": ownership.stamp(run.config),
        "keys": {
            "teacher": f"teacher of seed {run.seed}",
            "difficulty": f"of seed {run.seed}",
            "evaluate": ownership.figures_key(run.config),
        },
        "samples": {"train": 5000},
        "set_sizes": {"train": 9000, **(wholes or sizes)},
        "easy_hard": {"agreement": 0.8},
        "difficulty": {"auroc": None, "alpha": 0.3},
        "seconds": {
            "teacher": 10.0 * run.seed,
            "difficulty": 100.0,
            "student": 4.0 + run.seed,
            "evaluate": 2.0 * run.seed,
        },
        "vanished": [],
        "at_chance": {},
        "artefacts": dict.fromkeys(("teacher", "difficulty", "student", "evaluate"), ORIGIN),
        **changes,
    }
    run.output_dir.mkdir(parents=True, exist_ok=True)
    np.savez(run.output_dir / "hits.npz", **hits)
    (run.output_dir / "config.json").write_text(json.dumps(run.config.merged))
    (run.output_dir / "metrics.json").write_text(json.dumps(metrics))


def runs_of(folder, **changes):
    """The runs of a study in `folder`/out."""
    return plan.expand(study_file(folder, **changes), folder / "out")


def names(runs):
    return [run.name for run in runs]


def finished_runs(folder):
    """8 runs: rmc is better than vanilla out of distribution, clearly at 40 %, hardly at 60 %."""
    made = runs_of(folder)
    for run in made:
        gain = {"imp40": 0.15, "imp60": 0.01}[run.compression] * (run.mitigation == "rmc")
        shift = 0.01 * (run.seed == 2)
        finish(
            run,
            {"dev": 0.88 + shift, "ood_sym1": 0.5 + gain, "ood_sym2": 0.6 + gain},
            {"dev": 0.9 + shift},
        )
    return made


def model(task, *name):
    return next(m for m in task.students if m.name == name)


def halves(runs, role, compression="", mitigation=""):
    """By seed, accuracy on easy and hard dev samples in per cent, counted in the runs' hits."""
    values = {}
    for run in runs:
        if role == "teacher" or (run.compression, run.mitigation) == (compression, mitigation):
            saved = np.load(run.output_dir / "hits.npz")
            hits, hard = saved[f"{role}/dev"], saved["hard"]
            values[run.seed] = (hits[~hard].sum() / 3, float(hits[hard].sum()))
    return np.array(list(values.values()))


def rows_of(models, task="fever"):
    """Rows of a study without any files; models: (compression, mitigation), empty for the teacher,
    and seed -> hits by set and subset."""
    nothing = dict.fromkeys(result_rows.SCHEMA.names)
    rows = []
    for (compression, mitigation, seed), parts in models.items():
        for (name, subset), hits in parts.items():
            about = {
                "task": task,
                "data": task,
                "seed": seed,
                "compression": compression,
                "mitigation": mitigation,
            }
            about |= {"role": "student" if compression else "teacher", "set": name, "subset": subset}
            about |= {
                "samples": len(hits),
                "accuracy": hits.mean(),
                "hits": np.packbits(hits).tobytes(),
            }
            about |= {
                "set_size": len(parts.get((name, ""), hits)),
                "train_samples": 5000,
                "vanished": False,
                "at_chance": False,
            }
            rows.append({**nothing, **about})
    return rows
