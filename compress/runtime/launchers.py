"""Which launcher started this process: torchrun, deepspeed, srun or mpirun; what it says of the ranks.

`found` reads an environment and changes nothing; `adopt` writes what it found under the names that
torch and DeepSpeed read (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT), so that nothing else
in the program needs to know of launchers. Does not import torch.
"""

import os
import re
import socket
from collections import deque
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from compress.errors import UserError, first_line

LOCAL = "127.0.0.1"
MPI = {
    "OMPI_COMM_WORLD_RANK": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "MV2_COMM_WORLD_RANK": ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK"),
    "PMI_RANK": ("PMI_SIZE", "MPI_LOCALRANKID"),
    "PMIX_RANK": ("PMIX_SIZE", "PMIX_LOCAL_RANK"),
}
"""Rank (Open MPI, MVAPICH, MPICH and Intel MPI, PMIx) -> number of ranks, rank on the node."""
STEPS = 0xFFFFFFF0
"""Step ids from here on are no steps of srun: Slurm's batch script and its interactive shell."""
PORTS, FIRST_PORT = 12000, 20000
"""Ports of Slurm jobs: below those that the system gives to connections."""


@dataclass(frozen=True)
class Launch:
    """This process among the ranks.

    launcher: its name, "" for a single process; local_rank, ranks: None if only MPI itself can tell;
    address, port: where they meet, "" and 0 if MPI has to agree on it.
    """

    launcher: str = ""
    rank: int = 0
    local_rank: int | None = 0
    ranks: int | None = 1
    address: str = ""
    port: int = 0

    @property
    def of_mpi(self) -> bool:
        """Whether the ranks have to ask MPI where they meet, or which of their host each is."""
        known = self.address and self.port and self.ranks and self.local_rank is not None
        return self.launcher == "mpirun" and not known

    def variables(self) -> dict[str, str]:
        """What torch and DeepSpeed read, as far as it is known; empty for a single process."""
        if not self.launcher:
            return {}
        known = {"RANK": self.rank, "LOCAL_RANK": self.local_rank or 0}
        known |= {} if self.ranks is None else {"WORLD_SIZE": self.ranks}
        known |= {} if self.of_mpi else {"MASTER_PORT": self.port}
        named = {} if self.of_mpi else {"MASTER_ADDR": self.address}
        return {**{name: str(value) for name, value in known.items()}, **named}


def found(environment: Mapping[str, str]) -> Launch:
    """What the environment says. The innermost launcher counts: srun may start mpirun or torchrun.

    One process of Slurm, as in a batch script, in the shell of salloc or `srun --pty bash`, or `srun
    -n 1`, is a single process. Raises UserError for variables that contradict each other or are no
    numbers.
    """
    if "RANK" in environment:
        return _torch(environment)
    slurm = _slurm(environment)
    for name, (size, local) in MPI.items():
        if name in environment:
            rank, ranks = _number(environment, name), _number(environment, size, None)
            if slurm is not None and (slurm.rank, slurm.ranks) == (rank, ranks or slurm.ranks):
                return slurm  # `srun --mpi=pmi2` or pmix: Slurm alone says as much
            if ranks == 1:
                return Launch()
            place = _number(environment, local)
            return Launch("mpirun", rank or 0, place, ranks, *_meeting(environment))
    return slurm or Launch()


def adopt(environment: MutableMapping[str, str]) -> Launch:
    """As `found`; and write it into the environment for torch and DeepSpeed.

    Raises UserError if the ranks have to meet through MPI and mpi4py is missing.
    """
    launch = found(environment)
    environment.update(launch.variables())
    if launch.of_mpi:
        try:
            import mpi4py  # noqa: F401  asks if it is there
        except ImportError as error:
            raise _without_mpi4py(error) from None
    return launch


def meet(launch: Launch) -> Launch:
    """The launch of mpirun with the place where all its ranks meet; collective over MPI.

    Raises UserError if mpi4py is missing or belongs to another MPI.
    """
    try:
        from mpi4py import MPI as library  # noqa: N811  its own name
    except (ImportError, RuntimeError) as error:
        raise _without_mpi4py(error) from None
    world: Any = library.COMM_WORLD
    ranks = world.Get_size()
    if launch.ranks is not None and ranks != launch.ranks:
        raise UserError(
            f"mpirun has started {launch.ranks} ranks and mpi4py sees {ranks}: it was built for "
            "another MPI; run: pip install --no-binary mpi4py --force-reinstall mpi4py"
        )
    hosts = world.allgather(socket.gethostname())
    here = LOCAL if len(set(hosts)) == 1 else own_address()
    address, port = world.bcast((here, free_port()), root=0)
    local_rank = hosts[: world.Get_rank()].count(socket.gethostname())
    return Launch(
        "mpirun",
        world.Get_rank(),
        local_rank if launch.local_rank is None else launch.local_rank,
        ranks,
        launch.address or address,
        launch.port or port,
    )


def _without_mpi4py(error: Exception) -> UserError:
    return UserError(
        "mpirun has started this process, whose ranks find each other through the package mpi4py, but "
        f"that cannot be imported ({first_line(error)}); run: pip install mpi4py, or start with "
        "`deepspeed` instead of mpirun."
    )


