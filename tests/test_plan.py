"""The plan of memory: sizes from shapes, the command, its errors, the formula where it is exact."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from launcher import job, python
from live_bytes import LiveBytes
from safetensors.torch import load_file, save_file
from small_models import CONFIGS, fresh
from transformers import AutoModelForSequenceClassification, BertConfig, LlamaConfig

from compress.configuration import precision
from compress.errors import UserError
from compress.models import encoders, streamed
from compress.plan import __main__ as command
from compress.plan import communication, dry_run, memory, sizes
from compress.plan.communication import Traffic
from compress.plan.engine import Engine
from compress.plan.memory import Load, Need
from compress.plan.report import Plan

PLAIN = Engine(
    zero=0,
    ranks=1,
    width=4,
    bucket=0,
    prefetch=0,
    reuse=0,
    live=0,
    persistence=0,
    sub_group=1 << 40,
    temporaries=0,
    states_on_host=False,
    weights_on_host=False,
)


def changed(**values):
    return Engine(**{**vars(PLAIN), **values})


def model(name):
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(fresh(name))


@pytest.mark.parametrize("name", ["bert", "llama", "distilbert", "deberta"])
def test_sizes_are_those_of_the_modules(name):
    shape = model(name)
    found = sizes.of(shape)
    assert found.parameters == sum(p.numel() for p in shape.parameters())
    assert found.largest == max(p.numel() for p in shape.parameters())
    assert (found.layers, found.hidden, found.wide) == (2, 24, 32)
    assert 0 < found.block * 2 < found.parameters


SHAPE = {"vocab_size": 40, "hidden_size": 128, "num_hidden_layers": 8, "num_attention_heads": 2}
BERT = BertConfig(**SHAPE, intermediate_size=512, attention_probs_dropout_prob=0.0)
LLAMA = LlamaConfig(**SHAPE, intermediate_size=352, pad_token_id=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [BERT, LLAMA], ids=["bert", "llama"])
def test_activations_are_what_a_forward_pass_keeps(shape, dtype):
    torch.manual_seed(0)
    real = AutoModelForSequenceClassification.from_config(shape).to(dtype).train()
    weights, kept = {p.untyped_storage()._cdata for p in real.parameters()}, {}

    def keep(value):
        if (storage := value.untyped_storage())._cdata not in weights:
            kept[storage._cdata] = storage
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        real(input_ids=torch.ones(3, 32, dtype=torch.long))
    planned = memory.activations(sizes.of(real), dtype.itemsize, 3, 32)
    assert planned == pytest.approx(sum(s.nbytes() for s in kept.values()), rel=0.1)


def test_bytes_between_steps_are_those_of_the_textbook():
    """Adam in mixed precision: 16 bytes a weight (Rajbhandari et al. 2020, Sec. 3.1)."""
    own = sizes.of(model("bert"))
    count = own.parameters

    def steady(**values):
        return sum(memory.steady(own, changed(**values)).values())

    assert steady() == 12 * count
    assert steady(zero=1, width=2) == 14 * count
    assert steady(zero=3, width=2) == 16 * count
    assert steady(zero=2, width=2, ranks=4) == pytest.approx(2 * count + 12 * count / 4, abs=48)
    assert steady(zero=3, width=2, ranks=4) == 16 * own.padded(4)


def test_parity_needs_what_is_planned(tmp_path):
    """The file is in bf16, so that its tensors are copied and not mapped into memory."""
    torch.manual_seed(0)
    folder = tmp_path / "model"
    AutoModelForSequenceClassification.from_config(BERT).bfloat16().save_pretrained(folder)
    own = sizes.of(encoders.fresh_from(folder))
    load = Load(0, 0, 1, inputs=0, tokens=0, length=8, train=4, scored=4, classes=2)
    labels, device = ("LABEL_0", "LABEL_1"), torch.device("cpu")
    with LiveBytes() as live, torch.inference_mode():
        shape = encoders.load_classifier(folder, labels, trained=True, whole=False).eval()
        with streamed.blocks(shape, device):
            shape(input_ids=torch.ones(4, 8, dtype=torch.long))
    assert sum(memory.parity(own, load).values()) == pytest.approx(max(live.peaks.values()), rel=0.1)


def test_states_on_the_host_leave_the_device():
    own, engine = sizes.of(model("bert")), changed(zero=2, width=2, states_on_host=True)
    device, host = memory.offloaded(memory.steady(own, engine), engine, own)
    assert device == {"weights": 2 * own.parameters, "masks": 0}
    assert sum(host.values()) == (4 + 8 + 4 + 2) * own.parameters + 2 * 4 * own.largest


def test_the_host_is_used_by_an_engine_alone():
    """Parity has none, so that its weights stay where they are computed with."""
    own = sizes.of(model("bert"))
    engine = changed(zero=3, width=2, states_on_host=True, weights_on_host=True)
    load = Load(0, 0, 1, inputs=0, tokens=0, length=8, train=4, scored=4, classes=2)
    train, parity = memory.needs("student", own, engine, load, ("train", "parity"))
    assert "weights" in train.host and "weights" not in train.device
    assert parity.device == memory.parity(own, load) and not parity.host


def written(folder, **values):
    shape = LlamaConfig(**{**CONFIGS["llama"].to_dict(), "max_position_embeddings": 512, **values})
    shape.save_pretrained(folder)
    return str(folder)


def test_the_command_prints_every_part(tmp_path, capsys):
    assert command.main(["--model", written(tmp_path), "--ranks", "4", "--zero", "3"]) == 0
    out = capsys.readouterr().out
    for part in ("teacher: load", "teacher: train", "student: export", "evaluation"):
        assert f"\n{part}" in out
    assert "4 ranks, ZeRO 3, bf16, micro-batch 8 x 128 tokens" in out
    assert "most on the device: " in out and "disk, of all ranks together: " in out


SMALL = ["zero_optimization.reduce_bucket_size=1000"]
SMALL += ["zero_optimization.stage3_max_reuse_distance=0"]
SMALL += ["zero_optimization.stage3_prefetch_bucket_size=0"]


def plan(*words):
    return command.plan_of(command.parse(list(words)))


def test_what_a_run_leaves_out_where_memory_lacks_is_not_what_needs_most(tmp_path):
    found = plan("--model", written(tmp_path), "--ranks", "4")
    [timed] = [need for need in found.needs if need.optional]
    larger = replace(timed, device={"weights": 2 * found.most.on_device})
    again = replace(found, needs=[*found.needs, larger])
    assert again.most == found.most != larger
    assert timed.stage == "evaluation: latency" and timed.stage in found.text()


@pytest.mark.parametrize(
    ("zero", "ranks", "accumulation", "copies"),
    [(0, 1, 1, 0), (0, 2, 3, 1), (1, 4, 3, 2.25), (2, 4, 3, 5.25), (3, 2, 1, 1.5), (3, 4, 2, 4.5)],
)
def test_a_step_sends_so_many_copies_of_the_weights(zero, ranks, accumulation, copies):
    assert sum(communication.sent(Traffic(1000, zero, ranks, accumulation)).values()) == 1000 * copies


def test_the_share_of_communication_is_said_where_the_speeds_are(tmp_path, capsys):
    words = ["--model", written(tmp_path), "--ranks", "4", "--zero", "3"]
    command.main(words)
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("a step sends ") and "share" not in line and " s at" not in line
    command.main([*words, "--bandwidth", "25", "--speed", "300"])
    line = capsys.readouterr().out.splitlines()[-1]
    assert " s at 25 GB/s; it computes " in line and " s at 300 TFLOP/s; " in line
    assert line.endswith("% is communication if the two do not overlap")
    step = communication.Step({"weights": 10**9}, operations=3 * 10**12)
    assert step.sending(2) == 0.5 and step.computing(2) == 1.5
    assert "; 25% is communication" in step.text(2, 2)


def test_ranks_divide_what_zero_3_divides(tmp_path):
    folder = written(tmp_path, hidden_size=256, intermediate_size=512)

    def states(ranks):
        words = ["--model", folder, "--ranks", str(ranks), "--zero", "3", "--set", *SMALL]
        [need] = [need for need in plan(*words).needs if need.stage == "teacher: score"]
        return need.device["states of Adam"]

    assert states(64) == pytest.approx(states(8) / 8, rel=0.01)


def test_files_say_what_is_compressed(tmp_path):
    base = {"train_batch_size": 12, "optimizer": {"type": "AdamW", "params": {"lr": 1e-4}}}
    base |= {"zero_optimization": {"stage": 2}}
    base["robust_compression"] = {"task": {"name": "synthetic"}, "loss": {"hook": "vanilla"}}
    file = tmp_path / "run.json"
    file.write_text(json.dumps(base))
    files = ["--deepspeed_config", str(file), "ds_configs/compression/heads20_rows50_imp40.json"]
    found = plan("--model", written(tmp_path / "model"), "--ranks", "2", *files)
    [need] = [need for need in found.needs if need.stage == "student: train"]
    assert need.device["masks"] > 0
    assert "student: importance" in {need.stage for need in found.needs}
    with pytest.raises(UserError, match="train_batch_size is 12, but 5 ranks"):
        plan("--model", written(tmp_path / "model"), "--ranks", "5", *files)


BASE = {"train_batch_size": 8, "optimizer": {"type": "AdamW", "params": {"lr": 1e-4}}}
BASE |= {"zero_optimization": {"stage": 2}}


def of_run(folder, hook, *values, files=()):
    """The plan of a run on two ranks, and its model's sizes."""
    file, place = folder / "base.json", folder / "model"
    ours = {"task": {"name": "synthetic"}, "loss": {"hook": hook}}
    file.write_text(json.dumps({**BASE, "robust_compression": ours}))
    words = ["--model", written(place), "--ranks", "2", "--deepspeed_config", str(file), *files]
    return plan(*words, *(["--set", *values] if values else [])), sizes.of(
        encoders.of_config(encoders.load_config(place))
    )


