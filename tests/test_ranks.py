"""What the main rank does alone: every rank gets its result, or fails with its words."""

from pathlib import Path

import pytest
from launcher import two_ranks

import compress
from compress.errors import UserError
from compress.runtime import ranks

ROOT = Path(compress.__file__).parents[1]
TWO = """
import sys
import torch.distributed as dist
from compress.runtime import ranks
from compress.errors import UserError

dist.init_process_group("gloo")
calls = []

def work(error=None):
    calls.append(1)
    if error is not None:
        raise error
    return {"made": ranks.rank()}

def heeded(error, everywhere=False):
    with ranks.sharing_errors():
        if error is not None and (everywhere or ranks.is_main()):
            raise error

def tried(what, *arguments):
    try:
        return what(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}"

told = UserError("the disk is full.")
said = [
    ranks.on_main(work),
    tried(ranks.on_main, lambda: work(told)),
    tried(ranks.on_main, lambda: work(RuntimeError("a defect"))),
    tried(ranks.on_main, lambda: work(KeyError())),
    tried(heeded, None),
    tried(heeded, told),
    tried(heeded, told, True),
    tried(heeded, RuntimeError("a defect")),
    ranks.on_main(work),
    len(calls),
]
print(repr(said))
"""


@pytest.mark.slow
def test_two_ranks_agree() -> None:
    done = two_ranks("-c", TWO)
    assert done.returncode == 0, done.stderr[-3000:]
    main, other = map(eval, done.stdout.splitlines())
    full, defect = "UserError: the disk is full.", "UserError: a defect"
    own = defect.replace("User", "Runtime")
    assert main == [{"made": 0}, full, own, "KeyError: ", None, full, full, own, {"made": 0}, 5]
    assert other[:4] == [{"made": 0}, full, defect, "UserError: KeyError"]
    assert other[4:] == [None, full, full, defect, {"made": 0}, 0]


def test_a_single_process_has_its_own_error() -> None:
    assert ranks.on_main(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        ranks.on_main(lambda: 1 / 0)
    with pytest.raises(UserError), ranks.sharing_errors():
        raise UserError("x")


ENDS = """
import os
import sys
import time
from pathlib import Path
import torch.distributed as dist
from compress.runtime import ranks

dist.init_process_group("gloo")
dist.barrier()
if ranks.is_main():
    time.sleep(1)
    os._exit(0)
try:
    ranks.on_main(lambda: None)
except RuntimeError as error:
    Path(sys.argv[1]).write_text(f"{ranks.lost(error)} {error}")
"""


@pytest.mark.launcher
def test_a_rank_that_waits_for_a_main_rank_that_has_ended_knows_it(tmp_path: Path) -> None:
    """As where memory ends the main rank while it writes an artefact."""
    (tmp_path / "ends.py").write_text(ENDS)
    two_ranks(str(tmp_path / "ends.py"), str(tmp_path / "said"))
    assert (tmp_path / "said").read_text().startswith("True")


def test_ranks_that_meet_and_cannot_connect_are_told_so() -> None:
    """Such as behind a firewall: the store has one port, gloo takes any."""
    text = "Gloo connectFullMesh failed with [pair.cc:152] timed out connecting: Connection refused"
    sentence = ranks.unreachable(RuntimeError(text))
    assert sentence is not None and "GLOO_SOCKET_IFNAME" in sentence and "refused" in sentence
    assert ranks.unreachable(RuntimeError("Timed out waiting 1000 ms for recv operation")) is None
