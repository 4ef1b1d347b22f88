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

from compress.errors import first_line
from compress.inference import timing
from compress.models import encoders

BATCHES = (1, 32)
SECONDS = 2.0
SLACK = 2
FEWEST, MOST = 3, 50
MOST_OPERATIONS = {"cpu": 3e10, "cuda": 3e13}
ADVICE = "python -m compress.benchmark inference does it"
Models = Mapping[str, PreTrainedModel]


def measure(models: Models, tokens: Mapping[str, int], device: torch.device) -> dict[str, Any]:
    """Median milliseconds of teacher and student for each batch size, and how they were measured.

    models, tokens: `teacher` (if it is at hand) and `student`, in evaluation mode, and the length of
    their inputs; no models where they are `too_large`. Moves the models to the device. Runs on the
    calling rank alone.
    """
    gpu = device.type == "cuda"
    threads = torch.get_num_threads()
    machine = timing.machine(device, threads)
    result: dict[str, Any] = {
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
        result["left_out"].append(f"models of this size take too long here; {ADVICE}")
        return result
    try:
        _fill(result, {name: timing.ready(model, device) for name, model in models.items()}, device)
    except torch.OutOfMemoryError:
        result["left_out"].append(f"the GPU's memory does not hold both models; {ADVICE}")
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        result["timings"].clear()
        result["left_out"].append(f"a model does not take random tokens ({first_line(error)})")
    return result


def too_large(sizes: Mapping[str, int], tokens: Mapping[str, int], device: torch.device) -> bool:
    """Whether one pass over models of so many parameters takes more than `MOST_OPERATIONS`."""
    most = MOST_OPERATIONS.get(device.type, MOST_OPERATIONS["cpu"])
    return sum(2 * size * tokens[name] for name, size in sizes.items()) > most


def _fill(result: dict[str, Any], models: Models, device: torch.device) -> None:
    """Time each batch size that fits into what is left of the time.

    A first pass of a quarter of the batch bounds the time of the whole one: at most four times that,
    and less, because the first pass of a shape is slow.
    """
    end, wait = time.perf_counter() + SECONDS, timing.synchroniser(device)

    def seconds(batch: int, repeats: int) -> list[list[float]]:
        """Of each model on a batch of random tokens."""
        shapes = {name: (batch, result["tokens"][name]) for name in models}
        calls = [
            timing.forward_call(model, timing.random_tokens(model, shapes[name], device))
            for name, model in models.items()
        ]
        return timing.interleaved(calls, repeats, 0, wait)

    for number, batch in enumerate(BATCHES):
        left = (end - time.perf_counter()) / (len(BATCHES) - number)
        part = max(1, batch // 4)
        turn = sum(map(sum, seconds(part, 1))) * batch / part
        if FEWEST * turn <= SLACK * left:
            turn = sum(map(sum, seconds(batch, 1)))
        repeats = min(MOST, int(left / turn))
        if repeats < FEWEST:
            result["left_out"].append(f"a batch of {batch} takes too long here; {ADVICE}")
            return
        medians = [1000 * statistics.median(each) for each in seconds(batch, repeats)]
        times = {f"{name}_ms": one for name, one in zip(models, medians, strict=True)}
        result["timings"].append({"batch": batch, **times, "repeats": repeats})
