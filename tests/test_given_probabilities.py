"""A teacher of which only probabilities are given: the files, every mistake in them, a whole run."""

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from configs import Files
from launcher import ROOT, job, python, two_ranks
from stage_runs import run_of
from test_given_models import LABELS, rows, shape, tokenizer
from test_measures import reference
from transformers import BertModel

from compress import checks, run
from compress.configuration import schedule
from compress.data.splits import Split
from compress.errors import UserError
from compress.models import encoders, label_order
from compress.scoring import probabilities
from compress.stages import given_probabilities, stage
from compress.stages.first import First
from compress.stages.scores import Scores
from compress.stages.student import Student
from compress.stages.teacher import Teacher
from compress.training import workload

OURS = "robust_compression"
NAMES = ("no", "maybe", "yes")


def split(size=6, places=None):
    texts = [str(n) for n in range(size)]
    whole = Split.of((texts, texts), np.arange(size) % 3, NAMES, (0, 1, 2))
    if places is None:
        return whole
    chosen = np.array(places)
    part = {"texts": whole.texts.part(chosen), "labels": whole.labels[chosen], "whole": size}
    return replace(whole, **part)


def table(size=6, seed=0):
    drawn = np.random.default_rng(seed).dirichlet([1, 1, 1], size)
    return [
        {"row": n, **{name: float(p) for name, p in zip(NAMES, one, strict=True)}, "text": f"t{n}"}
        for n, one in enumerate(drawn)
    ]


def read(file, part=None, processes=1):
    part = part or split()
    out = np.full((len(part), 3), np.nan)
    probabilities.read(file, "train", part, NAMES, out, processes)
    return out


def values(given):
    return np.array([[row[name] for name in NAMES] for row in given])


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet", ".csv.gz"])
def test_rows_in_any_order_of_every_format(tmp_path, write_table, suffix):
    given = table()
    file = write_table(tmp_path / f"train{suffix}", [given[n] for n in (3, 0, 5, 1, 4, 2)])
    np.testing.assert_allclose(read(file), values(given), atol=1e-12)


def test_only_the_rows_that_the_run_uses_are_needed(tmp_path, write_table):
    given = table(10)
    part = split(10, places=[1, 4, 8])
    file = write_table(tmp_path / "train.jsonl", [given[n] for n in (8, 9, 4, 1, 0)])
    np.testing.assert_allclose(read(file, part), values(given)[[1, 4, 8]], atol=1e-12)
    file = write_table(tmp_path / "train.jsonl", [given[n] for n in (8, 9, 1, 0)])
    with pytest.raises(UserError, match=r"has no row with 'row' 4, .* uses \(1 of 3 are missing\)\.$"):
        read(file, part)


def test_several_processes_read_a_file_of_many_blocks(tmp_path, write_table):
    given = table(20_500)
    order = np.random.default_rng(1).permutation(len(given))
    file = write_table(tmp_path / "train.parquet", [given[n] for n in order])
    found = read(file, split(len(given)), processes=2)
    np.testing.assert_allclose(found, values(given), atol=1e-12)


def test_a_rounded_sum_is_made_1(tmp_path, write_table):
    given = [{"row": n, "no": 0.3333, "maybe": 0.3333, "yes": 0.3333} for n in range(6)]
    found = read(write_table(tmp_path / "train.jsonl", given))
    assert found == pytest.approx(np.full((6, 3), 1 / 3), abs=1e-12)