def needs_of(found, stage):
    [need] = [need for need in found.needs if need.stage == stage]
    return need


def test_a_given_teacher_has_its_own_size(tmp_path):
    large = written(tmp_path / "large", intermediate_size=512)
    given = f"robust_compression.teacher.model={large}"
    found, own = of_run(tmp_path, "distil", given)
    with torch.device("meta"):
        shape = AutoModelForSequenceClassification.from_config(encoders.load_config(Path(large)))
    count = sum(p.numel() for p in shape.parameters())
    assert needs_of(found, "teacher: score").device["weights"] == 4 * count > 4 * own.parameters
    assert needs_of(found, "evaluation: scores").device["weights"] == 4 * count
    timed = needs_of(found, "evaluation: latency").device["teacher and student"]
    assert timed == found.disk["finished models"] == 4 * (count + own.parameters)
    assert "teacher: train" not in {need.stage for need in found.needs}


def test_a_teacher_of_probabilities_needs_nothing(tmp_path):
    found, own = of_run(tmp_path, "distil", "robust_compression.teacher.probabilities=somewhere")
    assert {need.stage.partition(":")[0] for need in found.needs} == {"student", "evaluation"}
    assert needs_of(found, "evaluation: latency").device["student"] == 4 * own.parameters
    assert found.disk["finished models"] == 4 * own.parameters


