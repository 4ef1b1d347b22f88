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


@pytest.mark.slow
def test_a_training_saves_when_its_terminal_is_gone(tiny_model: Path, tmp_path: Path) -> None:
    """What it writes to the terminal afterwards fails."""
    words = job(tiny_model, tmp_path / "run", "robust_compression.epochs=2000", stage="teacher")
    main, terminal = os.openpty()
    started = subprocess.Popen(
        [sys.executable, "-c", TERMINAL, *words],
        cwd=ROOT,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        env={**environment_of(), "DS_ACCELERATOR": "cpu"},
    )
    os.close(terminal)
    said = b""
    while b"teacher" not in said or b"expected" not in said:
        said += os.read(main, 4096)
    os.close(main)
    assert started.wait(60) == 75
    assert [path.name[:5] for path in tmp_path.rglob("step-*") if path.is_dir()] == ["step-"]
