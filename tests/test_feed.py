"""What a thread makes ahead: in order, from any step, with its errors where they belong; one buffer."""

import threading
import time

import numpy as np
import pytest
import torch

from compress.data.columns import Columns
from compress.data.packing import Packed
from compress.microbatch import SampleData
from compress.training.feed import AHEAD, Feed
from compress.training.loading import Gather


def test_steps_come_in_order_and_are_made_ahead():
    made = []
    feed = Feed(lambda step: made.append(step) or 10 * step, 9)
    assert feed.step(0) == 0
    until = time.monotonic() + 5
    while len(made) < 1 + AHEAD + 1 and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == list(range(1 + AHEAD + 1)), "one is made and waits for room"
    assert [feed.step(step) for step in range(1, 9)] == [10 * step for step in range(1, 9)]


def test_another_step_may_be_asked_for():
    feed = Feed(lambda step: step, 20)
    assert [feed.step(n) for n in (3, 4, 5, 17, 18, 4, 5)] == [3, 4, 5, 17, 18, 4, 5]
    feed.close()
    until = time.monotonic() + 5
    while any(thread.name == "feed" for thread in threading.enumerate()) and time.monotonic() < until:
        time.sleep(0.01)
    assert not any(thread.name == "feed" for thread in threading.enumerate())


def test_an_error_is_raised_at_its_step():
    def make(step):
        if step == 2:
            raise ValueError("no such sample")
        return step

    feed = Feed(make, 9)
    assert [feed.step(0), feed.step(1)] == [0, 1]
    with pytest.raises(ValueError, match="no such sample"):
        feed.step(2)


def test_arrays_of_several_types_share_a_buffer():
    shapes = {"a": ((3,), np.float32), "b": ((2, 5), np.int64), "c": ((1, 3), np.float32)}
    found = Packed.of(shapes, pinned=False)
    values = {name: np.arange(np.prod(shape)).reshape(shape) for name, (shape, _) in shapes.items()}
    for name, array in found.arrays.items():
        array[:] = values[name]
    there = found.to("cpu")
    for name, (shape, kind) in shapes.items():
        assert there[name].shape == shape and there[name].numpy().dtype == kind
        assert there[name].tolist() == values[name].tolist()
        assert there[name].untyped_storage().data_ptr() == found.buffer.data_ptr()


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_micro_batch_is_what_its_parts_give(side):
    ids = np.arange(1, 16)
    data = Columns(
        tokens={"input_ids": ids, "token_type_ids": ids % 2},
        offsets=np.array([0, 4, 5, 9, 15]),
        lengths=np.array([4, 1, 4, 6]),
        labels=np.array([2, 0, 1, 1]),
        pad_id=99,
        side=side,
    )
    draw = np.random.default_rng(0)
    known = SampleData(draw.random((4, 3), np.float32), draw.random(4), mean_difficulty=0.3)
    indices, valid = np.array([3, 1, 3]), np.array([1, 1, 0], np.float32)
    there = Gather(data, known)(indices, valid).to(torch.device("cpu"))
    expected = data.batch(indices, "cpu")
    assert there.inputs.keys() == expected.keys()
    assert all(torch.equal(there.inputs[name], value) for name, value in expected.items())
    assert there.labels.tolist() == [1, 0, 1] and there.valid.tolist() == [1, 1, 0]
    logits = torch.zeros(3, 3)
    batch = known.of_rows(there.known, logits, there.labels)
    other = known.batch(indices, logits, there.labels)
    assert torch.equal(batch.teacher, other.teacher) and torch.equal(batch.difficulty, other.difficulty)
    assert batch.mean_difficulty == 0.3
    assert batch.difficulty.tolist() == known.difficulty[indices].astype(np.float32).tolist()
