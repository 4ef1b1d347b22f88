"""How fast teacher and student are on this device, measured in about two seconds at the end of a run.

Both models take turns on random tokens, as many as the median dev sample has; the median counts. Left
out, with a note, are models that are too large (`MOST_OPERATIONS`, `PART`), batches of which fewer than
`FEWEST` turns fit into the time, and what exceeds the GPU's memory. `python -m compress.benchmark
inference` measures longer, in more shapes.
"""

import statistics
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from compress.errors import first_line
from compress.inference import onnx_export, onnx_int8, timing
from compress.models import deferred, encoders
from compress.runtime import memory

BATCHES = (1, 32)
SECONDS = 2.0
SLACK = 2
FEWEST, MOST = 3, 50
MOST_OPERATIONS = {"cpu": 3e10, "cuda": 3e13}
PART = 0.5
"""Of the available memory that all weights may take in float32."""
FLOAT, GB = 4, 10**9
ADVICE = "python -m compress.benchmark inference does it"
Models = Mapping[str, PreTrainedModel]


def measure(models: Models, tokens: Mapping[str, int], device: torch.device) -> dict[str, Any]:
    """Median milliseconds of teacher and student for each batch size, and how they were measured.

    models, tokens: `teacher` (if it is at hand) and `student`, in evaluation mode, deferred or not, and
    the length of their inputs. Where nothing is an `obstacle` it reads the weights and moves the models
    to the device. Runs on the calling rank alone.
    """
    result = _setting(tokens, device)
    sizes = {name: encoders.parameters(model) for name, model in models.items()}
    if (why := obstacle(sizes, tokens, device)) is not None:
        result["left_out"].append(why)
        return result

    def call(name: str, batch: int) -> timing.Call:
        shape = (batch, tokens[name])
        return timing.forward_call(ready[name], timing.random_tokens(ready[name], shape, device))

    try:
        ready: dict[str, PreTrainedModel] = {}
        for name, model in models.items():
            deferred.fill(model)
            ready[name] = timing.ready(model, device)
        _fill(result, ready, call, timing.synchroniser(device))
    except torch.OutOfMemoryError:
        result["left_out"].append(f"the GPU's memory does not hold both models; {ADVICE}")
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        result["timings"].clear()
        result["left_out"].append(f"a model does not take random tokens ({first_line(error)})")
    return result


def measure_files(
    files: Mapping[str, Path], config: PreTrainedConfig, parameters: int, tokens: int
) -> dict[str, Any]:
    """Median milliseconds of ONNX files of one model on the CPU, in turns, with PyTorch's threads.

    parameters: of the model; tokens: of its inputs. As `measure`.
    """
    result = _setting(dict.fromkeys(files, tokens), onnx_int8.CPU, "onnxruntime")
    sizes = dict.fromkeys(files, parameters)
    if (why := obstacle(sizes, result["tokens"], onnx_int8.CPU)) is not None:
        result["left_out"].append(why)
        return result
    threads = torch.get_num_threads()
    running = {name: onnx_export.session(file, threads, onnx_int8.CPU) for name, file in files.items()}

    def call(name: str, batch: int) -> timing.Call:
        return onnx_export.random_call(running[name], config, batch, tokens)

    _fill(result, files, call, lambda: None)
    return result


def _setting(
    tokens: Mapping[str, int], device: torch.device, precision: str = "float32"
) -> dict[str, Any]:
    """How the models are timed, without timings."""
    gpu = device.type == "cuda"
    threads = torch.get_num_threads()
    machine = timing.machine(device, threads)
    return {
        "device": machine["device"] if gpu else machine["processor"],
        "threads": None if gpu else threads,
        "load_before": machine["load before"],
        "precision": precision,
        "tokens": dict(tokens),
        "timings": [],
        "left_out": [],
    }


def obstacle(sizes: Mapping[str, int], tokens: Mapping[str, int], device: torch.device) -> str | None:
    """Why models of so many parameters are not timed, for a note; None if nothing speaks against it.

    On a GPU main memory counts too, through which the weights go.
    """
    if too_large(sizes, tokens, device):
        return f"models of this size take too long here; {ADVICE}"
    needed = FLOAT * sum(sizes.values())
    for place in {device.type: device, "cpu": onnx_int8.CPU}.values():
        free = memory.available(place)
        if needed > PART * free:
            what = "the GPU's free memory" if place.type == "cuda" else "free main memory"
            return (
                f"the models ({needed / GB:.3g} GB in float32) take more than half of {what} "
                f"({free / GB:.3g} GB); {ADVICE}"
            )
    return None


def too_large(sizes: Mapping[str, int], tokens: Mapping[str, int], device: torch.device) -> bool:
    """Whether one pass over models of so many parameters takes more than `MOST_OPERATIONS`."""
    most = MOST_OPERATIONS.get(device.type, MOST_OPERATIONS["cpu"])
    return sum(2 * size * tokens[name] for name, size in sizes.items()) > most


def _fill(
    result: dict[str, Any],
    names: Collection[str],
    call: Callable[[str, int], timing.Call],
    wait: timing.Call,
) -> None:
    """Time each batch size that fits into what is left of the time.

    call: makes a call of a model on a batch of random tokens; wait: see `timing.interleaved`. A first
    pass of a quarter of the batch bounds the time of the whole one: at most four times that, and less,
    because the first pass of a shape is slow.
    """
    end = time.perf_counter() + SECONDS

    def seconds(batch: int, repeats: int) -> list[list[float]]:
        """Of each model on a batch of random tokens."""
        return timing.interleaved([call(name, batch) for name in names], repeats, 0, wait)

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
        times = {f"{name}_ms": one for name, one in zip(names, medians, strict=True)}
        result["timings"].append({"batch": batch, **times, "repeats": repeats})