@pytest.mark.parametrize(
    ("place", "change", "told"),
    [
        (2, {"no": float("nan")}, "'no' of row 3 is nan, which is no probability"),
        (2, {"no": float("inf")}, "'no' of row 3 is inf, which is no probability"),
        (2, {"no": -0.1, "yes": 1.1, "maybe": 0}, "'no' of row 3 is -0.1, which is no probability"),
        (3, {"no": 0.5, "yes": 0.5, "maybe": 0.1}, "probabilities of row 4 sum to 1.1, not to 1"),
        (3, {"no": 0.5, "yes": 0.502, "maybe": 0}, "probabilities of row 4 sum to 1.002, not to 1"),
        (4, {"row": 1}, "row 5 is the second with 'row' 1; keep one a sample"),
        (4, {"row": 6}, "'row' of row 5 is 6, but train has 6 samples, counted from 0"),
        (4, {"row": -1}, "'row' of row 5 is -1; it is the number of a sample"),
        (4, {"row": 1.5}, "'row' of row 5 is 1.5; it is the number of a sample"),
        (4, {"row": None}, "'row' of row 5 is 'None', no number"),
        (4, {"yes": "high"}, "'yes' of row 5 is 'high', no number"),
        (0, "yes", "has no column 'yes'; did you mean 'maybe'?"),
        (0, "row", "has no column 'row'"),
    ],
)
def test_every_mistake_names_file_and_row(tmp_path, write_table, place, change, told):
    given = table()
    if isinstance(change, str):
        given[place].pop(change)
    else:
        given[place] |= change
    file = write_table(tmp_path / "train.jsonl", given)
    with pytest.raises(UserError) as error:
        read(file)
    sentence = str(error.value)
    assert sentence.startswith(f"{file}: ") and told in sentence and "\n" not in sentence


def test_a_row_that_comes_again_in_another_block(tmp_path, write_table):
    given = table(1500)
    file = write_table(tmp_path / "train.jsonl", [*given, given[7]])
    with pytest.raises(UserError, match=r"row 1501 is the second with 'row' 7"):
        read(file, split(1500))


# What the configuration says


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


GIVEN = f"{OURS}.teacher.probabilities=scores"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (f"{OURS}.teacher.model=other", "teacher.probabilities' and teacher.model exclude each other"),
        (f"{OURS}.teacher.epochs=2", "teacher.probabilities is given and not trained"),
        (f"{OURS}.teacher.loss.hook=poe", "teacher.probabilities is given and not trained"),
        (f"{OURS}.student.init_from=teacher", "no weights to start from; set it to 'pretrained'"),
        (f"{OURS}.uncertainty.init_from=teacher", "no weights to start from; set it to 'pretrained'"),
        (f"{OURS}.layerwise.hidden=1", "needs the teacher's model, and teacher.probabilities gives no"),
        (f"{OURS}.layerwise.attention=1", "needs the teacher's model"),
    ],
)
def test_what_needs_a_model_is_refused(files, override, told):
    sentence, _ = files.refused(overrides=[GIVEN, override])
    assert told in sentence and sentence.startswith(("--set", "--set"))


@pytest.mark.parametrize(
    ("hook", "stage", "there", "lacking"),
    [
        ("distil", "all", (), "train"),
        ("distil", "student", ("dev", "ood_synthetic"), "train"),
        ("distil", "student", ("train",), None),
        ("distil", "all", ("train", "dev"), "ood_synthetic"),
        ("vanilla", "student", (), None),
        ("vanilla", "all", ("ood_synthetic",), "dev"),
        ("vanilla", "evaluate", ("dev", "ood_synthetic"), None),
        ("distil", "difficulty", (), None),
        ("vanilla", "teacher", (), "train"),
    ],
)
def test_which_files_a_stage_needs(files, tmp_path, hook, stage, there, lacking):
    folder = tmp_path / "scores"
    folder.mkdir()
    for name in there:
        (folder / f"{name}.csv").touch()
    overrides = [f"{OURS}.teacher.probabilities={folder}", f"{OURS}.loss.hook={hook}"]
    config = files.load({OURS: {"student": {"uncompressed": True}}}, overrides=overrides)
    if lacking is None:
        checks.check(config, stage)
        return
    with pytest.raises(UserError, match=rf"^{OURS}\.teacher\.probabilities: .* has no file {lacking} "):
        checks.check(config, stage)


def test_a_file_or_nothing_in_place_of_the_folder(files, tmp_path):
    (tmp_path / "scores.parquet").touch()
    for name, told in (("scores.parquet", "is a file; name the folder"), ("nope", "is not a folder")):
        config = files.load(
            {OURS: {"student": {"uncompressed": True}}},
            overrides=[f"{OURS}.teacher.probabilities={tmp_path / name}"],
        )
        with pytest.raises(UserError, match=told):
            checks.check(config, "all")


