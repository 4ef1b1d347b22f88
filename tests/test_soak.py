"""Runs that are killed at random places come to the same as one that is left alone; see soak.py."""

import random

import pytest
from soak import Job, tried

pytestmark = [pytest.mark.launcher, pytest.mark.timeout(900)]


def test_six_kills_change_nothing(tmp_path, tiny_model):
    job = Job(tiny_model, whom=("rank",))
    alone = job.start(tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr[-3000:]
    outcome = tried(job, tmp_path / "alone", tmp_path / "killed", random.Random(7), 6)
    assert outcome.wrong == []
    assert outcome.kills == 6
    assert outcome.lost <= 6 * 6, "a checkpoint every three steps, of which the last may be torn"
