"""Every architecture through the whole job on two ranks: each compression, ZeRO 0 to 3, export, ONNX.

One launch trains all students one after another. The export itself compares the logits of the masked
and the exported model and fails above 1e-5.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from families import write
from launcher import two_ranks
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import compress
from compress.inference import onnx_export
from compress.models.blocks import find_blocks

ROOT = Path(__file__).parents[1]
NAMES = ("electra", "mpnet", "albert", "modernbert", "llama", "qwen3", "gemma2", "gemma3")
CUT = ["heads20_rows50_imp40", "layers_first_half"]
FREE = ("modernbert", "llama")
"""Trained without padding as well."""
FASTER = ["robust_compression.score_lr=0.1"]
pytestmark = [pytest.mark.launcher, pytest.mark.timeout(900)]


def jobs(name):
    """(name, compressions, ZeRO stage, more) of an architecture's students."""
    cut = CUT[:1] if name == "albert" else CUT
    learned = ["rows50_learned"] if name == "mpnet" else ["heads20_learned", "rows50_learned"]
    whole = {"trained": True, "mitigation": "rmc", "difficulty": True}
    without = {"set": ["robust_compression.padding_free=true"]}
    free = [("free", ["imp40"], stage, without) for stage in (0, 3)] if name in FREE else []
    return [
        *free,
        ("cut", cut, 0, {}),
        ("cut", cut, 2, {}),
        ("cut", cut, 3, {}),
        ("whole", ["imp40"], 1, whole),
        ("learned", learned, 0, {"set": FASTER}),
        ("learned", learned, 3, {"set": FASTER}),
        ("movement", ["movement40"], 3, {"set": FASTER}),
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    specs = []
    for name in NAMES:
        model = write(name, folder / "models" / name)
        for job, files, stage, more in jobs(name):
            specs.append({
                "name": f"{name}-{job}{stage}",
                "files": [str(ROOT / f"ds_configs/compression/{file}.json") for file in files],
                "stage": stage,
                **more,
                "set": [f"robust_compression.model={model}", *more.get("set", [])],
            })  # fmt: skip
    driver = str(ROOT / "tests/drivers/compress_all.py")
    done = two_ranks(driver, str(folder), "unused", json.dumps(specs))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def read(runs, name):
    return [json.loads((runs / name / f"rank{rank}.json").read_text()) for rank in range(2)]


def exported(runs, name):
    return runs / name / "student" / "model"


@pytest.mark.parametrize(
    ("name", "job"),
    [(name, job) for name in NAMES for job in ("cut", "learned")] + [(name, "free") for name in FREE],
)
def test_every_zero_stage_makes_the_same_student(runs, name, job):
    plain = read(runs, f"{name}-{job}0")[0]
    for stage in (2, 3) if job == "cut" else (3,):
        first, second = read(runs, f"{name}-{job}{stage}")
        assert first["losses"] == second["losses"]
        np.testing.assert_allclose(first["losses"], plain["losses"], rtol=1e-4)
        assert first["weights"].keys() == plain["weights"].keys()
        for key, value in plain["weights"].items():
            assert first["weights"][key] == pytest.approx(value, rel=2e-3, abs=2e-3), (stage, key)


@pytest.mark.parametrize("name", NAMES)
def test_masked_and_exported_model_agree(runs, name):
    for job, _, stage, _ in jobs(name):
        student = json.loads((runs / f"{name}-{job}{stage}/student/student.json").read_text())
        assert student["parity"] <= 1e-5, (job, stage)


@pytest.mark.parametrize("name", NAMES)
def test_the_student_is_as_small_as_it_was_asked_to_be(runs, name):
    blocks = find_blocks(compress.load_compressed(exported(runs, f"{name}-cut3")))
    heads, neurons = [block.heads for block in blocks], [block.neurons for block in blocks]
    count = {"albert": 1}.get(name, 2)
    assert neurons == [16] * count
    assert sum(heads) == {"albert": 3, "mpnet": 6}.get(name, round(0.8 * 4 * count))
    learned = find_blocks(compress.load_compressed(exported(runs, f"{name}-learned3")))
    assert {block.neurons for block in learned} == {16}
    assert {block.heads for block in learned} == {4 if name == "mpnet" else 3}


@pytest.mark.parametrize("name", NAMES)
def test_sparsity_is_exact(runs, name):
    for job in ("whole1", "movement3"):
        model = compress.load_compressed(exported(runs, f"{name}-{job}"))
        layers = [
            m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "layer" in n
        ]
        zeros = sum(int((layer.weight == 0).sum()) for layer in layers)
        assert zeros / sum(layer.weight.numel() for layer in layers) == pytest.approx(0.4, abs=3e-3)


@pytest.mark.parametrize("name", NAMES)
def test_what_plain_transformers_can_load_says_the_same(runs, name):
    """Single weights for all; learned heads of each layer for those that have a key for their size."""
    loadable = ["whole1", "movement3"]
    if name in ("llama", "qwen3", "gemma2", "gemma3"):
        loadable.append("learned3")
    ids = torch.arange(5, 25).view(2, 10)
    for job in loadable:
        folder = exported(runs, f"{name}-{job}")
        plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        with torch.no_grad():
            wanted = compress.load_compressed(folder)(ids).logits
            assert torch.equal(plain(ids).logits, wanted)


@pytest.mark.parametrize("name", NAMES)
def test_the_cut_student_says_the_same_as_onnx(runs, name, tmp_path):
    folder, file = exported(runs, f"{name}-cut0"), tmp_path / "model.onnx"
    onnx_export.export(folder, file)
    model, tokenizer = compress.load_compressed(folder), AutoTokenizer.from_pretrained(folder)
    texts = ["the king slept .", "the queen"], ["a doctor", "the queen saw a doctor and slept ."]
    inputs = tokenizer(*texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        wanted = model(**inputs).logits.numpy()
        alone = model(**tokenizer(texts[0][1], texts[1][1], return_tensors="pt")).logits.numpy()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = {node.name for node in session.get_inputs()}
    given = {key: value.numpy() for key, value in inputs.items() if key in names}
    np.testing.assert_allclose(session.run(["logits"], given)[0], wanted, atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(wanted[1:], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_the_padding_token_is_saved_with_the_student(runs, name):
    folder = exported(runs, f"{name}-cut0")
    config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    wanted = {"llama": "</s>", "qwen3": "<pad>"}[name]
    assert tokenizer.pad_token == wanted and config.pad_token_id == tokenizer.pad_token_id
    assert config.use_cache is False


def test_the_layers_that_stay_keep_their_kind_of_attention(runs):
    for name in ("modernbert", "gemma2", "gemma3"):
        before = AutoConfig.from_pretrained(runs / "models" / name).layer_types
        after = AutoConfig.from_pretrained(exported(runs, f"{name}-cut0")).layer_types
        assert after == before[:2]
