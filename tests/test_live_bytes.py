"""The tool that counts live tensor bytes: what counts, what does not, from when until when."""

import numpy as np
import pytest
import torch
from live_bytes import LiveBytes
from safetensors.torch import load_file, save_file

SIZE = 1 << 20
"""Numbers of a tensor: 4 MiB in float32."""
BYTES = 4 * SIZE


@pytest.fixture
def live():
    with LiveBytes() as counter:
        yield counter


def test_a_storage_counts_once_until_its_last_view_is_gone(live):
    whole = torch.zeros(SIZE)
    view = whole.view(2, -1)
    assert live.current == BYTES
    del whole
    assert live.current == BYTES
    del view
    assert live.current == 0


def test_gradients_count_and_go(live):
    weight = torch.nn.Parameter(torch.ones(1024, 1024))
    (torch.ones(1024, 1024) @ weight).sum().backward()
    assert live.current == 2 * BYTES
    weight.grad = None
    weight.data = torch.empty(0)
    assert live.current == 0


def test_a_resized_storage_counts_as_it_is(live):
    storage = (kept := torch.ones(SIZE)).untyped_storage()
    storage.resize_(0)
    assert live.current == 0
    storage.resize_(2 * BYTES)
    assert live.current == 2 * BYTES
    del kept


def test_a_mapped_file_does_not_count_and_an_array_does(live, tmp_path):
    save_file({"a": torch.ones(SIZE)}, tmp_path / "a.safetensors")
    mapped = load_file(tmp_path / "a.safetensors")["a"]
    assert float(mapped.sum()) == SIZE
    assert live.current < 100
    array = torch.from_numpy(np.ones(SIZE, dtype=np.float32))
    assert float(array.sum()) == SIZE
    assert BYTES <= live.current < BYTES + 100


def test_the_innermost_part_has_the_peak(live):
    with live.part("outer"):
        kept = torch.ones(SIZE)
        with live.part("inner"):
            torch.ones(3 * SIZE)
    assert live.peaks["outer"] == BYTES
    assert live.peaks["inner"] == 4 * BYTES
    del kept
