"""A training whose terminal goes away, as where ssh is lost, saves what it has done."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launcher import ROOT, environment_of, job

WAITS = """
import signal, sys, threading
from compress.runtime import interrupts
interrupts.watch(resumes=True)
print("ready", flush=True)
threading.Event().wait(2)
"""
WRITES = """
import fcntl, os, signal, sys, termios
from compress.runtime import interrupts
signal.signal(signal.SIGHUP, signal.SIG_DFL)
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})

def main():
    with interrupts.loop():
        print("a line", flush=True)
        while os.isatty(0):
            pass
        print("a line")
        sys.stderr.write("another\\n")
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        while not interrupts.wanted():
            pass
        raise interrupts.ended()

interrupts.run(main, resumes=True)
"""
TERMINAL = """
import fcntl, runpy, signal, sys, termios
signal.signal(signal.SIGHUP, signal.SIG_DFL)
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(("ignored", "code"), [(False, 75), (True, 0)], ids=["ssh", "nohup"])
def test_a_lost_terminal_is_a_signal_like_others(ignored, code):
    """But where it is ignored from the start."""
    prefix = ["nohup"] if ignored else ["env", "--default-signal=HUP"]
    started = subprocess.Popen(
        [*prefix, sys.executable, "-c", WAITS], stdout=subprocess.PIPE, cwd=ROOT, env=environment_of()
    )
    assert started.stdout.readline() == b"ready\n"
    started.send_signal(signal.SIGHUP)
    started.communicate(timeout=20)
    assert started.returncode == code


def on_terminal(*words: str) -> tuple[subprocess.Popen[bytes], int]:
    """Python with these words in a session of its own, on a new terminal; the other end of that."""
    main, terminal = os.openpty()
    started = subprocess.Popen(
        [sys.executable, "-c", *words],
        cwd=ROOT,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        env=environment_of(),
    )
    os.close(terminal)
    return started, main


def test_writing_to_a_terminal_that_is_gone_is_no_error():
    """Nor where it comes before the signal."""
    started, main = on_terminal(WRITES)
    assert os.read(main, 4096)
    os.close(main)
    assert started.wait(60) == 75


@pytest.mark.slow
def test_a_training_saves_when_its_terminal_is_gone(tiny_model: Path, tmp_path: Path) -> None:
    words = job(tiny_model, tmp_path / "run", "robust_compression.epochs=2000", stage="teacher")
    started, main = on_terminal(TERMINAL, *words)
    said = b""
    while b"teacher" not in said or b"expected" not in said:
        said += os.read(main, 4096)
    os.close(main)
    assert started.wait(60) == 75
    assert [path.name[:5] for path in tmp_path.rglob("step-*") if path.is_dir()] == ["step-"]
