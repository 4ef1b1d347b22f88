"""Which launcher started a process, from environments as the launchers make them."""

import builtins
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from launcher import ROOT, job, run

from compress.errors import UserError
from compress.runtime import launchers
from compress.runtime.launchers import Launch, adopt, first_host, found

MEETING = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
TORCH = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", **MEETING}
BATCH = {
    "SLURM_JOB_ID": "71",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_JOB_NODELIST": "gpu[03-04]",
}
"""A batch script of four tasks; `srun` adds what follows."""
STEP = {
    **BATCH,
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "PMIX_RANK": "1",
}
MPICH = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0"}
PORT = launchers.slurm_port(71, 2)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Launch()),
        ({"WORLD_SIZE": "8", **MEETING}, Launch()),
        (TORCH, Launch("torchrun", 3, 1, 4, "10.0.0.1", 29500)),
        (STEP, Launch("srun", 3, 1, 4, "gpu03", PORT)),
        ({**STEP, "SLURM_STEP_NUM_NODES": "1"}, Launch("srun", 3, 1, 4, "127.0.0.1", PORT)),
        ({**STEP, **MEETING}, Launch("srun", 3, 1, 4, "10.0.0.1", 29500)),
        ({**STEP, "PMI_RANK": "3", "PMI_SIZE": "4"}, Launch("srun", 3, 1, 4, "gpu03", PORT)),
        ({**STEP, "PMIX_RANK": "3"}, Launch("srun", 3, 1, 4, "gpu03", PORT)),
        ({**STEP, **TORCH}, Launch("torchrun", 3, 1, 4, "10.0.0.1", 29500)),
        ({**STEP, **OPEN_MPI}, Launch("mpirun", 1, 1, 2)),
        (OPEN_MPI, Launch("mpirun", 1, 1, 2)),
        ({**OPEN_MPI, **MEETING}, Launch("mpirun", 1, 1, 2, "10.0.0.1", 29500)),
        (MPICH, Launch("mpirun", 1, 0, 2)),
        ({"MV2_COMM_WORLD_RANK": "1", "MV2_COMM_WORLD_SIZE": "2"}, Launch("mpirun", 1, None, 2)),
        ({"PMIX_RANK": "1"}, Launch("mpirun", 1, None, None)),
    ],
)
def test_found(environment, expected):
    assert found(environment) == expected


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"SLURM_STEP_ID": "4294967291"},
        {"SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1"},
        {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1"},
        {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"},
    ],
    ids=["batch script", "the same of later releases", "salloc", "srun --pty bash", "mpirun -np 1"],
)
def test_one_process_in_a_job_of_slurm_is_one_process(more):
    assert found(BATCH | more) == Launch()


@pytest.mark.parametrize(
    ("words", "launcher"),
    [
        ("fcntl.ioctl(0, termios.TIOCSCTTY, 0)", ""),
        ("pass", "srun"),
        ("fcntl.ioctl(0, termios.TIOCSCTTY, 0); env['SLURM_TASK_PID'] = str(os.getpid())", "srun"),
    ],
    ids=["srun -n 4 --pty bash", "srun -n 4 in that shell", "srun -n 4 --pty python"],
)
def test_the_shell_of_srun_is_one_process_whatever_the_tasks(words, launcher):
    """Such a shell has a terminal; what srun starts in it has the variable, but no terminal."""
    more = {"SLURM_PTY_PORT": "40123", "SLURM_TASK_PID": "1", "SLURM_PROCID": "0"}
    code = (
        f"import fcntl, os, termios; from compress.runtime import launchers; env = {STEP | more}; "
        f"{words}; print(launchers.found(env).launcher)"
    )
    main, terminal = os.openpty()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=terminal,
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )
    os.close(main)
    os.close(terminal)
    assert done.stdout == f"{launcher}\n", done.stderr


def test_the_variables_that_torch_reads():
    environment = dict(STEP)
    assert adopt(environment) == found(STEP)
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    assert [environment[name] for name in names] == ["3", "1", "4", "gpu03", str(PORT)]
    again = found(environment)
    assert (again.rank, again.ranks, again.address, again.port) == (3, 4, "gpu03", PORT)
    alone = dict(BATCH)
    adopt(alone)
    assert alone == BATCH


def test_ranks_that_torchrun_has_started_again():
    """They would read the addresses of the ranks before them, and wait for nothing that is there."""
    assert found({**TORCH, "TORCHELASTIC_RESTART_COUNT": "0"}).ranks == 4
    with pytest.raises(UserError, match="leave --max-restarts out: the same command continues"):
        found({**TORCH, "TORCHELASTIC_RESTART_COUNT": "1"})


def test_when_mpi_itself_is_asked():
    assert found(OPEN_MPI).of_mpi and not found({**OPEN_MPI, **MEETING}).of_mpi
    assert found({**OPEN_MPI, "MASTER_PORT": "29500"}).of_mpi
    unknown = found({"PMIX_RANK": "1", **MEETING})
    assert unknown.of_mpi and unknown.variables() == {"RANK": "1", "LOCAL_RANK": "0"}
    assert not found(STEP).of_mpi and not Launch().of_mpi


