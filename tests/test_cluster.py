"""Launchers on a cluster, for real: two hosts in network namespaces, and a Slurm of two nodes.

The drivers in tests/cluster build both from packages of the distribution, as root, in namespaces that
end with them. All cases of a driver run in one start; the tests look at what they left.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from configs import BASE
from launcher import ROOT, job

from compress.files import artefacts
from compress.plan import communication
from compress.plan.communication import Traffic

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
CLUSTER = ROOT / "tests/cluster"
TWO_HOSTS = ("doctor", "unshared", "pdsh", "mpirun", "no_mpi4py", "bytes")
TWO_HOSTS += ("killed", "link", "late", "continued")
SLURM = ("srun", "one", "parts", "fails", "quits")
OURS = "robust_compression"


def prepare(*programs):
    """Skip where the cluster cannot be built; install what it needs."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for namespaces and packages")
    if shutil.which("apt-get") is None:
        pytest.skip("needs Debian's or Ubuntu's packages")
    tried = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", "--mount", "--net", "--uts", "true"],
        capture_output=True,
        text=True,
    )
    if tried.returncode:
        pytest.skip(f"no namespaces here: {tried.stderr.strip()}")
    done = subprocess.run(
        ["bash", str(CLUSTER / "install.sh"), *programs], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"packages cannot be had: {done.stderr.strip()[-200:]}")


