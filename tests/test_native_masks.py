"""Our own masks: what is chosen, against a plain sort, in one piece and in parts on several ranks."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from launcher import ROOT, run
from live_bytes import LiveBytes

from compress.compression.masking import Target
from compress.compression.native import learned, selection
from compress.compression.native.learned import MaskedLinear, Selection
from compress.compression.native.weights import ZeroedWeights, inside
from compress.compression.native.zeroing import Zeroing
from compress.models.blocks import Slices
from compress.training import shards
from compress.training.shards import Shard


def plain_lowest(keys, count):
    """The `count` lowest, of equal ones the first."""
    gone = np.zeros(len(keys), bool)
    gone[np.argsort(np.array(keys), kind="stable")[:count]] = True
    return gone.tolist()


def plain_pattern(keys, size):
    """Half of each group of neighbours: the lowest, of equal ones the first."""
    groups = np.array(keys).reshape(-1, size)
    return [value for group in groups for value in plain_lowest(group, size // 2)]


weights = st.lists(
    st.floats(-3, 3, width=16) | st.sampled_from([0.0, -0.0, 1.0, -1.0, 2**-14]),
    min_size=1,
    max_size=60,
)


@given(weights, st.floats(0, 1))
def test_lowest_are_those_of_a_stable_sort(values, share):
    keys = selection.magnitude_bits(torch.tensor(values), torch.float32)
    count = round(share * len(values))
    [gone] = selection.lowest([keys], [count], divided=False)
    assert gone.tolist() == plain_lowest(np.abs(values), count)


def test_magnitudes_are_compared_as_the_model_computes_with_them():
    values = torch.tensor([1.0, 1.0001, 0.9999])
    exact = selection.magnitude_bits(values, torch.float32)
    rounded = selection.magnitude_bits(values, torch.bfloat16)
    assert selection.lowest([exact], [1], divided=False)[0].tolist() == [False, False, True]
    assert selection.lowest([rounded], [1], divided=False)[0].tolist() == [True, False, False]


@pytest.mark.launcher
def test_parts_on_three_ranks_are_chosen_like_the_whole(tmp_path):
    driver = str(ROOT / "tests/drivers/divided_selection.py")
    done = run(["torchrun", "--standalone", "--nproc_per_node", "3", driver, str(tmp_path)])
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    compared = 0
    for first, *others in zip(*ranks, strict=True):
        for number, (keys, count) in enumerate(zip(first["keys"], first["counts"], strict=True)):
            merged = {
                what: [x for part in (first, *others) for x in part[what][number]]
                for what in ("gone", "allowed4", "allowed8")
            }
            assert merged["gone"] == plain_lowest(keys, count)
            masked = [-1 if p else k for k, p in zip(keys, first["pruned"][number], strict=True)]
            assert merged["allowed4"] == plain_pattern(masked, 4)
            assert merged["allowed8"] == plain_pattern(masked, 8)
            compared += 1
    assert compared == 140


# ------------------------------------------------------------------------------------- whole matrices


def zeroed(*shapes):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(columns, rows) for rows, columns in shapes]
    zeroing = Zeroing()
    zeroing.add({f"{n}.weight": layer.weight for n, layer in enumerate(layers)})
    names = [str(n) for n in range(len(layers))]
    return layers, ZeroedWeights(zeroing, names), names


@pytest.mark.parametrize(("pattern", "size"), [((2, 4), 4), ((4, 8), 8)])
def test_pattern_holds_on_the_way_and_at_its_end(pattern, size):
    """The lowest weights go first, and in the end exactly half of each group of neighbours."""
    [layer], masks, names = zeroed((6, 16))
    original = layer.weight.detach().clone()
    for sparsity in (0.1, 0.3, 0.5):
        masks.prune({names[0]: Target(sparsity, pattern)}, {})
        zeros = (layer.weight == 0).view(-1, size).sum(dim=1)
        assert zeros.max() <= size // 2
        assert int(zeros.sum()) == round(sparsity * 96)
    assert set(zeros.tolist()) == {size // 2}
    kept = original.abs().view(-1, size).argsort(dim=1)[:, size // 2 :]
    assert torch.equal((layer.weight != 0).view(-1, size).nonzero()[:, 1].view(-1, size // 2),
                       kept.sort(dim=1).values)  # fmt: skip


def test_pattern_can_be_packed_for_sparse_tensor_cores():
    """torch's own conversion, an independent reference, gives the same matrix back."""
    from torch.sparse import _semi_structured_conversions as conversions

    [layer], masks, names = zeroed((32, 64))
    masks.prune({names[0]: Target(0.5, (2, 4))}, {})
    dense = layer.weight.detach().half()
    packed, meta = conversions.sparse_semi_structured_from_dense_cutlass(dense)
    assert packed.shape == (32, 32)
    back = conversions.sparse_semi_structured_to_dense_cutlass(packed, meta)
    assert torch.equal(back, dense)


