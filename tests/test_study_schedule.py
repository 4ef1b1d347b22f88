"""Which run of a study starts when. No training."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from studies import names, runs_of

from compress.errors import UserError
from compress.study import run_order

# Shards


def test_shards_cover_every_run_once_and_split_no_teacher(tmp_path):
    runs = runs_of(tmp_path, tasks=["fever", "qqp", "mnli"])
    for count in (1, 2, 4, 6):
        parts = [run_order.shard(runs, f"{i}/{count}") for i in range(1, count + 1)]
        assert sorted(name for part in parts for name in names(part)) == sorted(names(runs))
        owners = [{(run.task, run.seed) for run in part} for part in parts]
        assert sum(map(len, owners)) == 6
        assert max(map(len, parts)) - min(map(len, parts)) <= 4


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("3/2", "from 1 to n"),
        ("0/2", "from 1 to n"),
        ("2", "as i/n"),
        ("a/b", "as i/n"),
        ("1/3", "has 2 teachers"),
    ],
)
def test_a_shard_that_cannot_be(tmp_path, text, why):
    with pytest.raises(UserError, match=f"--shard {text}.*{why}"):
        run_order.shard(runs_of(tmp_path), text)


# Order


def test_without_a_loss_that_uses_a_difficulty_the_first_goes_ahead(tmp_path):
    runs = runs_of(tmp_path, mitigations=["vanilla", "distil"])
    first = {run.seed: run.name for run in reversed(runs)}
    assert run_order.pioneers(runs) == set(first.values())


def test_the_first_of_every_unit_goes_before_the_others(tmp_path):
    runs = runs_of(tmp_path)
    order, taken = run_order.Schedule(runs), []
    while (run := order.take()) is not None:
        taken.append(run)
        order.ended(run, succeeded=True)
    assert [run.seed for run in taken[:2]] == [1, 2]
    assert run_order.pioneers(runs) == set(names(taken[:2]))
    assert [(run.compression, run.mitigation) for run in taken[:2]] == [("imp40", "rmc")] * 2
    assert names(taken[2:]) == [name for name in names(runs) if name not in names(taken[:2])]


def test_of_a_unit_one_goes_ahead_until_one_has_ended_well(tmp_path):
    runs = [run for run in runs_of(tmp_path) if run.seed == 1]
    order = run_order.Schedule(runs)
    with ThreadPoolExecutor(1) as pool:
        pioneer = order.take()
        for well in (False, True):
            waiting = pool.submit(order.take)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.2)
            order.ended(pioneer, well)
            pioneer = waiting.result(timeout=60)
        left = pool.submit(order.take).result(timeout=60)
        assert {pioneer.mitigation, left.mitigation} == {"vanilla"}


def test_who_waits_is_sent_home_when_the_study_stops(tmp_path):
    order = run_order.Schedule(runs_of(tmp_path)[:2])
    order.take()
    threading.Timer(0.1, order.stop).start()
    assert order.take() is None and order.stopped
