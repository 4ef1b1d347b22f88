"""Which run of a study starts when: one machine's share of the runs, and their order side by side.

Runs of one task and seed share a teacher and a difficulty: they are a unit. Those with another loss
of the teacher are one of their own. A task and seed stays on one machine (`--shard`); of a unit one run
is started until one has succeeded and made what the others reuse; then they run side by side
(`--jobs`). The first is one that needs a difficulty, as the others do not make it.
"""

import threading
from collections.abc import Sequence
from itertools import groupby

from compress.errors import UserError
from compress.study.plan import Run

Unit = tuple[str, int, str]


def unit(run: Run) -> Unit:
    """What runs that share a teacher have in common: task, seed and the loss of the teacher."""
    return run.task, run.seed, run.teacher


def shard(runs: Sequence[Run], text: str) -> list[Run]:
    """The runs of shard i of n ("i/n", counted from 1): every n-th task and seed.

    Raises UserError if the text is not i/n, or if there are fewer of these than shards.
    """
    try:
        number, count = (int(part) for part in text.split("/"))
    except ValueError:
        raise UserError(f"--shard {text}: give it as i/n, such as 1/4.") from None
    found = [list(group) for _, group in groupby(runs, key=lambda run: (run.task, run.seed))]
    if not 1 <= number <= count:
        raise UserError(f"--shard {text}: i goes from 1 to n.")
    if count > len(found):
        raise UserError(
            f"--shard {text}: the study has {len(found)} teachers (task x seed), so at most as many "
            "shards."
        )
    return [run for group in found[number - 1 :: count] for run in group]


def ahead_first(runs: Sequence[Run]) -> list[Run]:
    """The runs in their order, those that make a difficulty before those that only find it."""
    return sorted(runs, key=lambda run: not run.config.robust.difficulty_needed)


def pioneers(runs: Sequence[Run]) -> set[str]:
    """The names of the runs that are started first, one of every unit."""
    return {run.name for run in {unit(run): run for run in reversed(ahead_first(runs))}.values()}


class Schedule:
    """Hands out runs to several threads: one of every unit, then the others in their order."""

    def __init__(self, runs: Sequence[Run]) -> None:
        """Begin with the runs that are to be made."""
        self._waiting = list(runs)
        self._shared: set[Unit] = set()
        self._first: set[Unit] = set()
        self.stopped = False
        self._changed = threading.Condition()

    def take(self) -> Run | None:
        """The next run, as soon as one may start; None if none is left."""
        with self._changed:
            while self._waiting:
                run = self._next()
                if run is not None:
                    self._waiting.remove(run)
                    if unit(run) not in self._shared:
                        self._first.add(unit(run))
                    return run
                self._changed.wait()
        return None

    def ended(self, run: Run, succeeded: bool) -> None:
        """A run that was taken has ended; after a failure another run of its unit is the first."""
        with self._changed:
            self._first.discard(unit(run))
            if succeeded:
                self._shared.add(unit(run))
            self._changed.notify_all()

    def stop(self) -> None:
        """Hand out no more runs."""
        with self._changed:
            self.stopped = True
            self._waiting.clear()
            self._changed.notify_all()

    def _next(self) -> Run | None:
        closed = self._shared | self._first
        ahead = (run for run in ahead_first(self._waiting) if unit(run) not in closed)
        behind = (run for run in self._waiting if unit(run) in self._shared)
        return next(ahead, None) or next(behind, None)
