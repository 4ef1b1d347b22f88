"""Times of models in one process, in turns, so that other load on the machine affects all alike."""

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.inference import onnx_export
from compress.runtime.versions import installed

Call = Callable[[], object]
CPU_INFO = Path("/proc/cpuinfo")


def interleaved(calls: Sequence[Call], repeats: int, warmups: int, wait: Call) -> list[list[float]]:
    """Seconds of each call [len(calls)][repeats], taken in turns; each round starts with the next one.

    wait: returns when the device has finished what was started; it is part of each timing.
    """
    for _ in range(warmups):
        for call in calls:
            call()
    wait()
    seconds: list[list[float]] = [[] for _ in calls]
    for turn in range(repeats):
        for place in range(len(calls)):
            chosen = (turn + place) % len(calls)
            began = time.perf_counter()
            calls[chosen]()
            wait()
            seconds[chosen].append(time.perf_counter() - began)
    return seconds


def synchroniser(device: torch.device) -> Call:
    """A function that returns when the device has finished what was started."""
    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)


def ready(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """The model in evaluation mode on the device, its weights copied so that all lie aligned.

    transformers maps a plain file into memory as it lies.
    """
    model.eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    nn.Module.to(model, device)
    return model


def random_tokens(
    model: PreTrainedModel,
    shape: tuple[int, int],
    device: torch.device,
    form: onnx_export.InputForm | None = None,
) -> dict[str, Tensor]:
    """Inputs (batch, length) of random tokens, without padding, on the device.

    form: how texts reach the model, if it is known of its tokenizer.
    """
    inputs = onnx_export.random_inputs(model.config, *shape, form=form)
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def forward_call(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Call:
    """A call that computes the logits of these inputs."""

    @torch.inference_mode()
    def call() -> object:
        return model(**inputs).logits

    return call


def machine(device: torch.device, threads: int) -> dict[str, Any]:
    """Processor, threads, device, load and versions that the timings depend on."""
    gpu = device.type == "cuda"
    return {
        "processor": _processor(),
        "logical cores": os.cpu_count(),
        "threads": threads,
        "device": torch.cuda.get_device_name(device) if gpu else str(device),
        "load before": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "onnxruntime": installed("onnxruntime") or installed("onnxruntime-gpu"),
        "transformers": installed("transformers"),
    }


def _processor() -> str:
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
