"""What a job has to do, by hand count, and the time left from measured rates."""

import pytest
from configs import BASE, Files, at

from compress.training import workload
from compress.training.workload import Job, Work

ROWS = {"train": 100, "dev": 20, "ood_a": 30, "ood_b": 10}  # 13 steps of 8 an epoch
STAGES = ("teacher", "difficulty", "student", "evaluate")
OURS = "robust_compression"


@pytest.fixture
def planned(tmp_path):
    def plan(*settings, stages=STAGES):
        config = Files(tmp_path).load(at(f"{OURS}.loss.hook", "rmc"), *settings)
        return {w.stage: (w.steps, w.rows) for w in workload.planned(config, ROWS, stages)}

    return plan


def test_the_usual_run(planned):
    assert BASE["train_batch_size"] == 8
    assert planned(at(f"{OURS}.epochs", 2)) == {
        "teacher": (26, 2 * 20 + 100),
        "difficulty": (26, 5 * 120),
        "student": (26, 40),
        "evaluate": (0, 2 * 60),
    }


def test_own_lengths_a_given_teacher_and_independent_runs(planned):
    found = planned(
        at(f"{OURS}.teacher.model", "/somewhere"),
        at(f"{OURS}.student.epochs", 4),
        at(f"{OURS}.uncertainty", {"protocol": "independent", "sparsities": [0.3, 0.6], "epochs": 1}),
    )
    assert found["teacher"] == (0, 100)
    assert found["difficulty"] == (2 * 13, 2 * 120)
    assert found["student"] == (52, 80)


def test_alpha_and_the_first_model_are_listed(planned):
    auto = at(f"{OURS}.uncertainty", {"alpha": "auto", "alpha_candidates": [0.2, 0.4, 0.6]})
    found = planned(auto, at(f"{OURS}.epochs", 1), stages=("student",))
    assert found == {"alpha": (39, 3 * 40)}
    found = planned(at(f"{OURS}.loss", {"hook": "jtt", "first_epochs": 2}), stages=("student",))
    assert list(found) == ["first", "student"] and found["first"] == (26, 140)


@pytest.mark.parametrize(("epochs", "listed"), [(2, False), (3, True)])
def test_a_first_model_that_is_the_teacher_is_no_work(planned, epochs, listed):
    jtt = at(f"{OURS}.loss", {"hook": "jtt", "first_epochs": 2})
    assert ("first" in planned(jtt, at(f"{OURS}.epochs", epochs))) == listed
    debiased = at(f"{OURS}.teacher.loss", {"hook": "focal"})
    assert "first" in planned(jtt, at(f"{OURS}.epochs", epochs), debiased)


def test_time_left_is_the_rest_at_the_measured_rate():
    job = Job([Work("a", 10, 40), Work("b", 20, 100), Work("c", 0, 50)], batch_size=8)
    assert job.left() is None and job.expected() is None
    job.begin("a")
    job.step("a", None)
    assert job.stage_left("a") is None
    job.step("a", 2.4)
    row = 2.4 / 8 / 3
    assert job.stage_left("a") == pytest.approx(8 * 2.4 + 40 * row)
    assert job.left() == pytest.approx(28 * 2.4 + 190 * row)
    assert job.expected() == pytest.approx({"a": 24 + 40 * row, "b": 48 + 100 * row, "c": 50 * row})
    job.scored("a", 20, 10.0)
    assert job.stage_left("a") == pytest.approx(8 * 2.4 + 20 * 0.5)
    job.finish("a")
    assert job.stage_left("a") == 0
    job.begin("b")
    job.step("b", 1.0)
    assert job.stage_left("b") == pytest.approx(19 * 1.0 + 100 * 0.5), "the stage's own rate"
    assert job.left() == pytest.approx(19 + 50 + 25)


def test_finished_stages_count_nothing():
    job = Job([Work("a", 10, 0), Work("b", 10, 0)])
    job.finish("a")
    job.begin("b")
    job.step("b", 3.0)
    assert job.left() == pytest.approx(27)
    assert job.expected() == pytest.approx({"b": 30})


def test_what_an_earlier_run_has_done_is_not_expected_again():
    job = Job([Work("a", 10, 0), Work("b", 10, 0)])
    job.begin("a")
    job.skip("a", 8)
    job.step("a", 3.0)
    assert job.expected() == pytest.approx({"a": 6, "b": 30})
    assert job.left() == pytest.approx(3 + 30)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (130, "2 min 10 s"),
        (599, "9 min 59 s"),
        (640, "11 min"),
        (3599, "1 h 00 min"),
        (11100, "3 h 05 min"),
    ],
)
def test_durations(seconds, words):
    assert workload.duration(seconds) == words


def test_the_expectation_is_one_line():
    seconds = {"teacher": 80.0, "difficulty": 160.0, "student": 90.0, "evaluate": 20.0}
    line = workload.expectation(seconds)
    assert line.startswith("expected: teacher 1 min 20 s, difficulty 2 min 40 s, student 1 min 30 s, ")
    assert "evaluation 20 s; about 5 min 50 s" in line
    assert workload.expectation({"student": 5.0}) == "expected: student 5 s"
