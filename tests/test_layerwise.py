"""Layer-wise distillation: distances against float64 numpy, models of other shapes, every mistake."""

import copy
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_models import CONFIGS, IDS, fresh
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertTokenizer,
    DebertaV2Config,
    DistilBertConfig,
    RemBertConfig,
    RobertaConfig,
)
from whole_weights import cut

from compress.compression.masks import Masks
from compress.data.tasks import TASKS
from compress.data.texts import Texts
from compress.errors import UserError
from compress.layerwise import layer_map
from compress.layerwise.attention import Attention
from compress.layerwise.block import LayerwiseBlock
from compress.layerwise.hidden import PROJECTION, Hidden
from compress.layerwise.terms import FrozenTeacher, terms_of
from compress.methods import Shapes
from compress.microbatch import Batch
from compress.models import compressed, encoders
from compress.stages import export

BOTH = LayerwiseBlock(hidden=2.0, attention=3.0)
DISTANCES = {kind.name: kind(FrozenTeacher(BOTH)).distance for kind in (Hidden, Attention)}
SIZES = {"vocab_size": 30, "intermediate_size": 64, "max_position_embeddings": 32}


def config(kind=BertConfig, width=32, layers=2, heads=2, dropout=0.1, words=30):
    shape = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": dropout}
    if kind is DistilBertConfig:
        rates = {"dropout": 0.0, "attention_dropout": dropout}
        shape = {"dim": width, "n_layers": layers, "n_heads": heads, "hidden_dim": 64}
        return kind(vocab_size=30, max_position_embeddings=32, **shape, **rates)
    if kind is DebertaV2Config:
        rates |= {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0}
    return kind(**SIZES | {"vocab_size": words}, **shape, **rates)


def model(kind=BertConfig, seed=0, **shape):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = AutoModelForSequenceClassification.from_config(config(kind, **shape))
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return made


def attached(student, teacher, block, seed=0):
    """(the terms of a block, attached to both models; arguments of the student's forward call)."""
    terms = terms_of(block)
    terms[0].teacher.settle(student, teacher, seed)
    for term in terms:
        term.attach(student, None)
    return terms, terms[0].teacher.arguments


def per_sample(terms, inputs, outputs):
    """(sum of the losses of the terms [B], the distance of each, by name)."""
    labels = torch.zeros(len(outputs.logits), dtype=torch.int64)
    batch = Batch(outputs.logits, labels, inputs=inputs, outputs=outputs)
    return sum(term.loss(batch) for term in terms), batch.watched


def a_batch(b=3, length=6):
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(b, length, dtype=torch.int64)
    mask[1, 4:], mask[2, 1:] = 0, 0
    ids = torch.randint(5, 30, (b, length), generator=generator)
    return {"input_ids": ids * mask, "attention_mask": mask}


def hidden64(student, teacher, mask):
    """One sample and one real token after the other, float64."""
    out = []
    for ours, theirs, real in zip(student, teacher, mask, strict=True):
        tokens = [np.mean((ours[i] - theirs[i]) ** 2) for i in range(len(real)) if real[i]]
        out.append(np.mean(tokens))
    return np.array(out)


def attention64(student, teacher, mask):
    """The real square of each head's matrix cut out, float64."""
    if student.shape[1] != teacher.shape[1]:
        student, teacher = student.mean(1, keepdims=True), teacher.mean(1, keepdims=True)
    out = []
    for ours, theirs, real in zip(student, teacher, mask, strict=True):
        n = int(real.sum())
        out.append(np.mean((ours[:, :n, :n] - theirs[:, :n, :n]) ** 2))
    return np.array(out)


def doubles(*tensors):
    return [tensor.detach().double().numpy() for tensor in tensors]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hidden_distance_is_the_mean_over_real_tokens(dtype):
    student, teacher = torch.randn(2, 3, 6, 5).to(dtype)
    mask = a_batch()["attention_mask"]
    found = DISTANCES["hidden"](student, teacher, mask)
    assert found.shape == (3,) and found.dtype == torch.float32
    reference = hidden64(*doubles(student, teacher), mask.numpy())
    assert found.numpy() == pytest.approx(reference, rel=1e-5)


@pytest.mark.parametrize("heads", [(2, 2), (2, 3), (4, 1)])
def test_attention_distance_is_the_mean_over_real_pairs(heads):
    student, teacher = (torch.randn(3, count, 6, 6).softmax(-1) for count in heads)
    mask = a_batch()["attention_mask"]
    found = DISTANCES["attention"](student, teacher, mask)
    assert found.shape == (3,) and found.dtype == torch.float32
    reference = attention64(*doubles(student, teacher), mask.numpy())
    assert found.numpy() == pytest.approx(reference, rel=1e-5)


