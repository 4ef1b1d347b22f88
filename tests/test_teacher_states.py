"""Kept hidden states of the teacher: the same loss as with a live teacher, budget, keys, two ranks."""

import json
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from configs import BASE, Files
from launcher import ROOT, two_ranks
from stage_runs import run_of
from test_layerwise import model
from transformers import BertConfig, DebertaV2Config, DistilBertConfig, RobertaConfig

from compress.checkpoints.passed import Passed
from compress.configuration.config import build
from compress.data.columns import Columns
from compress.errors import Interrupted, UserError
from compress.files import disk
from compress.layerwise import states
from compress.layerwise.block import LayerwiseBlock
from compress.layerwise.states import States, Writer
from compress.layerwise.terms import terms_of
from compress.methods import Run
from compress.microbatch import SampleData
from compress.models import encoders
from compress.runtime import agreement
from compress.stages import stage, teacher_states
from compress.stages.student import Student
from compress.stages.teacher_states import TeacherStates
from compress.training.loading import Gather

OURS = "robust_compression"
LENGTHS = np.array([5, 9, 3, 12, 7, 7, 4])
INDICES, VALID = np.array([3, 1, 6, 2]), np.ones(4, np.float32)


def columns(side="right"):
    draw = np.random.default_rng(0)
    return Columns(
        tokens={"input_ids": draw.integers(5, 30, LENGTHS.sum())},
        offsets=np.r_[0, np.cumsum(LENGTHS)],
        lengths=LENGTHS,
        labels=np.zeros(len(LENGTHS), np.int64),
        pad_id=0,
        side=side,
    )


def written(folder, teacher, layers, size):
    """The states of all samples, made in batches of `size` after those that the folder has."""
    config = build(BASE | {OURS: BASE[OURS] | {"evaluation": {"batch_size": size}}}, {})
    run = SimpleNamespace(columns={"train": columns()}, device=torch.device("cpu"), config=config)
    passed = Passed(folder / states.FILE, None, kept=True)
    done = passed.read()
    with closing(Writer(folder / states.FILE, columns())) as writer:
        TeacherStates(layers)._pass_over(run, teacher.eval(), writer, passed, done)
    writer.check()
    states.describe(folder, layers, teacher.config.hidden_size)


def terms_for(block, student, folder, kept):
    """The terms of a student, attached to it as a run does."""
    whole = SimpleNamespace(zero_optimization=SimpleNamespace(stage=0))
    config = SimpleNamespace(robust=SimpleNamespace(seed=3), deepspeed=whole)
    run = Run(config, folder, ("a", "b"), "cpu", kept)
    terms = terms_of(block)
    for term in terms:
        term.attach(student, run)
    return terms


def outcome(block, kind, folder, kept):
    """(loss [B], gradient of the first layer) of a student of another width on one micro-batch."""
    student = model(kind, width=16, seed=1, dropout=0.0)
    (term,) = terms_for(block, student, folder, kept)
    there = Gather(columns(), SampleData(), tokens=term.token_values())(INDICES, VALID).to("cpu")
    outputs = student(**there.inputs, output_hidden_states=True)
    more = {"inputs": there.inputs, "outputs": outputs, "tokens": there.tokens}
    loss = term.loss(SampleData().of_rows({}, outputs.logits, there.labels, **more))
    loss.mean().backward()
    weight = next(
        p
        for n, p in student.named_parameters()
        if n.endswith(("0.output.dense.weight", "0.ffn.lin2.weight"))
    )
    return loss.detach().numpy(), weight.grad.numpy()


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("kind", [BertConfig, RobertaConfig, DistilBertConfig, DebertaV2Config])
def test_loss_and_gradient_are_those_of_a_live_teacher(tmp_path, kind, size):
    """To 1e-5 of the loss, whatever the batches were that the states were made in."""
    teacher = model(kind, layers=4, seed=2)
    teacher.config.id2label = {0: "a", 1: "b"}
    teacher.save_pretrained(tmp_path)
    written(tmp_path, teacher, (1, 3), size)
    block = LayerwiseBlock(hidden=2.0, layer_map=[[1, 3], [0, 1]], cache_gib=1)
    live, kept = (outcome(block, kind, tmp_path, place) for place in (None, tmp_path))
    assert live[0].min() > 0.1
    np.testing.assert_allclose(kept[0], live[0], rtol=1e-5)
    np.testing.assert_allclose(kept[1], live[1], rtol=1e-4, atol=1e-6 * np.abs(live[1]).max())


def test_the_file_has_a_row_a_token_and_the_mapped_layers(tmp_path):
    """Against one sample after the other, without padding."""
    teacher, data = model(layers=3, seed=2), columns()
    written(tmp_path, teacher, (0, 2), 4)
    found = States.open(tmp_path)
    assert found.rows.shape == (LENGTHS.sum(), 2, 32) and found.rows.dtype == np.float32
    for index, (start, length) in enumerate(zip(data.offsets, LENGTHS, strict=False)):
        alone = teacher(**data.batch(np.array([index]), "cpu"), output_hidden_states=True).hidden_states
        for place, layer in enumerate(found.layers):
            expected = alone[layer + 1][0].detach().numpy()
            np.testing.assert_allclose(found.rows[start : start + length, place], expected, atol=1e-5)


