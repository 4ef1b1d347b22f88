"""train.py that kills itself, or a signal that it sends itself, at the place that KILL_AT names.

    KILL_AT="step difficulty 30" deepspeed tests/drivers/killed_run.py --deepspeed_config ...

Places: `step NAME N`: before optimiser step N + 1 of a training; `save NAME N`: while the checkpoint at
step N is written; `score NAME N`: in the Nth forward pass of scoring, NAME is stage and split;
`refresh NAME N`: after the masks of step N; `never 0`. KILL_WITH: number of the signal (9); KILL_RANK:
the rank that hits (all if absent); KILL_WHOM: itself ("rank", the default), its "launcher", the
"runner" that has started that, or "everything" of its session.
"""

import os
import runpy
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from compress.checkpoints import pieces
from compress.compression.masks import Masks
from compress.files import processes
from compress.runtime import ranks
from compress.training.progress import Progress
from compress.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
KIND, *WORDS, NUMBER = os.environ["KILL_AT"].split(" ")
WITH = int(os.environ.get("KILL_WITH", "9"))
RANK, WHOM = os.environ.get("KILL_RANK"), os.environ.get("KILL_WHOM", "rank")


def hit(kind: str, name: str, number: int) -> None:
    """Send the signal if this is the place."""
    there = (kind, name, str(number)) == (KIND, " ".join(WORDS), NUMBER)
    if not there or RANK not in (None, str(ranks.rank())):
        return
    if WHOM == "everything":
        os.killpg(os.getpgid(0), WITH)
    launcher = os.getppid()
    runner = processes.parent(launcher) if WHOM == "runner" else 0
    os.kill({"launcher": launcher, "runner": runner}.get(WHOM, os.getpid()), WITH)
    time.sleep(0.5)  # the thread that waits for signals sees it before the step is done


def around(owner, name, before):
    """Call `before` with the arguments of a method ahead of it."""
    method = getattr(owner, name)

    def called(*arguments, **named):
        before(*arguments, **named)
        return method(*arguments, **named)

    setattr(owner, name, called)


current = {"training": ""}


def step(trainer, *_):
    current["training"] = trainer.name
    hit("step", trainer.name, trainer.step)


def write(folder, *_):
    hit("save", current["training"], int(folder.name.split("step-")[1].split(".")[0]))


def refreshed(masks, number):
    hit("refresh", current["training"], number)


def scoring(progress, split, batches, rows, forward, config, done=0):
    calls = 0

    def counted(inputs):
        nonlocal calls
        calls += 1
        hit("score", f"{progress._stage} {split}", calls)
        return forward(inputs)

    return real(progress, split, batches, rows, counted, config, done)


real = Progress.scoring
Progress.scoring = scoring
around(Trainer, "_train_step", step)
around(pieces, "write", write)
after = Masks.after_step


def masks_after_step(self, number):
    after(self, number)
    refreshed(self, number)


Masks.after_step = masks_after_step

if __name__ == "__main__":
    sys.argv[0] = str(ROOT / "train.py")
    runpy.run_path(sys.argv[0], run_name="__main__")
