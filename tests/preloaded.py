"""Python processes that have the large libraries loaded before they begin.

Loading torch, transformers and DeepSpeed takes longer than most jobs of the tests, so a server loads
them once and each process is a fork of it. What concerns starting itself (launchers, what a run says
before the libraries are loaded) is tested with real processes. The forks of a server have one seed of
hashes, so that the order of sets is the same in all of them.
"""

import atexit
import gc
import multiprocessing
import os
import random
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

LIBRARIES = (
    "torch.utils.tensorboard",
    "transformers.models.bert.modeling_bert",
    "deepspeed",
    "datasets",
    "matplotlib.figure",
)
servers = multiprocessing.get_context("forkserver")
servers.set_forkserver_preload(list(LIBRARIES))


class Python:
    """`python *arguments` with this environment and none other, used as subprocess.Popen is."""

    def __init__(self, arguments: Sequence[str], environment: dict[str, str]) -> None:
        self.arguments = arguments
        self._folder = tempfile.TemporaryDirectory()
        self._texts = [Path(self._folder.name) / name for name in ("stdout", "stderr")]
        here = dict(os.environ)
        os.environ.update(environment)  # the server is started with the first process
        try:
            target = (arguments, environment, self._texts)
            self._process = servers.Process(target=_main, args=target)
            self._process.start()
        finally:
            os.environ.clear()
            os.environ.update(here)

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code; negative: the signal that ended it; None: it runs."""
        return self._process.exitcode

    def kill(self) -> None:
        """End it and what it has started."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # its session is not there yet
                os.killpg(self.pid, signal.SIGKILL)
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def finished(self, timeout: float) -> subprocess.CompletedProcess[str]:
        """Wait for its end; it is killed after `timeout` seconds."""
        self._process.join(timeout)
        if self.poll() is None:
            self.kill()
            raise subprocess.TimeoutExpired(self.arguments, timeout, *self._read())
        out, error = self._read()
        self._folder.cleanup()
        return subprocess.CompletedProcess(self.arguments, self.poll(), out, error)

    def _read(self) -> list[str]:
        return [file.read_text(errors="replace") if file.exists() else "" for file in self._texts]


def _main(arguments: Sequence[str], environment: dict[str, str], texts: list[Path]) -> None:
    """What a forked process does: become `python *arguments`."""
    gc.freeze()  # what the libraries have made stays; DeepSpeed collects garbage with each engine
    os.setsid()
    for number, file in enumerate(texts, 1):
        descriptor = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    random.seed()
    np.random.seed()
    installed = [place for place in sys.path if place.startswith(sys.prefix) or "python3" in place]
    searched = environment.get("PYTHONPATH", "").split(":")
    first, *words = arguments
    try:
        if first == "-c":
            sys.argv, sys.path[:] = ["-c", *words[1:]], ["", *searched, *installed]
            exec(compile(words[0], "<string>", "exec"), {"__name__": "__main__"})
        elif first == "-m":
            sys.argv, sys.path[:] = words, ["", *searched, *installed]
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[:] = list(arguments), [str(Path(first).parent), *searched, *installed]
            runpy.run_path(first, run_name="__main__")
    finally:
        atexit._run_exitfuncs()
