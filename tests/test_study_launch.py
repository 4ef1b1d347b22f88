"""A study of a task that exists in JSON only, from the command line to its report; two processes."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from launcher import ROOT, python

from compress.study import result_rows

pytestmark = [pytest.mark.launcher, pytest.mark.timeout(600)]

TASK = {
    "train_batch_size": 16,
    "robust_compression": {
        "task": {
            "name": "plays",
            "max_length": 32,
            "definition": {
                "texts": ["first", "second"],
                "labels": ["same", "other", "unclear"],
                "label": "kind",
                "train": "pairs",
                "ood": {
                    "swapped": {
                        "labels": ["same", "not_same"],
                        "label_map": {"same": "same", "other": "not_same", "unclear": "not_same"},
                        "subsets": ["way"],
                    }
                },
            },
        },
        "epochs": 1,
    },
}


def pairs(count, start, labels, **more):
    """Pairs of words that the tiny encoder's vocabulary knows."""
    words = ["doctor", "lawyer", "actor", "author", "teacher", "student", "manager", "thief"]
    return [
        {
            "first": f"the {words[n % 8]} saw the {words[n // 8 % 8]} {n}",
            "second": f"the {words[n // 8 % 8]} saw the {words[n % 8]} {n}",
            "kind": labels[n % len(labels)],
            **more,
        }
        for n in range(start, start + count)
    ]


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_model) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("study")
    data, configs = folder / "data", folder / "configs"
    (configs / "studies").mkdir(parents=True)
    data.mkdir()
    names = ("same", "other", "unclear")
    tables = {
        "pairs": pairs(96, 0, names),
        "dev": pairs(48, 100, names),
        "ood_swapped": [
            *pairs(20, 200, ("same",), way="swap"),
            *pairs(20, 300, ("not same",), way="add"),
        ],
        "ood_plain": pairs(21, 400, names),
    }
    for name, rows in tables.items():
        (data / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (configs / "plays.json").write_text(json.dumps(TASK))
    part = ROOT / "ds_configs"
    values = {
        "title": "Plays",
        "engine": [str(part / "zero2.json")],
        "tasks": [str(configs / "plays.json")],
        "compressions": [str(part / "compression/imp40.json")],
        "mitigations": [str(part / f"mitigation/{name}.json") for name in ("vanilla", "rmc_plus")],
        "seeds": [3],
        "set": [f"robust_compression.model={tiny_model}", "tensorboard.enabled=false"],
    }
    (configs / "studies/plays.json").write_text(json.dumps(values))
    return folder, start(folder)


def start(folder: Path) -> subprocess.CompletedProcess[str]:
    words = [str(folder / "configs/studies/plays.json"), "--output_dir", str(folder / "out")]
    override = f"robust_compression.task.data_dir={folder / 'data'}"
    return python("-m", "compress.study", *words, "--set", override)


def test_a_study_of_a_task_in_json_ends_in_a_report(study) -> None:
    folder, done = study
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[  1/2] plays/imp40-rmc_plus-seed3: done in" in done.stdout  # it makes the difficulty
    rows = result_rows.load([folder / "out/results.parquet"])
    whole = {(r["role"], r["mitigation"], r["set"]): r for r in rows if not r["subset"]}
    assert len(whole) == 3 * 3
    for loss in ("vanilla", "rmc_plus"):
        place = folder / f"out/plays/imp40-{loss}-seed3"
        metrics = json.loads((place / "metrics.json").read_text())
        assert metrics["task"] == "plays" and metrics["student"]["ood"].keys() == {"swapped", "plain"}
        assert whole["student", loss, "dev"]["accuracy"] == pytest.approx(metrics["student"]["dev"])
        saved = np.load(place / "hits.npz")["student/ood_swapped"]
        assert np.array_equal(result_rows.hits_of(whole["student", loss, "ood_swapped"]), saved)
    parts = {(r["set"], r["subset"]): r["samples"] for r in rows if r["subset"] and r["set"] != "dev"}
    assert parts == {
        **dict.fromkeys([("ood_swapped", "swap, same"), ("ood_swapped", "add, not_same")], 20),
        **{("ood_plain", label): 7 for label in ("same", "other", "unclear")},
    }
    assert "imp40 rmc_plus" in (folder / "out/report.md").read_text()
    assert "imp40 rmc_plus" in (folder / "out/report.html").read_text()


def test_again_it_finds_everything_finished(study) -> None:
    done = start(study[0])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished before") == 2


def test_a_failed_run_is_listed_and_the_others_count(study) -> None:
    folder, _ = study
    place = folder / "out/plays/imp40-rmc_plus-seed3"
    hits, kept = place / "hits.npz", place / "kept.npz"
    hits.rename(kept)
    hits.mkdir()
    try:
        done = start(folder)
    finally:
        hits.rmdir()
        kept.rename(hits)
    assert done.returncode == 1
    assert "failed: plays/imp40-rmc_plus-seed3: " in done.stdout and "hits.npz" in done.stdout
    assert "imp40 vanilla" in (folder / "out/report.md").read_text()