def test_nothing_is_planned_for_a_teacher_that_is_not_trained(files, tiny_model):
    """Nor does the first model of jtt take its place, though the epochs are the same."""
    rows_of = {"train": 80, "dev": 20, "ood_synthetic": 30}
    jtt = [f"{OURS}.loss={json.dumps({'hook': 'jtt', 'first_epochs': 3})}"]
    own, given = (files.load(overrides=[*jtt, *more]) for more in ([], [GIVEN]))
    assert [need.name for need in First().needs(run_of(own, tiny_model))] == ["teacher"]
    assert First().needs(run_of(given, tiny_model)) == ()
    assert "teacher" in schedule.of_trainings(own, 80)
    assert "teacher" not in schedule.of_trainings(given, 80)
    planned = workload.planned(given, rows_of, ("teacher", "evaluate"))
    assert planned == [workload.Work("teacher", 0, 0), workload.Work("evaluate", 0, 50)]
    assert run.stages_of(given.robust, "student") == ("teacher", "student")


def test_the_content_of_a_file_is_in_the_keys_and_its_folder_is_not(files, tiny_model):
    def keys(folder="scores", samples="null", **given):
        changes = [f"{OURS}.teacher.probabilities={folder}", f"{OURS}.task.train_samples={samples}"]
        place = run_of(files.load(overrides=changes), tiny_model, given=given)
        stages = {"teacher": Teacher(), "student": Student(), "scores": Scores("teacher")}
        return {name: stage.key_of(one, place) for name, one in stages.items()}

    def changed(one, other):
        return {name for name in one if one[name] != other[name]}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "find_labels", lambda *_: label_order.Order((0, 1), 2))
        before = keys(train="a", dev="b")
        assert not changed(before, keys("elsewhere", train="a", dev="b"))
        assert changed(before, keys(train="c", dev="b")) == {"teacher", "student"}
        assert changed(before, keys(train="a", dev="c")) == {"scores"}
        assert changed(before, keys(train="a", dev="b", samples="1")) == set(before)


# Whole runs


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
        write_table(folder / f"fever/{name}.jsonl", rows(SIZES[name], seed))
        given = scored(name, seed)
        write_table(folder / f"scores/{name}.parquet", given)
        turn = dict(zip(LABELS, LABELS[1:] + LABELS[:1], strict=True))
        turned = [{turn.get(key, key): value for key, value in row.items()} for row in given]
        write_table(folder / f"turned/{name}.csv", turned)
        if name != "train":
            write_table(folder / f"changed/{name}.csv", scored(name, seed + 10 * (name == "dev")))
    torch.manual_seed(1)
    tokenizer(folder / "model", lower=False)
    BertModel(shape()).save_pretrained(folder / "model")
    small = f"{OURS}.uncertainty.sparsities=[0.2, 0.6]"
    baseline = f"{OURS}.evaluation.baseline=true"
    specs = {
        "rmc_plus": ("rmc_plus", "all", "scores", [small, baseline]),
        "part": ("distil", "student", "scores", [f"{OURS}.task.train_samples=40"]),
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


def teacher_of(folder, name):
    """The teachers in the cache whose file of train has this folder's content."""
    found = []
    for place in (folder / "runs/shared/teacher").iterdir():
        facts = json.loads((place / "complete.json").read_text())["inputs"]["facts"]
        found.append((place, facts["data"]["train"], facts["files"]["train"]))
    return found


@pytest.mark.slow
def test_the_student_learns_from_the_rows_of_the_file(outcome):
    folder, _ = outcome
    arrays = [np.load(p / "probabilities.npy") for p, _, sha in teacher_of(folder, "scores") if sha]
    expected = np.array([[row[name] for name in LABELS] for row in scored("train", 0)])
    whole = next(a for a in arrays if len(a) == 90)
    np.testing.assert_allclose(whole, expected, atol=1e-6)
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
