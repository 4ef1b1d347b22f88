"""The real `deepspeed` launcher on two CPU ranks: ZeRO stages agree, ranks agree, errors end cleanly.

One launch trains all specs one after another, because a start costs more than the training. Whole jobs
have their libraries loaded before; test_study_launch.py starts some with the launcher.
"""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from launcher import ROOT, deepspeed, job, launch, python, two_ranks

from compress.scoring.metrics import auroc
from compress.synthetic import generator

GROUP = {"encoder": [r"encoder\.layer\.", 0.5]}
SPECS = [{"name": f"zero{z}", "stage": z, "groups": GROUP, "steps": 6} for z in range(4)]
SPECS.append(
    {
        "name": "two_groups",
        "stage": 2,
        "groups": {
            "attention": ["attention", 0.25],
            "rows": [r"\d\.(intermediate|output)\.dense", 0.75],
        },
        "steps": 6,
        "hook": "vanilla",
    }
)
BF16 = {"set": ['bf16={"enabled": true}']}
SPECS += [{"name": f"bf16_zero{z}", "stage": z, "groups": GROUP, "steps": 6, **BF16} for z in (2, 3)]
LAYERS = {"groups": GROUP, "steps": 6, "layerwise": {"hidden": 0.5, "attention": 20.0}}
SPECS += [{"name": f"layerwise_zero{z}", "stage": z, **LAYERS} for z in range(4)]
PARTS = {"set": ["gradient_accumulation_steps=2"]}
SPECS.append({"name": "layerwise_accumulated", "stage": 3, **LAYERS, **PARTS})
SPECS.append({"name": "layerwise_bf16", "stage": 3, **LAYERS, **BF16})
FOCAL = {"groups": GROUP, "steps": 6, "hook": "focal"}
SPECS += [{"name": f"focal_zero{z}", "stage": z, **FOCAL} for z in (0, 3)]
SPECS.append({"name": "focal_accumulated", "stage": 3, **FOCAL, **PARTS})
DROPOUT = {"groups": GROUP, "steps": 6, "stage": 2, "dropout": 0.3, **PARTS}
SPECS.append({"name": "dropout_vanilla", **DROPOUT, "hook": "vanilla"})
SPECS.append({"name": "dropout_focal", **DROPOUT, "hook": "focal", "gamma": 0.0})
FOCAL_ALONE = {"name": "focal_zero0", "stage": 0, **FOCAL}
GOLDEN = [{"name": "golden", "stage": 2, "groups": GROUP, "steps": 4}, SPECS[2], FOCAL_ALONE]

pytestmark = [pytest.mark.launcher, pytest.mark.timeout(600)]


def results(folder: Path, name: str, ranks: int) -> list[dict]:
    return [json.loads((folder / f"{name}-rank{rank}.json").read_text()) for rank in range(ranks)]


@pytest.fixture(scope="module")
def on_two(tmp_path_factory, tiny_model) -> Path:
    folder = tmp_path_factory.mktemp("two")
    driver = str(ROOT / "tests/drivers/train_steps.py")
    extensions = {"TORCH_EXTENSIONS_DIR": str(folder / "extensions")}
    done = launch(driver, str(folder), str(tiny_model), json.dumps(SPECS), **extensions)
    assert done.returncode == 0, done.stderr[-3000:]
    port = next(word for word in done.args if word.startswith("--master_port")).partition("=")[2]
    left = [path.name for path in Path("/dev/shm").glob(f"deepspeed_*_{port}_*")]
    (folder / "shared_memory.json").write_text(json.dumps(left))
    return folder


@pytest.fixture(scope="module")
def on_one(tmp_path_factory, tiny_model) -> Path:
    folder = tmp_path_factory.mktemp("one")
    driver = str(ROOT / "tests/drivers/train_steps.py")
    done = python(driver, str(folder), str(tiny_model), json.dumps(GOLDEN))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.release
