"""Every combination of the shipped files loads, and no file is left out of this."""

import itertools
import json
from pathlib import Path

import pytest

import compress
from compress.configuration.config import batch_split, load

ROOT = Path(compress.__file__).parents[1]
SHIPPED = ROOT / "ds_configs"

ZERO = sorted(SHIPPED.glob("zero*.json"))
TASKS = sorted(SHIPPED.glob("tasks/*.json"))
COMPRESSION = sorted(SHIPPED.glob("compression/*.json"))
MITIGATION = sorted(SHIPPED.glob("mitigation/*.json"))
STUDIES = sorted(SHIPPED.glob("studies/*.json"))
OVERLAYS = sorted(set(SHIPPED.glob("*.json")) - set(ZERO))  # settings for a kind of machine or model


def hook_of(mitigation):
    return json.loads(mitigation.read_text())["robust_compression"]["loss"]["hook"]


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS, ids=lambda file: file.stem)
def test_every_combination_of_shipped_files_loads(task):
    for zero, compression, mitigation in itertools.product(ZERO, COMPRESSION, MITIGATION):
        config = load([zero, task, compression, mitigation])
        assert config.robust.task.name == task.stem
        assert config.robust.loss.hook == hook_of(mitigation)
        if config.robust.student.model is None:
            assert config.compression.name.replace("+", "_") == compression.stem
        else:
            assert config.compression_label == config.robust.student.model.rpartition("/")[2]
        assert f"zero{config.deepspeed.zero_optimization.stage}" == zero.stem
        for world in (1, 2, 4):
            assert batch_split(config, world)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda file: file.stem)
def test_overlays_load_on_every_task(overlay):
    """Beside vanilla.json there is no other loss whose effect the baseline could show."""
    fitting = [m for m in MITIGATION if (overlay.stem, m.stem) != ("baseline", "vanilla")]
    for task, mitigation in itertools.product(TASKS, fitting):
        config = load([ZERO[0], task, overlay, SHIPPED / "compression/imp40.json", mitigation])
        assert config.robust.task.name == task.stem
        assert config.robust.loss.hook == hook_of(mitigation)


def test_no_shipped_file_is_left_out():
    assert {*ZERO, *TASKS, *COMPRESSION, *MITIGATION, *STUDIES, *OVERLAYS} == set(
        SHIPPED.rglob("*.json")
    )
    assert all((ZERO, TASKS, COMPRESSION, MITIGATION))
