"""`python -m compress.doctor`: it reads hosts as DeepSpeed does; each fault is found and said."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from configs import BASE, Files
from deepspeed.launcher import runner

from compress.doctor import __main__ as doctor
from compress.doctor import facts, findings, hosts
from compress.doctor.bandwidth import Speed
from compress.doctor.facts import Facts, Gpu
from compress.doctor.findings import Silent
from compress.doctor.hosts import Hosts
from compress.errors import UserError
from compress.runtime import launchers

PACKAGES = {"python": "3.11.7", "deepspeed": "0.19.6", "torch": "2.13.0", "transformers": "5.23.0"}
FACTS = Facts(
    name="a",
    versions=PACKAGES,
    device="cpu",
    gpus=(),
    cores=4,
    threads=2,
    memory=8 * 10**9,
    disk=10**12,
    first="10.0.0.1",
    named="10.0.0.1",
    interfaces={"lo": "127.0.0.1", "eth0": "10.0.0.1"},
    busy=False,
    port=40001,
    shared="",
)
GPU = Gpu("H100", 79 * 10**9, 80 * 10**9)
TWO = Hosts({"a": 2, "b": 2})


def rows(hosts=TWO, **changed):
    """Findings of two hosts of which b differs in these facts."""
    return findings.of_hosts(hosts, {"a": FACTS, "b": replace(FACTS, name="b", **changed)}, 29500)


def advices(found):
    return [row.advice for row in found if row.advice]


def test_two_hosts_with_which_nothing_is_wrong():
    assert advices(rows()) == []
    table = findings.table(rows()).splitlines()
    assert len(table) == 2 + len(rows()) and all(line.endswith("ok") for line in table[2:])
    assert {len(line.rstrip()) for line in table[2:]} == {len(table[2])}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"versions": PACKAGES | {"torch": "2.12.0"}},
            "b: install .* of a: torch 2.12.0 .there 2.13.0",
        ),
        ({"device": "cuda", "gpus": (GPU, GPU)}, "b: has the device cuda and others another"),
        (
            {"shared": "a file cannot be seen here"},
            "b: a file cannot be seen here; give an --output_dir",
        ),
        ({"named": "127.0.1.1"}, "b: its name stands for 127.0.1.1, .* GLOO_SOCKET_IFNAME=eth0 "),
        ({"named": ""}, "b: its name stands for nothing"),
        ({"interfaces": {"lo": "127.0.0.1"}}, "b: is connected to no network"),
    ],
)
def test_what_is_wrong_with_the_second_host(changes, words):
    (advice,) = {a for a in advices(rows(**changes)) if a.startswith("b")}
    assert re.match(words, advice), advice


def test_gpus():
    with_gpus = Facts(**{**vars(FACTS), "device": "cuda", "gpus": (GPU, GPU)})
    two = {"a": with_gpus, "b": replace(with_gpus, gpus=(GPU, replace(GPU, free=10**9)))}
    assert advices(findings.of_hosts(TWO, {"a": with_gpus, "b": with_gpus}, 1)) == []
    (advice,) = advices(findings.of_hosts(TWO, two, 1))
    assert advice == "b: another program uses GPU 1 (nvidia-smi names it)"
    (advice,) = advices(findings.of_hosts(Hosts({"a": 2, "b": 3}), {"a": with_gpus, "b": with_gpus}, 1))
    assert advice == "b: lower slots=3 to its 2 GPUs"


@pytest.mark.parametrize(("threads", "slots", "right"), [(2, 2, 2), (3, 2, 2), (4, 1, 4), (2, 8, 1)])
def test_threads_that_have_no_core(threads, slots, right):
    hosts = Hosts({"a": 1, "b": slots})
    found = advices(rows(hosts, threads=threads))
    assert found == [
        f"b: its ranks have more threads than cores, which makes them several times slower; write "
        f"OMP_NUM_THREADS={right} to .deepspeed_env"
    ] * (threads > right)
    assert advices(rows(replace(hosts, local=True), threads=threads)) == []


@pytest.mark.parametrize(("given", "threads"), [(None, 0), ("3", 3), ("4,2", 4), ("many", 0)])
def test_the_threads_that_a_host_says(monkeypatch, given, threads):
    monkeypatch.delenv("OMP_NUM_THREADS")
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert facts._threads() == threads


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"GLOO_SOCKET_IFNAME": "eth0"}, []),
        ({"GLOO_SOCKET_IFNAME": "eth0,ib0"}, ["has no interface ib0 (GLOO_SOCKET_IFNAME)"] * 2),
        ({"NCCL_SOCKET_IFNAME": "eth"}, []),
        ({"NCCL_SOCKET_IFNAME": "=eth"}, ["NCCL_SOCKET_IFNAME==eth"] * 2),
        ({"NCCL_SOCKET_IFNAME": "^lo"}, []),
        ({"NCCL_SOCKET_IFNAME": "^lo,eth"}, ["NCCL_SOCKET_IFNAME=^lo,eth"] * 2),
        ({"NCCL_SOCKET_IFNAME": "ib"}, ["NCCL_SOCKET_IFNAME=ib"] * 2),
    ],
)
def test_the_interface_that_is_asked_for(variables, words):
    found = advices(rows(Hosts({"a": 2, "b": 2}, variables)))
    assert len(found) == len(words)
    assert all(word in advice for word, advice in zip(words, found, strict=True))


def test_a_port_that_is_taken_and_hosts_that_do_not_answer():
    busy = {"a": replace(FACTS, busy=True), "b": replace(FACTS, busy=True)}
    assert advices(findings.of_hosts(TWO, busy, 29500)) == [
        "a: port 29500 is taken; start with --master_port 40001"
    ]
    silent = {"a": Silent("Connection refused", False), "b": Silent("No module named x", True)}
    first, second = advices(findings.of_hosts(TWO, silent, 29500))
    assert first.startswith("a: make `ssh a` work from here without a password")
    assert second.startswith(f"b: {Path.cwd()} and {sys.executable} must be there")
    assert findings.of_pdsh(True).advice == "" and "pdsh" in findings.of_pdsh(False).advice


def test_disk_and_speed():
    assert not findings.of_disk("a", 10**9, 10**7).advice
    assert "free 200.0 MB on the disk" in findings.of_disk("a", 10**9, 10**8).advice
    assert findings.of_disk("a", 10**9, None).advice
    assert not findings.of_speed(TWO, Speed("nccl", 2, 1e10, 1e-5)).advice
    assert "50 MB/s, too slow" in findings.of_speed(TWO, Speed("gloo", 2, 5e7, 1e-3)).advice
    assert not findings.of_speed(hosts.alone(2, {}), Speed("gloo", 2, 5e7, 1e-3)).advice
    assert "timed out" in findings.of_speed(TWO, "timed out").advice


HOSTFILES = [
    "worker-0 slots=4\nworker-1 slots=2\n",
    "# comment\n\n10.0.0.1  slots=8   # the first\n",
    "worker-0 slots=2\nworker-0 slots=2\n",
    "worker-0\n",
    "worker-0 slot=2\n",
    "worker-0 slots=two\n",
    "",
]


@pytest.mark.parametrize("text", HOSTFILES)
def test_a_hostfile_is_read_as_deepspeed_reads_it(tmp_path, text):
    file = tmp_path / "hosts"
    file.write_text(text)
    try:
        expected = dict(runner.fetch_hostfile(str(file)))
    except ValueError:
        with pytest.raises(UserError, match=str(file)):
            hosts.read_hostfile(file)
        return
    assert hosts.read_hostfile(file) == expected


def test_a_hostfile_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"--hostfile .*hosts: cannot be read \(No such file"):
        hosts.read_hostfile(tmp_path / "hosts")


def test_the_example_is_a_hostfile():
    assert hosts.read_hostfile(Path("launch_scripts/hostfile.example")) == {"node1": 8, "node2": 8}


def test_the_environment_file_of_the_launcher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    assert hosts.read_variables() == {}
    (tmp_path / "home/.deepspeed_env").write_text("A=1\nB=x=y\n")
    (tmp_path / ".deepspeed_env").write_text("A=2\n")
    assert hosts.read_variables() == {"A": "2", "B": "x=y"}
    (tmp_path / "own").write_text("C=3\n\nD=4\n")
    monkeypatch.setenv("DS_ENV_FILE", "own")
    with pytest.raises(UserError, match="own: line 2 is ''; the launcher takes lines NAME=VALUE only"):
        hosts.read_variables()


def test_the_batch(tmp_path):
    file = str(Files(tmp_path).write(BASE))

    def row(*words, ranks):
        return doctor.of_configuration(doctor.parse(["--deepspeed_config", file, *words]), ranks)[0]

    assert row(ranks=4)[0].found == "8 samples a step = micro-batch 2 x 4 ranks"
    assert "train_batch_size is 8, too small for 64 ranks" in row(ranks=64)[0].advice
    derived = ("--set", "train_batch_size=null", "train_micro_batch_size_per_gpu=2")
    assert not row(*derived, ranks=64)[0].advice
    assert doctor.of_configuration(doctor.parse([]), 4) == ([], None)


SSH = """#!/usr/bin/env bash
# as ssh: options, a host, a command for its shell; `down` does not answer, `other` sees another disk
while [[ $1 == -* ]]; do shift 2; done
[ "$1" != down ] || { echo 'ssh: connect to host down port 22: No route to host' >&2; exit 255; }
[ "$1" != other ] || exec bash -c "${2//--folder $SHARED/--folder $SHARED.other}"
exec bash -c "$2"
"""


@pytest.fixture
def on_hosts(tmp_path, monkeypatch, capsys):
    """Function (*hosts, words) -> (exit code, output); a stand-in for ssh runs commands here."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ssh").write_text(SSH)
    (tmp_path / "bin/ssh").chmod(0o755)
    (tmp_path / "bin/pdsh").symlink_to("/bin/true")
    shared = tmp_path / "shared"
    Path(f"{shared}.other").mkdir()
    monkeypatch.setattr(facts, "PATIENCE", 0.1)

    path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
    for name, value in {"PATH": path, "SHARED": str(shared), "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")

    def start(*names, words=()):
        (tmp_path / "hosts").write_text("".join(f"{name} slots=1\n" for name in names))
        code = doctor.main(["--hostfile", str(tmp_path / "hosts"), "--output_dir", str(shared), *words])
        assert not list(shared.glob(".doctor*"))
        return code, capsys.readouterr().out

    return start