def test_what_heads_and_neurons_leave_is_counted_alone():
    [layer], masks, names = zeroed((8, 12))
    left = {names[0]: (torch.tensor([0, 2, 5]), torch.arange(6))}
    masks.prune({names[0]: Target(0.5)}, left)
    zero = layer.weight == 0
    assert int(zero.sum()) == int(zero[[0, 2, 5]][:, :6].sum()) == 9
    assert masks.counts(left) == (9.0, 18.0)
    masks.prune({names[0]: Target(0.5)}, {names[0]: (torch.tensor([0, 2]), torch.arange(6))})
    assert torch.equal(zero, zero & (layer.weight == 0))


def test_counting_holds_a_layer_at_a_time():
    layers, masks, names = zeroed(*[(300, 300)] * 12)
    masks.prune({name: Target(0.5) for name in names}, {})
    with LiveBytes() as live:
        assert masks.counts({}) == (12 * 45_000, 12 * 90_000)
    there = sum(layer.weight.nbytes + 90_000 for layer in layers)
    assert live.peaks[""] - there < 5 * 90_000


def test_empty_parts_lie_where_the_offloaded_masters_do():
    """The parameters of a GPU: a rank that owns nothing of one counts together with what it owns."""
    given = torch.nn.Linear(4, 4, device="meta").weight
    given._hp_mapping = None
    masters = [torch.randn(16)]
    engine = SimpleNamespace(
        zero_optimization_stage=lambda: 2,
        optimizer=SimpleNamespace(single_partition_of_fp32_groups=masters),
    )
    [layer], masks, names = zeroed((4, 4))
    empty = shards.of(engine, {"other.weight": given})["other.weight"]
    masks._zeroing.shards["other.weight"] = empty
    masks.prune({names[0]: Target(0.5), "other": Target(0.0)}, {})
    assert int((layer.weight == 0).sum()) == 8
    assert empty.master.device == masters[0].device


@given(st.integers(1, 7), st.integers(1, 7), st.data())
def test_inside_is_a_range_of_the_flattened_choice(rows, columns, data):
    start = data.draw(st.integers(0, rows * columns))
    length = data.draw(st.integers(0, rows * columns - start))
    sides = [data.draw(st.none() | st.sets(st.integers(0, n - 1))) for n in (rows, columns)]
    parameter = torch.nn.Parameter(torch.zeros(rows, columns))
    shard = Shard(parameter, parameter.shape, start, length)
    whole = np.zeros((rows, columns), bool)
    chosen = [
        range(n) if side is None else sorted(side) for side, n in zip(sides, whole.shape, strict=True)
    ]
    whole[np.ix_(*chosen)] = True
    given_sides = [
        None if side is None else torch.tensor(sorted(side), dtype=torch.long) for side in sides
    ]
    assert inside(shard, *given_sides).tolist() == whole.ravel()[start : start + length].tolist()


# ------------------------------------------------------------------------------------- learned scores


@pytest.mark.parametrize("find", ["_find", "_find_near"])
def test_a_selection_keeps_two_numbers(find):
    """Ties of many scores, as at the first step: no view of what they were found in."""
    selection = Selection()
    getattr(selection, find)(torch.zeros(1000), 400)
    for kept in (selection._threshold, selection._end):
        assert kept.untyped_storage().nbytes() <= 8


@given(st.lists(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 0.5000001, 2.0]), min_size=9, max_size=9),
                min_size=1, max_size=6), st.integers(0, 9))  # fmt: skip
def test_highest_scores_stay_over_many_steps(steps, count):
    """The search near the last threshold finds what a stable sort finds, and exactly so many."""
    one = Selection()
    for scores in steps:
        kept = one.mask(torch.tensor(scores), count)
        assert kept.tolist() == plain_lowest([-score for score in scores], count)
        assert torch.equal(one.mask(torch.tensor(scores), count), kept)
        one.forget()


