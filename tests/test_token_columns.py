"""Tokens in flat files: what is written is read, and padded like lists of tokens."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.data import columns
from compress.data.batches import pad
from compress.data.columns import Columns

IDS = [[1, 2], [3], [4, 5, 6], [7, 70_000]]
TYPES = [[0, 1], [0], [0, 0, 1], [1, 1]]
LABELS = np.array([0, 2, 1, 1])


def written(folder, rows, labels=LABELS, largest=70_000, part=3):
    """The rows, written in parts."""
    count = len(labels)

    def flat(rows):
        return np.array([value for row in rows for value in row])

    parts = [
        {name: flat(values[n : n + part]) for name, values in rows.items()}
        | {"lengths": np.array([len(row) for row in rows["input_ids"][n : n + part]])}
        for n in range(0, count, part)
    ]
    columns.write(folder, iter(parts), labels, largest)
    return folder


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("with_types", [True, False])
def test_rows_and_batches(tmp_path, with_types, side):
    rows = {"input_ids": IDS} | ({"token_type_ids": TYPES} if with_types else {})
    found = Columns.open(written(tmp_path / "split", rows), 9, side)
    assert len(found) == 4
    assert found.lengths.tolist() == [2, 1, 3, 2]
    assert found.labels.tolist() == LABELS.tolist()
    chosen = [2, 0, 2, 1, 3]
    batch = found.batch(np.array(chosen), "cpu")
    expected = pad({name: [values[n] for n in chosen] for name, values in rows.items()}, 9, side)
    assert batch.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(batch[name], tensor) and batch[name].dtype == tensor.dtype, name
        assert batch[name].is_contiguous()


@given(
    rows=st.lists(st.lists(st.integers(0, 60_000), min_size=1, max_size=9), min_size=1, max_size=20),
    part=st.integers(1, 8),
    side=st.sampled_from(["left", "right"]),
    data=st.data(),
)
def test_any_rows_and_any_parts(tmp_path_factory, rows, part, side, data):
    folder = tmp_path_factory.mktemp("any") / "split"
    found = Columns.open(
        written(folder, {"input_ids": rows}, np.arange(len(rows)), 60_000, part), 7, side
    )
    assert found.tokens["input_ids"].dtype == np.uint16
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=12))
    batch = found.batch(np.array(chosen), "cpu")
    expected = pad({"input_ids": [rows[n] for n in chosen]}, 7, side)
    assert all(torch.equal(batch[name], tensor) for name, tensor in expected.items())


def test_the_head_is_a_split_of_its_own(tmp_path):
    found = Columns.open(written(tmp_path / "split", {"input_ids": IDS}), 0).head(2)
    assert len(found) == 2 and found.labels.tolist() == [0, 2] and found.offsets.tolist() == [0, 2, 3]
    assert found.batch(np.array([1, 0]), "cpu")["input_ids"].tolist() == [[3, 0], [1, 2]]
    assert len(found.head(9)) == 2


def test_equal_tokens_whatever_their_types(tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "CHUNK", 2)
    rows = {"input_ids": [[1, 2], [3]]}
    one = Columns.open(written(tmp_path / "a", rows, LABELS[:2], largest=10), 0)
    two = Columns.open(written(tmp_path / "b", rows, LABELS[:2]), 0)
    assert one.tokens["input_ids"].dtype != two.tokens["input_ids"].dtype
    assert one.same_tokens(two) and two.same_tokens(one)
    for name, other in (
        ("c", {"input_ids": [[1, 2], [4]]}),
        ("d", {"input_ids": [[1], [2, 3]]}),
        ("e", {**rows, "token_type_ids": [[0, 0], [0]]}),
    ):
        assert not one.same_tokens(Columns.open(written(tmp_path / name, other, LABELS[:2]), 0)), name


def test_what_is_mapped_cannot_be_changed(tmp_path):
    found = Columns.open(written(tmp_path / "split", {"input_ids": IDS}), 0)
    with pytest.raises(ValueError, match="read-only"):
        found.tokens["input_ids"][0] = 5
