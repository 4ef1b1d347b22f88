"""What a step asks of the device: kernels on a GPU and how long they run, operations on a CPU."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from compress.inference import timing

STEPS = 10
"""Steps that are profiled."""


@dataclass(frozen=True)
class Demand:
    """Of a step on this rank: kernels and copies on a GPU, leaves of torch's calls on a CPU.

    busy: seconds in which the GPU does anything; None on a CPU.
    """

    operations: float
    busy: float | None

    def described(self, seconds: float) -> dict[str, float]:
        """The figures by name; seconds: of a step without the profiler."""
        if self.busy is None:
            return {"operations a step": self.operations}
        idle = max(0.0, 1 - self.busy / seconds)
        busy = 1e3 * self.busy
        return {"kernels a step": self.operations, "GPU busy a step, ms": busy, "GPU idle": idle}


def measure(steps: Callable[[int], object], device: torch.device) -> Demand:
    """Do some steps of a training under torch's profiler."""
    wait, gpu = timing.synchroniser(device), device.type == "cuda"
    wait()
    with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as trace:
        steps(STEPS)
        wait()
    events = trace.events() or []
    if gpu:
        spans = [
            (event.time_range.start, event.time_range.end)
            for event in events
            if event.device_type == DeviceType.CUDA
        ]
        return Demand(len(spans) / STEPS, covered(spans) / 1e6 / STEPS)
    leaves = [e for e in events if e.name.startswith("aten::") and not e.cpu_children]
    return Demand(len(leaves) / STEPS, None)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """How much of the time some spans (start, end) cover; they may overlap."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total
