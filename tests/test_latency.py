"""The short measurement at the end of a run: honest about what it did, and it ends in time."""

import time
from types import SimpleNamespace

import pytest
import torch
from small_models import CONFIGS, fresh
from transformers import AutoModelForSequenceClassification

from compress.models import deferred, encoders
from compress.models.blocks import find_blocks
from compress.stages import latency, model_figures

CPU = torch.device("cpu")
TOKENS = {"teacher": 12, "student": 7}


def models(name="bert"):
    config = fresh(name)
    made = [AutoModelForSequenceClassification.from_config(config).eval() for _ in range(2)]
    return dict(zip(("teacher", "student"), made, strict=True))


def test_both_models_are_timed_with_their_own_tokens(monkeypatch):
    shapes, seen = [], latency.timing.random_tokens

    def random_tokens(model, shape, device):
        shapes.append(shape)
        return seen(model, shape, device)

    monkeypatch.setattr(latency.timing, "random_tokens", random_tokens)
    found = latency.measure(models(), TOKENS, CPU)
    assert [one["batch"] for one in found["timings"]] == [1, 32] and found["left_out"] == []
    for one in found["timings"]:
        assert one["teacher_ms"] > 0 and one["student_ms"] > 0
        assert latency.FEWEST <= one["repeats"] <= latency.MOST
    assert set(shapes) == {(batch, length) for batch in (1, 8, 32) for length in (7, 12)}
    assert found["threads"] == torch.get_num_threads() and found["precision"] == "float32"
    assert found["tokens"] == TOKENS and found["device"]


@pytest.mark.slow
def test_a_slow_student_is_told_to_be_slower():
    both = models()
    forward = both["student"].forward

    def slow(*arguments, **named):
        time.sleep(0.01)
        return forward(*arguments, **named)

    both["student"].forward = slow
    (first, *_) = latency.measure(both, TOKENS, CPU)["timings"]
    assert first["student_ms"] > 10 and first["student_ms"] > first["teacher_ms"]


def test_what_takes_too_long_is_left_out_and_said(monkeypatch):
    monkeypatch.setattr(latency, "MOST_OPERATIONS", {"cpu": 1})
    found = latency.measure(models(), TOKENS, CPU)
    assert found["timings"] == [] and "models of this size" in found["left_out"][0]
    monkeypatch.undo()
    monkeypatch.setattr(latency, "SECONDS", 1e-6)
    found = latency.measure(models(), TOKENS, CPU)
    assert found["timings"] == [] and found["left_out"][0].startswith("a batch of 1 takes too long")


def directories(folder):
    made = {}
    for name, model in models().items():
        model.save_pretrained(folder / name)
        labels = tuple(model.config.id2label.values())
        made[name] = encoders.load_classifier(folder / name, labels, trained=True, whole=False).eval()
        assert deferred.deferred(made[name])
    return made


def test_weights_of_more_than_half_of_the_memory_are_not_read(tmp_path, monkeypatch):
    both = directories(tmp_path)
    half = 4 * sum(encoders.parameters(model) for model in both.values())
    monkeypatch.setattr(latency.memory, "available", lambda _: 2 * half - 1)
    found = latency.measure(both, TOKENS, CPU)
    assert found["timings"] == [] and "more than half of free main memory" in found["left_out"][0]
    assert all(deferred.deferred(model) for model in both.values())
    files = dict.fromkeys(("float", "int8"), tmp_path / "none.onnx")
    config, parameters = both["student"].config, encoders.parameters(both["student"])
    found = latency.measure_files(files, config, parameters, 7)
    assert "more than half" in found["left_out"][0]
    monkeypatch.setattr(latency.memory, "available", lambda _: 2 * half)
    assert len(latency.measure(both, TOKENS, CPU)["timings"]) == 2
    assert not any(deferred.deferred(model) for model in both.values())


def test_a_gpu_counts_beside_main_memory(monkeypatch):
    """Of the GPU what is free, and what torch keeps of it without using it."""
    gpu, sizes = torch.device("cuda", 0), {"student": 100}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (500, 9000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 400)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 100)
    assert latency.obstacle(sizes, TOKENS, gpu) is None
    assert "the GPU's free memory" in latency.obstacle({"student": 101}, TOKENS, gpu)
    monkeypatch.setattr(latency.memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=799))
    assert "free main memory" in latency.obstacle(sizes, TOKENS, gpu)


def test_a_gpu_that_is_full_does_not_end_the_run(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(latency.timing, "ready", full)
    found = latency.measure(models(), TOKENS, CPU)
    assert found["timings"] == [] and "memory" in found["left_out"][0]


def test_a_model_that_takes_no_random_tokens_does_not_end_the_run(monkeypatch):
    both = models()

    def refuse(**_):
        raise ValueError("All examples must have the same number of <eos> tokens.")

    monkeypatch.setattr(both["student"], "forward", refuse)
    found = latency.measure(both, TOKENS, CPU)
    assert found["timings"] == [] and "<eos>" in found["left_out"][0]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_shape_is_that_of_the_layers(name):
    model = models(name)["teacher"]
    blocks, heads = len(find_blocks(model)), getattr(model.config, "num_attention_heads", 4)
    expected = {"layers": 2, "hidden_size": 24, "heads": heads * blocks, "ffn_neurons": 32 * blocks}
    assert model_figures.shape(model) == expected
