"""Batches: their order, their parts for any number of ranks, their padding."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.data.batches import (
    WINDOW,
    EpochBatches,
    cut,
    joined,
    pad,
    scoring_batches,
    scoring_order,
    share,
)


def realistic_lengths(n=5000, seed=0):
    """Token counts of sentence pairs: many short, few long."""
    drawn = np.random.default_rng(seed).lognormal(3.4, 0.5, n)
    return np.clip(drawn, 5, 128).astype(np.int64)


def flat(batches):
    return np.concatenate(batches).tolist()


def waste(lengths, batches):
    """Share of the token positions that is padding."""
    cells = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
    return 1 - int(lengths.sum()) / cells


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=120),
    st.integers(1, 17),
    st.integers(0, 10),
    st.integers(0, 5),
)
def test_an_epoch_has_each_sample_once(lengths, size, seed, epoch):
    batches = EpochBatches(np.array(lengths), size, seed, epoch)
    assert sorted(flat(batches)) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // size)
    assert sum(len(batch) != size for batch in batches) <= 1
    assert all(1 <= len(batch) <= size for batch in batches)


def listed(lengths, batch_size, seed, epoch):
    """The batches of an epoch, all made at once."""
    generator = np.random.default_rng((seed, epoch))
    order, batches = generator.permutation(len(lengths)), []
    for start in range(0, len(order), batch_size * WINDOW):
        window = order[start : start + batch_size * WINDOW]
        window = window[np.argsort(lengths[window], kind="stable")]
        batches += [window[i : i + batch_size] for i in range(0, len(window), batch_size)]
    return [batches[i].tolist() for i in generator.permutation(len(batches))]


@pytest.mark.parametrize(("count", "size"), [(5000, 16), (4800, 32), (1599, 32), (7, 16), (300, 1)])
def test_batches_made_on_demand_are_those_made_at_once(count, size):
    lengths = realistic_lengths(count)
    found = EpochBatches(lengths, size, 3, 1)
    assert [batch.tolist() for batch in found] == listed(lengths, size, 3, 1)
    assert [batch.tolist() for batch in found] == listed(lengths, size, 3, 1), "at another pass too"
    assert all(batch.dtype == np.int64 for batch in found)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=90), st.integers(1, 17), st.integers(1, 5))
def test_what_the_parts_computed_comes_back_in_order(lengths, size, parts):
    order = scoring_order(np.array(lengths))
    rows = [
        np.concatenate([share(batch, part, parts)[0] for batch in cut(order, size)])
        for part in range(parts)
    ]
    values = np.stack(rows)[:, :, None] * np.array([1, 10])
    assert joined(values, order, size).tolist() == [[n, 10 * n] for n in range(len(lengths))]
    assert [b.tolist() for b in cut(order, size)] == [
        b.tolist() for b in scoring_batches(np.array(lengths), size)
    ]


def test_order_depends_on_seed_and_epoch_only():
    lengths = realistic_lengths(300)
    orders = {}
    for seed in range(3):
        for epoch in range(3):
            np.random.seed(7 * seed)
            torch.manual_seed(epoch)
            random.seed(epoch)
            first = flat(EpochBatches(lengths, 8, seed, epoch))
            assert first == flat(EpochBatches(lengths, 8, seed, epoch))
            orders[tuple(first)] = (seed, epoch)
    assert len(orders) == 9


def test_global_random_state_is_left_alone():
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    EpochBatches(realistic_lengths(100), 8, 1, 2)
    assert np.random.random() == expected


@pytest.mark.parametrize("size", [16, 64])
def test_batches_are_of_similar_length(size):
    lengths = realistic_lengths()
    order = np.random.default_rng(1).permutation(len(lengths))
    unsorted = [order[i : i + size] for i in range(0, len(order), size)]
    batches = EpochBatches(lengths, size, seed=3, epoch=0)
    assert waste(lengths, unsorted) > 0.4
    assert waste(lengths, batches) < 0.1 * waste(lengths, unsorted)


def test_batches_do_not_come_by_length():
    lengths = realistic_lengths()
    means = [float(lengths[batch].mean()) for batch in EpochBatches(lengths, 32, 0, 0)]
    position = np.corrcoef(np.arange(len(means)), means)[0, 1]
    assert abs(position) < 0.25
    assert means != sorted(means)


def test_company_changes_from_epoch_to_epoch():
    lengths = realistic_lengths(32 * WINDOW * 2)
    first, second = (
        {frozenset(batch.tolist()) for batch in EpochBatches(lengths, 32, 0, epoch)} for epoch in (0, 1)
    )
    assert not first & second


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 9))
def test_scoring_batches(lengths, size):
    batches = list(scoring_batches(np.array(lengths), size))
    order = flat(batches)
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)
    assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)


@given(st.integers(1, 50), st.integers(1, 12))
def test_shares_of_all_ranks_are_the_batch(size, ranks):
    batch = np.random.default_rng(size).permutation(1000)[:size]
    shares = [share(batch, rank, ranks) for rank in range(ranks)]
    assert {len(indices) for indices, _ in shares} == {-(-size // ranks)}
    assert {len(weights) for _, weights in shares} == {-(-size // ranks)}
    counted = [i for indices, weights in shares for i in indices[weights == 1].tolist()]
    assert sorted(counted) == sorted(batch.tolist())
    assert {float(w) for _, weights in shares for w in weights} <= {0.0, 1.0}
    padding = [i for indices, weights in shares for i in indices[weights == 0].tolist()]
    assert set(padding) <= set(batch.tolist())


@given(st.integers(1, 50), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_mean_over_the_ranks_is_the_mean_over_the_batch(size, ranks, accumulation, seed):
    generator = np.random.default_rng(seed)
    losses, batch = generator.exponential(size=200), generator.permutation(200)[:size]
    parts, total = ranks * accumulation, 0.0
    for turn in range(accumulation):
        for rank in range(ranks):
            indices, weight = share(batch, turn * ranks + rank, parts)
            total += (losses[indices] * weight).sum() * (parts / len(batch))
    # the engine averages over ranks and divides by the accumulation steps
    assert total / (ranks * accumulation) == pytest.approx(losses[batch].mean(), rel=1e-9)


def test_share_spreads_the_lengths():
    # neighbours in a batch have similar lengths, so each rank takes every n-th
    batch = np.arange(8)
    assert share(batch, 0, 2)[0].tolist() == [0, 2, 4, 6]
    assert share(batch, 1, 2)[0].tolist() == [1, 3, 5, 7]


def test_pad():
    rows = {"input_ids": [[5, 6, 7], [8], [9, 4]], "token_type_ids": [[0, 0, 1], [0], [0, 1]]}
    inputs = pad(rows, pad_id=3)
    assert inputs["input_ids"].tolist() == [[5, 6, 7], [8, 3, 3], [9, 4, 3]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert inputs["token_type_ids"].tolist() == [[0, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert all(tensor.dtype == torch.int64 for tensor in inputs.values())


def test_a_padding_id_among_the_tokens_is_a_token():
    inputs = pad({"input_ids": [[5, 0, 7], [0]]}, pad_id=0)
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert "token_type_ids" not in inputs
