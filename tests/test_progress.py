"""What a person sees: lines in a log by steps and seconds, one bar a stage, out of memory, Ctrl-C."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from configs import Files, at

from compress.errors import UserError
from compress.runtime import memory
from compress.training import progress as module
from compress.training.progress import Progress
from compress.training.workload import Job, Work


class Seen:
    """A progress with a clock of its own; keeps its lines."""

    def __init__(self, terminal=False):
        self.now, self.lines = 0.0, []
        self.progress = Progress(lambda: self.now, self.lines.append, terminal)

    def train(self, steps, seconds, start=0, total=None, name="t"):
        with self.progress.training(name, start, total or steps):
            for step in range(start + 1, start + steps + 1):
                self.now += seconds
                values = {"loss": 1 / step, "samples_per_second": 183.4} if step % 10 == 0 else None
                self.progress.step(values)


@pytest.fixture(autouse=True)
def without_thread(monkeypatch):
    monkeypatch.setattr(module.threading.Thread, "start", lambda self: None)


@pytest.fixture
def config(tmp_path):
    return Files(tmp_path).load(
        at("train_micro_batch_size_per_gpu", 4), at("gradient_accumulation_steps", 2)
    )


def forward(inputs):
    return inputs["input_ids"].float()


def test_a_line_every_fifty_steps_with_the_time_left():
    seen = Seen()
    seen.progress.plan(Job([Work("a", 120, 0), Work("b", 60, 0)]))
    with seen.progress.stage("a"):
        seen.train(120, 0.5)
    steps = [line for line in seen.lines if "step" in line]
    assert steps == [
        "a: step 50 of 120, loss 0.020, 183 samples/s, stage 35 s left, job 1 min 5 s left",
        "a: step 100 of 120, loss 0.010, 183 samples/s, stage 10 s left, job 40 s left",
    ]
    assert seen.lines[0] == "expected: a 1 min, b 30 s; about 1 min 30 s in all"
    assert len(seen.lines) == 3


def test_a_line_every_minute_of_slow_steps_and_of_scoring(config):
    seen = Seen()
    with seen.progress.stage("a", 3):
        seen.train(3, 61.0)
        scored = seen.progress.scoring("train", 200, 1600, forward, config)
        for _ in range(200):
            seen.now += 1.0
            scored({"input_ids": torch.zeros(8, 5)})
    assert [line.split(",")[0] for line in seen.lines if "expected" not in line] == [
        "a: step 1 of 3",
        "a: step 2 of 3",
        "a: step 3 of 3",
        "a: scoring train: 60 of 200 batches",
        "a: scoring train: 120 of 200 batches",
        "a: scoring train: 180 of 200 batches",
    ]


def test_work_that_counts_nothing_is_told_too():
    seen = Seen()
    with seen.progress.stage("evaluate"):
        seen.now += 59
        seen.progress.beat()
        assert not seen.lines
        seen.now += 6
        seen.progress.beat()
    seen.now += 100
    seen.progress.beat()
    assert seen.lines == ["evaluate: 1 min 5 s so far"]


def test_runs_of_a_stage_are_counted_together():
    seen = Seen()
    seen.progress.plan(Job([Work("difficulty", 90, 0)]))
    with seen.progress.stage("difficulty"):
        for name in ("difficulty 0.30", "difficulty 0.60", "difficulty 0.80"):
            seen.train(30, 0.1, name=name)
        assert seen.progress.where() == "difficulty, step 90 of 90"
    assert [line.split(",")[0] for line in seen.lines if "step" in line] == [
        "difficulty: step 50 of 90"
    ]


def test_a_stage_inside_another_leaves_its_count_alone():
    seen = Seen()
    with seen.progress.stage("student", 60):
        with seen.progress.stage("first", 200):
            seen.train(200, 0.1)
        seen.train(60, 0.1)
    assert "student: step 50 of 60" in [line.split(",")[0] for line in seen.lines]


def test_a_terminal_gets_one_bar_over_all_its_runs(capsys, config, monkeypatch):
    monkeypatch.setattr("tqdm.std.tqdm.monitor_interval", 0)
    seen = Seen(terminal=True)
    seen.progress.plan(Job([Work("difficulty", 20, 16)]))
    with seen.progress.stage("difficulty"):
        for start in (0, 10):
            seen.train(10, 1.0, start, total=20)
            seen.progress.scoring("train", 1, 8, forward, config)({"input_ids": torch.zeros(8, 5)})
        assert seen.progress._bar.n == 20
    bars = capsys.readouterr().err
    assert "20/20" in bars and "/10" not in bars
    assert len([line for line in bars.split("\n") if line.strip()]) == 1
    assert seen.lines == ["expected: difficulty 25 s"] or not [x for x in seen.lines if "step" in x]


def test_the_last_line_at_an_interrupt():
    seen = Seen()
    assert seen.progress.interrupted().startswith("interrupted; the same command")
    with seen.progress.stage("difficulty", 504):
        seen.train(120, 0.1, total=504)
        line = seen.progress.interrupted()
    assert line.startswith("interrupted in difficulty, step 120 of 504; the same command continues")


CPU = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"
ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError(CPU),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error)[:30])
def test_out_of_memory_is_one_sentence_with_sizes_and_keys(config, error):
    with pytest.raises(UserError) as caught, memory.training("a: step 3", [3, 77], (4, 2), config):
        raise error
    sentence = str(caught.value)
    assert sentence.startswith("a: step 3: out of memory") and "3 samples, padded to 77" in sentence
    assert "train_micro_batch_size_per_gpu to 2 and gradient_accumulation_steps to 4" in sentence
    assert "robust_compression.task.max_length (128)" in sentence

    def fails(inputs):
        raise error

    scored = Seen().progress.scoring("dev", 2, 10, fails, config)
    with pytest.raises(UserError) as caught:
        scored({"input_ids": torch.zeros(6, 33)})
    sentence = str(caught.value)
    assert "dev: out of memory" in sentence and "6 samples, padded to 33" in sentence
    assert "evaluation.batch_size to 64, now 128" in sentence
    for place in (memory.building("a", config), memory.anywhere(lambda: "here")):
        with pytest.raises(UserError, match="out of memory"), place:
            raise error


def test_other_errors_are_not_taken_for_it(config):
    with pytest.raises(RuntimeError, match="shapes"), memory.training("a", [], (1, 1), config):
        raise RuntimeError("shapes do not fit")
    with pytest.raises(UserError) as caught, memory.training("a", [1, 9], (1, 1), config):
        raise MemoryError
    assert "train_micro_batch_size" not in str(caught.value), "nothing is less than one sample"


WAITS = """
import sys, threading
from compress.runtime import interrupts
interrupts.watch()
interrupts.set_message(lambda: "interrupted here")
print("ready", flush=True)
while sys.argv[1] == "busy":
    pass
threading.Event().wait()
"""


@pytest.mark.slow
@pytest.mark.parametrize("busy", ["waits", "busy"])
@pytest.mark.parametrize(
    ("numbers", "code", "said"),
    [
        ((signal.SIGINT,), 130, "interrupted here\n"),
        ((signal.SIGINT, signal.SIGTERM), 130, "interrupted here\n"),
        ((signal.SIGTERM,), 143, ""),
    ],
)
def test_an_interrupt_is_one_line(busy, numbers, code, said):
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK")}
    for rank, line in (("0", said), ("1", "")):
        started = subprocess.Popen(
            [sys.executable, "-c", WAITS, busy],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**environment, "RANK": rank, "LOCAL_RANK": rank},
        )
        assert started.stdout.readline() == "ready\n"
        began = time.monotonic()
        for number in numbers:
            started.send_signal(number)
        out, error = started.communicate(timeout=20)
        assert (started.returncode, out, error) == (code, "", line)
        assert time.monotonic() - began < 10