def first_host(nodes: str) -> str:
    """First host of a list as Slurm writes it: `gpu[03-07,12],login1` -> `gpu03`.

    Raises UserError for a list that is none.
    """
    first = re.match(r"(?:[^,\[\]]|\[[^\[\]]*\])+", nodes.strip())
    if first is None:
        raise UserError(f"'{nodes}' is no list of Slurm's hosts; start with `deepspeed` or torchrun.")
    return re.sub(r"\[(\w*)[^\]]*\]", r"\1", first.group())


def own_address() -> str:
    """An IPv4 address of this machine that others can reach, as far as it can tell; else 127.0.0.1.

    The one that its name stands for, unless that is of this machine only; else its first interface's.
    """
    addresses = [address for _, address in interfaces() if not address.startswith("127.")]
    try:
        named = socket.gethostbyname(socket.gethostname())
    except OSError:
        named = LOCAL
    return named if named in addresses else next(iter(addresses), LOCAL)


def interfaces() -> list[tuple[str, str]]:
    """Name and IPv4 address of this machine's interfaces that are up; one may have several."""
    import psutil

    states: Any = psutil.net_if_stats()
    return [
        (name, entry.address)
        for name, entries in psutil.net_if_addrs().items()
        if name in states and states[name].isup
        for entry in entries
        if entry.family == socket.AF_INET
    ]


def _torch(environment: Mapping[str, str]) -> Launch:
    """What torchrun, deepspeed, or a script that sets the same variables says."""
    rank, ranks = _number(environment, "RANK"), _number(environment, "WORLD_SIZE", 1)
    assert rank is not None and ranks is not None
    if not 0 <= rank < ranks:
        raise UserError(
            f"RANK is {rank} and WORLD_SIZE {ranks}; unset both, or let a launcher such as `deepspeed` "
            "set them."
        )
    if _number(environment, "TORCHELASTIC_RESTART_COUNT", 0):
        raise UserError(
            "torchrun has started the ranks again, which cannot meet at a store that holds what the "
            "ranks before them said; leave --max-restarts out: the same command continues."
        )
    others = [name for name in ("SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK") if name in environment]
    local = _number(environment, "LOCAL_RANK", _number(environment, others[0]) if others else None)
    address, port = _meeting(environment)
    if ranks == 1:
        address, local = address or LOCAL, local or 0
        port = port or free_port()
    lacking = {"LOCAL_RANK": local is None, "MASTER_ADDR": not address, "MASTER_PORT": not port}
    if any(lacking.values()):
        names = " and ".join(name for name, missing in lacking.items() if missing)
        raise UserError(
            f"RANK and WORLD_SIZE ({ranks}) are set and {names} not; set all of them, or let a "
            "launcher such as `deepspeed`, torchrun or srun do it."
        )
    return Launch("torchrun", rank, local or 0, ranks, address, port)


def _slurm(environment: Mapping[str, str]) -> Launch | None:
    """What srun says of a task; None for a single one, and outside of its steps."""
    step = environment.get("SLURM_STEP_ID", environment.get("SLURM_STEPID", ""))
    ranks = _number(environment, "SLURM_STEP_NUM_TASKS", _number(environment, "SLURM_NTASKS", 1))
    if not step.isdigit() or int(step) >= STEPS or "SLURM_PROCID" not in environment:
        return None
    if ranks is None or ranks == 1 or _in_a_shell(environment):
        return None
    nodes = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_JOB_NODELIST", ""))
    alone = _number(environment, "SLURM_STEP_NUM_NODES", 0) == 1
    given, port = _meeting(environment)
    job = _number(environment, "SLURM_JOB_ID", 0) or 0
    return Launch(
        "srun",
        _number(environment, "SLURM_PROCID") or 0,
        _number(environment, "SLURM_LOCALID", 0) or 0,
        ranks,
        given or (LOCAL if alone else first_host(nodes)),
        port or slurm_port(job, int(step)),
    )


def _in_a_shell(environment: Mapping[str, str]) -> bool:
    """Whether this process was started in the shell of `srun --pty bash`, and is no task itself.

    An srun in that shell hands SLURM_PTY_PORT on to its own tasks, but these have no terminal.
    """
    task = environment.get("SLURM_TASK_PID") == str(os.getpid())
    if task or "SLURM_PTY_PORT" not in environment:
        return False
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY))
    except OSError:
        return False
    return True


def slurm_port(job: int, step: int) -> int:
    """The port of a step of a job: the same on every host, another one for neighbouring jobs."""
    return FIRST_PORT + (job * 31 + step) % PORTS


def _meeting(environment: Mapping[str, str]) -> tuple[str, int]:
    """Where the ranks meet as far as the user says so, else ("", 0)."""
    return environment.get("MASTER_ADDR", ""), _number(environment, "MASTER_PORT", 0) or 0


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int | None:
    """A variable as a whole number, `default` if it is not set; UserError for anything else."""
    text = environment.get(name, "").strip()
    if not text:
        return default
    if not text.isdigit():
        raise UserError(f"the environment variable {name} is '{text}', which is no number; unset it.")
    return int(text)


_given: deque[int] = deque(maxlen=1000)


def free_port() -> int:
    """A port of this machine on which nothing listens now, and not one of those that it gave before."""
    while True:
        with socket.socket() as free:
            free.bind(("", 0))
            port: int = free.getsockname()[1]
        if port not in _given:
            _given.append(port)
            return port
