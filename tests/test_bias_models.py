"""The bias models that are encoders: none judges what it was trained on."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from configs import BASE, OURS
from small_models import BERT_SIZES
from stage_runs import run_of
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from compress import checks
from compress.checkpoints.unfinished import Unfinished
from compress.configuration.config import build, training_steps
from compress.data import tasks
from compress.data.columns import Columns
from compress.data.splits import Split
from compress.errors import UserError
from compress.mitigations._shared import TRAINED_BIAS
from compress.stages import bias, encoder_bias, partial_encoder, stage, weak
from compress.stages.partial_encoder import PartialEncoder
from compress.stages.tokenised import Tokens
from compress.stages.weak import Weak
from compress.stages.workspace import Artefact

COUNT = 31
MOST = {Weak: weak.SAMPLES, PartialEncoder: 1000}


def columns_of(samples):
    """Samples of these tokens, a list for each."""
    lengths = np.array([len(tokens) for tokens in samples], np.int32)
    tokens = {"input_ids": np.concatenate([np.zeros(0), *samples]).astype(np.uint16)}
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Columns(tokens, offsets, lengths, np.zeros(len(samples), np.int16), 0)


@pytest.fixture(params=MOST, ids=lambda kind: kind.name)
def kind(request, monkeypatch):
    monkeypatch.setattr(partial_encoder, "MOST", MOST[PartialEncoder])
    return request.param


@pytest.mark.parametrize("count", [2, 7, 64, 4001, 9000])
def test_every_sample_is_judged_once_and_by_a_model_of_others(kind, count):
    cuts = [*kind().cuts(columns_of([[number, 7] for number in range(count)]), seed=3)]
    np.testing.assert_array_equal(np.sort(np.concatenate([cut[1] for cut in cuts])), np.arange(count))
    for trained, judged in cuts:
        assert 0 < len(trained) <= MOST[kind] and not np.intersect1d(trained, judged).size


@pytest.mark.parametrize("count", [200, 9000])
def test_the_work_is_known_before_the_samples_are_read(kind, count):
    config = build(BASE, {})
    cuts = kind().cuts(columns_of([[number] for number in range(count)]), config.robust.seed)
    steps = sum(training_steps(config, len(trained), kind.epochs) for trained, _ in cuts)
    assert kind().work(config, count) == (pytest.approx(steps, rel=0.1), count)


def test_the_same_words_are_in_one_fold(monkeypatch):
    """Whatever their order and place, in blocks of any size; another seed gives other folds."""
    draw = np.random.default_rng(0)
    texts = [draw.integers(5, 30000, size=draw.integers(1, 9)) for _ in range(500)]
    samples = [*texts, *(draw.permutation(text) for text in texts), []]
    whole = partial_encoder.folds_of(columns_of(samples), 1)
    np.testing.assert_array_equal(whole[:500], whole[500:1000])
    assert np.bincount(whole[:500]).min() > 90
    monkeypatch.setattr(partial_encoder, "AT_ONCE", 7)
    np.testing.assert_array_equal(partial_encoder.folds_of(columns_of(samples), 1), whole)
    assert (partial_encoder.folds_of(columns_of(samples), 2) != whole).mean() > 0.5


def test_the_trained_ones_are_named():
    trained = {name for name, one in bias.MODELS.items() if isinstance(one, encoder_bias.EncoderBias)}
    assert trained == TRAINED_BIAS


def test_one_text_in_all_samples_is_an_error():
    with pytest.raises(UserError, match=r"'partial_encoder' sees one .* loss.bias, such as 'shallow'"):
        next(PartialEncoder().cuts(columns_of([[5, 6], [6, 5]] * 9), 1))


def test_the_one_text_is_tokenised_alone(tmp_path, tiny_model):
    tokenizer = BertTokenizerFast.from_pretrained(tiny_model)
    run = run_of(build(BASE, {}), tiny_model, tmp_path)
    texts = (["the old king", "a dog"], ["slept", "the king slept on it"])
    data = replace(run.data, train=Split.of(texts, np.array([0, 1]), ("a", "b"), (0, 1)))
    run = replace(run, data=data)
    both = Tokens("train", "model", tokenizer)
    assert len({stage.key_of(replace(both, text=text), run) for text in (None, 0, 1)}) == 3
    for number, wanted in enumerate(texts):
        part = replace(both, text=number)
        assert part.label == "tokens of one text of train"
        part.make(run, {})(tmp_path / str(number))
        columns = part.columns(Artefact(tmp_path / str(number), {}, reused=False))
        for row, text in enumerate(wanted):
            ids = columns.tokens["input_ids"][columns.places(np.array([row]))]
            assert ids.tolist() == tokenizer(text)["input_ids"]
        np.testing.assert_array_equal(columns.labels, [0, 1])


def tokens_of(context):
    """The token of each training sample, which no other sample has."""
    columns = context.columns["train"]
    return columns.tokens["input_ids"][columns.offsets[: len(columns)]]


def test_a_leak_would_be_seen(kind, monkeypatch, tmp_path, tiny_model):
    """Models that know what they were trained on, and guess everything else."""

    def trainer(name, context, model, methods, epochs):
        assert epochs == kind.epochs
        seen = {*tokens_of(context)}
        trainer = SimpleNamespace(forward=seen, total_steps=1, engine=nn.Identity())
        return SimpleNamespace(**vars(trainer), run_until=lambda step: None, close=lambda: None)

    def score(context, split, seen, keep, file):
        known = np.array([token in seen for token in tokens_of(context)])
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, np.stack([0.5 + 0.5 * known, 0.5 - 0.5 * known], axis=1))

    monkeypatch.setattr(encoder_bias, "new_trainer", trainer)
    monkeypatch.setattr(encoder_bias, "score", score)
    monkeypatch.setattr(encoder_bias, "start_model", lambda *_: None)
    kept = Unfinished(path=tmp_path / "kept")
    run = run_of(build(BASE, {}), tiny_model, tmp_path, unfinished=kept)
    columns = columns_of([[number + 5] for number in range(COUNT)])
    monkeypatch.setattr(kind, "columns", lambda *_: columns)
    kind().make(run, {})(tmp_path)
    found = np.load(tmp_path / "probabilities.npy")
    np.testing.assert_allclose(found, np.full((COUNT, 2), 0.5), atol=1e-6)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("there", [True, False])
def test_the_one_text_is_prepared_unless_nobody_reads_it(
    trained, there, tmp_path, tiny_model, monkeypatch
):
    """As of the teacher's loss, where the student's asks for no bias model."""
    blocks = {
        "loss": {"hook": "vanilla"},
        "teacher": {"loss": {"hook": "poe", "bias": "partial_encoder"}},
    }
    run = run_of(build(BASE | {OURS: BASE[OURS] | blocks}, {}), tiny_model, tmp_path)
    made = []
    monkeypatch.setattr(type(run.config.robust), "teacher_trained", trained)
    monkeypatch.setattr(bias, "find", lambda stage, run: there or None)
    monkeypatch.setattr(bias, "obtain", lambda stage, run: made.append(stage.label))
    bias.prepare(run)
    assert made == ["tokens of one text of train"] * (trained and not there)


@pytest.mark.parametrize("name", ["weak", "partial_encoder"])
def test_a_classifier_of_the_task_is_no_bias_model(name, tmp_path, tiny_model):
    """It may have seen every sample that it would judge."""
    labels = {0: "a", 1: "b"}
    trained = BertForSequenceClassification(
        BertConfig(**BERT_SIZES, id2label=labels, label2id={name: n for n, name in labels.items()})
    )
    trained.save_pretrained(tmp_path)
    data = run_of(build(BASE, {}), tiny_model).data
    asked = {"hook": "poe", "bias": name}
    for block in ({"loss": asked}, {"loss": {"hook": "distil"}, "teacher": {"loss": asked}}):
        config = build(BASE | {OURS: BASE[OURS] | block}, {})
        bias.check(config, tiny_model, data)
        with pytest.raises(UserError, match=rf"loss.bias: '{name}' .* which may have seen them all"):
            bias.check(config, tmp_path, data)
    others = build(BASE | {OURS: BASE[OURS] | {"loss": {"hook": "poe"}}}, {})
    bias.check(others, tmp_path, data)


@pytest.mark.parametrize("name", ["partial", "partial_encoder"])
@pytest.mark.parametrize("key", ["loss", "teacher.loss"])
def test_single_texts_have_no_other_text_to_leave_out(name, key):
    block = {"hook": "poe", "bias": name}
    given = (
        {"loss": block} if key == "loss" else {"loss": {"hook": "vanilla"}, "teacher": {"loss": block}}
    )
    config = build(BASE | {OURS: BASE[OURS] | {"task": {"name": "sst2"}} | given}, {})
    with pytest.raises(UserError, match=rf"robust_compression.{key}.bias: '{name}' sees one text of a"):
        checks.check_bias(config, tasks.of(config.robust.task))


@pytest.mark.parametrize(
    ("block", "label"),
    [
        ({"loss": {"hook": "poe"}}, "poe+shallow"),
        ({"loss": {"hook": "poe", "bias": "weak"}}, "poe+weak"),
        (
            {"loss": {"hook": "rmc"}, "teacher": {"loss": {"hook": "poe", "bias": "partial"}}},
            "rmc, teacher with poe+partial",
        ),
        ({"loss": {"hook": "rmc"}, "teacher": {"loss": {"hook": "vanilla"}}}, "rmc"),
        ({"loss": {"hook": "stage_runs:own_loss", "bias": "weak"}}, "stage_runs:own_loss+weak"),
        ({"loss": {"hook": "vanilla"}, "layerwise": {"hidden": 1}}, "vanilla+layerwise"),
        ({"loss": {"hook": ""}}, "none"),
    ],
)
def test_tables_tell_bias_models_apart(block, label):
    assert build(BASE | {OURS: BASE[OURS] | block}, {}).mitigation_label == label