def test_a_script_that_sets_some_of_them():
    """The usual wrapper around srun leaves LOCAL_RANK to Slurm."""
    without = {name: value for name, value in TORCH.items() if name != "LOCAL_RANK"}
    assert found({**without, "SLURM_LOCALID": "1"}).local_rank == 1
    with pytest.raises(UserError, match=r"\(4\) are set and LOCAL_RANK not"):
        found(without)
    with pytest.raises(UserError, match="are set and LOCAL_RANK and MASTER_ADDR and MASTER_PORT not"):
        found({"RANK": "0", "WORLD_SIZE": "2"})
    alone = found({"RANK": "0", "WORLD_SIZE": "1"})
    assert (alone.rank, alone.ranks, alone.address) == (0, 1, "127.0.0.1") and alone.port


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"RANK": "one"}, "RANK is 'one', which is no number"),
        ({"RANK": "4"}, "RANK is 4 and WORLD_SIZE 4"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT is 'http'"),
    ],
)
def test_what_contradicts_itself(changes, words):
    with pytest.raises(UserError, match=words):
        found(TORCH | changes)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("gpu03", "gpu03"),
        ("gpu03,gpu04", "gpu03"),
        ("gpu[03-07,12],login1", "gpu03"),
        ("rack2-n[9,11-12]-ib", "rack2-n9-ib"),
        ("r[1-2]n[004-008]", "r1n004"),
        ("login1,gpu[03-07]", "login1"),
        (" a ", "a"),
    ],
)
def test_first_host(nodes, expected):
    assert first_host(nodes) == expected


def test_a_list_of_hosts_that_is_none():
    with pytest.raises(UserError, match="'' is no list of Slurm's hosts"):
        found({**STEP, "SLURM_STEP_NODELIST": "", "SLURM_JOB_NODELIST": ""})


def test_ports_of_slurm_differ_between_neighbours_and_lie_below_the_systems_own():
    ports = {launchers.slurm_port(job, step) for job in range(1000, 1100) for step in range(5)}
    assert len(ports) == 500
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for number in (1, 387, 10**6, 2**32 - 1):
        assert 1024 < launchers.slurm_port(number, 3) < lowest


def test_mpirun_without_mpi4py_says_so(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name == "mpi4py":
            raise ImportError("No module named 'mpi4py'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    for step in (lambda: adopt(dict(OPEN_MPI)), lambda: launchers.meet(found(OPEN_MPI))):
        with pytest.raises(UserError) as caught:
            step()
        message = str(caught.value)
        assert "pip install mpi4py" in message and "\n" not in message
    assert adopt({**OPEN_MPI, **MEETING}).address == "10.0.0.1", "not needed where the user says it"


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"PMI_RANK": "2", "PMI_SIZE": "3"}, 1),
        ({"PMI_RANK": "2", "PMI_SIZE": "3", **MEETING}, 1),
        ({"PMI_RANK": "2", "PMI_SIZE": "3", "MPI_LOCALRANKID": "5"}, 5),
    ],
    ids=["unknown", "unknown, with an address", "known"],
)
def test_mpi_says_which_rank_of_its_host_one_is_where_its_launcher_does_not(
    monkeypatch, environment, place
):
    here = socket.gethostname()
    world = SimpleNamespace(
        Get_rank=lambda: 2,
        Get_size=lambda: 3,
        allgather=lambda name: [here, "another", name],
        bcast=lambda value, root: value,
    )
    library = SimpleNamespace(MPI=SimpleNamespace(COMM_WORLD=world))
    monkeypatch.setitem(sys.modules, "mpi4py", library)
    launch = adopt(dict(environment))
    assert launch.of_mpi and launchers.meet(launch).variables()["LOCAL_RANK"] == str(place)


def test_own_address_is_one_of_this_machine():
    with socket.socket() as server:
        server.bind((launchers.own_address(), 0))


def test_torch_is_not_loaded_for_it():
    words = "import sys, compress.runtime.launchers as l; l.found({}); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", words], cwd=ROOT, check=False)
    assert done.returncode == 0


@pytest.mark.slow
def test_a_task_of_srun_sees_the_batch_before_torch_is_loaded(tiny_model, tmp_path):
    """As rank 0 of 64, with a batch of 32: the sentence, at once, on every rank."""
    words = job(tiny_model, tmp_path / "run", "train_batch_size=32")
    many = {**STEP, "SLURM_STEP_NUM_TASKS": "64", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    done = run([sys.executable, *words], **many)
    assert done.returncode == 1
    assert re.fullmatch(
        r"error: train_batch_size is 32, too small for 64 ranks .* start 32 ranks, or .*\n", done.stderr
    )


def test_a_port_is_not_given_twice(monkeypatch):
    """Two runs of a study that start together would meet at the same one."""
    asked = iter([50001, 50001, 50002])

    class Free(socket.socket):
        def bind(self, address):
            pass

        def getsockname(self):
            return "0.0.0.0", next(asked)

    monkeypatch.setattr(launchers.socket, "socket", Free)
    assert [launchers.free_port(), launchers.free_port()] == [50001, 50002]
