"""What a configuration asks of this machine: device, compiler, packages, folders.

Called by `train.py` before data are read or the ranks meet; not where a configuration is only read,
such as by a study that starts its runs elsewhere. Does not import DeepSpeed, which takes seconds.
"""

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from compress.configuration import engine_table
from compress.configuration.config import Config
from compress.configuration.merge import Merge, at
from compress.errors import UserError
from compress.files import disk
from compress.runtime import versions

ACCELERATORS = ("cuda", "cpu", "xpu", "npu", "mps", "hpu", "mlu", "sdaa", "supa")
"""What the pinned DeepSpeed takes for DS_ACCELERATOR (accelerator/real_accelerator.py)."""
BYTES = 4


def check(config: Config) -> None:
    """Raise UserError, naming source and key, for what this machine cannot do."""
    merge = Merge(dict(config.merged), dict(config.sources))
    device()
    for found in engine_table.holding(merge):
        case = found.case
        if case.of_machine and case.device in (None, device()) and _concerned(case.releases):
            lacking = LACKING[case.lacking]() if case.lacking else ""
            if lacking is not None:
                raise engine_table.refusal(merge, found, lacking)
    _memory(config, merge)
    if config.robust.precision == "tf32" and device() != "cuda":
        why = "is 'tf32', which NVIDIA GPUs have only; set it to 'auto' or 'fp32'"
        raise merge.error("robust_compression.precision", why)
    if config.robust.masks == "deepspeed" and not versions.has_library():
        release = versions.installed("deepspeed")
        raise merge.error(
            "robust_compression.masks",
            f"is 'deepspeed', but deepspeed {release} has no compression library; set it to 'native' "
            f"or run: pip install deepspeed=={versions.DEEPSPEED[0]}",
        )
    for block in ("offload_optimizer", "offload_param"):
        _nvme(merge, block)
    for monitor in ("tensorboard", "csv_monitor"):
        path = at(merge.values, (monitor, "output_path"))
        if path is not None:
            where = f"{merge.source((monitor, 'output_path'))}: '{monitor}.output_path' is"
            disk.check(Path(path), where)


def device() -> str:
    """The device that DeepSpeed will choose, as its get_accelerator() does: "cpu", "cuda" ...

    Raises UserError for a DS_ACCELERATOR that it does not know.
    """
    named = os.environ.get("DS_ACCELERATOR")
    if named in ACCELERATORS:
        return named
    if named is not None:
        known = ", ".join(ACCELERATORS)
        raise UserError(f"DS_ACCELERATOR is '{named}'; it must be one of {known}.")
    import torch

    if torch.cuda.is_available() and torch.cuda.device_count() > 0:
        return "cuda"
    others = [name for name in ("xpu", "mps") if getattr(torch, name).is_available()]
    plugins = [n for n in ("npu", "mlu", "sdaa", "supa") if importlib.util.find_spec(f"torch_{n}")]
    return (others + plugins + ["cpu"])[0]


def _concerned(releases: list[str]) -> bool:
    """Whether the installed DeepSpeed is among these releases; all are, if none is named."""
    found = versions.installed("deepspeed") or ""
    return not releases or found.split("+")[0] in releases


def _float16() -> str | None:
    """As in DeepSpeed (accelerator/cpu_accelerator.py)."""
    import torch

    try:
        able = bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    except (AttributeError, RuntimeError):
        able = False
    return None if able else "a GPU or a processor that computes in float16"


def _compiler() -> str | None:
    """What is missing to compile the optimiser; None too where it has been compiled before."""
    if any(_built()):
        return None
    if shutil.which("ninja") is None and not (Path(sys.executable).parent / "ninja").is_file():
        return "ninja"
    if device() == "cpu":
        compiler = os.environ.get("CXX", "c++")
        return None if shutil.which(compiler) else f"a C++ compiler ({compiler})"
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    found = shutil.which("nvcc") or device() != "cuda" or (Path(home) / "bin" / "nvcc").is_file()
    return None if found else "the CUDA compiler (nvcc)"


def compiles(config: Config) -> bool:
    """Whether DeepSpeed compiles its optimiser when an engine is made, once on a machine."""
    return not config.deepspeed.optimizer.params.torch_adam and not any(_built())


def _built() -> list[Path]:
    """Adam as it was compiled with the package, or at an earlier start."""
    spec = importlib.util.find_spec("deepspeed")
    places = [Path(p) / "ops" / "adam" for p in (spec.submodule_search_locations or [])] if spec else []
    cache = os.environ.get("TORCH_EXTENSIONS_DIR")
    places.append(Path(cache) if cache else Path.home() / ".cache" / "torch_extensions")
    return [file for place in places if place.is_dir() for file in place.rglob("*adam*.so")]


def _aio() -> str | None:
    """DeepSpeed's asynchronous input and output is compiled with libaio."""
    for folder in ("/usr/include", "/usr/local/include", *os.environ.get("CPATH", "").split(":")):
        if folder and (Path(folder) / "libaio.h").is_file():
            return None
    return "libaio (on Debian or Ubuntu: apt-get install libaio-dev)"


def _package(name: str) -> Callable[[], str | None]:
    return lambda: None if importlib.util.find_spec(name) else f"the package {name}"


LACKING: dict[str, Callable[[], str | None]] = {
    "float16": _float16,
    "compiler": _compiler,
    "aio": _aio,
    "wandb": _package("wandb"),
    "tensorboard": _package("tensorboard"),
}
"""`lacking` of the table -> the name of what this machine lacks, or None."""


def _memory(config: Config, merge: Merge) -> None:
    """The buffer for gradients is taken whole: on a CPU it cannot be larger than the memory."""
    zero = config.deepspeed.zero_optimization
    size = zero.reduce_bucket_size
    if size is None or not zero.stage or device() != "cpu":
        return
    held = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size * BYTES > held:
        raise merge.error(
            "zero_optimization.reduce_bucket_size",
            f"is {size}, a buffer of {size * BYTES / 1e9:.0f} GB, but this machine has "
            f"{held / 1e9:.0f} GB; make it smaller",
        )


def _nvme(merge: Merge, block: str) -> None:
    key = f"zero_optimization.{block}.nvme_path"
    if not merge.given(key):
        return
    folder = Path(at(merge.values, key.split(".")) or "/dev/null")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        problem = "cannot be written to" if folder.is_dir() else "is no folder"
        raise merge.error(key, f"is '{folder}', which {problem}")
