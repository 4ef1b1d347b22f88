"""How fast teacher and student are on this device, measured in about two seconds at the end of a run.

Both models take turns on random tokens, as many as the median dev sample has; the median counts. Left
out, with a note, are models that are too large (`MOST_OPERATIONS`), batches of which fewer than
`FEWEST` turns fit into the time, and what exceeds the GPU's memory. `python -m compress.benchmark
inference` measures longer, in more shapes.
"""

import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from compress import timing
from compress.errors import first_line
from compress.models import encoders
from compress.reporting import benchmark_report

BATCHES = (1, 32)
SECONDS = 2.0
SLACK = 2
FEWEST, MOST = 3, 50
MOST_OPERATIONS = {"cpu": 3e10, "cuda": 3e13}
ADVICE = "python -m compress.benchmark inference does it"
Models = Mapping[str, PreTrainedModel]


def measure(models: Models, tokens: Mapping[str, int], device: torch.device) -> dict[str, Any]:
    """Median milliseconds of teacher and student for each batch size, and how they were measured.

    models, tokens: `teacher` and `student`, in evaluation mode, and the length of their inputs; no
    models where they are `too_large`. Moves the models to the device. Runs on the calling rank alone.
    """
    gpu = device.type == "cuda"
    threads = torch.get_num_threads()
    machine = benchmark_report.machine(device, threads)
    out: dict[str, Any] = {
        "device": machine["device"] if gpu else machine["processor"],
        "threads": None if gpu else threads,
        "load_before": machine["load before"],
        "precision": "float32",
        "tokens": dict(tokens),
        "timings": [],
        "left_out": [],
    }
    sizes = {name: encoders.parameters(model) for name, model in models.items()}
    if not models or too_large(sizes, tokens, device):
        out["left_out"].append(f"models of this size take too long here; {ADVICE}")
        return out
    try:
        _fill(out, {name: timing.ready(model, device) for name, model in models.items()}, device)
    except torch.OutOfMemoryError:
        out["left_out"].append(f"the GPU's memory does not hold both models; {ADVICE}")
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        out["timings"].clear()
        out["left_out"].append(f"a model does not take random tokens ({first_line(error)})")
    return out


def too_large(sizes: Mapping[str, int], tokens: Mapping[str, int], device: torch.device) -> bool:
    """Whether one pass over models of so many parameters takes more than `MOST_OPERATIONS`."""
    most = MOST_OPERATIONS.get(device.type, MOST_OPERATIONS["cpu"])
    return sum(2 * size * tokens[name] for name, size in sizes.items()) > most


def _fill(out: dict[str, Any], models: Models, device: torch.device) -> None:
    """Time each batch size that fits into what is left of the time.

    A first pass of a quarter of the batch tells how long the whole one may take: at most four times
    that, and less, because a first pass is slow.
    """
    end, wait = time.perf_counter() + SECONDS, timing.synchroniser(device)
    for number, batch in enumerate(BATCHES):
        left = (end - time.perf_counter()) / (len(BATCHES) - number)
        part = max(1, batch // 4)
        turn = _turn(models, out["tokens"], part, device, wait) * batch / part
        if FEWEST * turn <= SLACK * left:
            turn = _turn(models, out["tokens"], batch, device, wait)
        repeats = min(MOST, int(left / turn))
        if repeats < FEWEST:
            out["left_out"].append(f"a batch of {batch} takes too long here; {ADVICE}")
            return
        calls = _calls(models, out["tokens"], batch, device)
        medians = [statistics.median(one) for one in timing.interleaved(calls, repeats, 0, wait)]
        times = {f"{name}_ms": 1000 * one for name, one in zip(models, medians, strict=True)}
        out["timings"].append({"batch": batch, **times, "repeats": repeats})


def _calls(
    models: Models, tokens: Mapping[str, int], batch: int, device: torch.device
) -> list[timing.Call]:
    """A forward pass of each model on a batch of random tokens."""
    shapes = {name: (batch, tokens[name]) for name in models}
    return [
        timing.forward_call(model, timing.random_tokens(model, shapes[name], device))
        for name, model in models.items()
    ]


def _turn(
    models: Models, tokens: Mapping[str, int], batch: int, device: torch.device, wait: timing.Call
) -> float:
    """Seconds of one pass of both models on a batch; the first of a shape is slower than the others."""
    return sum(map(sum, timing.interleaved(_calls(models, tokens, batch, device), 1, 0, wait)))
