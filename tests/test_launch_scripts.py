"""What launch_scripts/setup.sh does around `deepspeed`, a stand-in here; a warning that is left out."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
from launcher import ROOT

import compress

QUIETLY = 'set -e; eval "$(sed -n "/^quietly()/,/^}/p" launch_scripts/setup.sh)"; quietly'
FIGURES = """set -e; stop() { exit 1; }
eval "$(sed -n "/^figures_of()/,/^}/p" launch_scripts/setup.sh)"; figures_of"""
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


@pytest.mark.parametrize("mark", [True, False])
@pytest.mark.parametrize(
    ("words", "figures"),
    [("--dry_run", False), ("--stage teacher", False), ("--stage evaluate", True), ("", True)],
)
def test_a_run_must_have_its_figures_or_have_come_to_its_end(tmp_path, words, figures, mark):
    """After the launcher, which may have been killed; a dry run and a stage have no figures."""
    if mark:
        (tmp_path / "ended").touch()
    code = 1 if figures or not mark else 0
    (tmp_path / "python").write_text("#!/bin/bash\nexit 3\n")
    (tmp_path / "python").chmod(0o755)
    script = f"{FIGURES} 2 train.py {words} --output_dir runs/x"
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment["ROBUST_COMPRESSION_ENDED"] = str(tmp_path / "ended")
    assert subprocess.run(["bash", "-c", script], cwd=ROOT, env=environment).returncode == code


def test_packages_are_installed_once_for_each_content_of_a_file(tmp_path):
    """In whatever company a file comes; a changed one again."""
    project, venv = tmp_path / "project", tmp_path / "venv/bin"
    (project / "launch_scripts").mkdir(parents=True)
    venv.mkdir(parents=True)
    shutil.copy(ROOT / "launch_scripts/setup.sh", project / "launch_scripts")
    (venv / "pip").write_text(f'#!/bin/bash\necho "$@" >> {tmp_path}/calls\n')
    (venv / "pip").chmod(0o755)
    (venv / "activate").write_text(f"export PATH={venv}:$PATH\n")

    def calls(*files):
        (tmp_path / "calls").write_text("")
        words = " ".join(("source launch_scripts/setup.sh", *files))
        environment = {**os.environ, "VENV": str(tmp_path / "venv"), "PYTHON": sys.executable}
        subprocess.run(["bash", "-c", words], cwd=project, env=environment, check=True)
        return len((tmp_path / "calls").read_text().splitlines())

    for name in ("a.txt", "b.txt"):
        (project / name).write_text(name)
    assert [calls("a.txt"), calls("a.txt"), calls("a.txt", "b.txt"), calls("a.txt")] == [1, 0, 1, 0]
    (project / "a.txt").write_text("other")
    assert [calls("b.txt"), calls("a.txt"), calls("a.txt", "b.txt")] == [0, 1, 0]
    (project / "a.txt").write_text("a.txt")
    assert [calls("a.txt"), calls("b.txt")] == [1, 0]
    (venv / "deepspeed").write_text("")
    (project / "a.txt").write_text("third")
    (venv.parent / "installed").rename(
        tmp_path / "away"
    )  # as if made by hand, perhaps with another DeepSpeed
    assert calls("a.txt") == 0
    (venv.parent / "installed").touch()
    assert calls("a.txt") == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [("Setting accelerator to CPU. If you have GPU", False), ("another warning", True)],
)
def test_deepspeed_does_not_warn_of_the_cpu(text, shown):
    assert compress.__version__
    record = logging.LogRecord("DeepSpeed", logging.WARNING, "", 0, text, (), None)
    assert bool(logging.getLogger("DeepSpeed").filter(record)) is shown
