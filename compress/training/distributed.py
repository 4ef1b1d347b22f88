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
from compress.runtime import agreement, ranks, watchdog
from compress.runtime.interrupts import RANK_VARIABLES
from compress.training.monitor import quieten

LATER = 30.0
"""Seconds after the watchdog that a collective fails by itself."""


def start(log_level: int = logging.ERROR, timeout: float = 600.0) -> torch.device:
    """Join the process group and return this rank's device.

    log_level: of DeepSpeed's own lines, which come from the main rank only; timeout: seconds after
    which a rank that does not take part is given up (`compress.runtime.watchdog`).

    Without a launcher this process is the only rank; under mpirun or srun DeepSpeed finds the ranks.
    Its shared-memory all-reduce is left out: it serves inference only, needs a compiler, and leaves 66
    MiB a rank in /dev/shm, where a container has 64 MB in all (upstream issue #4002).
    """
    quieten()
    deepspeed.utils.logger.setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not os.environ.keys() & set(RANK_VARIABLES):
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        os.environ.update(alone, MASTER_PORT=str(ranks.free_port()))
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            deepspeed.init_distributed(verbose=False, timeout=timedelta(seconds=timeout + LATER))
    except torch.distributed.DistNetworkError as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise UserError(
            f"the ranks cannot meet at {where} ({first_line(error)}); if another run has the "
            "port, start with `deepspeed --master_port N`."
        ) from None
    watchdog.start(timeout)
    if ranks.is_main():
        deepspeed.utils.logger.setLevel(log_level)
    accelerator = get_accelerator()
    if accelerator.device_name() == "cpu":
        return torch.device("cpu")
    accelerator.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device(accelerator.current_device_name())


def stop() -> None:
    """Leave the process group."""
    if torch.distributed.is_initialized():
        agreement.finish()
        torch.distributed.destroy_process_group()
