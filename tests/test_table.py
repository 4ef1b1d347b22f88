"""The table over seeds against means and deviations computed by hand."""

import json

import pytest

from compress import table
from compress.errors import UserError


def write(folder, seed, dev, ood, bias):
    model = {"dev": dev, "ood": {"a": ood, "b": ood}, "ood_pooled": ood, "delta": (dev - ood) / dev}
    folder.mkdir()
    run = {"task": "t", "seed": seed, "compression": "imp60", "mitigation": "rmc", "f_bias": bias}
    (folder / "metrics.json").write_text(json.dumps({**run, "teacher": model, "student": model}))
    return folder


def test_mean_and_sample_deviation(tmp_path):
    runs = [
        write(tmp_path / "1", 1, 0.8, 0.4, 1.0),
        write(tmp_path / "2", 2, 0.9, 0.6, 2.0),
        write(tmp_path / "3", 3, 1.0, 0.8, None),
    ]
    lines = table.markdown(table.load(runs)).splitlines()
    assert lines[0] == "| t | seeds | dev | a | b | OOD pooled | Delta | F_bias |"
    assert lines[2].startswith("| teacher | 3 | 90.0 ± 10.0 | 60.0 ± 20.0 |")
    assert lines[3].startswith("| imp60 rmc | 3 | 90.0 ± 10.0 |")
    assert lines[3].endswith("| 0.344 ± 0.150 | 1.50 ± 0.71 (2 of 3) |")


def test_two_runs_of_one_seed_are_no_spread(tmp_path):
    runs = [write(tmp_path / name, 7, 0.8, 0.4, 1.0) for name in ("one", "two")]
    with pytest.raises(UserError, match=r"two.metrics.json: another run .* seed \(7\)"):
        table.load(runs)


def test_a_folder_without_metrics_is_named(tmp_path):
    with pytest.raises(UserError, match=r"metrics.json: cannot be read"):
        table.load([tmp_path])
