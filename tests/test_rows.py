"""Rows of a pass: what is kept is not computed again, and the rest is as in a pass left alone."""

import shutil

import numpy as np
import pytest
import torch
from launcher import ROOT, job, two_ranks
from same_run import differences

from compress.checkpoints.rows import FILE, Rows
from compress.errors import Interrupted
from compress.scoring.split_pass import SplitPass

CPU = torch.device("cpu")
SIZE, BATCHES = 4, 6
LENGTHS = np.random.default_rng(0).integers(1, 30, SIZE * BATCHES - 1)


class Data:
    lengths = LENGTHS

    def __len__(self):
        return len(LENGTHS)

    def batch(self, indices, device):
        return {"number": torch.as_tensor(indices)}


def values(inputs):
    return torch.stack([inputs["number"] * 1.0, inputs["number"] * 2.5], dim=1)


WHOLE = SplitPass(values, Data(), SIZE, CPU).logits()


def scored(rows, until=BATCHES):
    """Logits of a pass, and in how many calls; interrupted and kept before the call `until`."""
    calls = 0

    def forward(inputs):
        nonlocal calls
        if calls == until:
            rows.save()
            raise Interrupted("now")
        calls += 1
        return values(inputs)

    return SplitPass(forward, Data(), SIZE, CPU, rows).logits(), calls


def stopped(place, after, size=SIZE):
    """A pass that has kept so many batches more."""
    rows = Rows.of(place, size, None, lambda: None)
    rows.read()
    with pytest.raises(Interrupted):
        scored(rows, after)


def blocks(place):
    return sorted(path.name for path in place.rglob("*-*") if FILE in {p.name for p in path.glob("*")})


def test_a_pass_goes_on_where_earlier_ones_have_stopped(tmp_path):
    stopped(tmp_path, 2)
    stopped(tmp_path, 1)
    assert blocks(tmp_path) == ["000000000-000000002", "000000002-000000003"]
    rows = Rows.of(tmp_path, SIZE, None, lambda: None)
    assert rows.read() == 3
    found, calls = scored(rows)
    assert calls == BATCHES - 3
    assert np.array_equal(found, WHOLE)


def test_a_pass_that_has_kept_everything_computes_nothing(tmp_path):
    rows = Rows.of(tmp_path, SIZE, None, lambda: None)
    scored(rows)
    rows.save()
    again = Rows.of(tmp_path, SIZE, None, lambda: None)
    assert again.read() == BATCHES
    found, calls = scored(again)
    assert calls == 0 and np.array_equal(found, WHOLE)


def cut_short(block):
    file = block / FILE
    file.write_bytes(file.read_bytes()[:-4])


@pytest.mark.parametrize("harm", [shutil.rmtree, cut_short])
def test_after_a_damaged_block_rows_are_computed_again(tmp_path, harm):
    stopped(tmp_path, 2)
    stopped(tmp_path, 1)
    stopped(tmp_path, 1)
    (block,) = tmp_path.rglob("000000002-000000003")
    harm(block)
    rows = Rows.of(tmp_path, SIZE, None, lambda: None)
    assert rows.read() == 2
    assert blocks(tmp_path) == ["000000000-000000002"], "what follows it does not count either"
    found, calls = scored(rows)
    assert calls == BATCHES - 2
    assert np.array_equal(found, WHOLE)


def test_another_size_of_batch_starts_anew(tmp_path):
    stopped(tmp_path, 2)
    assert Rows.of(tmp_path, SIZE + 1, None, lambda: None).read() == 0
    assert Rows().read() == 0


def test_the_model_is_saved_once_before_the_first_block(tmp_path):
    seen = []
    rows = Rows.of(tmp_path, SIZE, None, lambda: seen.append(blocks(tmp_path)))
    for _ in range(2):
        rows.add(np.zeros((SIZE, 2), np.float32))
        rows.save()
    rows.save()
    assert seen == [[]]
    assert blocks(tmp_path) == ["000000000-000000001", "000000001-000000002"]


def test_blocks_are_due_by_time(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("compress.checkpoints.due.time.monotonic", lambda: clock[0])
    rows, never = (Rows.of(tmp_path, SIZE, minutes, lambda: None) for minutes in (10, None))
    found = []
    for clock[0] in (0, 599, 600, 601, 1199, 1201):
        found.append(rows.late())
        assert not never.late()
    assert found == [False, False, True, False, False, True]
    assert not Rows(minutes=0.001).late(), "without a place nothing is kept"


def test_rows_that_cannot_be_kept_are_said_and_used(tmp_path, capsys):
    (tmp_path / f"1x{SIZE}").write_text("in the way")
    rows = Rows.of(tmp_path, SIZE, None, lambda: None)
    rows.add(np.ones((SIZE, 2), np.float32))
    rows.save()
    assert "WARNING: what is scored is not kept here: " in capsys.readouterr().out
    assert rows.all().tolist() == [[1, 1]] * SIZE
    assert rows.batches == 1


OFTEN = "robust_compression.checkpoint.every_minutes=0.00001"
DRIVER = str(ROOT / "tests/drivers/killed_run.py")


@pytest.mark.launcher
@pytest.mark.timeout(600)
def test_two_ranks_that_end_while_they_score_go_on_there(tiny_model, tmp_path):
    """By a signal, by a kill of one of them; everything is as in a run left alone."""
    options = ("robust_compression.evaluation.batch_size=4", 'csv_monitor={"enabled": true}')
    alone, hit = (job(tiny_model, tmp_path / name / "run", *options) for name in ("alone", "hit"))
    assert (done := two_ranks(*alone)).returncode == 0, done.stderr[-3000:]
    hit[0] = DRIVER
    done = two_ranks(*hit, KILL_AT="score difficulty train 3", KILL_WITH="15", KILL_RANK="1")
    assert done.returncode == 75, done.stderr[-3000:]
    done = two_ranks(*hit, OFTEN, KILL_AT="score evaluate dev 3", KILL_RANK="1")
    assert done.returncode == -9, done.stderr[-3000:]
    assert "\ntrain: scoring continues at batch 4 of 15\n" in done.stdout
    done = two_ranks(*hit, KILL_AT="never 0")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "\ndev: scoring continues at batch 2 of 5\n" in done.stdout
    assert differences(tmp_path / "alone", tmp_path / "hit") == []
