"""Each compression on two ranks, ZeRO 0 to 3: smaller, loadable, the same.

One launch trains all students one after another, because a start costs more than the training. The
export itself compares the logits of the masked and the exported model and fails above 1e-5.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from launcher import two_ranks
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertModel

import compress

ROOT = Path(__file__).parents[1]
NAMES = sorted(file.stem for file in (ROOT / "ds_configs/compression").glob("*.json"))
HUB = {
    "distilbert",
    "minilm_l6",
    "pretrained_l6",
}  # students from the hub: tested with a directory below
NAMES = [n for n in NAMES if n not in {"imp20", "imp60", "imp70", "imp80", "imp85", *HUB}]
FASTER = ["robust_compression.score_lr=0.1"]
SETTINGS = {name: FASTER for name in NAMES if "learned" in name or "movement" in name}
SETTINGS["layers_0_1_2"] = ["compression_training.layer_reduction.teacher_layer=[0, 2]"]  # 3 are all


def stages(name):
    """Those of the exports; test_parity.py trains each mechanism at every stage."""
    return (0, 2, 3) if name in {"heads20_rows50_imp40", "movement40"} else (3,)


SPECS = [
    {
        "name": f"{name}-zero{stage}",
        "files": [str(ROOT / f"ds_configs/compression/{name}.json")],
        "stage": stage,
        "set": SETTINGS.get(name, []),
    }
    for name in NAMES
    for stage in stages(name)
]
SMALL = ["layers_first_half", "heads20_rows50_imp40"]
OWN = ROOT / "compress/synthetic/encoder"  # another width and vocabulary than the run's encoder
SPECS += [
    {
        "name": f"{name}-zero{stage}",
        "files": [str(ROOT / f"ds_configs/compression/{file}.json") for file in files],
        "stage": stage,
        "set": settings,
    }
    for stage in (0, 3)
    for name, files, settings in (
        ("combined", SMALL, ["robust_compression.structured.rounds=2"]),
        ("own_model", ["heads20"], [f"robust_compression.student.model={OWN}"]),
    )
]
BF16 = {"set": ['bf16={"enabled": true}']}
SPECS += [
    {"name": f"bf16-zero{stage}", "files": SPECS[0]["files"], "stage": stage, **BF16}
    for stage in (2, 3)
]
FREE = [f"robust_compression.{setting}" for setting in ("padding_free=true", "batch_by=tokens")]
ALL = str(ROOT / "ds_configs/compression/heads20_rows50_imp40.json")
SPECS += [{"name": f"free-zero{n}", "files": [ALL], "stage": n, "set": FREE} for n in (0, 3)]

pytestmark = [pytest.mark.launcher, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_model):
    """An encoder of 3 layers x 4 heads x 64 rows."""
    folder = tmp_path_factory.mktemp("four") / "model"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.3,  # with BERT's 0.02 the logits of so small a model hardly depend on it
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("runs")
    driver = str(ROOT / "tests/drivers/compress_all.py")
    done = two_ranks(driver, str(folder), str(model), json.dumps(SPECS))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def read(runs, name):
    return [json.loads((runs / name / f"rank{rank}.json").read_text()) for rank in range(2)]


def test_without_padding_every_stage_makes_the_same_student(runs):
    """Of other batches than with padding: drawn at random, of equal numbers of tokens."""
    plain, other = read(runs, "free-zero0")[0], read(runs, "heads20_rows50_imp40-zero0")[0]
    first, second = read(runs, "free-zero3")
    assert first["losses"] == second["losses"] and len(plain["losses"]) == len(other["losses"])
    np.testing.assert_allclose(first["losses"], plain["losses"], rtol=1e-5)
    assert np.abs(np.subtract(plain["losses"], other["losses"])).max() > 1e-4
    for key, value in plain["weights"].items():
        assert first["weights"][key] == pytest.approx(value, rel=1e-3, abs=1e-3), key


@pytest.mark.parametrize("name", [name for name in NAMES if len(stages(name)) > 1])
def test_zero_stages_make_the_same_student(runs, name):
    plain = read(runs, f"{name}-zero{stages(name)[0]}")[0]
    for stage in stages(name)[1:]:
        first, second = read(runs, f"{name}-zero{stage}")
        assert first["losses"] == second["losses"]
        np.testing.assert_allclose(first["losses"], plain["losses"], rtol=1e-4)
        assert first["weights"].keys() == plain["weights"].keys()
        for key, value in plain["weights"].items():
            assert first["weights"][key] == pytest.approx(value, rel=1e-3, abs=1e-3), (stage, key)


@pytest.mark.parametrize("name", ["combined", "own_model"])
def test_zero_3_makes_the_same_student_of_two_layers_and_of_another_encoder(runs, name):
    plain, other = (read(runs, f"{name}-zero{stage}")[0] for stage in (0, 3))
    np.testing.assert_allclose(other["losses"], plain["losses"], rtol=1e-4)
    assert other["weights"].keys() == plain["weights"].keys()


def test_a_student_of_its_own_keeps_its_tokenizer(runs):
    folder = runs / "own_model-zero0/student/model"
    own = AutoTokenizer.from_pretrained(OWN)
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == own.get_vocab()
    assert compress.load_compressed(folder).config.vocab_size == len(own)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec["name"])
def test_masked_and_exported_model_agree(runs, spec):
    student = json.loads((runs / spec["name"] / "student/student.json").read_text())
    assert student["parity"] <= 1e-5


def shapes(runs, name):
    weights = load_file(runs / f"{name}-zero3/student/model/model.safetensors")
    layers = {key.split(".")[3] for key in weights if ".layer." in key}
    inner = [f"bert.encoder.layer.{number}" for number in sorted(layers)]
    heads = [weights[f"{layer}.attention.self.query.weight"].shape[0] // 8 for layer in inner]
    return heads, [weights[f"{layer}.intermediate.dense.weight"].shape[0] for layer in inner]


@pytest.mark.parametrize(
    ("name", "heads", "rows"),
    [
        ("heads20", 10, [64] * 3),  # 80 % of 12 over the whole model
        ("heads40", 7, [64] * 3),
        ("heads20_learned", 9, [64] * 3),  # 80 % of 4 in each layer
        ("rows50", 12, [32] * 3),
        ("rows50_learned", 12, [32] * 3),
        ("heads20_rows50_imp40", 10, [32] * 3),
        ("layers_first_half", 8, [64] * 2),
        ("layers_every_second", 4, [64]),
        ("combined", 6, [32] * 2),  # 80 % of 8 heads
    ],
)
def test_the_tensors_are_smaller(runs, name, heads, rows):
    found_heads, found_rows = shapes(runs, name)
    assert (sum(found_heads), found_rows) == (heads, rows)
    assert min(found_heads) >= 1


@pytest.mark.parametrize("name", ["imp40", "movement40", "heads20_rows50_imp40"])
def test_sparsity_is_exact_on_what_is_left(runs, name):
    for stage in stages(name):
        model = compress.load_compressed(runs / f"{name}-zero{stage}/student/model")
        inner = [
            m for n, m in model.named_modules() if ".layer." in n and isinstance(m, torch.nn.Linear)
        ]
        zeros = sum(int((m.weight == 0).sum()) for m in inner)
        assert zeros / sum(m.weight.numel() for m in inner) == pytest.approx(0.4, abs=2e-3)


@pytest.mark.parametrize(
    "name", ["imp40", "movement40", "rows50", "rows50_learned", "layers_first_half"]
)
def test_loads_without_us(runs, name):
    folder = runs / f"{name}-zero3/student/model"
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ours = compress.load_compressed(folder)
    ids = torch.arange(5, 25).view(2, 10)
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, ours(ids).logits)


def test_chosen_heads_run_again_as_json(runs, model, tmp_path):
    """The choice, written as DeepSpeed's JSON, gives the same student when it is used as it is."""
    chosen = runs / "heads40-zero3/student/heads.json"
    spec = [{"name": "again", "files": [str(chosen)], "stage": 3}]
    done = two_ranks(
        str(ROOT / "tests/drivers/compress_all.py"), str(tmp_path), str(model), json.dumps(spec)
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, again = read(runs, "heads40-zero3")[0], read(tmp_path, "again")[0]
    np.testing.assert_allclose(again["losses"], first["losses"], rtol=1e-5)
    assert again["weights"] == pytest.approx(first["weights"], rel=1e-3, abs=1e-3)


def test_the_directory_has_all_that_a_user_needs(runs):
    folder = runs / "heads20-zero3/student/model"
    names = {file.name for file in folder.iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    assert "load_compressed" in (folder / "README.md").read_text()
