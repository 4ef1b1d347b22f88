"""The note on ranks that have more threads than cores."""

import pytest
import torch

from compress.runtime import threads


def rank(host="a", number=1, cores=range(4), limit=None):
    return host, number, frozenset(cores), limit


FITTING = {
    "no rank that answers": [],
    "one rank": [rank(number=4)],
    "two that share": [rank(number=2), rank(number=2)],
    "two on cores of their own": [rank(number=2, cores=(0, 1)), rank(number=2, cores=(2, 3))],
    "two hosts": [rank("a", 4), rank("b", 4)],
    "a limit that suffices": [rank(number=2, limit=2)],
}
TOO_MANY = {
    "one rank": ([rank(number=5)], "a: one rank has 5 threads on 4 cores", 4),
    "two ranks": ([rank(number=4), rank(number=4)], "a: 2 ranks have 8 threads on 4 cores", 2),
    "a limit": ([rank(number=4, limit=1)], "a: one rank has 4 threads on 1 core,", 1),
    "the same cores": ([rank(number=2, cores=(0, 1))] * 2, "2 ranks have 4 threads on 2 cores", 1),
    "the worst host": ([rank("a", 5), rank("b", 9), rank("c", 4)], "b: one rank has 9 threads", 4),
}


@pytest.mark.parametrize("name", FITTING)
def test_nothing_is_said_where_every_thread_has_a_core(name):
    assert threads.sentence(FITTING[name]) == ""


@pytest.mark.parametrize("name", TOO_MANY)
def test_the_note_names_host_and_what_to_set(name):
    found, begins, right = TOO_MANY[name]
    said = threads.sentence(found)
    assert begins in said
    assert said.endswith(f"; set OMP_NUM_THREADS={right}.")


def test_of_more_ranks_than_cores_there_are_too_many():
    said = threads.sentence([rank(cores=(0,))] * 3)
    assert "3 ranks have 3 threads on 1 core," in said
    assert said.endswith("; start no more ranks than cores there.")


def test_ranks_on_a_gpu_may_have_any_number_of_threads(monkeypatch):
    monkeypatch.setattr(threads, "_own", lambda: rank(number=999))
    assert threads.note(torch.device("cuda")) == ""
    assert "999 threads" in threads.note(torch.device("cpu"))