@pytest.mark.parametrize("bias", ["weak", "partial_encoder"])
def test_every_training_of_a_run_is_planned(bias, tmp_path):
    baseline = "robust_compression.evaluation.baseline=true"
    found, _ = of_run(tmp_path, "poe", f"robust_compression.loss.bias={bias}", baseline)
    trained = [need.stage for need in found.needs if need.stage.endswith(": train")]
    assert trained == [f"{bias}: train", "teacher: train", "plain: train", "student: train"]


@pytest.mark.parametrize(("epochs", "listed"), [(2, False), (3, True)])
def test_a_first_model_is_planned_where_it_is_not_the_teacher(epochs, listed, tmp_path):
    found, _ = of_run(tmp_path, "jtt", f"robust_compression.epochs={epochs}")
    assert ("first: train" in {need.stage for need in found.needs}) == listed


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["evaluation.baseline=true"], 3),
        (["uncertainty.alpha=auto", "uncertainty.alpha_candidates=[0.2, 0.3]"], 4),
    ],
)
def test_students_beside_the_runs_own_stay_on_the_disk(words, count, tmp_path):
    """Beside teacher and student."""
    found, own = of_run(tmp_path, "rmc", *(f"robust_compression.{word}" for word in words))
    assert found.disk["finished models"] == 4 * count * own.parameters


@pytest.mark.parametrize(("gib", "most"), [(0, None), (1, 2**30), (999, 400_000 * 128 * 24 * 2 * 4)])
def test_the_teachers_hidden_states_are_on_the_disk(gib, most, tmp_path):
    """At most what the user grants: of train, at the full length, width 24, two layers, float32."""
    words = [f"robust_compression.layerwise.{word}" for word in ("hidden=1", f"cache_gib={gib}")]
    found, _ = of_run(tmp_path, "vanilla", *words)
    assert found.disk.get("the teacher's hidden states, at most") == most


