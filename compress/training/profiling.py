"""Where the time of a step goes, if `robust_compression.profile` asks: for TensorBoard, and as a trace.

Timing waits for the device before and after each part, which slows a step down on a GPU; without the
key nothing is timed, but in `compress.benchmark steps`.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile, schedule

from compress.runtime import ranks

PARTS = ("batch", "data", "forward", "backward", "optimizer", "masks", "logging")
"""Waiting for the feed; the copy to the device; the engine's passes and step; what methods do between
the last backward pass and the step, and after it; the report."""
OWN = ("batch", "data", "forward")
"""Parts in which a rank waits for no other, but for the gathering of ZeRO 3."""
BEFORE, WARM, STEPS = 2, 1, 10
"""Steps that are left out, that warm the profiler, and that the trace holds."""


class StepProfile:
    """The time of the parts of a training's steps; without file and `timed` it does nothing.

    seconds: of each part on this rank, since the start.
    """

    def __init__(self, file: Path | None, device: torch.device, timed: bool = False) -> None:
        """file: where the main rank writes the trace of the first steps, for chrome://tracing.

        timed: whether parts are timed without a file too; nothing is reported then.
        """
        self._file, self._device, self._timed = file, device, timed or file is not None
        self.seconds, self._steps = dict.fromkeys(PARTS, 0.0), 0
        self._reported = dict(self.seconds)
        self._profiler: profile | None = None
        if file is not None and ranks.is_main():
            kinds = [ProfilerActivity.CPU]
            kinds += [ProfilerActivity.CUDA] if device.type == "cuda" else []
            plan = schedule(wait=BEFORE, warmup=WARM, active=STEPS, repeat=1)
            self._profiler = profile(activities=kinds, schedule=plan, on_trace_ready=self._write)
            self._profiler.start()

    def _write(self, trace: profile) -> None:
        assert self._file is not None, "there is a profiler only with a file"
        self._file.parent.mkdir(parents=True, exist_ok=True)
        trace.export_chrome_trace(str(self._file))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Context of a part of a step, one of `PARTS`."""
        if not self._timed:
            yield
            return
        self._wait()
        began = time.perf_counter()
        yield
        self._wait()
        self.seconds[name] += time.perf_counter() - began

    def _wait(self) -> None:
        """Until the device has finished what was started."""
        if self._device.type != "cpu":
            torch.accelerator.synchronize()

    def step(self) -> None:
        """An optimiser step is done."""
        self._steps += 1
        if self._profiler is not None:
            self._profiler.step()

    def report(self) -> dict[str, float]:
        """Mean seconds of each part since the last report, over the ranks; all ranks call it.

        `seconds_slowest_share`: what the rank that is slowest in `OWN` needs for it, of the whole step.
        """
        if self._file is None or not self._steps:
            return {}
        own = [(self.seconds[name] - self._reported[name]) / self._steps for name in PARTS]
        every = np.zeros((ranks.world_size(), len(PARTS)))
        every[ranks.rank()] = own
        every = ranks.all_sum(every)
        slowest = every[:, [PARTS.index(name) for name in OWN]].sum(axis=1).max()
        self._reported, self._steps = dict(self.seconds), 0
        means = dict(zip(PARTS, every.mean(axis=0), strict=True))
        values = {f"seconds_{name}": float(value) for name, value in means.items()}
        return {**values, "seconds_slowest_share": float(slowest / every.sum(axis=1).mean())}

    def close(self) -> None:
        """End the profiler, if the training was shorter than its steps."""
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None
