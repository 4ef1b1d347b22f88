"""What launch_scripts/setup.sh does around `deepspeed`, a stand-in here; a warning that is left out."""

import logging
import os
import signal
import subprocess
import time
from contextlib import suppress

import pytest
from launcher import ROOT

import compress

QUIETLY = 'set -e; eval "$(sed -n "/^quietly()/,/^}/p" launch_scripts/setup.sh)"; quietly'
WAITS = """#!/bin/bash
trap 'touch "$FOLDER/told"; exit 9' TERM
touch "$FOLDER/started"
while true; do sleep 0.1; done
"""


def test_sigterm_to_the_script_reaches_deepspeed(tmp_path):
    """Otherwise the script ends alone, and the ranks go on unseen."""
    (tmp_path / "deepspeed").write_text(WAITS)
    (tmp_path / "deepspeed").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "FOLDER": str(tmp_path)}
    script = subprocess.Popen(
        ["bash", "-c", QUIETLY], cwd=ROOT, env=environment, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 30
        while not (tmp_path / "started").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        script.send_signal(signal.SIGTERM)
        assert script.wait(30) == 9
        assert (tmp_path / "told").exists()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(script.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("Setting accelerator to CPU. If you have GPU", False), ("another warning", True)],
)
def test_deepspeed_does_not_warn_of_the_cpu(text, shown):
    assert compress.__version__
    record = logging.LogRecord("DeepSpeed", logging.WARNING, "", 0, text, (), None)
    assert bool(logging.getLogger("DeepSpeed").filter(record)) is shown