def test_the_best_epoch_is_kept_on_the_host(tmp_path):
    found, own = of_run(tmp_path, "vanilla", "robust_compression.student.keep=best_dev")
    for part in ("train", "export"):
        kept = needs_of(found, f"student: {part}").host["weights of the best epoch"]
        assert kept == 4 * -(-own.parameters // 2)
    assert "weights of the best epoch" not in needs_of(found, "teacher: train").host


def test_learned_scores_are_no_part_of_the_finished_model(tmp_path):
    learned = "ds_configs/compression/movement40.json"
    found, own = of_run(tmp_path, "vanilla", files=[learned])
    assert needs_of(found, "student: train").device["weights"] > 4 * own.parameters
    assert found.disk["finished models"] == 8 * own.parameters
    assert needs_of(found, "evaluation: latency").device["teacher and student"] == 8 * own.parameters


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--ranks", "1", "--rows", "0"], "--rows 0: give 1 or more"),
        (["--ranks", "0"], "--ranks 0: give 1 or more"),
        (["--ranks", "8"], "^--model is missing: name a directory"),
        (["--ranks", "1", "--model", "{folder}"], "has no config.json"),
        (["--ranks", "1", "--model", "{folder}/no_heads"], "makes no classifier|cannot be read"),
    ],
)
def test_mistakes_are_one_sentence(words, sentence, tmp_path):
    words = [word.format(folder=tmp_path) for word in words]
    written(tmp_path / "no_heads")
    file = tmp_path / "no_heads/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_attention_heads": 0}))
    with pytest.raises(UserError, match=sentence) as caught:
        plan(*words)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_command_starts_no_deepspeed(tmp_path):
    """It takes seconds to import, and says in stdout that it found no GPU."""
    code = (
        "import sys; from compress.plan import __main__ as plan; plan.main(sys.argv[1:]); "
        "sys.exit('deepspeed' in sys.modules)"
    )
    words = ["--model", written(tmp_path), "--ranks", "4", "--zero", "3"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert " parameters, 4 ranks, ZeRO 3, " in done.stdout.splitlines()[0]


@pytest.mark.parametrize("here", [True, False])
def test_an_open_precision_is_planned_as_of_a_gpu(tmp_path, monkeypatch, here):
    """Not as of the machine that plans."""
    monkeypatch.setattr(precision, "computes_bf16", lambda kind: here)
    files = ["--deepspeed_config", "ds_configs/zero2.json", "ds_configs/gpu_zero3.json"]
    files += ["ds_configs/tasks/synthetic.json", "ds_configs/mitigation/vanilla.json"]
    assert ", ZeRO 3, bf16, " in plan("--model", written(tmp_path), "--ranks", "8", *files).about


def test_on_a_cpu_a_bucket_counts_as_far_as_it_is_filled(monkeypatch):
    """DeepSpeed allocates 2 GB of it for a model of any size, which a CPU does not back with memory."""
    large = Need("student: train", {memory.BUCKET: 2 * 10**9, "weights": 10**6}, {"copy": 10**6})
    other = Need("student: parity", {"weights": 5 * 10**7}, {})
    found = Plan("", 10**6, [large, other], {}, communication.Step({}, 0))
    monkeypatch.setattr(dry_run.memory, "available", lambda: 10**8)
    assert dry_run.filled(large, 10**6) == 10**7
    cpu = torch.device("cpu")
    assert dry_run._verdict(found, cpu).startswith("student: parity fits: it needs 0.05 GB, and each")
    monkeypatch.setattr(dry_run.memory, "available", lambda: 10**7)
    assert "student: parity does not fit: it needs 0.05 GB" in dry_run._verdict(found, cpu)
    monkeypatch.setattr(dry_run.memory, "available", lambda: 2 * 10**8)
    monkeypatch.setattr(dry_run.ranks, "world_size", lambda: 6)
    monkeypatch.setattr(dry_run.ranks, "gathered", lambda ask: ["a", ask(), "b", ask(), "b", "b"])
    assert dry_run._verdict(found, cpu).endswith(" 0.10 GB"), "of the two ranks of this host"


@pytest.mark.slow
def test_a_dry_run_checks_everything_and_trains_nothing(tiny_model, tmp_path):
    output = tmp_path / "run"
    done = python(*job(tiny_model, output), "robust_compression.epochs=1", "--dry_run")
    assert done.returncode == 0, done.stderr[-2000:]
    assert " fits: it needs" in done.stdout
    assert "\nstudent: prunes imp60 at every step between steps 0 and 5, of 8\n" in done.stdout
    assert done.stdout.rstrip().endswith("dry run: checked, and nothing was trained")
    assert not list(tmp_path.rglob("*.safetensors")) and not (output / "student").exists()
    wrong = python(*job(tiny_model, output), "robust_compression.epochs=0", "--dry_run")
    assert wrong.returncode != 0 and "robust_compression.epochs" in wrong.stderr
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_model, damaged)
    tensors = load_file(damaged / "model.safetensors")
    lost = next(name for name in tensors if name.endswith("attention.self.query.weight"))
    del tensors[lost]
    save_file(tensors, damaged / "model.safetensors", {"format": "pt"})
    wrong = python(*job(damaged, tmp_path / "other"), "robust_compression.epochs=1", "--dry_run")
    assert wrong.returncode != 0 and lost.removeprefix("bert.") in wrong.stderr
    assert "Traceback" not in wrong.stderr
