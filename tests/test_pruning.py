"""The pruning schedule by its values, and the masks against a plain sort."""

from itertools import pairwise

import numpy as np
import pytest
import torch

pytest.importorskip("deepspeed.compression.compress", reason="DeepSpeed has it until 0.19.6")

from hypothesis import given
from hypothesis import strategies as st

from compress.compression.library import magnitude_mask
from compress.compression.pruning_schedule import PruningSchedule, n_pruned


def plain_mask(weight, mask, sparsity):
    """The lowest magnitudes go, of equal ones the first, and what was gone stays gone."""
    sizes = np.abs(weight.float().numpy().ravel())
    keep = np.ones(sizes.size) if mask is None else mask.float().numpy().ravel().copy()
    alive = [i for i in np.argsort(sizes, kind="stable") if keep[i]]
    goal = round(sizes.size * sparsity)
    for index in alive[: max(0, goal - (sizes.size - len(alive)))]:
        keep[index] = 0
    return keep.reshape(tuple(weight.shape))


@st.composite
def tensors(draw):
    """Weights with many ties, zeros of both signs and extreme magnitudes."""
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 8)))
    values = st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 1e-30, 3e4]) | st.floats(-2, 2, width=32)
    count = shape[0] * shape[1]
    rows = draw(st.lists(values, min_size=count, max_size=count))
    return torch.tensor(rows, dtype=torch.float32).view(shape)


def test_cubic_schedule_by_hand():
    schedule = PruningSchedule(start=0.0, target=0.8, begin=10, end=50)
    # 0.8 - 0.8 (1 - progress)^3 at progress 0, 1/4, 1/2, 3/4
    expected = {10: 0.0, 20: 0.8 * 37 / 64, 30: 0.7, 40: 0.8 * 63 / 64}
    for step, sparsity in expected.items():
        assert schedule.sparsity(step) == pytest.approx(sparsity, abs=1e-12)


def test_linear_schedule_by_hand():
    schedule = PruningSchedule(start=0.2, target=0.6, begin=100, end=200, curve="linear")
    for step, sparsity in {100: 0.2, 125: 0.3, 150: 0.4, 175: 0.5}.items():
        assert schedule.sparsity(step) == pytest.approx(sparsity, abs=1e-12)


@pytest.mark.parametrize("curve", ["cubic", "linear"])
def test_schedule_outside_is_exact(curve):
    schedule = PruningSchedule(start=0.1, target=0.7, begin=5, end=9, curve=curve)
    assert [schedule.sparsity(step) for step in (0, 4, 9, 10, 10**9)] == [0.1, 0.1, 0.7, 0.7, 0.7]


def test_schedule_without_length_jumps():
    schedule = PruningSchedule(start=0.0, target=0.4, begin=7, end=7)
    assert [schedule.sparsity(step) for step in (6, 7, 8)] == [0.0, 0.4, 0.4]
    assert [step for step in range(20) if schedule.refresh_at(step)] == [7]


@given(
    st.floats(0, 0.99),
    st.floats(0, 0.99),
    st.integers(0, 20),
    st.integers(0, 30),
    st.sampled_from(["cubic", "linear"]),
)
def test_schedule_is_monotone(one, other, begin, length, curve):
    start, target = sorted((one, other))
    schedule = PruningSchedule(start, target, begin, begin + length, curve=curve)
    values = [schedule.sparsity(step) for step in range(begin + length + 3)]
    assert all(b >= a - 1e-12 for a, b in pairwise(values))
    assert all(start - 1e-12 <= value <= target + 1e-12 for value in values)
    assert values[-1] == target


def test_cubic_prunes_earlier_than_linear():
    cubic, linear = (PruningSchedule(0.0, 0.8, 0, 100, curve=curve) for curve in ("cubic", "linear"))
    assert all(cubic.sparsity(step) > linear.sparsity(step) for step in range(1, 100))


@pytest.mark.parametrize(
    ("begin", "end", "stride", "expected"),
    [
        (3, 20, 7, [3, 10, 17, 20]),
        (0, 6, 2, [0, 2, 4, 6]),
        (2, 5, 1, [2, 3, 4, 5]),
        (1, 5, 100, [1, 5]),
    ],
)
def test_refreshes(begin, end, stride, expected):
    schedule = PruningSchedule(0.0, 0.5, begin, end, stride)
    assert [step for step in range(40) if schedule.refresh_at(step)] == expected