def environment_in(folder):
    """A virtual environment for launch_scripts/setup.sh, with the packages of the tests' own."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (packages / "beside.pth").write_text(sysconfig.get_path("purelib"))
    (folder / "bin/pip").symlink_to("/bin/true")
    python = folder / "bin/python"
    (folder / "bin/deepspeed").write_text(
        f"#!{python}\nfrom deepspeed.launcher.runner import main\nmain()\n"
    )
    (folder / "bin/deepspeed").chmod(0o755)
    wanted = subprocess.run(
        ["sha256sum", "requirements.txt"], cwd=ROOT, capture_output=True, check=True
    )
    (folder / "installed").write_bytes(wanted.stdout)
    return folder


class Cases:
    """What the cases of a driver left in a folder."""

    def __init__(self, folder):
        self.folder = folder

    def code(self, case):
        return int((self.folder / f"{case}.code").read_text() or -1)

    def log(self, case):
        return (self.folder / f"{case}.log").read_text()

    def teacher(self, case):
        """Marker of the teacher that a run made."""
        (file,) = (self.folder / case / "shared/teacher").glob("*/complete.json")
        return json.loads(file.read_text())


def drive(results, tiny_model, driver, *command):
    """Run a driver with a command that leaves its cases in `results`."""
    parts = ("compression/imp60", "mitigation/vanilla")
    words = job(tiny_model, "", f"{OURS}.epochs=1", stage="teacher", parts=parts)[1:]
    place = words.index("--output_dir")
    (results / "words").write_text("\n".join(words[:place] + words[place + 2 :]) + "\n")
    vanilla = {"model": str(tiny_model), "loss": {"hook": "vanilla"}, "student": {"uncompressed": True}}
    stand_in = BASE | {OURS: BASE[OURS] | vanilla}
    (results / "stand_in.json").write_text(json.dumps(stand_in))
    venv, scratch = environment_in(results / "venv"), results / "scratch"
    scratch.mkdir()
    taken = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "DS_ACCELERATOR"}
    kept = {k: v for k, v in os.environ.items() if k not in taken and not k.startswith("SLURM")}
    environment = {**kept, "VENV": str(venv), "PATH": f"{venv}/bin:{os.environ['PATH']}:/usr/sbin"}
    done = subprocess.run(
        ["bash", str(CLUSTER / driver), str(scratch), "bash", *map(str, command)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=850,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return Cases(results)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory, tiny_model):
    prepare("ip", "sshd", "ssh", "pdsh", "mpirun", "hostname", "sshfs")
    results = tmp_path_factory.mktemp("hosts")
    (results / "without").mkdir()
    (results / "without/mpi4py.py").write_text("raise ImportError('No module named mpi4py')\n")
    return drive(
        results, tiny_model, "two_hosts.sh", CLUSTER / "two_hosts_cases.sh", results, *TWO_HOSTS
    )


@pytest.fixture(scope="module")
def slurm(tmp_path_factory, tiny_model):
    prepare("ip", "slurmctld", "slurmd", "srun", "munged")
    results = tmp_path_factory.mktemp("slurm")
    project = results / "project"
    project.mkdir()
    for name in ("launch_scripts", "compress", "requirements.txt", "ds_configs"):
        (project / name).symlink_to(ROOT / name)
    shutil.copy(CLUSTER / "stand_in.py", project / "train.py")
    command = (CLUSTER / "slurm_cases.sh", results, project, *SLURM)
    return drive(results, tiny_model, "two_node_slurm.sh", *command)


def test_the_doctor_looks_at_both_hosts(hosts):
    said = hosts.log("doctor")
    assert hosts.code("doctor") == 0, said
    for words in ("reached", "written here, read there", "eth0 10.77.0.1", "eth0 10.77.0.2"):
        assert words in said
    assert "all-reduce        2 hosts  gloo: " in said and "nothing is wrong" in said
    assert "8 samples a step = micro-batch 4 x 2 ranks" in said


def test_the_doctor_finds_a_directory_that_is_not_shared_and_a_port_that_is_taken(hosts):
    said = hosts.log("unshared")
    assert hosts.code("unshared") == 1, said
    assert "hostb: a file written to" in said and "on a file system that all hosts share" in said
    assert "hosta: port 29500 is taken; start with --master_port" in said
    assert said.rstrip().endswith("2 to do")


def test_a_hostfile_through_pdsh(hosts):
    said = hosts.log("pdsh")
    assert hosts.code("pdsh") == 0, said
    assert hosts.teacher("pdsh")["origin"]["ranks"] == 2
    assert "batch: 16 samples a step = micro-batch 8 x 2 ranks" in said
    assert {"hosta:", "hostb:"} <= {line.split(" ")[0] for line in said.splitlines()}


def test_mpirun_on_two_hosts_trains_what_pdsh_trains(hosts):
    assert hosts.code("mpirun") == 0, hosts.log("mpirun")
    one, other = (hosts.teacher(case) for case in ("mpirun", "pdsh"))
    assert one["origin"]["ranks"] == 2 and one["key"] == other["key"]
    assert artefacts.content(one) == artefacts.content(other), "the same weights"


def test_a_step_sends_what_the_plan_says(hosts):
    assert hosts.code("bytes") == 0, hosts.log("bytes")
    for zero in range(4):
        found = json.loads((hosts.folder / f"bytes/{zero}.json").read_text())
        size = 4 * found["parameters"]
        traffic = Traffic(size, zero, ranks=2, accumulation=2, gatherings=1, gloo=True)
        expected = sum(communication.sent(traffic).values())
        for sent in found["sent"]:
            assert sent == pytest.approx(expected, rel=0.05), zero


def test_a_host_that_is_killed_ends_the_run(hosts):
    said = hosts.log("killed")
    assert hosts.code("killed") not in (0, 124), said
    assert said.count("error: rank 1 on host hostb has ended; without a reason above") == 1, said
    assert "Traceback" not in said


def test_a_link_that_is_down_is_named_and_the_run_before_is_continued(hosts):
    said = hosts.log("link")
    assert hosts.code("link") not in (0, 124), said
    assert "teacher: continues at step " in said
    assert "rank 1 on host hostb did not answer for 12 s (robust_compression.timeout)" in said


def test_a_host_that_sees_files_late_waits_for_nothing_and_loses_nothing(hosts):
    """It remembers for longer than the run lasts which names were not there."""
    if not (hosts.folder / "scratch/mounted").exists():
        pytest.skip("no FUSE here")
    stopped, said = hosts.log("late"), hosts.log("continued")
    assert hosts.code("late") == 75, stopped
    assert "interrupted in teacher, step 8 of 8; the same command continues" in stopped
    assert "is written here" not in stopped and "is not kept here" not in stopped
    assert hosts.code("continued") == 0, said
    assert "teacher: continues at step 8 of 8" in said
    assert re.search("train: scoring continues at batch [234] of 15", said)
    assert "passed over" not in said


def test_mpirun_without_mpi4py(hosts):
    said = hosts.log("no_mpi4py")
    assert hosts.code("no_mpi4py") == 1
    assert (
        said.count("error: mpirun has started this process, whose ranks find each other through") == 1
    )
    assert "Traceback" not in said


def test_srun_without_mpi(slurm):
    assert slurm.code("srun") == 0, slurm.log("srun")
    assert slurm.teacher("srun")["origin"]["ranks"] == 4
    assert slurm.log("srun").count("teacher: done") == 1, "rank 0 alone prints"


def test_one_process_in_a_batch_job_is_one_process(slurm):
    assert slurm.code("one") == 0, slurm.log("one")
    assert slurm.teacher("one")["origin"]["ranks"] == 1


def test_a_job_that_is_cut_off_goes_on_until_the_run_is_finished(slurm):
    said, about = slurm.log("parts"), (slurm.folder / "parts.job").read_text()
    assert slurm.code("parts") == 0, said
    assert "a start has 00:09:00, and with this script's --signal=B:USR1@300" in said
    assert "JobState=COMPLETED" in about and "Restarts=1 " in about
    assert said.count("start 1: not finished; back into the queue") == 1
    assert said.rstrip().endswith("run: finished")
    saved = json.loads((slurm.folder / "parts/run/saved.json").read_text())
    assert saved == {"ranks": 4, "sum": 10}
    assert len(re.findall("start 1: 2 nodes x 2 ranks on node.1-2.", said)) == 1


@pytest.mark.parametrize(("case", "codes"), [("fails", {7, 143}), ("quits", {1})])
def test_a_death_is_no_success_and_is_not_repeated(slurm, case, codes):
    """One node's code is 7; 143 if srun has ended the other node before it failed by itself."""
    about = (slurm.folder / f"{case}.job").read_text()
    assert "JobState=FAILED" in about and "Restarts=0 " in about
    assert slurm.code(case) in codes, slurm.log(case)
    assert "and the run is not finished; the job does not go on by itself" in slurm.log(case)