def test_nothing_is_compiled_and_no_shared_memory_is_left(on_two: Path) -> None:
    assert not (on_two / "extensions").exists()
    assert json.loads((on_two / "shared_memory.json").read_text()) == []


@pytest.mark.release
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_stages_agree(on_two: Path, stage: int) -> None:
    plain, other = (results(on_two, f"zero{z}", 2)[0] for z in (0, stage))
    np.testing.assert_allclose(other["losses"], plain["losses"], rtol=1e-5)
    np.testing.assert_allclose(other["scores"], plain["scores"], atol=1e-5)
    assert other["masks"] == plain["masks"]
    assert other["weights"].keys() == plain["weights"].keys()
    for name, value in plain["weights"].items():
        assert other["weights"][name] == pytest.approx(value, abs=1e-4), name


@pytest.mark.release
@pytest.mark.parametrize("name", [spec["name"] for spec in SPECS])
def test_ranks_have_equal_masks_and_scores(on_two: Path, name: str) -> None:
    first, second = results(on_two, name, 2)
    assert first["masks"] == second["masks"]
    assert first["scores"] == second["scores"]


@pytest.mark.release
def test_asked_sparsity_is_reached_and_pruned_weights_are_zero(on_two: Path) -> None:
    for stage in range(4):
        result = results(on_two, f"zero{stage}", 2)[0]
        assert result["sparsity"][-1] == pytest.approx(0.5, abs=1e-3)
        assert sorted(result["sparsity"]) == result["sparsity"]
        for name, mask in result["masks"].items():
            assert mask.count("0") == round(len(mask) * 0.5), name
            assert result["zeros"][f"{name}.weight"] >= mask.count("0")


@pytest.mark.release
@pytest.mark.parametrize("stage", [2, 3])
def test_bf16_stays_near_float32(on_two: Path, stage: int) -> None:
    """The engine converts the weights, not the masks: a float mask made the product float32."""
    half, full = (results(on_two, name, 2)[0] for name in (f"bf16_zero{stage}", f"zero{stage}"))
    np.testing.assert_allclose(half["losses"], full["losses"], rtol=0.05)
    assert half["sparsity"][-1] == pytest.approx(0.5, abs=1e-3)


@pytest.mark.release
@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3", "accumulated", "bf16"])
def test_layerwise_term_trains_alike(on_two: Path, name: str) -> None:
    """Also where ZeRO 3 partitions the projection, and where a step has two backward passes."""
    plain, other = (results(on_two, f"layerwise_{n}", 2)[0] for n in ("zero0", name))
    near = {"rtol": 0.05 if name == "bf16" else 1e-4}
    np.testing.assert_allclose(other["losses"], plain["losses"], **near)
    np.testing.assert_allclose(other["layers"], plain["layers"], **near)
    if name != "bf16":
        np.testing.assert_allclose(other["projection"][1], plain["projection"][1], atol=1e-5)


@pytest.mark.release
def test_layerwise_term_counts_and_trains_its_projection(on_two: Path) -> None:
    result, without = (results(on_two, n, 2)[0] for n in ("layerwise_zero3", "zero3"))
    hidden, attention = result["layers"][0]
    expected = without["losses"][0] + 0.5 * hidden + 20.0 * attention
    assert result["losses"][0] == pytest.approx(expected, rel=1e-5)
    assert 0.5 * hidden > 1e-3 and 20.0 * attention > 1e-3
    assert result["layers"][-1][0] < hidden
    before, after = (np.array(matrix) for matrix in result["projection"])
    assert before.shape == after.shape == (48, 32)
    assert np.abs(after - before).mean() > 1e-4
    assert without["projection"] == [None, 0.0]


@pytest.mark.release
def test_groups_keep_their_own_targets(on_two: Path) -> None:
    masks = results(on_two, "two_groups", 2)[0]["masks"]
    for name, mask in masks.items():
        target = 0.25 if "attention" in name else 0.75
        assert mask.count("0") == round(len(mask) * target), name


