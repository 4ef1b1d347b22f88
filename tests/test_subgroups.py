"""Subsets that do not exclude each other: one for each column of scores, such as identities."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
from configs import Files
from folders import config, error_of, from_folder
from launcher import ROOT, python

from compress.data import sources, tasks
from compress.data.checking import belongs
from compress.errors import UserError
from compress.scoring import evaluation
from compress.stages.prepare import SourceRows, Splits
from compress.study import result_rows

OURS = "robust_compression"
IDENTITIES = ["male", "black or brown"]


def table(size, seed, identities=IDENTITIES):
    """Comments as in Civil Comments; annotators looked for identities in a part of them only."""
    draw = np.random.default_rng(seed)
    words = ["the king slept", "the queen ran", "a doctor wrote", "the judge sang"]
    found = pandas.DataFrame(
        {
            "text": [f"{words[n % 4]} {seed} {n} {n * 7 % 11}" for n in range(size)],
            "toxicity": draw.choice([0.0, 0.2, 0.5, 0.9], size),
        }
    )
    for name in identities:
        found[name] = np.where(draw.random(size) < 0.3, np.nan, draw.choice([0, 0.4, 0.5, 1], size))
    return found


def write(folder, suffix=".csv", **frames):
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in frames.items():
        if suffix == ".csv":
            frame.to_csv(folder / f"{name}.csv", index=False)
        elif suffix == ".parquet":
            frame.to_parquet(folder / f"{name}.parquet")
        else:
            frame.to_json(folder / f"{name}.jsonl", orient="records", lines=True)
    return folder


def folder_of(place, suffix=".csv"):
    """Train and one OOD set without identities, one with one of them."""
    return write(
        place,
        suffix,
        train=table(60, 0, []),
        dev=table(200, 1),
        ood_none=table(30, 2, []),
        ood_one=table(50, 3, IDENTITIES[:1]),
    )


def reference(frame, right):
    """Accuracy and size by pandas, of labels and of each identity x label."""
    frame = frame.assign(right=right, label=np.where(frame.toxicity >= 0.5, "toxic", "not_toxic"))
    parts = dict(list(frame.groupby("label")))
    for name in [n for n in IDENTITIES if n in frame]:
        for label, rows in frame[frame[name] >= 0.5].groupby("label"):
            parts[f"{name} >= 0.5, {label}"] = rows
    return {key: (rows.right.mean(), len(rows)) for key, rows in parts.items()}


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_each_column_is_a_subset_of_its_own_as_pandas_counts_it(tmp_path, suffix):
    data = from_folder(folder_of(tmp_path, suffix), "civil_comments", subgroups=IDENTITIES)
    for frame, split in ((table(200, 1), data.dev), (table(50, 3, IDENTITIES[:1]), data.ood["one"])):
        right = np.random.default_rng(5).random(len(frame)) < 0.7
        found = evaluation.by_subset(right, split)
        expected = reference(frame, right)
        assert list(found) == list(expected)
        for name, (accuracy, samples) in expected.items():
            assert found[name] == {"accuracy": pytest.approx(accuracy), "samples": samples}
    assert not data.ood["none"].subgroups
    both = data.dev.subgroups[IDENTITIES[0]] & data.dev.subgroups[IDENTITIES[1]]
    assert both.any(), "or a crossing would not be told from this"


def test_drawn_samples_keep_their_subgroups(tmp_path):
    data = from_folder(folder_of(tmp_path), "civil_comments", subgroups=["male"], eval_samples=40)
    places = data.dev.texts.places
    expected = (table(200, 1)["male"] >= 0.5).to_numpy()[places]
    assert data.dev.subgroups["male"].tolist() == expected.tolist() and len(places) == 40


def test_a_dev_without_members_or_without_the_column(tmp_path):
    folder = folder_of(tmp_path)
    error_of(
        folder, "dev.csv: has no column 'mael' of", task="civil_comments", subgroups=["male", "mael"]
    )
    write(folder, dev=table(200, 1).assign(male=0.4))
    error_of(
        folder, "dev.csv: no row has 0.5 or more in 'male'", task="civil_comments", subgroups=["male"]
    )


@pytest.mark.parametrize(
    ("cell", "member"),
    [
        *((0.5, True), (0.49, False), (1, True), ("1", True), (" 0.7", True), ("", False)),
        *((None, False), (float("nan"), False), (True, True), ("False", False), ("true", True)),
    ],
)
def test_what_belongs(cell, member):
    assert belongs(cell, "dev: row 1", "male") is member


@pytest.mark.parametrize("cell", [1.1, "-0.1", "yes", [1], "nan"])
def test_what_is_no_value(cell):
    with pytest.raises(UserError, match=r"^dev: row 1: 'male' is .* but it must be from 0 to 1\.$"):
        belongs(cell, "dev: row 1", "male")


def test_rows_of_train_do_not_depend_on_them_and_keys_are_as_before_without(tmp_path):
    place = sources.Source("x", None, lambda: "same")

    def facts(name, split, **block):
        task = tasks.of(config(name, **block).task)
        alone = task.model_copy(update={"subgroups": []}) if split == "train" else task
        return SourceRows(alone, split, place, ("a", "b")).facts(SimpleNamespace())

    before = facts("civil_comments", "dev")
    assert "subgroups" not in json.dumps(before)
    assert facts("civil_comments", "dev", subgroups=["male"]) != before
    assert "subgroups" not in json.dumps(Splits(tasks.TASKS["mnli"], ()).facts(SimpleNamespace()))
    task = tasks.of(config("civil_comments", subgroups=["male"]).task)
    assert Splits(task, ()).facts(SimpleNamespace())["task"]["subgroups"] == ["male"]


@pytest.mark.parametrize(
    ("task", "names", "told"),
    [("synthetic", '["x"]', "makes its own data"), ("mnli", '["x", "x"]', 'names "x" twice')],
)
def test_what_makes_no_sense(tmp_path, task, names, told):
    part = {OURS: {"task": {"name": task}}}
    sentence, _ = Files(tmp_path).refused(part, overrides=[f"{OURS}.task.subgroups={names}"])
    assert told in sentence


@pytest.mark.slow
def test_a_whole_run_of_civil_comments_with_identities(tmp_path, tiny_model):
    folder = folder_of(tmp_path / "data")
    block = {
        "name": "civil_comments",
        "data_dir": str(folder),
        "subgroups": IDENTITIES,
        "max_length": 24,
    }
    settings = {OURS: {"task": block, "model": str(tiny_model), "epochs": 1}, "train_batch_size": 16}
    (tmp_path / "mine.json").write_text(json.dumps(settings))
    names = ("zero0", "compression/imp60", "mitigation/vanilla")
    files = [*(str(ROOT / f"ds_configs/{name}.json") for name in names), str(tmp_path / "mine.json")]
    output = tmp_path / "run"
    train = str(ROOT / "train.py")
    done = python(train, "--deepspeed_config", *files, "--output_dir", str(output))
    assert done.returncode == 0, done.stderr[-3000:]
    metrics, saved = (
        json.loads((output / "metrics.json").read_text()),
        dict(np.load(output / "hits.npz")),
    )
    for role in ("teacher", "student"):
        expected = reference(table(200, 1), saved[f"{role}/dev"])
        found = {k: (v["accuracy"], v["samples"]) for k, v in metrics[role]["dev_subsets"].items()}
        assert found == {k: (pytest.approx(a), n) for k, (a, n) in expected.items()}
        of_study = {name: saved[f"{role}/dev"][at] for name, at in result_rows._subsets(saved, "dev")}
        assert {
            n: (h.mean(), len(h)) for n, h in of_study.items() if n not in ("easy", "hard")
        } == found
        one = metrics[role]["ood_subsets"]["one"]
        assert set(one) == set(reference(table(50, 3, IDENTITIES[:1]), np.ones(50)))
    page = (output / "report.html").read_text()
    assert page.count("black or brown &gt;= 0.5, toxic") == 1 and "A sample may be in several" in page
    assert re.search(r"male (>|&gt;)= 0.5,[ \n]*not_toxic", page.split("Accuracy by OOD subset")[1])
