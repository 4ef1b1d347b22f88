"""One launcher on a node of a Slurm step: DeepSpeed's, for all ranks of the node.

    srun --ntasks-per-node=1 python -m compress.runtime.slurm_node RANKS train.py ...

Its ranks get the GPUs that Slurm has given the job on this node, and meet on the first host of the
step. USR1 is for the ranks: this process and the launcher ignore it. For launch_scripts/slurm.sbatch.
"""

import base64
import json
import os
import signal
import sys
from collections.abc import Mapping, MutableMapping, Sequence

from compress.errors import UserError, fail
from compress.runtime.launchers import LOCAL, first_host, slurm_port

USAGE = "usage: srun --ntasks-per-node=1 python -m compress.runtime.slurm_node RANKS train.py ..."


def words(environment: Mapping[str, str], arguments: Sequence[str]) -> list[str]:
    """The command of the launcher on this node; arguments: ranks of a node, script and its arguments.

    Raises UserError outside of a step of srun with one task a node.
    """
    if len(arguments) < 2 or not arguments[0].isdigit() or int(arguments[0]) < 1:
        raise UserError(USAGE)
    try:
        nodes, node = (int(environment[name]) for name in ("SLURM_STEP_NUM_NODES", "SLURM_NODEID"))
        tasks, job = (int(environment[name]) for name in ("SLURM_STEP_NUM_TASKS", "SLURM_JOB_ID"))
        step, hosts = int(environment["SLURM_STEP_ID"]), environment["SLURM_STEP_NODELIST"]
    except (KeyError, ValueError) as error:
        raise UserError(f"this is no step of srun ({error}); {USAGE}") from None
    if tasks != nodes:
        raise UserError(f"srun started {tasks} tasks on {nodes} nodes; start one a node: {USAGE}")
    ranks = int(arguments[0])
    places: dict[str, list[int | str]] = {str(number): [*range(ranks)] for number in range(nodes)}
    places[str(node)] = _devices(environment, ranks)
    return [
        *(sys.executable, "-u", "-m", "deepspeed.launcher.launch", "--log_level=critical"),
        f"--world_info={base64.urlsafe_b64encode(json.dumps(places).encode()).decode()}",
        f"--node_rank={node}",
        f"--master_addr={LOCAL if nodes == 1 else first_host(hosts)}",
        f"--master_port={slurm_port(job, step)}",
        *arguments[1:],
    ]


def _devices(environment: Mapping[str, str], ranks: int) -> list[int | str]:
    """The GPUs of this node's ranks as CUDA names them: those that Slurm shows, else the first ones.

    Raises UserError if Slurm shows fewer than there are ranks.
    """
    shown = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if shown and len(shown) < ranks:
        raise UserError(
            f"Slurm gives this node {len(shown)} GPUs (CUDA_VISIBLE_DEVICES) for {ranks} ranks; set "
            f"RANKS to {len(shown)}, or ask for more with --gpus-per-node."
        )
    return [*shown[:ranks]] if shown else [*range(ranks)]


def prepare(environment: MutableMapping[str, str], ranks: int) -> None:
    """Where there is no GPU: the CPU as the device, and its cores shared by the ranks."""
    if environment.get("SLURM_GPUS_ON_NODE") or environment.get("CUDA_VISIBLE_DEVICES"):
        return
    cores = int(environment.get("SLURM_CPUS_ON_NODE") or os.cpu_count() or 1)
    environment.setdefault("DS_ACCELERATOR", "cpu")
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores // ranks)))


def main() -> None:
    """Become the launcher."""
    command = words(os.environ, sys.argv[1:])
    prepare(os.environ, int(sys.argv[1]))
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    os.execv(command[0], command)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        fail(error)