@pytest.mark.parametrize("name", DISTANCES)
def test_padding_changes_neither_distance_nor_gradient(name):
    shape = (3, 6, 5) if name == "hidden" else (3, 2, 6, 6)
    student, teacher = torch.randn(2, *shape)
    mask = a_batch()["attention_mask"]
    padded = mask == 0
    other = student.clone()
    if name == "hidden":
        other[padded] = 1e6
    else:
        other.transpose(1, 2)[padded] = 1e6
        other.transpose(1, 3)[padded] = 1e6
    other.requires_grad_()
    found = DISTANCES[name](other, teacher, mask)
    assert torch.equal(found, DISTANCES[name](student, teacher, mask))
    found.sum().backward()
    assert bool((other.grad[other == 1e6] == 0).all()) and bool((other.grad != 0).any())


@pytest.mark.parametrize(
    ("depths", "expected"),
    [((2, 4), [1, 3]), ((3, 3), [0, 1, 2]), ((6, 12), [1, 3, 5, 7, 9, 11]), ((2, 5), [1, 4])],
)
def test_layers_are_spread_evenly(depths, expected):
    assert layer_map.pairs(*depths, BOTH) == list(enumerate(expected))


def test_a_given_map_is_taken_as_it_is():
    block = LayerwiseBlock(hidden=1.0, layer_map=[[1, 3], [0, 3]])
    assert layer_map.pairs(2, 4, block) == [(1, 3), (0, 3)]


STUDENTS = {
    "same shape": {},
    "narrow": {"width": 16},
    "other heads": {"heads": 4},
    "distilbert": {"kind": DistilBertConfig, "width": 16, "heads": 4},
    "roberta": {"kind": RobertaConfig, "width": 16},
    "deberta": {"kind": DebertaV2Config, "width": 16},
}
WANTED = {"output_hidden_states": True, "output_attentions": True}


def eager(made):
    """An untouched twin for reference: transformers' own attention, evaluation mode."""
    if made.config.model_type not in {"deberta-v2", "mpnet"}:
        made.set_attn_implementation("eager")
    return made.eval()


@pytest.mark.parametrize("shape", STUDENTS.values(), ids=STUDENTS)
def test_terms_are_the_means_over_the_mapped_pairs(shape):
    pairs = [(1, 3), (0, 0)]
    batch, block = a_batch(), LayerwiseBlock(hidden=2.0, attention=3.0, layer_map=[*map(list, pairs)])
    student = model(**shape, seed=1, dropout=0.0).train()
    terms, arguments = attached(student, model(layers=4, seed=2), block, seed=3)
    summed, found = per_sample(terms, batch, student(**batch, **arguments))
    narrow = "width" in shape
    assert hasattr(student, PROJECTION) == narrow
    matrix = getattr(student, PROJECTION).weight if narrow else torch.eye(32)
    assert matrix.shape == (32, shape.get("width", 32))
    ours = eager(model(**shape, seed=1, dropout=0.0))(**batch, **WANTED)
    theirs, mask = eager(model(layers=4, seed=2))(**batch, **WANTED), batch["attention_mask"].numpy()
    hidden, attention = [], []
    for s, t in pairs:
        state, target, by = doubles(ours.hidden_states[s + 1], theirs.hidden_states[t + 1], matrix)
        hidden.append(hidden64(state @ by.T, target, mask))
        attention.append(attention64(*doubles(ours.attentions[s], theirs.attentions[t]), mask))
    for name, reference in (("hidden", hidden), ("attention", attention)):
        assert found[name].shape == (3,) and found[name].dtype == torch.float32
        expected = pytest.approx(np.mean(reference, axis=0), rel=1e-3)
        assert found[name].detach().numpy() == expected, name
    total = 2 * np.mean(hidden, axis=0) + 3 * np.mean(attention, axis=0)
    assert summed.detach().numpy() == pytest.approx(total, rel=1e-3)


