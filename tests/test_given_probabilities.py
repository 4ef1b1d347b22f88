"""A teacher of which only probabilities are given: the files, every mistake in them, a whole run."""

import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from configs import Files
from stage_runs import run_of

from compress import checks, run
from compress.configuration import schedule
from compress.data.splits import Split
from compress.errors import UserError
from compress.models import encoders, label_order
from compress.scoring import probabilities
from compress.stages import stage
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
    probabilities.read(file, probabilities.Wanted("train", part), NAMES, out, processes)
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
        (3, {"no": 0.5, "yes": 0.5, "maybe": 0.1}, "row 4 of the file sum to 1.1, not to 1"),
        (3, {"no": 60, "yes": 30, "maybe": 10}, "divide percentages by 100"),
        (3, {"no": 0.5, "yes": 0.502, "maybe": 0}, "row 4 of the file sum to 1.002, not to 1"),
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
    for name in ("scores.parquet", "scores.txt.zip"):
        (tmp_path / name).touch()
    for name, asked, told in (
        ("scores.parquet", "all", "one file, which is that of train, and the report shows"),
        ("scores.parquet", "evaluate", "the report shows the teacher's; name a folder"),
        ("scores.parquet", "student", None),
        ("scores.txt.zip", "student", "scores.txt.zip' is of no known kind"),
        ("nope", "student", "is neither a folder .*, nor a file for train"),
    ):
        config = files.load(
            {OURS: {"student": {"uncompressed": True}}},
            overrides=[f"{OURS}.teacher.probabilities={tmp_path / name}"],
        )
        with nullcontext() if told is None else pytest.raises(UserError, match=told):
            checks.check(config, asked)


def test_nothing_is_planned_for_a_teacher_that_is_not_trained(files, tiny_model):
    """Nor does the first model of jtt take its place, though the epochs are the same."""
    rows_of = {"train": 80, "dev": 20, "ood_synthetic": 30}
    jtt = [f"{OURS}.loss={json.dumps({'hook': 'jtt', 'first_epochs': 3})}"]
    own, given = (files.load(overrides=[*jtt, *more]) for more in ([], [GIVEN]))
    assert [need.name for need in First(3).needs(run_of(own, tiny_model))] == ["teacher"]
    assert First(3).needs(run_of(given, tiny_model)) == ()
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
