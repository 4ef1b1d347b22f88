"""What the launch scripts choose and wait for: GPUs, threads, one installation, a new start."""

import os
import shutil
import subprocess
import sys

import pytest
from launcher import ROOT

FUNCTIONS = """set -euo pipefail; RANKS=2; stop() { echo "error: $1" >&2; exit 1; }
for name in find_gpus quietly launch figures_of
do eval "$(sed -n "/^$name()/,/^}/p" launch_scripts/setup.sh)"; done; launch train.py --stage teacher"""
LEFT_OUT = ("CUDA_VISIBLE_DEVICES", "RANKS", "DS_ACCELERATOR", "HOSTFILE", "MPIRUN")
GPUS = "for n in 0 1 2 3 4 5; do echo GPU $n: H200; done"
WORDS = 'echo "$@ | ${CUDA_VISIBLE_DEVICES-unset} | $OMP_NUM_THREADS" > "$SAID"'
DEEPSPEED = f'{WORDS.replace("$OMP", "${DS_ACCELERATOR-} $OMP")}; touch "$ROBUST_COMPRESSION_ENDED"'


@pytest.fixture
def stand_ins(tmp_path):
    """Function (**programs) -> an environment in which these are bash scripts; `said` is a file."""

    def make(**programs):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name, script in programs.items():
            file = folder / name.replace("_", "-")
            file.write_text(f"#!/bin/bash\n{script}\n")
            file.chmod(0o755)
        kept = {k: v for k, v in os.environ.items() if k not in LEFT_OUT}
        own = {"PATH": f"{folder}:{os.environ['PATH']}", "SAID": str(tmp_path / "said")}
        return {**kept, **own, "OMP_NUM_THREADS": "1"}

    return make


@pytest.fixture
def project(tmp_path):
    """A copy of the launch scripts with an environment whose pip is a stand-in."""
    folder, venv = tmp_path / "project", tmp_path / "venv/bin"
    shutil.copytree(ROOT / "launch_scripts", folder / "launch_scripts")
    venv.mkdir(parents=True)
    (folder / "requirements.txt").write_text("")
    (venv / "pip").write_text(f"#!/bin/bash\necho started >> {tmp_path}/calls\nsleep 2\n")
    (venv / "pip").chmod(0o755)
    (venv / "activate").write_text(f"export PATH={venv}:$PATH\n")
    return folder


@pytest.mark.parametrize(
    ("visible", "words"),
    [
        (None, "--include localhost:0,1,2,3 --master_port"),
        ("2,3,5", "--include localhost:2,3 --master_port"),
        ("4", "--include localhost:4 --master_port"),
        ("", "--num_accelerators 2 --master_port"),
    ],
)
def test_the_gpus_that_are_visible_are_taken(tmp_path, stand_ins, visible, words):
    """DeepSpeed takes the first ones of the machine for a number, whatever is visible."""
    environment = stand_ins(nvidia_smi=GPUS, deepspeed=DEEPSPEED)
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    subprocess.run(["bash", "-c", FUNCTIONS], cwd=ROOT, env=environment, check=True)
    said = (tmp_path / "said").read_text()
    assert words in said and " | unset | " in said
    assert (" cpu 1" in said) == (visible == "")


def test_gpus_without_numbers_are_refused(stand_ins):
    environment = stand_ins(nvidia_smi=GPUS) | {"CUDA_VISIBLE_DEVICES": "MIG-1a,MIG-2b"}
    done = subprocess.run(
        ["bash", "-c", FUNCTIONS], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: CUDA_VISIBLE_DEVICES is 'MIG-1a,MIG-2b': give the numbers")


@pytest.mark.parametrize(("hosts", "threads"), [("# two\na slots=4\n\nb slots=4\n", 16), (None, 8)])
def test_mpirun_shares_the_cores_among_the_ranks_of_a_host(
    tmp_path, stand_ins, project, hosts, threads
):
    environment = stand_ins(nvidia_smi="exit 1", nproc="echo 64", mpirun=WORDS)
    environment |= {"RANKS": "8", "VENV": str(tmp_path / "venv"), "PYTHON": sys.executable}
    del environment["OMP_NUM_THREADS"]
    if hosts:
        (tmp_path / "hosts").write_text(hosts)
        environment["HOSTFILE"] = str(tmp_path / "hosts")
    script = ["bash", "launch_scripts/mpirun.sh", "--stage", "teacher"]
    subprocess.run(script, cwd=project, env=environment, check=True)
    said = (tmp_path / "said").read_text()
    assert said.startswith("-np 8 --bind-to none") and said.rstrip().endswith(f"| {threads}")


def test_scripts_that_start_together_install_once(tmp_path, stand_ins, project):
    """As the jobs of an array do."""
    environment = stand_ins() | {"VENV": str(tmp_path / "venv"), "PYTHON": sys.executable}
    words = "source launch_scripts/setup.sh requirements.txt; cat $VENV/installed"
    pipes = {"stdout": subprocess.PIPE, "text": True}
    started = [
        subprocess.Popen(["bash", "-c", words], cwd=project, env=environment, **pipes) for _ in range(3)
    ]
    outputs = [one.communicate()[0] for one in started]
    assert all(one.returncode == 0 for one in started)
    assert all(output.splitlines()[-1].endswith("  requirements.txt") for output in outputs)
    assert (tmp_path / "calls").read_text().splitlines() == ["started"]


def test_a_slurm_job_whose_time_ends_while_it_installs_goes_back_into_the_queue(
    tmp_path, stand_ins, project
):
    (project / "launch_scripts/setup.sh").write_text("set -euo pipefail\nkill -USR1 $$\n")
    environment = stand_ins(
        python="exit 3", scontrol='echo "$@" >> "$SAID"', srun='echo srun >> "$SAID"'
    )
    environment |= {"SLURM_SUBMIT_DIR": str(project), "SLURM_JOB_ID": "7", "SLURM_NNODES": "1"}
    environment |= {"SLURM_JOB_NODELIST": "node1", "RANKS": "2"}
    done = subprocess.run(["bash", "launch_scripts/slurm.sbatch"], cwd=project, env=environment)
    assert done.returncode == 75
    said = (tmp_path / "said").read_text()
    assert "requeue 7" in said and "srun" not in said