@pytest.mark.parametrize("kind", [BertConfig, RobertaConfig, DistilBertConfig, DebertaV2Config])
def test_attention_is_compared_before_dropout(kind):
    """The first layer's probabilities depend on no dropout but their own."""
    batch, mask = a_batch(), a_batch()["attention_mask"]
    student = model(kind, dropout=0.5).train()
    _, arguments = attached(student, model(kind, layers=2), LayerwiseBlock(attention=1.0))
    first = student(**batch, **arguments).attentions[0]
    assert (
        DISTANCES["attention"](first, eager(model(kind))(**batch, **WANTED).attentions[0], mask).max()
        < 1e-9
    )
    again = student(**batch, **arguments)
    assert torch.equal(first, again.attentions[0])
    assert not torch.equal(first, again.attentions[1])
    assert not torch.equal(again.logits, student(**batch).logits)


@pytest.mark.parametrize("kind", [BertConfig, RobertaConfig, DistilBertConfig, DebertaV2Config])
def test_the_term_leaves_logits_as_they_are(kind):
    batch, student = a_batch(), model(kind, width=16)
    attached(student, model(kind, seed=2), BOTH)
    found, plain = student.eval()(**batch), model(kind, width=16).eval()(**batch)
    np.testing.assert_allclose(found.logits.detach(), plain.logits.detach(), atol=1e-5)
    assert found.hidden_states is None and found.attentions is None


@pytest.mark.parametrize("name", CONFIGS)
def test_every_architecture_gives_the_attention_and_states_of_its_layers(name):
    """Against transformers' own attention, with a padded row."""
    torch.manual_seed(4)
    student = AutoModelForSequenceClassification.from_config(fresh(name)).eval()
    for parameter in student.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    ids = IDS.clone()
    ids[1, 9:] = student.config.pad_token_id
    batch = {"input_ids": ids, "attention_mask": (ids != student.config.pad_token_id).long()}
    with torch.no_grad():
        reference = eager(copy.deepcopy(student))(**batch, **WANTED)
        _, arguments = attached(student, copy.deepcopy(student), BOTH)
        found = student.eval()(**batch, **arguments)
    np.testing.assert_allclose(found.logits, reference.logits, atol=1e-5)
    assert len(found.attentions) == len(found.hidden_states) == 2
    real = batch["attention_mask"].bool()
    for ours, theirs in zip(found.attentions, reference.attentions, strict=True):
        assert ours.shape == theirs.shape and ours.std() > 1e-3
        np.testing.assert_allclose(
            ours.transpose(1, 2)[real], theirs.transpose(1, 2)[real], atol=1e-5, rtol=1e-4
        )
    for ours, theirs in zip(found.hidden_states, reference.hidden_states[1:], strict=True):
        np.testing.assert_allclose(ours[real], theirs[real], atol=1e-4, rtol=1e-4)


def test_gradients_reach_student_and_projection_not_the_teacher():
    batch, student, teacher = a_batch(), model(width=16), model(layers=4, seed=2)
    terms, arguments = attached(student.train(), teacher.train(), BOTH)
    per_sample(terms, batch, student(**batch, **arguments))[0].sum().backward()
    assert float(getattr(student, PROJECTION).weight.grad.abs().sum()) > 0
    assert float(student.bert.embeddings.word_embeddings.weight.grad.abs().sum()) > 0
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert not teacher.training


def test_a_term_of_weight_0_is_not_computed():
    student = model(width=16)
    terms, arguments = attached(student, model(seed=2), LayerwiseBlock(attention=1.0))
    assert arguments == {"output_attentions": True} and not hasattr(student, PROJECTION)
    batch = a_batch()
    assert set(per_sample(terms, batch, student(**batch, **arguments))[1]) == {"attention"}
    assert terms_of(LayerwiseBlock()) == ()


def test_the_projection_is_drawn_from_the_seed_and_nothing_else():
    def drawn(seed):
        student = model(width=16)
        torch.manual_seed(99 + seed)
        state = torch.get_rng_state()
        attached(student, model(seed=2), BOTH, seed)
        assert torch.equal(state, torch.get_rng_state())
        return getattr(student, PROJECTION).weight

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_the_export_has_neither_projection_nor_our_attention(tmp_path, tiny_model):
    student = encoders.load_classifier(tiny_model, ("yes", "no"))
    shape, masks, batch = compressed.build(student.config), Masks(), a_batch()
    plain = student.eval()(**batch).logits.detach()
    attached(student, model(seed=2, width=48, heads=3), BOTH)
    weights = {name: value.clone() for name, value in student.state_dict().items()}
    assert any(PROJECTION in name for name in weights)
    small = cut(masks, weights, shape)
    export.save(small, encoders.load_tokenizer(tiny_model), 48, TASKS["mnli"], tmp_path)
    assert "before_dropout" not in (tmp_path / "config.json").read_text()
    again, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert again.config._attn_implementation == "sdpa"
    np.testing.assert_allclose(again.eval()(**batch).logits.detach(), plain, atol=1e-5)


