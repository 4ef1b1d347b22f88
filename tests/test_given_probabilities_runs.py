"""Whole runs of which only the probabilities of the teacher are given."""

import json
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from launcher import ROOT, job, python, two_ranks
from test_given_models import LABELS, rows, shape, tokenizer
from test_measures import reference
from transformers import BertModel

from compress.errors import UserError
from compress.stages import given_probabilities

OURS = "robust_compression"


SIZES = {"train": 90, "dev": 60, "ood_sym1": 30}


def scored(name, seed):
    """Probabilities of a teacher that is right on most rows, and less often out of distribution."""
    generator = np.random.default_rng(seed)
    wrong = 0.3 if name.startswith("ood") else 0.1
    out = []
    for n, row in enumerate(rows(SIZES[name], seed)):
        winner = LABELS.index(row["label"])
        if generator.random() < wrong:
            winner = (winner + 1) % 3
        p = generator.dirichlet([1, 1, 1]) * 0.4
        p[winner] += 0.6
        out.append({"row": n, **dict(zip(LABELS, p.tolist(), strict=True))})
    return out


@pytest.fixture(scope="module")
def outcome(tmp_path_factory, write_table):
    """(folder of the runs, what was said of each)."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "fever").mkdir()
    for place in ("scores", "turned", "changed"):
        (folder / place).mkdir()
    for seed, name in enumerate(SIZES):
        data = [{**row, "name": f"s{n * 7 % 97}"} for n, row in enumerate(rows(SIZES[name], seed))]
        write_table(folder / f"fever/{name}.jsonl", data)
        given = scored(name, seed)
        write_table(folder / f"scores/{name}.parquet", given)
        turn = dict(zip(LABELS, LABELS[1:] + LABELS[:1], strict=True))
        turned = [{turn.get(key, key): value for key, value in row.items()} for row in given]
        write_table(folder / f"turned/{name}.csv", turned)
        if name == "train":
            named = [{**row, "name": data[row.pop("row")]["name"]} for row in scored(name, seed)]
            write_table(folder / "named.parquet", named[::-1])
        else:
            write_table(folder / f"changed/{name}.csv", scored(name, seed + 10 * (name == "dev")))
    torch.manual_seed(1)
    tokenizer(folder / "model", lower=False)
    BertModel(shape()).save_pretrained(folder / "model")
    small = f"{OURS}.uncertainty.sparsities=[0.2, 0.6]"
    baseline = f"{OURS}.evaluation.baseline=true"
    specs = {
        "rmc_plus": ("rmc_plus", "all", "scores", [small, baseline]),
        "part": ("distil", "student", "scores", [f"{OURS}.task.train_samples=40"]),
        "by_id": ("distil", "student", "named.parquet", [f"{OURS}.task.id=name"]),
        "without_train": ("vanilla", "all", "changed", [f"{OURS}.evaluation.metric=macro_f1"]),
        "turned": ("distil", "student", "turned", []),
    }
    common = [
        f"{OURS}.model={folder / 'model'}",
        f"{OURS}.task.data_dir={folder / 'fever'}",
        f"{OURS}.task.max_length=24",
        f"{OURS}.epochs=1",
        "train_batch_size=16",
    ]
    parts = ["zero0", "tasks/fever", "compression/imp20"]
    listed = [
        {
            "files": [str(ROOT / f"ds_configs/{part}.json") for part in (*parts, f"mitigation/{loss}")],
            "set": [*common, f"{OURS}.teacher.probabilities={folder / given}", *overrides],
            "output": str(folder / "runs" / name),
            "stage": stage,
        }
        for name, (loss, stage, given, overrides) in specs.items()
    ]
    done = python(str(ROOT / "tests/drivers/given_models.py"), json.dumps(listed))
    assert done.returncode == 0, done.stderr[-3000:]
    said = dict(zip(specs, done.stdout.split("-- ")[1:], strict=True))
    assert [name for name in said if "error: " in said[name]] == ["turned"], said
    return folder, said


def teachers(folder):
    """The teachers in the cache: (folder, data, checksum of the file) of train."""
    found = []
    for place in (folder / "runs/shared/teacher").iterdir():
        facts = json.loads((place / "complete.json").read_text())["inputs"]["facts"]
        found.append((place, facts["data"]["train"], facts["files"]["train"]))
    return found


@pytest.mark.slow
def test_the_student_learns_from_the_rows_of_the_file(outcome):
    folder, _ = outcome
    arrays = [np.load(p / "probabilities.npy") for p, _, sha in teachers(folder) if sha]
    expected = np.array([[row[name] for name in LABELS] for row in scored("train", 0)])
    whole = [a for a in arrays if len(a) == 90]
    assert len(whole) == 2, "by row, and of one file by id"
    for one in whole:
        np.testing.assert_allclose(one, expected, atol=1e-6)
    part = next(a for a in arrays if len(a) == 40)
    places = [int(np.flatnonzero(np.isclose(expected, row, atol=1e-6).all(axis=1))[0]) for row in part]
    assert places == sorted(places)
    used = next((folder / "runs/shared/splits").glob("*/train.places.npy"))
    assert places == np.load(used).tolist()


@pytest.mark.slow
def test_the_report_shows_the_teachers_figures_and_no_size(outcome):
    folder, said = outcome
    metrics = json.loads((folder / "runs/rmc_plus/metrics.json").read_text())
    teacher = metrics["teacher"]
    for name, key in (("dev", 1), ("ood_sym1", 2)):
        gold = [LABELS.index(row["label"]) for row in rows(SIZES[name], key)]
        p = np.array([[row[label] for label in LABELS] for row in scored(name, key)])
        right = p.argmax(axis=1) == gold
        assert (np.load(folder / "runs/rmc_plus/hits.npz")[f"teacher/{name}"] == right).all()
        found = teacher["dev"] if name == "dev" else teacher["ood"]["sym1"]
        assert found == right.mean()
    assert teacher["params"] is None and "shape" not in teacher
    assert teacher["origin"] == "given as teacher.probabilities"
    assert all("teacher_ms" not in one for one in metrics["latency"]["timings"])
    assert metrics["delta_difference"] is not None and metrics["student"]["flips"]
    assert "plain" in metrics
    sentence = "The teacher is known by its probabilities only"
    assert sentence in said["rmc_plus"]
    assert sentence in (folder / "runs/rmc_plus/report.html").read_text()
    card = (folder / "runs/rmc_plus/student/model/README.md").read_text()
    assert "Its teacher is not known as a model: its class probabilities were given in files" in card
    assert str(folder) not in card
    assert re.search(r"\nteacher +- +- +\d", said["rmc_plus"])
    assert "teacher as the probabilities in " in said["rmc_plus"]
    assert not list((folder / "runs/shared/teacher").glob("*/model")), "no teacher is trained"


@pytest.mark.slow
def test_without_train_a_loss_that_needs_no_teacher_is_reported(outcome):
    folder, _ = outcome
    metrics = json.loads((folder / "runs/without_train/metrics.json").read_text())
    assert "train" not in metrics["teacher"] and 0.7 < metrics["teacher"]["dev"] <= 1
    first = json.loads((folder / "runs/rmc_plus/metrics.json").read_text())
    assert first["keys"]["teacher"] != metrics["keys"]["teacher"]


@pytest.mark.slow
def test_delta_of_macro_f1_in_a_whole_run(outcome):
    folder, said = outcome
    place = folder / "runs/without_train"
    metrics, saved = json.loads((place / "metrics.json").read_text()), np.load(place / "hits.npz")
    for role in ("teacher", "student"):
        dev, ood = (
            reference("macro_f1", saved[f"predicted/{role}/{name}"], saved[f"gold/{name}"])
            for name in ("dev", "ood_sym1")
        )
        assert metrics[role]["measure"]["dev"] == pytest.approx(dev)
        assert metrics[role]["delta"] == pytest.approx((dev - ood) / dev)
        assert metrics[role]["dev"] == saved[f"{role}/dev"].mean()
    assert metrics["metric"] == "macro_f1" and "Delta (macro F1)" in said["without_train"]


@pytest.mark.parametrize(
    ("right_of_many", "right_of_few", "refused"),
    [(17, 2, False), (20, 0, True), (0, 2, True), (3, 0, True)],
    ids=["finds the rare class", "says the frequent one only", "says the rare one only", "turned"],
)
def test_a_rare_class_does_not_make_a_good_teacher_a_bad_one(right_of_many, right_of_few, refused):
    """20 samples of one class and 2 of the other: the accuracy of the first, 86 %, is below 91 %."""
    labels = np.repeat([0, 1], [20, 2])
    right = np.r_[np.arange(20) < right_of_many, np.arange(2) < right_of_few]
    found = np.eye(2)[np.where(right, labels, 1 - labels)]
    data = SimpleNamespace(
        splits=lambda: {"train": SimpleNamespace(labels=labels)}, labels=("no", "yes")
    )
    check = partial(
        given_probabilities._check_order, Path("f"), "train", found, SimpleNamespace(data=data)
    )
    if refused:
        with pytest.raises(UserError, match="not above chance"):
            check()
    else:
        check()


@pytest.mark.slow
def test_columns_in_another_order_are_found_by_the_accuracy(outcome):
    folder, said = outcome
    sentence = said["turned"].splitlines()[-1]
    assert sentence.startswith(
        f"error: {folder / 'turned/train.csv'}: its most probable class is right"
    )
    assert "called after other classes" in sentence
    assert "tokens of" not in said["turned"], "before anything is tokenised"


@pytest.mark.launcher
def test_two_ranks_make_the_student_of_the_teacher_that_made_the_files(tiny_model, tmp_path):
    """The teacher's own probabilities from files, rows shuffled; then another metric, scores reused."""
    parts = ("compression/imp60", "mitigation/distil")
    learns = ["robust_compression.epochs=10", "optimizer.params.lr=3e-3"]
    done = python(*job(tiny_model, tmp_path / "own/run", *learns, parts=parts))
    assert done.returncode == 0, done.stderr[-3000:]
    first = json.loads((tmp_path / "own/run/metrics.json").read_text())
    keys, shared = first["keys"], tmp_path / "own/shared"
    found = {"train": np.load(shared / f"teacher/{keys['teacher'][:16]}/probabilities.npy")}
    (place,) = (shared / "scores").iterdir()
    found |= {n: np.exp(np.load(place / f"{n}.npy")) for n in ("dev", "ood_synthetic")}
    (tmp_path / "files").mkdir()
    for name, p in found.items():
        order = np.random.default_rng(0).permutation(len(p))
        columns = {"row": order, "entailment": p[order, 0], "not_entailment": p[order, 1]}
        pq.write_table(pa.table(columns), tmp_path / f"files/{name}.parquet")
    given = [*learns, f"{OURS}.teacher.probabilities={tmp_path / 'files'}"]
    folder = tmp_path / "given/run"
    done = two_ranks(*job(tiny_model, folder, *given, parts=parts))
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads((folder / "metrics.json").read_text())
    for key in ("train", "dev", "ood", "delta", "measure"):
        assert metrics["teacher"][key] == first["teacher"][key]
    ours, theirs = (np.load(tmp_path / f"{who}/run/scores/dev.npy") for who in ("given", "own"))
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
    assert np.ptp(theirs) > 0.1, "or the test would show little"
    other = [*given, f"{OURS}.evaluation.metric=matthews"]
    done = two_ranks(*job(tiny_model, folder, *other, stage="evaluate", parts=parts))
    assert done.returncode == 0, done.stderr[-3000:]
    again = json.loads((folder / "metrics.json").read_text())
    assert again["metric"] == "matthews" and again["student"]["dev"] == metrics["student"]["dev"]
    assert again["reused"] == ["teacher", "student"]
    assert "Delta (Matthews correlation)" in done.stdout
