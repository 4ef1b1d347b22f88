"""Timings are taken in turns and compared as promised; operations are those of the closed formula."""

import json
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import KEPT, exported, fresh, masked

import compress
from compress.benchmark import __main__ as command
from compress.benchmark import inference as benchmark
from compress.errors import UserError
from compress.inference import onnx_export, timing
from compress.reporting import benchmark_report
from compress.reporting.benchmark_report import Timing, short_names


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A plain model, the same with half its weights 0, and one of uneven layers."""
    folder = tmp_path_factory.mktemp("models")
    model = masked(fresh("bert"))
    model.save_pretrained(folder / "teacher" / "model")
    for parameter in model.parameters():
        parameter.data.view(-1)[::2] = 0
    model.save_pretrained(folder / "zeros" / "model")
    exported(masked(fresh("bert")), folder / "small" / "model")
    return [folder / name / "model" for name in ("teacher", "zeros", "small")]


def bert_flops(layers, batch, length, hidden=24, head=6, classes=2):
    """Count by hand: query, key, value, output; scores and values; feed-forward; pooler and head."""
    total = 0
    for heads, rows in layers:
        total += 4 * 2 * batch * length * hidden * heads * head
        total += 2 * 2 * batch * heads * length * length * head
        total += 2 * 2 * batch * length * hidden * rows
    return total + 2 * batch * hidden * hidden + 2 * batch * hidden * classes


@pytest.mark.parametrize("shape", [(1, 5), (3, 40)])
def test_operations_are_those_of_the_closed_formula(shape, folders):
    teacher, zeros, small = (compress.load_compressed(f).requires_grad_(False) for f in folders)
    counts = [
        benchmark.flops(m, onnx_export.random_inputs(m.config, *shape)) for m in (teacher, zeros, small)
    ]
    assert counts[0] == counts[1] == bert_flops([(4, 32)] * 2, *shape)
    assert counts[2] == bert_flops([(len(k.heads), len(k.neurons)) for k in KEPT], *shape)
    assert teacher.config._attn_implementation == "sdpa"


def test_calls_take_turns_and_each_gets_its_own_time(monkeypatch):
    """A clock that the calls move by hand: warm-ups are not timed, waiting is."""
    clock, order = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def call(number):
        order.append(number)
        clock[0] += 10**number

    def wait():
        clock[0] += 0.5

    calls = [lambda n=n: call(n) for n in range(3)]
    assert timing.interleaved(calls, 4, 2, wait) == [[1.5] * 4, [10.5] * 4, [100.5] * 4]
    assert order[:6] == [0, 1, 2, 0, 1, 2]
    assert order[6:] == [0, 1, 2, 1, 2, 0, 2, 0, 1, 0, 1, 2]


def test_both_runtimes_run_the_same_models_on_the_same_tokens(folders):
    setting = benchmark.Setting((2,), (6,), benchmark.RUNTIMES, 1, torch.device("cpu"), 1)
    loaded = [benchmark._load(folder, setting.device) for folder in folders]
    outputs = []
    for runtime in benchmark.RUNTIMES:
        with benchmark._running(runtime, folders, loaded, setting) as prepare:
            outputs.append([call() for call in prepare((2, 6))])
    for ours, theirs in zip(*outputs, strict=True):
        assert ours.is_inference()
        assert ours.shape == (2, 2)
        np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-5)
    assert np.abs(outputs[0][0].numpy() - outputs[0][1].numpy()).max() > 1e-3


def test_speedup_ratio_and_share_by_hand():
    slow = Timing("t", "torch", 4, 8, 900, (0.5, 0.2, 0.1))
    fast = Timing("s", "torch", 4, 8, 300, (0.1, 0.4, 0.05))
    alone = Timing("t", "torch", 1, 8, 70, (1.0,))
    first, second, third = benchmark_report.rows([slow, fast, alone])
    assert (first["speedup"], first["flop_ratio"], first["reached"]) == (1, 1, 1)
    assert second["speedup"] == pytest.approx(2)
    assert second["flop_ratio"] == pytest.approx(3)
    assert second["reached"] == pytest.approx(2 / 3)
    assert second["latency_ms"] == pytest.approx(100)
    assert second["latency_ms_p10"] == pytest.approx(60)
    assert second["latency_ms_p90"] == pytest.approx(340)
    assert second["throughput"] == pytest.approx(40)
    assert third["speedup"] == 1


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/a/student/model", "shared/teacher/1f/model"], ["runs/a/student", "shared/teacher/1f"]),
        (["/x/runs/a/student/model", "/x/runs/b/student/model"], ["a", "b"]),
        (["runs/a/model"], ["runs/a/model"]),
        (["a/model", "b/model", "a/model"], ["a (1)", "b", "a (2)"]),
        (["a", "a"], ["a (1)", "a (2)"]),
        (["a/model", "model"], ["a/model", "model"]),
    ],
)
def test_names_are_what_tells_the_directories_apart(paths, names):
    assert short_names([Path(path) for path in paths]) == names


@pytest.mark.slow
def test_the_whole_measurement(folders, tmp_path, capsys):
    output = tmp_path / "out"
    shapes = ["--batch", "1", "3", "--length", "4", "20", "--repeats", "3", "--threads", "1"]
    threads = torch.get_num_threads()
    try:
        command.main(["inference", *map(str, folders), *shapes, "--output", str(output)])
    finally:
        torch.set_num_threads(threads)
    text = (output / "inference.md").read_text()
    assert capsys.readouterr().out == text
    found = json.loads((output / "inference.json").read_text())
    about = found["machine"]
    assert about["threads"] == 1
    assert about["torch"] == torch.__version__
    for name in ("processor", "device", "onnxruntime"):
        assert f"{name} {about[name]}" in text
    assert "Zeros give no speed-up" in text
    rows = found["timings"]
    assert len(rows) == 2 * 2 * 2 * 3
    for row in rows:
        assert len(row["seconds"]) == 3
        assert row["latency_ms"] == pytest.approx(1e3 * statistics.median(row["seconds"]))
    assert [row["flop_ratio"] for row in rows if row["model"] == "zeros"] == [1.0] * 8
    full = bert_flops([(4, 32)] * 2, 3, 20)
    less = bert_flops([(len(k.heads), len(k.neurons)) for k in KEPT], 3, 20)
    (one,) = [r for r in rows if r["model"] == "small" and r["batch"] * r["length"] == 60][:1]
    assert one["flop_ratio"] == pytest.approx(full / less)
    sizes = {model["name"]: model for model in found["models"]}
    assert sizes["zeros"]["parameters"] == sizes["teacher"]["parameters"]
    assert sizes["zeros"]["nonzero"] < 0.51 * sizes["teacher"]["nonzero"]
    image = (output / "inference.png").read_bytes()
    assert image[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_picture_shows_each_speedup_and_its_bound():
    timings = [
        Timing(name, runtime, batch, 32, flops, (seconds,))
        for runtime in benchmark.RUNTIMES
        for batch in (1, 32)
        for name, flops, seconds in (("t", 600, 0.6), ("a", 300, 0.4), ("b", 200, 0.24))
    ]
    figures = benchmark_report.rows(timings)
    about = {"processor": "P", "threads": 2, "device": "cpu"}
    panels = benchmark_report.picture(about, figures).axes
    assert [axes.get_title("left") for axes in panels] == ["torch, 32 tokens", "onnxruntime, 32 tokens"]
    for axes in panels:
        assert [bar.get_width() for bar in axes.patches] == pytest.approx([1.5, 1.5, 2.5, 2.5])
        marks = [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 2]
        assert marks[:4] == pytest.approx([2, 2, 3, 3])
        assert [text.get_text() for text in axes.texts][::2] == ["1.50 (75 %)", "2.50 (83 %)"]


def refused(*arguments):
    with pytest.raises(UserError) as caught:
        command.main(["inference", *(str(argument) for argument in arguments)])
    return str(caught.value)


def test_what_cannot_be_measured_is_known_before(folders, tmp_path, monkeypatch):
    output = ("--output", tmp_path / "out")
    assert "--length 41" in refused(folders[0], "--length", 8, 41, *output)
    assert "is no model directory" in refused(folders[0], tmp_path, "--length", 8, *output)
    assert "--batch 0" in refused(folders[0], "--batch", 1, 0, *output)
    assert "--repeats 0" in refused(folders[0], "--repeats", 0, *output)
    assert "at most 1024" in refused(folders[0], "--threads", 1025, *output)
    assert "at most" in refused(folders[0], "--batch", 10**20, "--length", 8, *output)
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None)
    assert "pip install" in refused(folders[0], "--length", 8, *output)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").write_text("")
    assert "--output" in refused(folders[0], "--length", 8, "--runtime", "torch", *output)


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("x"), RuntimeError("no memory")]
)
def test_a_shape_that_does_not_fit_into_memory_is_named(error):
    with pytest.raises(UserError, match=r"--batch 7 --length 9: .*memory"), benchmark._fitting((7, 9)):
        raise error
    with pytest.raises(RuntimeError, match="shapes"), benchmark._fitting((7, 9)):
        raise RuntimeError("shapes differ")


def test_onnxruntime_without_the_asked_gpu_is_known_before(folders, monkeypatch):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    setting = benchmark.Setting((1,), (8,), ("onnxruntime",), 1, torch.device("cuda", 0), 1)
    with pytest.raises(UserError, match="pip install onnxruntime-gpu"):
        benchmark.check(folders, setting)
    benchmark.check(folders, benchmark.Setting((1,), (8,), ("torch",), 1, torch.device("cuda", 0), 1))