def test_no_teacher_is_loaded_for_kept_states(tmp_path):
    teacher = model(layers=2, seed=2)
    teacher.config.save_pretrained(tmp_path)  # there are no weights to load
    written(tmp_path, teacher, (0, 1), 4)
    block = LayerwiseBlock(hidden=1.0, cache_gib=1)
    (term,) = terms_for(block, model(seed=1), tmp_path, tmp_path)
    assert {p.device.type for p in term.teacher.model.parameters()} == {"meta"}


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_micro_batch_has_the_values_of_its_tokens_and_zeros(side):
    data, values = columns(side), np.random.default_rng(1).random((LENGTHS.sum(), 2, 3), np.float32)
    there = Gather(data, SampleData(), tokens={"x": values})(INDICES, VALID).to(torch.device("cpu"))
    mask = there.inputs["attention_mask"].bool()
    assert there.tokens["x"].shape == (4, 12, 2, 3)
    assert torch.equal(there.tokens["x"][mask], torch.as_tensor(values[data.places(INDICES)]))
    assert not there.tokens["x"][~mask].any()


# A pass that is ended


def ended_at(batch, monkeypatch):
    """Let a pass end before this batch, as by a signal."""
    calls = iter(range(batch + 1))
    monkeypatch.setattr(agreement, "exchange", lambda *_: (next(calls) == batch, False, False))


