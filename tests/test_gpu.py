"""What only a CUDA device shows: NCCL, bf16 and fp16 on the GPU, masks and importance there.

Without one these tests are skipped. Run them alone with `bash launch_scripts/test.sh -m gpu`.
"""

import json
import sys

import numpy as np
import pytest
import test_unpadding
import torch
from launcher import ROOT, job, run
from small_models import Data
from transformers import AutoModelForSequenceClassification, BertConfig

from compress.compression import importance
from compress.microbatch import SampleData
from compress.mitigations.vanilla import Vanilla
from compress.training.passes import Passes

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
COMBINED = str(ROOT / "ds_configs/compression/heads20_rows50_imp40.json")
PRECISIONS = {"fp32": [], "bf16": ['bf16={"enabled": true}'], "fp16": ['fp16={"enabled": true}']}


def stages(precision):
    """fp16 is refused at stage 0."""
    return (1, 2, 3) if precision == "fp16" else (0, 2, 3)


RATE = "optimizer.params.lr=5e-4"
SPECS = [
    {"name": f"{precision}-zero{stage}", "files": [COMBINED], "stage": stage, "moved": True}
    | {"set": [RATE, *settings]}
    for precision, settings in PRECISIONS.items()
    for stage in stages(precision)
]
OFTEN = 'robust_compression.checkpoint={"every_steps": 3, "every_minutes": null}'
UNCLIPPED = "gradient_clipping=0"
OFFLOADED = 'zero_optimization.offload_optimizer={"device": "cpu", "pin_memory": true}'
RESUMED = {
    **{f"resumed-zero{stage}": (f"fp32-zero{stage}", stage, []) for stage in (0, 2, 3)},
    "offloaded-zero2": ("unclipped-zero2", 2, [UNCLIPPED, OFFLOADED]),
}
"""Trainings that are broken off -> the same ones that are not, ZeRO stage, settings."""
SPECS_RESUMED = [
    {
        "name": "unclipped-zero2",
        "files": [COMBINED],
        "stage": 2,
        "set": [RATE, UNCLIPPED],
        "moved": True,
    }
]
SPECS_RESUMED += [
    {"name": name, "files": [COMBINED], "stage": stage, "set": [RATE, OFTEN, *settings]}
    | {"moved": True, "broken_at": 5}
    for name, (_, stage, settings) in RESUMED.items()
]
LOSSES = {"focal": ["gradient_accumulation_steps=2"], "jtt": [], "rmc_plus": ['bf16={"enabled": true}']}
SPECS_BY_LOSS = [
    {"name": f"loss-{name}", "files": [COMBINED], "stage": 2, "set": settings, "mitigation": name}
    for name, settings in LOSSES.items()
]


def on_gpu(*command: str):
    """One process on the first GPU, through NCCL."""
    return run([sys.executable, *command], DS_ACCELERATOR="cuda", CUDA_VISIBLE_DEVICES="0")


def test_whole_job_on_one_gpu(tmp_path, tiny_model):
    done = on_gpu(*job(tiny_model, tmp_path / "run"))
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["artefacts"]["student"]["device"].startswith("cuda")
    assert metrics["student"]["sparsity"] == pytest.approx(0.6, abs=1e-3)
    assert metrics["student"]["parity"] <= 1e-5


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    driver = str(ROOT / "tests/drivers/compress_all.py")
    model = str(ROOT / "compress/synthetic/encoder")
    done = on_gpu(driver, str(folder), model, json.dumps([*SPECS, *SPECS_RESUMED, *SPECS_BY_LOSS]))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec["name"])
def test_masked_and_exported_model_agree(students, spec):
    student = json.loads((students / spec["name"] / "student/student.json").read_text())
    assert student["parity"] <= 1e-5
    assert student["sparsity"] == pytest.approx(0.4, abs=2e-3)
    assert all(layer["heads"] >= 1 for layer in student["layers"])


