"""How far the job is: a bar on a terminal, plain lines in a log file; main rank only.

A bar counts the whole stage, all its trainings and scoring passes. Where the bar or standard output is
not on a terminal, a line comes every `STEPS` optimiser steps and every `SECONDS` seconds at least.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor
from tqdm import tqdm

from compress.configuration.config import Config
from compress.runtime import memory, ranks
from compress.training import workload
from compress.training.workload import Job

Forward = Callable[[Mapping[str, Tensor]], Tensor]
STEPS, SECONDS = 50, 60.0
EARLIEST = 6.0
"""Period in seconds of the thread that writes a line that will be due before it looks again."""
FIRST_STEPS, FIRST_SECONDS = 20, 20.0
"""After so many timed steps, or seconds, the time of the whole job is printed."""
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"


class Progress:
    """State of the job; contexts `stage` and `training` surround work, `step` and `scoring` count."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        write: Callable[[str], None] = tqdm.write,
        terminal: bool | None = None,
    ) -> None:
        """terminal: whether bar and output are on one, by default as it is."""
        self.job = Job()
        self._clock, self._write = clock, write
        self._on_terminal = sys.stderr.isatty() if terminal is None else terminal
        output = sys.stdout.isatty() if terminal is None else terminal
        self._lines = not (output and self._on_terminal)
        self._bar: tqdm | None = None
        self._stage = self._doing = ""
        self._loss: dict[str, float] = {}
        self._marked = self._said = self._began = clock()
        self._said_step = 0
        self._estimated = self._warm = self._ticking = False
        self._lock = threading.RLock()

    def plan(self, job: Job) -> None:
        """Set the planned work, so that the time left can be estimated."""
        self.job = job

    @contextmanager
    def stage(self, name: str, steps: int = 0) -> Iterator[None]:
        """Context: the work of a stage, which may be inside another; steps: if it was not planned."""
        outer = self._stage
        self._open(name, steps)
        try:
            yield
            self.job.finish(name)
        finally:
            self._close()
            self._stage, self._said_step = outer, self.job.done(outer)[0]

    @contextmanager
    def training(self, name: str, done: int, total: int) -> Iterator[None]:
        """Context: optimiser steps of one training of `total`, a stage by itself if none is open."""
        if not self._stage:
            with self.stage(name, total - done), self.training(name, done, total):
                yield
            return
        self._doing, self._marked, self._warm = "training", self._clock(), bool(done)
        try:
            yield
        finally:
            self._doing = ""

    def step(self, values: Mapping[str, float] | None = None) -> None:
        """One optimiser step is done; values: what was measured since the last report, if anything."""
        now = self._clock()
        with self._lock:
            self._doing, self._loss = "training", dict(values or self._loss)
            self.job.step(self._stage, now - self._marked if self._warm else None)
            self._marked, self._warm = now, True
            self._show(1 if self.job.work[self._stage].steps else 0)
            steps, _ = self.job.done(self._stage)
            if steps >= self._said_step + STEPS or now >= self._said + SECONDS:
                self._say(now)
            self._expect(steps)

    def skip(self, steps: int) -> None:
        """So many optimiser steps of the stage were done by an earlier run."""
        with self._lock:
            if self._stage:
                self.job.skip(self._stage, steps)
                self._said_step = self.job.done(self._stage)[0]
                self._show(0)

    def scoring(
        self, split: str, batches: int, rows: int, forward: Forward, config: Config, done: int = 0
    ) -> Forward:
        """`forward`, each call of which counts as one batch of a split of `rows` samples.

        done: batches that an earlier run has scored. Its calls raise UserError when memory does not
        suffice.
        """
        calls = done
        if done and self._stage:
            self.job.skip(self._stage, rows=rows * done // batches)

        def counted(inputs: Mapping[str, Tensor]) -> Tensor:
            nonlocal calls
            if calls == done:
                self._marked = self._clock()
            calls += 1
            self._doing = f"scoring {split}: {calls} of {batches} batches"
            with memory.scoring(f"{self._stage or 'evaluation'}: {split}", inputs, config):
                logits = forward(inputs)
            part = rows * calls // batches - rows * (calls - 1) // batches
            now = self._clock()
            with self._lock:
                if self._stage:
                    self.job.scored(self._stage, part, now - self._marked)
                    self._show(0 if self.job.work[self._stage].steps else part)
                self._marked = now
                self.beat()
            if calls == batches:
                self._doing = ""
            return logits

        return counted

    def beat(self, early: float = 0.0) -> None:
        """Write a line if none has come for `SECONDS` seconds, less `early`."""
        with self._lock:
            now = self._clock()
            if self._stage and now >= self._said + SECONDS - early:
                self._say(now)

    def where(self) -> str:
        """Where the job is, such as `difficulty, step 120 of 504`; nothing before the first stage."""
        if not self._stage:
            return ""
        steps, total = self._counts()
        at = f", step {steps} of {total}" if total else ""
        return f"{self._stage}{at}"

    def interrupted(self) -> str:
        """The line that the program ends with at Ctrl-C; the bar is drawn no more."""
        bar, where = self._bar, self.where()
        if bar is not None:
            bar.disable = True
        line = f"interrupted{f' in {where}' if where else ''}; the same command continues"
        return line if bar is None else f"\n{line}"

    def _open(self, name: str, steps: int) -> None:
        with self._lock:
            self._close()
            self._stage, self._doing, self._loss = name, "", {}
            self.job.begin(name, steps)
            self._began = self._said = self._marked = self._clock()
            self._said_step = 0
        if self._lines and not self._ticking and ranks.is_main():
            self._ticking = True
            threading.Thread(target=self._tick, daemon=True, name="progress").start()

    def _tick(self) -> None:
        """Look for a line that is due while the main thread does something that counts nothing."""
        while True:
            time.sleep(EARLIEST)
            self.beat(EARLIEST)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _counts(self) -> tuple[int, int]:
        """(done, planned) optimiser steps of the stage."""
        steps, _ = self.job.done(self._stage)
        return steps, max(steps, self.job.work[self._stage].steps)

    def _show(self, more: int) -> None:
        """Move the bar by so many steps, or samples in a stage without steps."""
        if not self._on_terminal or not ranks.is_main():
            return
        work = self.job.work[self._stage]
        total = work.steps or work.rows
        if self._bar is None:
            done = self.job.done(self._stage)[0 if work.steps else 1] - more
            self._bar = tqdm(
                desc=self._stage, total=total, initial=done, bar_format=BAR, file=sys.stderr
            )
        parts = [self._doing] if self._doing != "training" else self._measures(sparsity=True)
        self._bar.set_postfix_str(", ".join([*parts, *self._left()]), refresh=False)
        self._bar.update(min(more, max(0, total - self._bar.n)))

    def _measures(self, sparsity: bool = False) -> list[str]:
        """The last values of a training as text."""
        parts, values = [], self._loss
        if "loss" in values:
            parts.append(f"loss {values['loss']:.3f}")
        if sparsity and values.get("sparsity"):
            parts.append(f"sparsity {values['sparsity']:.2f}")
        if "samples_per_second" in values:
            rate = values["samples_per_second"]
            parts.append(f"{rate:.0f} samples/s" if rate >= 10 else f"{rate:.1f} samples/s")
        return parts

    def _left(self) -> list[str]:
        """The time left for the stage and for the job as text."""
        work, stage = self.job.work[self._stage], self.job.stage_left(self._stage)
        job = self.job.left() if self.job.planned else None
        known = stage is not None and (work.steps or work.rows)
        parts = [f"stage {workload.duration(stage or 0.0)} left"] if known else []
        return parts if job is None else [*parts, f"job {workload.duration(job)} left"]

    def _say(self, now: float) -> None:
        """Write a line to the log."""
        self._said, self._said_step = now, self.job.done(self._stage)[0]
        if not self._lines or not ranks.is_main():
            return
        if self._doing == "training":
            steps, total = self._counts()
            parts = [f"step {steps} of {total}", *self._measures()]
        else:
            parts = [self._doing or f"{workload.duration(now - self._began)} so far"]
        self._write(f"{self._stage}: {', '.join([*parts, *self._left()])}")
        sys.stdout.flush()

    def _expect(self, steps: int) -> None:
        """Write the expected time of the whole job, once, after the first steps."""
        timed, seconds = self.job.measured(self._stage)
        enough = timed >= FIRST_STEPS or seconds >= FIRST_SECONDS or steps == self._counts()[1]
        if self._estimated or not enough:
            return
        expected = self.job.expected()
        if expected is not None:
            self._estimated = True
            if ranks.is_main():
                self._write(workload.expectation(expected))