def test_mask_by_hand():
    weight = torch.tensor([[0.1, -0.4], [-0.2, 0.3]])
    assert magnitude_mask(weight, None, 0.5).tolist() == [[0, 1], [0, 1]]


@given(tensors(), st.floats(0, 0.999))
def test_mask_is_the_plain_one(weight, sparsity):
    mask = magnitude_mask(weight, None, sparsity)
    assert mask.shape == weight.shape and mask.dtype == weight.dtype
    assert mask.tolist() == plain_mask(weight, None, sparsity).tolist()
    assert abs(int((mask == 0).sum()) - weight.numel() * sparsity) <= 0.5


@given(tensors(), st.data(), st.floats(0, 0.999))
def test_mask_with_an_old_one_is_the_plain_one(weight, data, sparsity):
    count = weight.numel()
    bits = data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=count, max_size=count))
    old = torch.tensor(bits).view(weight.shape)
    mask = magnitude_mask(weight, old, sparsity)
    assert mask.tolist() == plain_mask(weight, old, sparsity).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("curve", ["cubic", "linear"])
def test_pruned_stays_pruned_while_weights_change(curve, dtype):
    generator = torch.Generator().manual_seed(0)
    schedule = PruningSchedule(0.0, 0.85, 2, 40, 3, curve)
    mask = None
    for step in filter(schedule.refresh_at, range(50)):
        weight = torch.randn(31, 17, generator=generator).to(dtype)
        old, mask = mask, magnitude_mask(weight, mask, schedule.sparsity(step))
        assert mask.dtype == dtype
        assert int((mask == 0).sum()) == n_pruned(31 * 17, schedule.sparsity(step))
        if old is not None:
            assert bool((mask <= old).all())
    assert int((mask == 0).sum()) == 448  # 0.85 * 527 = 447.95


def test_old_mask_with_more_zeros_is_kept():
    old = torch.tensor([0.0, 0.0, 0.0, 1.0])
    weight = torch.tensor([9.0, 9.0, 9.0, 0.1])
    assert magnitude_mask(weight, old, 0.25).tolist() == old.tolist()


def test_pruned_weights_count_even_if_they_have_grown():
    old = torch.tensor([0.0, 1.0, 1.0, 1.0])
    weight = torch.tensor([9.0, 3.0, 1.0, 2.0])
    assert magnitude_mask(weight, old, 0.5).tolist() == [0, 1, 0, 1]


def test_pruned_goes_before_a_live_zero():
    old = torch.tensor([1.0, 0.0, 1.0])
    assert magnitude_mask(torch.tensor([0.0, 5.0, 1.0]), old, 1 / 3).tolist() == [1, 0, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ties_go_to_the_lower_index(dtype):
    weight = torch.tensor([[2.0, -1.0, 1.0], [-1.0, 1.0, 3.0]], dtype=dtype)
    assert magnitude_mask(weight, None, 0.5).tolist() == [[1, 0, 0], [0, 1, 1]]


def test_all_zero_weights():
    assert magnitude_mask(torch.zeros(2, 5), None, 0.3).flatten().tolist() == [0] * 3 + [1] * 7


def test_sparsity_zero_keeps_all():
    weight = torch.tensor([0.0, 1.0, -2.0])
    assert magnitude_mask(weight, None, 0.0).tolist() == [1, 1, 1]
    old = torch.tensor([1.0, 0.0, 1.0])
    assert magnitude_mask(weight, old, 0.0).tolist() == [1, 0, 1]


def test_bf16_magnitudes_too_close_to_tell_are_ties():
    # 1.001 and 1.002 are both 1 in bfloat16; in float32 the second and third would go
    weight = torch.tensor([1.002, 1.001, 1.0, 4.0])
    assert magnitude_mask(weight, None, 0.5).tolist() == [1, 0, 0, 1]
    assert magnitude_mask(weight.bfloat16(), None, 0.5).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("size", "sparsity", "count"),
    [(10, 0.0, 0), (10, 0.4, 4), (527, 0.85, 448), (3, 1.0, 3), (0, 0.5, 0)],
)
def test_count(size, sparsity, count):
    assert n_pruned(size, sparsity) == count


def test_inputs_are_left_alone():
    weight = torch.tensor([3.0, -1.0, 2.0], requires_grad=True)
    old = torch.ones(3)
    mask = magnitude_mask(weight, old, 0.4)
    assert mask.tolist() == [1, 0, 1] and not mask.requires_grad
    assert weight.tolist() == [3.0, -1.0, 2.0] and old.tolist() == [1, 1, 1]