@pytest.mark.parametrize("spec", SPECS_BY_LOSS, ids=lambda spec: spec["name"])
def test_mitigations_train_on_the_gpu(students, spec):
    values = read(students, spec["name"])["losses"]
    assert len(values) >= 8 and np.isfinite(values).all()
    assert json.loads((students / spec["name"] / "student/student.json").read_text())["parity"] <= 1e-5


def read(students, name):
    return json.loads((students / name / "rank0.json").read_text())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_zero_stages_agree(students, precision):
    """In the losses, and in how far the weights have moved, which depends on the gradients more."""
    first, *others = (read(students, f"{precision}-zero{stage}") for stage in stages(precision))
    tolerance = 1e-2 if precision == "fp32" else 0.1
    for other in others:
        np.testing.assert_allclose(other["losses"], first["losses"], rtol=tolerance)
        assert other["moved"] == pytest.approx(first["moved"], rel=0.05)


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.2), ("fp16", 0.05)])
def test_weights_move_as_far_as_in_fp32(students, precision, tolerance):
    """Gradients in fp16 that are 65,536 times too small make 13 %; rounding to bf16 makes 11 %."""
    expected = read(students, "fp32-zero2")["moved"]
    assert read(students, f"{precision}-zero2")["moved"] == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("name", RESUMED)
def test_a_broken_training_goes_on(students, name):
    """With torch's fused AdamW, whose states are on the GPU, or offloaded; steps 4 and 5 come twice."""
    found, whole = read(students, name), read(students, RESUMED[name][0])
    losses = found["losses"][:3] + found["losses"][5:]
    np.testing.assert_allclose(losses, whole["losses"], rtol=1e-2)
    assert found["moved"] == pytest.approx(whole["moved"], rel=0.02)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_without_padding_loss_and_gradient_are_those_with_it(kind):
    """In half precision by torch's attention of variable lengths."""
    shape = {"vocab_size": 40, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BertConfig(**shape, intermediate_size=64, max_position_embeddings=40)
    padded, free = (model.to("cuda", kind) for model in test_unpadding.models(config))
    given = {name: value.cuda() for name, value in test_unpadding.inputs().items()}
    layout = {name: value.cuda() for name, value in test_unpadding.layout().items()}
    found = []
    for model, more in ((padded, {}), (free, layout)):
        logits = model(**given, **more).logits.float()
        torch.nn.functional.cross_entropy(logits, test_unpadding.LABELS.cuda()).backward()
        found.append((logits.detach(), [p.grad.float() for p in model.parameters()]))
    exact = kind == torch.float32
    torch.testing.assert_close(
        *(logits for logits, _ in found), rtol=1e-5 if exact else 0.05, atol=1e-5 if exact else 0.05
    )
    for one, two in zip(*(gradients for _, gradients in found), strict=True):
        atol = 1e-6 if exact else 0.05 * float(one.abs().max()) + 1e-3
        torch.testing.assert_close(one, two, rtol=1e-4 if exact else 0, atol=atol)


def test_importance_is_that_of_the_cpu():
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_attention_heads": 4, "num_hidden_layers": 2}
    config = BertConfig(vocab_size=40, intermediate_size=32, initializer_range=0.3, **sizes)
    model = AutoModelForSequenceClassification.from_config(config)

    class OnDevice(Data):
        def batch(self, indices, device):
            return {k: v.to(device) for k, v in super().batch(indices, device).items()}

    objective = importance.Objective(Vanilla(), SampleData())
    found = {
        name: importance.measure(
            Passes(model.to(name)),
            importance.Measurement(OnDevice(), np.arange(5), objective, torch.device(name)),
        )
        for name in ("cpu", "cuda")
    }
    for one, other in zip(found["cpu"].heads, found["cuda"].heads, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-6)
    for one, other in zip(found["cpu"].neurons, found["cuda"].neurons, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-6)
