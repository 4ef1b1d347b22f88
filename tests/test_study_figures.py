"""The pictures of a study show what its results say."""

import matplotlib.axes
import numpy as np
import pytest
from launcher import ROOT
from studies import finish, finished_runs, halves, model, runs_of

from compress.reporting import study_figures
from compress.study import analysis, result_rows

pytestmark = pytest.mark.slow


@pytest.fixture
def runs(tmp_path):
    return finished_runs(tmp_path)


@pytest.fixture
def task(runs):
    return analysis.tasks(result_rows.collect(runs))[0]


def test_lines_of_figure_1_are_easy_and_hard(tmp_path, monkeypatch):
    made = runs_of(tmp_path, tasks=["mnli"], compressions=["imp40", "imp85"])
    for run in made:
        finish(run, sizes={"dev": 400, "ood_hans": 300})
    found, lines = analysis.tasks(result_rows.collect(made))[0], recorded(monkeypatch)
    drawn = study_figures.all_of(found)["figure1"]
    models = [["teacher"], *(["student", name, "vanilla"] for name in ("imp40", "imp85"))]
    means = np.array([halves(made, *name).mean(axis=0) for name in models])
    for column, name in enumerate(("easy", "hard")):
        assert lines[name] == [([0, 40.0, 85.0], pytest.approx(means[:, column]))]
    for easy, hard in means:
        assert f">{easy - hard:.1f}<" in drawn


def recorded(monkeypatch):
    """Label -> the lines (x, y) drawn with it from now on."""
    lines = {}
    plot = matplotlib.axes.Axes.plot

    def record(axes, x, y, **style):
        lines.setdefault(style.get("label"), []).append((list(x), list(y)))
        return plot(axes, x, y, **style)

    monkeypatch.setattr(matplotlib.axes.Axes, "plot", record)
    return lines


def test_figures_hold_their_data(task):
    drawn = study_figures.all_of(task)
    assert list(drawn) == ["figure1", "figure3"]
    for svg in drawn.values():
        assert "sparsity, %" in svg
    for found in (task.teacher, model(task, "imp40", "vanilla"), model(task, "imp60", "vanilla")):
        assert f">{100 * found.gap.value:.1f}<" in drawn["figure1"]
    assert ">vanilla<" in drawn["figure3"] and ">rmc<" in drawn["figure3"]


def test_a_collapsed_model_is_a_hollow_point_in_both_halves_of_figure_3(tmp_path):
    made, white = runs_of(tmp_path), []
    for lost in ([], ["REFUTES"]):
        for run in made:
            finish(run, vanished=lost if run.name.startswith("fever/imp60-rmc") else [])
        found = analysis.tasks(result_rows.collect(made))[0]
        white.append(study_figures.all_of(found)["figure3"].count("#ffffff; stroke"))
    assert white[1] - white[0] == 2


def test_lines_of_figure_3_are_the_estimates(task, monkeypatch):
    lines = recorded(monkeypatch)
    study_figures._bias("x", task, study_figures.by_sparsity(task))
    for loss in ("vanilla", "rmc"):
        models = [model(task, name, loss) for name in ("imp40", "imp60")]
        ood = [100 * m.pool().value for m in (task.teacher, *models)]
        bias = [1, *(m.f_bias(task.teacher).value for m in models)]
        assert [points for points, _ in lines[loss]] == [[0, 40.0, 60.0]] * 2
        assert lines[loss][0][1] == pytest.approx(ood) and lines[loss][1][1] == pytest.approx(bias)


def test_a_line_joins_students_of_one_kind_of_compression(tmp_path, monkeypatch):
    """imp2of4 has a sparsity too and is neither a level of imp nor of heads20_rows50_imp."""
    compressions = ["heads20_rows50_imp40", "imp40", "imp60", "imp2of4", "movement40"]
    other = tmp_path / "movement60.json"
    other.write_text((ROOT / "ds_configs/compression/movement40.json").read_text())
    made = runs_of(tmp_path, compressions=[*compressions, str(other)], seeds=[1])
    for run in made:
        finish(run)
    sparsity = {"heads20_rows50_imp40": 0.5, "imp2of4": 0.45, "movement40": 0.4, "movement60": 0.6}
    rows = result_rows.collect(made)
    for row in rows:
        if row["role"] == "student":
            row["sparsity"] = sparsity.get(row["compression"], row["sparsity"])
    task, lines = analysis.tasks(rows, 50)[0], recorded(monkeypatch)
    drawn = study_figures.all_of(task)
    labels = [f"{kind} {loss}" for kind in ("imp", "movement") for loss in ("vanilla", "rmc")]
    assert {label for label in lines if label} == {*labels, "easy", "hard"}
    for label in labels:
        assert [x for x, _ in lines[label]] == [[0, 40.0, 60.0]] * 2
    assert [x for x, _ in lines["easy"]] == [[0, 40.0, 60.0]]
    assert "dev accuracy (imp vanilla), %" in drawn["figure1"]


def test_no_figure_with_one_sparsity(runs):
    kept = [run for run in runs if run.compression == "imp40"]
    assert study_figures.all_of(analysis.tasks(result_rows.collect(kept))[0]) == {}
