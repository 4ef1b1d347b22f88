"""The process group of a run, joined through DeepSpeed."""

import contextlib
import io
import logging
import os
from datetime import timedelta

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator

from compress.errors import UserError, first_line
from compress.runtime import agreement, launchers, ranks, watchdog
from compress.runtime.launchers import Launch
from compress.training.monitor import quieten

LATER = 30.0
"""Seconds after the watchdog that a collective fails by itself."""
LOCAL_RANKS = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")
"""Where DeepSpeed reads the number of its device, for the process group and in the engine, which wants
the two to agree."""


def start(
    log_level: int = logging.ERROR, timeout: float = 600.0, launch: Launch | None = None
) -> torch.device:
    """Join the process group and return this rank's device.

    log_level: of DeepSpeed's own lines, which come from the main rank only; timeout: seconds after
    which a rank that does not take part is given up (`compress.runtime.watchdog`); launch: who started
    this process, default: what the environment says.

    Without a launcher this process is the only rank. DeepSpeed's own search for ranks is never used: it
    takes every job of Slurm for MPI. Its shared-memory all-reduce is left out: it serves inference
    only, needs a compiler, and leaves 66 MiB a rank in /dev/shm, where a container has 64 MB in all
    (upstream issue #4002).
    """
    quieten()
    deepspeed.utils.logger.setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    launch = launch or launchers.found(os.environ)
    launch = launchers.meet(launch) if launch.of_mpi else launch
    if not launch.launcher:
        launch = Launch("train.py", address=launchers.LOCAL, port=launchers.free_port())
    os.environ.update(launch.variables())
    accelerator = get_accelerator()
    on_cpu = accelerator.device_name() == "cpu"
    if not on_cpu and accelerator.device_count() == 1:  # Slurm may show each task its own GPU only
        os.environ.update({name: "0" for name in LOCAL_RANKS if name in os.environ})
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            deepspeed.init_distributed(verbose=False, timeout=timedelta(seconds=timeout + LATER))
    except torch.distributed.DistNetworkError as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise UserError(
            f"the ranks cannot meet at {where} ({first_line(error)}); if another run has the port, "
            "start with `deepspeed --master_port N` or another MASTER_PORT."
        ) from None
    watchdog.start(timeout)
    if ranks.is_main():
        deepspeed.utils.logger.setLevel(log_level)
    if on_cpu:
        return torch.device("cpu")
    accelerator.set_device(int(os.environ["LOCAL_RANK"]))
    return torch.device(accelerator.current_device_name())


def stop() -> None:
    """Leave the process group."""
    if torch.distributed.is_initialized():
        agreement.finish()
        torch.distributed.destroy_process_group()