DATA = SimpleNamespace(
    train=SimpleNamespace(texts=Texts.of(["the king slept ."] * 3, ["the queen", "a doctor", ""])),
    task=SimpleNamespace(keep=None, texts=("first", "second")),
)


class Robust:
    """What `check_run` reads of the run's block."""

    def __init__(self, model, teacher=None, init_from="pretrained"):
        self.model = str(model)
        self.task = SimpleNamespace(max_length=16)
        self.teacher = type("T", (), {"model": teacher and str(teacher)})
        self.student = type("S", (), {"init_from": init_from})


@pytest.mark.parametrize(
    ("student", "teacher", "layers", "facts"),
    [
        ({}, {}, [[2, 0]], r"\[2, 0\] .*layer 2 of the student.* 0 to 1"),
        ({}, {"layers": 3}, [[0, 3]], r"\[0, 3\] .*layer 3 of the teacher.* 0 to 2"),
        ({}, {}, [[0, 0], [0, 1]], "layer 0 of the student twice"),
        ({"layers": 3}, {}, None, "student has 3 layers .*teacher 2"),
        ({"kind": RemBertConfig}, {}, None, "student's .*'rembert'"),
        ({}, {"kind": RemBertConfig}, None, "teacher's .*'rembert'"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(student, teacher, layers, facts):
    block = LayerwiseBlock(hidden=1.0, layer_map=layers)
    with pytest.raises(UserError) as error:
        layer_map.check(config(**student), config(**teacher), block)
    assert str(error.value).startswith("robust_compression.layerwise")
    assert re.search(facts, str(error.value)) and "\n" not in str(error.value)


def checked(block, run, data):
    """Check a student that starts from the tiny model."""
    start = Path(run.model)
    shapes = Shapes(SimpleNamespace(robust=run), start, encoders.load_config(start), None, data)
    for term in terms_of(block):
        term.check(shapes)


@pytest.mark.slow
def test_a_run_is_checked_before_training(tmp_path, tiny_model):
    deep, foreign = tmp_path / "deep", tmp_path / "foreign"
    words = encoders.load_tokenizer(tiny_model)
    model(layers=4, words=len(words)).save_pretrained(deep)
    words.save_pretrained(deep)
    block = LayerwiseBlock(hidden=1.0, layer_map=[[1, 3]])
    checked(block, Robust(tiny_model, deep), DATA)
    checked(block, Robust(tiny_model, deep, "teacher"), DATA)
    with pytest.raises(UserError, match="layer 3 of the teacher"):
        checked(block, Robust(tiny_model), DATA)
    model().save_pretrained(foreign)
    (foreign / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nword\n")
    with pytest.raises(UserError, match="does not produce the teacher's tokens"):
        checked(BOTH, Robust(tiny_model, foreign), DATA)
    checked(LayerwiseBlock(), Robust(tiny_model, foreign), DATA)


@pytest.mark.slow
def test_tokens_are_compared_not_vocabularies(tmp_path, tiny_model):
    """One tokenizer lower-cases, the other has the same vocabulary and does not."""
    cased = tmp_path / "cased"
    vocabulary = encoders.load_tokenizer(tiny_model).get_vocab()
    model(layers=4, words=len(vocabulary)).save_pretrained(cased)
    BertTokenizer(vocab=vocabulary, do_lower_case=False, model_max_length=64).save_pretrained(cased)
    run = Robust(tiny_model, cased)
    assert encoders.load_tokenizer(cased).get_vocab() == vocabulary
    checked(BOTH, run, DATA)
    capitals = Texts.of(["the king slept ."] * 3, ["the queen", "The queen", "a queen"])
    other = SimpleNamespace(**vars(DATA) | {"train": SimpleNamespace(texts=capitals)})
    with pytest.raises(UserError, match="does not produce the teacher's tokens"):
        checked(BOTH, run, other)


def test_inputs_are_the_settings_of_each_term():
    block = LayerwiseBlock(hidden=1, layer_map=[[0, 1]])
    assert {term.name: term.inputs() for term in terms_of(block)} == {
        "hidden": {"weight": 1.0, "layer_map": [[0, 1]]}
    }