def walk(steps, size, dtype):
    """Scores that drift, with noise, a jump and ties, over some steps."""
    generator = torch.Generator().manual_seed(size)
    drift = torch.randn(size, generator=generator)
    scores = torch.randn(size, generator=generator)
    for step in range(steps):
        scores = scores + 0.01 * drift + 0.001 * torch.randn(size, generator=generator)
        scores = scores + 0.5 * (step == steps // 2)
        yield (scores * 200).round().div(200).to(dtype) if step % 5 == 4 else scores.to(dtype)


@pytest.mark.parametrize("size", [63, 64, 1003])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("share", [0.02, 0.6, 0.99])
def test_the_search_in_blocks_is_exact(size, dtype, share):
    """What stays is what a stable sort gives, while scores drift and jump."""
    one, count = Selection(), max(int(share * size), 1)
    for scores in walk(20, size, dtype):
        kept = one.mask(scores, count).tolist()
        assert kept == plain_lowest((-scores.float()).tolist(), count)
        one.forget()


def test_a_steady_drift_is_followed_without_all_scores(monkeypatch):
    """After some steps few of the scores are looked at, and none of the searches misses."""
    found = []
    between = learned._between

    def recorded(*given):
        found.append(len(between(*given)))
        return between(*given)

    monkeypatch.setattr(learned, "_between", recorded)
    full = []
    monkeypatch.setattr(
        Selection,
        "_expect",
        lambda self, f, flat, p, old=Selection._expect: (full.append(p), old(self, f, flat, p)),
    )
    torch.manual_seed(0)
    scores, drift, one = torch.randn(40_000), torch.randn(40_000), Selection()
    for _ in range(30):
        scores = scores + 0.01 * drift
        one.entries(scores, 16_000)
        one.forget()
    assert full[0] is not None
    assert full[10:] == [None] * 20
    assert 0 < max(found[20:]) < 400


def test_selection_on_an_accelerator_is_the_same():
    """The branch without reading anything back gives the same masks (run on the CPU here)."""
    for seed in range(20):
        torch.manual_seed(seed)
        scores = torch.randint(-3, 3, (7, 9)).float()
        near, sorted_ = Selection(), Selection()
        sorted_._find_near = sorted_._find
        for count in (1, 20, 62):
            assert torch.equal(near.mask(scores, count), sorted_.mask(scores, count))


UNITS = {
    "weights": None,
    "neurons": Slices("layer", 0, 6, (1,)),
    "neurons of two matrices": Slices("layer", 0, 3, (1, 1)),
    "heads": Slices("layer", 1, 4, (2,)),
    "heads of unequal matrices": Slices("layer", 1, 2, (3, 1)),
}


def expanded(mask, units):
    """The entry of its unit for each entry of a weight [6, 8], written with loops."""
    if units is None:
        return mask
    places = []
    for width in units.widths:
        places += [unit for unit in range(units.units) for _ in range(width)]
    flat = torch.stack([mask.view(-1)[unit] for unit in places])
    return flat[None, :].expand(6, 8) if units.axis else flat[:, None].expand(6, 8)


@pytest.mark.parametrize("units", UNITS.values(), ids=UNITS)
def test_straight_through_gradients(units):
    """Against autograd of the masked product, with the mask as a leaf."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(8, 6)
    layer = MaskedLinear(linear, units)
    layer.mask_scores.data = torch.randn(layer.mask_scores.shape)
    layer.count = layer.mask_scores.numel() // 2
    inputs = torch.randn(3, 5, 8, requires_grad=True)
    upstream = torch.randn(3, 5, 6)
    layer(inputs).backward(upstream)
    threshold = layer.mask_scores.detach().flatten().sort(descending=True).values[layer.count - 1]
    mask = (layer.mask_scores.detach() >= threshold).float().requires_grad_()
    weight, bias = (p.detach().clone().requires_grad_() for p in (linear.weight, linear.bias))
    again = inputs.detach().clone().requires_grad_()
    entries = expanded(mask, units)
    rows = entries[:, 0] if units is not None and units.axis == 0 else 1.0
    (again @ (weight * entries).T + bias * rows).backward(upstream)
    for ours, reference in (
        (inputs.grad, again.grad),
        (linear.weight.grad, weight.grad),
        (linear.bias.grad, bias.grad),
        (layer.mask_scores.grad, mask.grad),
    ):
        torch.testing.assert_close(ours, reference, atol=1e-5, rtol=1e-5)
    assert (linear.weight.grad[entries == 0] == 0).all()
    assert (layer.mask_scores.grad != 0).all()


def test_no_masked_copy_is_kept_for_the_backward_pass():
    layer = MaskedLinear(torch.nn.Linear(8, 6))
    layer.count = 20
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(torch.randn(2, 8))
    own = {id(layer.weight), id(layer.bias), id(layer.mask_scores)}
    assert {t.data_ptr() for t in saved if t.shape == (6, 8)} <= {
        layer.weight.data_ptr(), layer.mask_scores.data_ptr()
    }  # fmt: skip
    assert own
