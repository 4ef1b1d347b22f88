"""A pass over a split: what the main rank writes of all samples is what PyTorch says of each."""

from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from launcher import two_ranks

from compress.checkpoints.unfinished import Unfinished
from compress.errors import UserError
from compress.scoring import split_pass
from compress.scoring.split_pass import SplitPass
from compress.stages import difficulty

CPU, COUNT, CLASSES = torch.device("cpu"), 11, 3
LOGITS = torch.randn(COUNT, CLASSES, generator=torch.Generator().manual_seed(0)) * 4
LABELS = np.random.default_rng(0).integers(0, CLASSES, COUNT).astype(np.int16)


class Data:
    lengths = np.random.default_rng(1).integers(1, 9, COUNT)

    def __len__(self):
        return COUNT

    def batch(self, indices, device):
        return {"number": torch.as_tensor(indices)}


def over(logits=LOGITS, batch_size=4):
    return SplitPass(lambda inputs: logits[inputs["number"]], Data(), batch_size, CPU)


def expected():
    """By name: how to keep it, and what is to come out."""
    gold = torch.as_tensor(LABELS.astype(np.int64))
    return {
        "probabilities": (split_pass.probabilities, F.softmax(LOGITS, dim=1)),
        "logs": (split_pass.log_probabilities, F.log_softmax(LOGITS, dim=1)),
        "losses": (split_pass.losses(LABELS), F.cross_entropy(LOGITS, gold, reduction="none")),
    }


def split(groups=(0, 1, 2)):
    return SimpleNamespace(labels=LABELS, groups=groups)


@pytest.mark.parametrize("name", expected())
def test_what_is_written(tmp_path, name):
    keep, right = expected()[name]
    over().write(keep, tmp_path / "values.npy")
    found = np.load(tmp_path / "values.npy")
    assert found.dtype == np.float32 and found.shape == tuple(right.shape)
    np.testing.assert_allclose(found, right.numpy(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("groups", [(0, 1, 2), (0, 1, 1)])
def test_how_many_are_right(groups):
    """Classes that a set does not tell apart count as one."""
    answers = [groups[int(row.argmax())] for row in LOGITS]
    right = sum(int(answer == label) for answer, label in zip(answers, LABELS, strict=True))
    assert 0 < right < COUNT and over().right(split(groups)) == right


def test_scores_that_are_not_finite(tmp_path):
    wrong = LOGITS.clone()
    wrong[5, 1] = torch.nan
    with pytest.raises(UserError, match="scores are not finite"):
        over(wrong).write(split_pass.probabilities, tmp_path / "values.npy")
    with pytest.raises(UserError, match="scores are not finite"):
        over(wrong).right(split())
    assert not (tmp_path / "values.npy").exists()


def test_the_loss_matrix_is_written_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(difficulty, "ROWS", 4)
    matrix = np.random.default_rng(2).exponential(size=(COUNT, 3)).astype(np.float32)
    difficulty.save_losses(tmp_path / "train.parquet", [0.2, 0.4, 0.6], [*matrix.T], LABELS)
    table = pq.read_table(tmp_path / "train.parquet")
    assert pq.ParquetFile(tmp_path / "train.parquet").num_row_groups == 3
    assert table["index"].to_pylist() == [*range(COUNT)]
    assert table["label"].to_pylist() == LABELS.tolist()
    assert table["loss_0.4"].to_pylist() == matrix[:, 1].tolist()
    exact = matrix.astype(np.float64)
    np.testing.assert_allclose(difficulty.load_variance(tmp_path, "train"), exact.var(axis=1))
    np.testing.assert_allclose(difficulty.mean_losses(tmp_path, "train"), exact.mean(axis=0))


ON_TWO = """
import sys
from pathlib import Path
import numpy as np, torch, torch.distributed as dist
sys.path.insert(0, "tests")
import test_split_pass as known
from compress.checkpoints.unfinished import Unfinished
from compress.errors import UserError
from compress.runtime import ranks

dist.init_process_group("gloo")
folder = Path(sys.argv[1])
for name, (keep, _) in known.expected().items():
    known.over().write(keep, folder / f"{name}.npy")
assert known.over().right(known.split()) == int(sys.argv[2])

wrong = known.LOGITS.clone()
wrong[5, 1] = torch.nan
try:
    known.over(wrong).write(known.expected()["losses"][0], folder / "wrong.npy")
except UserError:
    pass
else:
    raise AssertionError("one rank alone had it")

asked = []
def make():
    asked.append(1)
    return np.arange(5.0)

found = Unfinished(path=folder / "work").mapped("values", make)
assert isinstance(found, np.memmap) and found.tolist() == [0, 1, 2, 3, 4]
assert len(asked) == int(ranks.is_main())
"""


@pytest.mark.slow
def test_two_ranks_write_the_same(tmp_path):
    """Each computes a share; the padding of the last batch counts once; an array is made by one."""
    done = two_ranks("-c", ON_TWO, str(tmp_path), str(over().right(split())))
    assert done.returncode == 0, done.stderr
    for name, (keep, _) in expected().items():
        over().write(keep, tmp_path / "alone.npy")
        found, alone = (np.load(tmp_path / file) for file in (f"{name}.npy", "alone.npy"))
        np.testing.assert_array_equal(found, alone)
    assert not (tmp_path / "wrong.npy").exists()


def test_an_array_that_every_rank_maps(tmp_path):
    found = Unfinished(path=tmp_path / "work").mapped("values", lambda: np.arange(3.0))
    assert isinstance(found, np.memmap) and found.tolist() == [0, 1, 2]