@pytest.mark.release
def test_training_does_not_depend_on_the_number_of_ranks(on_two: Path, on_one: Path) -> None:
    two, one = results(on_two, "zero2", 2)[0], results(on_one, "zero2", 1)[0]
    np.testing.assert_allclose(one["losses"], two["losses"], rtol=1e-4)
    np.testing.assert_allclose(one["scores"], two["scores"], atol=1e-4)


@pytest.mark.release
@pytest.mark.parametrize("other", ["zero3", "accumulated"])
def test_focal_counts_the_batch_of_all_ranks_and_micro_batches_as_one(
    on_two: Path, on_one: Path, other: str
) -> None:
    alone = results(on_one, "focal_zero0", 1)[0]
    for name in ("focal_zero0", f"focal_{other}"):
        np.testing.assert_allclose(results(on_two, name, 2)[0]["losses"], alone["losses"], rtol=1e-4)


@pytest.mark.release
def test_looking_ahead_leaves_the_dropout_alone(on_two: Path) -> None:
    """gamma 0 is cross-entropy: the same training, though each batch has been through twice."""
    plain, focal = (results(on_two, f"dropout_{n}", 2)[0] for n in ("vanilla", "focal"))
    np.testing.assert_allclose(focal["losses"], plain["losses"], rtol=1e-6)
    without = results(on_two, "two_groups", 2)[0]["losses"]
    assert abs(plain["losses"][0] - without[0]) > 1e-4


@pytest.mark.release
def test_golden_four_steps(on_one: Path) -> None:
    """A refactoring shows the identical loss: these four values change only on purpose."""
    result = results(on_one, "golden", 1)[0]
    golden = json.loads((ROOT / "tests/golden.json").read_text())
    np.testing.assert_allclose(result["losses"], golden["losses"], rtol=1e-4)
    np.testing.assert_allclose(result["sparsity"], golden["sparsity"], atol=1e-6)
    assert result["progress"] == [step / 8 for step in range(4)], "what the warm-up goes by"


@pytest.fixture(scope="module")
def whole_job(tmp_path_factory, tiny_model) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("job")
    done = two_ranks(*job(tiny_model, folder / "run"), "--export", "onnx-int8")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run", done.stdout


def test_whole_job_writes_all_it_promises(whole_job: tuple[Path, str]) -> None:
    folder, output = whole_job
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["student"]["sparsity"] == pytest.approx(0.6, abs=1e-3)
    assert metrics["student"]["nonzero_params"] < metrics["student"]["params"]
    assert set(metrics["seconds"]) == {"teacher", "difficulty", "student", "evaluate"}
    assert 0 <= metrics["difficulty"]["auroc"] <= 1
    assert set(metrics["artefacts"]) == set(metrics["seconds"])
    assert {origin["ranks"] for origin in metrics["artefacts"].values()} == {2}
    assert metrics["latency"]["timings"] or metrics["latency"]["left_out"]
    parts = metrics["easy_hard"]
    assert parts["text"] == "hypothesis" and parts["easy"] + parts["hard"] == 40
    assert 0 <= parts["agreement"] <= 1
    hits = np.load(folder / "hits.npz")
    for role in ("teacher", "student"):
        assert hits[f"{role}/dev"].mean() == pytest.approx(metrics[role]["dev"])
        assert hits[f"{role}/ood_synthetic"].mean() == pytest.approx(metrics[role]["ood"]["synthetic"])
        assert sum(metrics[role]["predicted"].values()) == pytest.approx(1)
        assert hits[f"{role}/dev"][hits["hard"]].mean() == pytest.approx(parts[role]["hard"])
    assert "<svg" in (folder / "report.html").read_text()
    assert list((folder / "tensorboard/run").glob("events*"))
    assert "expected: teacher" in output and " in all" in output
    assert (folder / "onnx/model.onnx").is_file() and "onnx: done" in output
    assert (folder / "onnx_int8/model.onnx").is_file() and "onnx_int8: done" in output
    assert len(np.load(folder / "scores_int8/dev.npy")) == 40
    assert set(metrics["int8"]["difference"]) == {"dev", "ood_synthetic", "ood_pooled", "delta"}
    assert "teacher" in output and str(folder / "report.html") in output


