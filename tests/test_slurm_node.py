"""The launcher on a node of a Slurm step: DeepSpeed's own reads what it is given."""

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest
from launcher import ROOT, run

from compress.errors import UserError
from compress.runtime import launchers, slurm_node

STEP = {
    "SLURM_JOB_ID": "71",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
    "SLURM_NODEID": "1",
}


def options(words):
    found = dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)
    return found, json.loads(base64.urlsafe_b64decode(found["world_info"]))


def test_two_nodes():
    words = slurm_node.words(STEP, ["4", "train.py", "--output_dir", "x"])
    found, places = options(words)
    assert places == {"0": [0, 1, 2, 3], "1": [0, 1, 2, 3]}
    assert (found["node_rank"], found["master_addr"]) == ("1", "gpu03")
    assert found["master_port"] == str(launchers.slurm_port(71, 0))
    assert words[-3:] == ["train.py", "--output_dir", "x"]


def test_a_node_of_its_own_and_gpus_that_are_not_the_first():
    alone = {**STEP, "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NODEID": "0"}
    found, places = options(
        slurm_node.words({**alone, "CUDA_VISIBLE_DEVICES": "5,GPU-7"}, ["2", "train.py"])
    )
    assert places == {"0": ["5", "GPU-7"]} and found["master_addr"] == "127.0.0.1"
    with pytest.raises(UserError, match=r"this node 1 GPUs .* for 2 ranks; set RANKS to 1"):
        slurm_node.words({**alone, "CUDA_VISIBLE_DEVICES": "5"}, ["2", "train.py"])


@pytest.mark.parametrize(
    ("environment", "arguments", "words"),
    [
        (STEP, ["train.py"], "usage: srun"),
        (STEP, ["0", "train.py"], "usage: srun"),
        ({}, ["2", "train.py"], "this is no step of srun"),
        (
            {**STEP, "SLURM_STEP_NUM_TASKS": "4"},
            ["2", "train.py"],
            "4 tasks on 2 nodes; start one a node",
        ),
    ],
)
def test_mistakes(environment, arguments, words):
    with pytest.raises(UserError, match=words):
        slurm_node.words(environment, arguments)


def test_threads_of_a_node_without_gpus():
    environment = {"SLURM_CPUS_ON_NODE": "12"}
    slurm_node.prepare(environment, 4)
    assert (environment["DS_ACCELERATOR"], environment["OMP_NUM_THREADS"]) == ("cpu", "3")
    with_gpus = {"SLURM_CPUS_ON_NODE": "12", "SLURM_GPUS_ON_NODE": "4"}
    slurm_node.prepare(with_gpus, 4)
    assert len(with_gpus) == 2


RANK = """
import os, sys, signal, time
from pathlib import Path
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
if os.environ["RANK"] == "1":
    signal.signal(signal.SIGUSR1, lambda *_: os._exit(75))
    os.kill(os.getppid(), signal.SIGUSR1)  # the launcher must not mind
    time.sleep(0.2)
    Path(sys.argv[-1]).write_text(" ".join(os.environ[name] for name in names))
    os.kill(os.getpid(), signal.SIGUSR1)
time.sleep(60)
"""


@pytest.mark.slow
def test_deepspeeds_launcher_gives_the_ranks_and_keeps_their_exit_code(tmp_path):
    (tmp_path / "rank.py").write_text(RANK)
    alone = {**STEP, "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NODEID": "0"}
    script, seen = str(tmp_path / "rank.py"), tmp_path / "seen"
    command = [sys.executable, "-m", "compress.runtime.slurm_node", "2", script, str(seen)]
    done = run(command, **alone)
    assert done.returncode == 75, done.stderr
    port = launchers.slurm_port(71, 0)
    assert seen.read_text() == f"1 1 2 127.0.0.1 {port}"


@pytest.mark.parametrize("script", sorted((ROOT / "launch_scripts").glob("*.s*")), ids=lambda p: p.name)
def test_bash_reads_the_scripts(script):
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    assert not [line for line in Path(script).read_text().splitlines() if len(line) > 130]