@pytest.mark.parametrize(("batch", "size"), [(0, 2), (2, 2), (2, 3)])
def test_an_ended_pass_goes_on_after_its_last_batch(tmp_path, monkeypatch, capsys, batch, size):
    """With batches of another size too, of which whole ones are left out."""
    teacher = model(layers=2, seed=2)
    ended_at(batch, monkeypatch)
    with pytest.raises(Interrupted):
        written(tmp_path, teacher, (0, 1), 2)
    monkeypatch.undo()
    passes, _ = [], teacher.register_forward_pre_hook(lambda *_: passes.append(1))
    written(tmp_path, teacher, (0, 1), size)
    begins = 2 * batch // size * size
    assert len(passes) == -(-(len(LENGTHS) - begins) // size)
    assert (f"continues at sample {begins} of 7" in capsys.readouterr().out) == (begins > 0)
    whole = tmp_path / "whole"
    whole.mkdir()
    written(whole, teacher, (0, 1), 2)
    found, expected = States.open(tmp_path).rows, States.open(whole).rows
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("damage", ["no file", "no mark", "torn mark", "not kept"])
def test_without_file_and_mark_a_pass_starts_anew(tmp_path, damage):
    file, mark = tmp_path / states.FILE, tmp_path / f"{states.FILE}.passed.json"
    file.write_bytes(b"0" * 100)
    Passed(file, None, kept=True).save(3, lambda: None)
    assert Passed(file, None, kept=True).read() == 3 and file.exists()
    if damage.endswith("mark"):
        mark.unlink() if damage == "no mark" else mark.write_text('{"samp')
    if damage == "no file":
        file.unlink()
    assert Passed(file, None, kept=damage != "not kept").read() == 0
    assert not file.exists() and not mark.exists()


def test_what_the_disk_has_not_taken_does_not_count(small, capsys):
    file = small / states.FILE
    with closing(Writer(file, columns())) as writer:
        writer.write(np.arange(7), np.ones((7, 12, 100, 32), np.float32))  # 600 kB
        Passed(file, None, kept=True).save(7, writer.flush)
    assert "how far states.bin has come is not kept: " in capsys.readouterr().out
    assert Passed(file, None, kept=True).read() == 0


# Whether they are kept, and under which key


def context(tiny_model, gib=1.0, side="right", **robust):
    merged = BASE | {OURS: BASE[OURS] | {"model": str(tiny_model), **robust}}
    merged[OURS] |= {"layerwise": {"hidden": 1.0, "cache_gib": gib}}
    shape = SimpleNamespace(model=SimpleNamespace(config=encoders.load_config(tiny_model)), layers=None)
    run = run_of(build(merged, {}), tiny_model, resolved=shape)
    for encoder in run.encoders.values():
        encoder.columns["train"] = columns(side)
        encoder.tokenizer.padding_side = side
    return run


BYTES = int(LENGTHS.sum()) * 32 * 2 * 4


@pytest.mark.parametrize(("bytes", "fits"), [(BYTES, True), (BYTES - 1, False), (0, False)])
def test_they_are_kept_if_they_fit_to_the_byte(tiny_model, bytes, fits):
    run = context(tiny_model, bytes / 2**30)
    assert teacher_states.of(run) == ((TeacherStates((0, 1)),) if fits else ())
    line = teacher_states.obstacle(run)
    assert (line is None) == (fits or not bytes)
    if line is not None:
        assert f"take {BYTES / 2**30:.3g} GiB" in line and f"cache_gib is {bytes / 2**30:g}" in line


def test_states_that_depend_on_the_batch_are_not_kept(tiny_model):
    run = context(tiny_model, side="left")
    assert teacher_states.of(run) == () and "padding at the left" in teacher_states.obstacle(run)


def test_what_the_states_depend_on_is_in_their_key_and_they_are_not_in_the_students(tiny_model):
    def key(layers=(0, 1), **changes):
        return stage.key_of(TeacherStates(layers), context(tiny_model, **changes))

    same = [key(), key(gib=2.0), key(student={"epochs": 9}), key(loss={"hook": "vanilla"})]
    assert len({*same}) == 1
    others = [key((1,)), key(precision="tf32"), key(teacher={"epochs": 9}), key(seed=5)]
    others.append(key(task={"name": "synthetic", "max_length": 16}))
    assert len({same[0], *others}) == 6
    assert len({stage.key_of(Student(), context(tiny_model, gib)) for gib in (0, 1e-9, 1.0)}) == 1


@pytest.mark.parametrize("weights", [{}, {"attention": 1}, {"hidden": 1, "attention": 1}])
def test_where_they_save_nothing_the_key_is_an_error(tmp_path, weights):
    block = {OURS: {"layerwise": {**weights, "cache_gib": 1}}}
    sentence, _ = Files(tmp_path).refused(block)
    assert f"{OURS}.layerwise.cache_gib" in sentence and "has an effect only where" in sentence
    Files(tmp_path).load({OURS: {"layerwise": {**weights, "cache_gib": 0}}})


def test_a_disk_without_room_is_named_before_anything_is_computed(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr(disk, "free", lambda _: 1_000_000)
    with pytest.raises(UserError, match=r"1\.0 MB free, and the teacher's hidden states take 2\.0 MB"):
        teacher_states._make_room(tmp_path / "a/states.bin", 2_000_000, context(tiny_model))


def test_a_full_disk_is_told_when_all_ranks_have_come_to_the_end(small):
    writer = Writer(small / states.FILE, columns())
    writer.write(np.arange(7), np.ones((7, 12, 100, 32), np.float32))  # 600 kB
    writer.close()
    with pytest.raises(UserError, match=r"states\.bin: cannot be written \(No space left"):
        writer.check()


# Two ranks

SPARSE = str(ROOT / "ds_configs/compression/imp40.json")
HALF = str(ROOT / "ds_configs/compression/layers_first_half.json")
KEPT, OTHER = "layerwise.cache_gib=1", "layerwise.cache_gib=1e-7"
SPECS = {
    "live": (SPARSE, 0, []),
    **{f"kept{zero}": (SPARSE, zero, [KEPT]) for zero in range(4)},
    "live_half": (HALF, 2, []),
    "kept_half": (HALF, 2, [KEPT]),
    "accumulated": (SPARSE, 3, [KEPT, "gradient_accumulation_steps=2"]),
    "too_small": (SPARSE, 2, [OTHER]),
    "resumed": (SPARSE, 1, [KEPT, 'checkpoint={"every_steps": 3, "every_minutes": null}']),
}


@pytest.fixture(scope="module")
def students(tmp_path_factory, tiny_model):
    folder, specs = tmp_path_factory.mktemp("states"), []
    for name, (file, zero, more) in SPECS.items():
        given = [s if "accumulation" in s else f"{OURS}.{s}" for s in more]
        spec = {"name": name, "files": [file], "stage": zero, "mitigation": "hidden", "set": given}
        specs.append(spec | ({"broken_at": 5} if name == "resumed" else {}))
    driver = str(ROOT / "tests/drivers/compress_all.py")
    done = two_ranks(driver, str(folder), str(tiny_model), json.dumps(specs))
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "stdout").write_text(done.stdout)
    return folder


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / name / "rank0.json").read_text())


@pytest.mark.launcher
@pytest.mark.parametrize(
    ("kept", "live"),
    [
        *((f"kept{zero}", "live") for zero in range(4)),
        ("kept_half", "live_half"),
        ("accumulated", "live"),
        ("too_small", "live"),
        ("resumed", "kept1"),
    ],
)
def test_a_student_with_kept_states_is_that_of_a_live_teacher(students, kept, live):
    """Losses of all steps to 1e-5; the continued one has step 4 and 5 twice."""
    found, expected = read(students, kept), read(students, live)
    losses = found["losses"][:3] + found["losses"][5:] if kept == "resumed" else found["losses"]
    assert len(expected["losses"]) == 8
    np.testing.assert_allclose(losses, expected["losses"], rtol=1e-5)
    for name, value in expected["weights"].items():
        assert found["weights"][name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


@pytest.mark.launcher
def test_states_are_made_once_for_all_students_that_map_the_same_layers(students):
    made = {
        tuple(States.open(place).layers) for place in (students / "shared/teacher_states").iterdir()
    }
    assert made == {(0, 1), (1,)}
    said = (students / "stdout").read_text()
    assert said.count("cache_gib is 1e-07, but the teacher's hidden states of train take") == 1
    assert said.count("the teacher runs in every step") == 1
    inputs = json.loads((students / "kept0/student/complete.json").read_text())["inputs"]
    assert inputs["needs"].keys() == {"teacher"}