def test_exported_student_loads_and_scores_as_stored(whole_job: tuple[Path, str]) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder, _ = whole_job
    model = AutoModelForSequenceClassification.from_pretrained(folder / "student/model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "student/model")
    pairs = generator.generate(train=120, dev=40, ood=40)["dev"]
    inputs = tokenizer(
        [p["premise"] for p in pairs],
        [p["hypothesis"] for p in pairs],
        padding=True,
        return_tensors="pt",
        truncation=True,
        max_length=48,
    )
    scores = model(**inputs).logits.log_softmax(1).detach().numpy()
    np.testing.assert_allclose(scores, np.load(folder / "scores/dev.npy"), atol=1e-5)
    assert model.config.id2label == {0: "entailment", 1: "not_entailment"}
    assert model.config.trained_max_length == 48


def test_ranks_with_more_threads_than_cores_are_told(whole_job: tuple[Path, str], tiny_model) -> None:
    folder, said = whole_job
    assert "OMP_NUM_THREADS=" not in said or os.cpu_count() == 1
    number = str(max(2, os.cpu_count() or 1))
    done = deepspeed(*job(tiny_model, folder, stage="teacher"), OMP_NUM_THREADS=number)
    assert done.returncode == 0, done.stderr
    note = r"note: .*: 2 ranks have \d+ threads on \d+ cores?, .* set OMP_NUM_THREADS="
    assert re.search(note, done.stdout)


def test_finished_stages_are_reused_and_others_made_again(
    whole_job: tuple[Path, str], tiny_model: Path
) -> None:
    folder, _ = whole_job
    other = folder.parent / "other"
    done = two_ranks(*job(tiny_model, other, "robust_compression.loss.difficulty=shallow"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "teacher: reused" in done.stdout and "difficulty: reused" in done.stdout
    assert "student: done" in done.stdout
    first, second = (json.loads((f / "metrics.json").read_text()) for f in (folder, other))
    assert second["mitigation"] == "rmc+shallow"
    assert second["difficulty"]["auroc"] == first["difficulty"]["auroc"]
    p = np.load(next((folder.parent / "shared/shallow").iterdir()) / "probabilities.npy")
    pairs = generator.generate(train=120, dev=40, ood=40)["train"]
    gold = [int(pair["label"] != "entailment") for pair in pairs]
    conflicting = np.array([pair["alignment"] for pair in pairs]) == "conflicting"
    expected = auroc(1 - p[np.arange(len(p)), gold], conflicting)
    assert second["difficulty"]["shallow_auroc"] == pytest.approx(expected)
    reports = [(f / "report.html").read_text() for f in (folder, other)]
    assert [text.count("error of a shallow classifier") for text in reports] == [0, 1]


def test_given_teacher_independent_protocol_own_loss_and_accumulation(
    whole_job: tuple[Path, str], tiny_model: Path, tmp_path: Path
) -> None:
    """The other way through every stage, in one process."""
    (tmp_path / "own_loss.py").write_text(
        "import torch.nn.functional as F\n"
        "def halves(logits, labels, teacher, difficulty, weights):\n"
        "    assert teacher.shape == logits.shape and difficulty.shape == labels.shape\n"
        "    return F.cross_entropy(logits.float(), labels, reduction='none') / 2\n"
    )
    teacher = next((whole_job[0].parent / "shared/teacher").iterdir()) / "model"
    own = [
        f"robust_compression.teacher.model={teacher}",
        "robust_compression.uncertainty.protocol=independent",
        "robust_compression.uncertainty.sparsities=[0.3, 0.801, 0.802]",
        "robust_compression.uncertainty.normalisation=quantile",
        "robust_compression.loss.hook=own_loss:halves",
        "robust_compression.student.init_from=teacher",
        "gradient_accumulation_steps=2",
        'robust_compression.layerwise={"hidden": 0.1, "attention": 10, "layer_map": [[1, 1], [0, 0]]}',
        "csv_monitor.enabled=true",
    ]
    command = job(tiny_model, tmp_path / "run", *own)
    done = python(*command, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    first = json.loads((whole_job[0] / "metrics.json").read_text())
    assert metrics["teacher"]["dev"] == first["teacher"]["dev"]
    assert metrics["mitigation"] == "own_loss:halves+layerwise"
    assert metrics["teacher"]["model"] == metrics["student"]["model"] == str(teacher)
    matrix = next((tmp_path / "shared/difficulty").iterdir()) / "train.parquet"
    columns = pq.read_table(matrix).column_names
    assert columns == ["index", "label", "loss_0.3", "loss_0.801", "loss_0.802", "variance"]
    watched = {file.name for file in (tmp_path / "run/csv_monitor").glob("student_*")}
    assert {"student_hidden.csv", "student_attention.csv"} <= watched
    exported = (tmp_path / "run/student/model/model.safetensors").read_bytes()
    assert b"layerwise" not in exported


def test_alpha_is_chosen_on_the_halves_of_dev(whole_job: tuple[Path, str], tiny_model: Path) -> None:
    folder = whole_job[0].parent / "auto"
    block = "robust_compression.uncertainty"
    auto = [f"{block}.alpha=auto", f"{block}.alpha_candidates=[0.1, 0.9]"]
    done = python(*job(tiny_model, folder, *auto))
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((folder / "metrics.json").read_text())
    tried, alpha = found["difficulty"]["alpha_candidates"], found["difficulty"]["alpha"]
    assert set(tried) == {"0.1", "0.9"} and alpha in (0.1, 0.9)
    chosen = tried[f"{alpha:g}"]
    assert [chosen[k] for k in ("dev", "dev_easy", "dev_hard")] == pytest.approx(
        [found["student"][k] for k in ("dev", "dev_easy", "dev_hard")]
    )
    copied = folder / f"alpha/{alpha:g}/model/model.safetensors"
    assert copied.read_bytes() == (folder / "student/model/model.safetensors").read_bytes()
    again = python(*job(tiny_model, folder, *auto, stage="evaluate"))
    assert again.returncode == 0, again.stderr[-3000:]
    assert json.loads((folder / "metrics.json").read_text())["difficulty"]["alpha"] == alpha


def test_a_stage_without_the_one_before_says_which(tiny_model: Path, tmp_path: Path) -> None:
    done = python(*job(tiny_model, tmp_path / "run", stage="student"))
    assert done.returncode == 1
    assert done.stderr.count("run --stage teacher first") == 1


def test_output_directory_of_another_configuration_is_refused(
    whole_job: tuple[Path, str], tiny_model: Path
) -> None:
    folder, _ = whole_job
    done = python(*job(tiny_model, folder, "robust_compression.seed=7"))
    assert done.returncode == 1
    assert "robust_compression.seed" in done.stderr and "another configuration" in done.stderr


def test_nan_loss_ends_all_ranks_and_leaves_no_student(
    whole_job: tuple[Path, str], tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken_hook.py").write_text(
        "def loss(logits, labels, teacher, difficulty, weights):\n"
        "    return logits.sum(1) * float('nan')\n"
    )
    folder = whole_job[0].parent / "broken"
    hook = "robust_compression.loss.hook=broken_hook:loss"
    done = two_ranks(*job(tiny_model, folder, hook), PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.returncode == 1
    assert done.stderr.count("the loss is not finite at step") == 1
    assert "Traceback" not in done.stderr
    assert not (folder / "student").exists()
    assert not (folder / "metrics.json").exists()
    shutil.rmtree(folder)


def test_a_bad_configuration_ends_all_ranks_before_anything_is_built(
    tiny_model: Path, tmp_path: Path
) -> None:
    done = launch(*job(tiny_model, tmp_path / "run", "zero_optimization.stage=4"))
    assert done.returncode == 1
    assert done.stderr.count("'zero_optimization.stage' is 4") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