@pytest.mark.slow
def test_hosts_over_ssh(on_hosts):
    """The address is given, so that it does not depend on this machine's network."""
    code, said = on_hosts("one", "two", words=("--master_addr", "127.0.0.1"))
    assert "one  " in said and "gloo: " in said and "written here, read there, and the reverse" in said
    wrong = [line for line in said.splitlines() if line[:2] in ("1.", "2.")]
    assert code == bool(wrong), said
    assert not [line for line in wrong if "its name stands for" not in line], said


@pytest.mark.slow
def test_a_host_that_is_down_and_one_with_another_disk(on_hosts):
    code, said = on_hosts("one", "down", "other")
    assert code == 1 and said.endswith(" to do\n")
    assert "no ssh: ssh: connect to host down port 22: No route to host" in said
    assert "down: make `ssh down` work from here" in said
    assert "other: a file written to" in said and "cannot be seen here; give an --output_dir" in said
    assert "all-reduce" not in said


@pytest.mark.slow
def test_this_machine(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    words = ["--output_dir", str(tmp_path / "runs"), "--master_port", str(launchers.free_port())]
    code, said = doctor.main(words), capsys.readouterr().out
    assert code == 0, said
    assert "gloo: " in said and "nothing is wrong" in said
    assert (tmp_path / "runs").is_dir() and not list((tmp_path / "runs").iterdir())


def test_a_command_line_of_which_a_part_has_no_effect(capsys):
    for words in (["--set", "a=1"], ["--hostfile", "hosts", "--ranks", "2"]):
        with pytest.raises(SystemExit):
            doctor.parse(words)
    assert "has an effect with --deepspeed_config only" in capsys.readouterr().err
