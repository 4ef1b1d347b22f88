"""student.keep "best_dev": the exported student is that of the best epoch after pruning."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from launcher import job, two_ranks

from compress.errors import UserError
from compress.stages import best_dev, results
from compress.stages.best_dev import BestDev


def test_epochs_before_pruning_is_complete_and_later_equals_do_not_count(monkeypatch):
    back = []
    monkeypatch.setattr(best_dev.shards, "copied", lambda engine: {"step": engine})
    monkeypatch.setattr(best_dev.shards, "put_back", lambda engine, weights: back.append(weights))
    accuracies = {10: 0.9, 20: 0.7, 30: 0.8, 40: 0.8}
    masks = SimpleNamespace(complete_from=20, weights_changed=lambda: back.append("masks"))
    trainer = SimpleNamespace(name="student", steps_per_epoch=10, total_steps=40)
    best = BestDev(trainer, lambda trainer: {"dev": accuracies[trainer.step]}, masks)
    for step in accuracies:
        trainer.step = trainer.engine = step
        assert best(trainer) == {"dev": accuracies[step]}
    best.settle()
    assert back == [{"step": 30}, "masks"]
    assert best.kept == {"epoch": 3, "epochs": 4, "dev": 0.8}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_exported_student_is_that_of_its_epoch(tiny_model: Path, tmp_path: Path) -> None:
    """Learned scores change after the last pruning step too, so they must be those of the epoch."""
    words = (
        "robust_compression.student.keep=best_dev",
        "robust_compression.epochs=1",
        "robust_compression.student.epochs=8",
        "optimizer.params.lr=0.02",
        "zero_optimization.stage=3",
        'csv_monitor={"enabled": true}',
    )
    folder = tmp_path / "run"
    done = two_ranks(
        *job(tiny_model, folder, *words, parts=("compression/movement40", "mitigation/vanilla"))
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = folder.rglob("student_dev.csv")
    rows = list(csv.reader(file.open()))[1:]
    curve = [float(value) for _, value in rows]
    student = json.loads((folder / "student/student.json").read_text())
    kept, pruned = student["best_dev"], 5  # pruning.end is 0.6 of 8 epochs
    best = max(range(pruned - 1, 8), key=lambda epoch: curve[epoch])
    assert (kept["epoch"], kept["dev"]) == (best + 1, pytest.approx(curve[best]))
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["student"]["dev"] == pytest.approx(curve[best])
    assert any("student.keep" in note for note in metrics["remarks"])


def test_each_student_whose_epoch_was_chosen_is_named():
    best = {"best_dev": {"epoch": 2, "epochs": 3, "dev": 0.9}}
    both = {"teacher": {}, "plain": best, "student": best}
    first, second = results.remarks_on_best_dev(both)
    assert first.startswith("the student with the plain loss is that of epoch 2 of 3")
    assert results.remarks_on_best_dev({"teacher": {}, "student": best}) == [second]
    assert results.remarks_on_best_dev({"student": {}}) == []


def test_the_state_of_an_earlier_version_is_refused():
    trainer = SimpleNamespace(name="student")
    best = BestDev(trainer, None, None)
    kept = {"epoch": 1, "epochs": 2, "dev": 0.5}
    for weights in ({"a.weight": torch.zeros(2)}, {}):  # of the main rank, of another
        with pytest.raises(UserError, match=r"delete the directory student\.unfinished"):
            best.load_state_dict({"step": 3, "weights": weights, "kept": kept})
