"""Which stages a run makes, and what is said of a teacher that knows little."""

from types import SimpleNamespace

import numpy as np
import pytest
from configs import BASE, Files

from compress import run
from compress.data.splits import Split
from compress.errors import UserError
from compress.scoring import chance, measures
from compress.stages.teacher import Teacher

OWN = """
def uses(logits, labels, teacher, difficulty, weights):
    return logits[:, 0]
def ignores(logits, labels, teacher, _difficulty, weights):
    return logits[:, 0]
"""
ALL = ("teacher", "difficulty", "student", "evaluate")


@pytest.fixture
def robust(tmp_path, monkeypatch):
    """Function (overrides) -> our block of a configuration."""
    (tmp_path / "own_hooks.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    files = Files(tmp_path)
    return lambda *texts: (
        files.load(BASE, overrides=[f"robust_compression.{text}" for text in texts]).robust
    )


@pytest.mark.parametrize(
    ("texts", "needed"),
    [
        *((["loss.hook=" + hook], True) for hook in ("rmc", "rmc_weighted", "weighted", "rmc_plus")),
        *((["loss.hook=" + hook], False) for hook in ("vanilla", "distil", "smooth", "focal", "jtt")),
        (["loss.hook=rmc", "loss.difficulty=shallow"], False),
        (["loss.hook=rmc", "loss.difficulty=shallow", "uncertainty.alpha=auto"], True),
        (["loss.hook=vanilla", "uncertainty.alpha=auto"], False),
        (["loss.hook=own_hooks:uses"], True),
        (["loss.hook=own_hooks:ignores"], False),
    ],
)
def test_all_stages_are_without_a_difficulty_that_the_loss_does_not_use(robust, texts, needed):
    block = robust(*texts)
    assert block.difficulty_needed == needed
    expected = ALL if needed else tuple(name for name in ALL if name != "difficulty")
    assert run.stages_of(block, "all") == expected
    assert run.stages_of(block, "difficulty") == ("difficulty",), "asked for, it is made all the same"


@pytest.mark.parametrize("stage", ALL)
def test_a_given_teacher_is_scored_at_any_stage(robust, stage):
    assert set(run.stages_of(robust("loss.hook=rmc", "teacher.model=/t"), stage)) == {stage, "teacher"}
    assert run.stages_of(robust("loss.hook=rmc"), stage) == (stage,)


def split(*counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    texts = ([""] * len(labels), [""] * len(labels))
    names = tuple(f"class {number}" for number in range(len(counts)))
    return Split.of(texts, labels, names, tuple(range(len(counts))))


@pytest.mark.parametrize(
    ("counts", "accuracy", "share"),
    [
        ((100, 100, 100), 0.33, 1 / 3),
        ((100, 100, 100), 0.0, 1 / 3),
        ((100, 100, 100), 0.41, 1 / 3),  # 3 standard errors are 8.2 points
        ((100, 100, 100), 0.42, None),
        ((60000, 40000), 0.63, 0.6),  # far above by its standard error, a tenth of the way is 0.64
        ((60000, 40000), 0.65, None),
        ((5, 5), 1.0, None),
    ],
)
def test_hardly_above_the_majority_class(counts, accuracy, share):
    found = chance.hardly_above(accuracy, split(*counts))
    assert (found and found.value) == (share if share is None else pytest.approx(share))
    notes = chance.notes({"dev": accuracy}, {"dev": split(*counts)})
    assert len(notes) == (share is not None)
    where = "far below" if accuracy == 0 else "hardly above"
    assert all("on dev (" in note and where in note for note in notes)


@pytest.mark.parametrize("counts", [(300, 300), (540, 60), (200, 100, 300), (0, 150, 450)])
@pytest.mark.parametrize("metric", ["macro_f1", "balanced_accuracy", "matthews"])
def test_chance_is_what_predictions_without_the_labels_reach(counts, metric):
    """By drawing: classes as often as in gold, all alike, and the largest alone; 500 times."""
    data, draw = split(*counts), np.random.default_rng(0)
    found, there = chance.Chance.of(data, metric), np.flatnonzero(counts)
    shares = np.array(counts) / sum(counts)
    alike = (np.array(counts) > 0) / len(there)
    means, spreads = [], []
    for p in (shares, alike, np.eye(len(counts))[np.argmax(counts)]):
        drawn = draw.choice(len(counts), (500, len(data)), p=p)
        each = [measures.Answers(one, data.labels).value(metric) for one in drawn]
        means.append(np.mean(each))
        spreads.append(np.std(each))
    assert max(means) == pytest.approx(found.value, abs=0.006)
    assert 0.9 * max(spreads) <= found.error <= (2.3 if metric == "macro_f1" else 1.15) * spreads[1]


def test_a_teacher_of_a_rare_class_is_judged_by_what_delta_is_taken_of():
    """Accuracy below the majority class, and far above chance in the figures that count classes."""
    data = split(950, 50)
    right = np.r_[np.arange(950) < 900, np.arange(50) < 45]
    answers = measures.Answers(np.where(right, data.labels, 1 - data.labels), data.labels)
    for metric in measures.NAMES:
        told = chance.notes({"dev": answers.value(metric)}, {"dev": data}, metric)
        assert bool(told) == (metric == "accuracy")
    (note,) = chance.notes({"dev": 0.03}, {"dev": data}, "matthews")
    assert "hardly above chance on dev (Matthews correlation 0.030 against 0.000)" in note


def test_the_key_of_a_missing_teacher_is_named(robust):
    block = robust("loss.hook=rmc", "teacher.model=/nope")
    assert block.models == {"model": "some-encoder", "teacher.model": "/nope"}
    here = SimpleNamespace(training_facts=dict)
    run = SimpleNamespace(config=SimpleNamespace(robust=block), for_teacher=lambda: here)
    with pytest.raises(UserError, match=r"robust_compression\.teacher\.model: there is no directory"):
        Teacher().facts(run)
