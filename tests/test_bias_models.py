"""The bias models: the weak encoders never judge what they were trained on."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from configs import BASE, OURS
from small_models import BERT_SIZES
from stage_runs import run_of
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from compress.checkpoints.unfinished import Unfinished
from compress.configuration.config import build
from compress.data.columns import Columns
from compress.errors import UserError
from compress.stages import weak

COUNT = 31


@pytest.mark.parametrize("count", [2, 7, 64, 4001, 9000])
def test_every_sample_is_judged_once_and_by_a_model_of_others(count):
    cuts = [*weak.cuts(count, seed=3)]
    np.testing.assert_array_equal(np.sort(np.concatenate([cut[1] for cut in cuts])), np.arange(count))
    for trained, judged in cuts:
        assert 0 < len(trained) <= weak.SAMPLES and not np.intersect1d(trained, judged).size


def tokens_of(context):
    """The token of each training sample, which no other sample has."""
    columns = context.columns["train"]
    return columns.tokens["input_ids"][columns.offsets[: len(columns)]]


def test_a_leak_would_be_seen(monkeypatch, tmp_path, tiny_model):
    """Models that know what they were trained on, and guess everything else."""

    def trainer(name, context, model, methods, epochs):
        assert epochs == weak.EPOCHS
        seen = {*tokens_of(context)}
        trainer = SimpleNamespace(forward=seen, total_steps=1, engine=nn.Identity())
        return SimpleNamespace(**vars(trainer), run_until=lambda step: None, close=lambda: None)

    def score(context, split, seen, keep, file):
        known = np.array([token in seen for token in tokens_of(context)])
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, np.stack([0.5 + 0.5 * known, 0.5 - 0.5 * known], axis=1))

    monkeypatch.setattr(weak, "new_trainer", trainer)
    monkeypatch.setattr(weak, "score", score)
    monkeypatch.setattr(weak, "start_model", lambda *_: None)
    kept = Unfinished(path=tmp_path / "kept")
    run = run_of(build(BASE, {}), tiny_model, tmp_path, unfinished=kept)
    ones, tokens = np.ones(COUNT, np.int32), {"input_ids": np.arange(COUNT) + 5}
    columns = {"train": Columns(tokens, np.arange(COUNT + 1), ones, np.zeros(COUNT, np.int16), 0)}
    encoder = replace(run.encoder, columns=columns)
    weak.Weak().make(replace(run, encoders={"model": encoder}), {})(tmp_path)
    found = np.load(tmp_path / "probabilities.npy")
    np.testing.assert_allclose(found, np.full((COUNT, 2), 0.5), atol=1e-6)


def test_a_classifier_of_the_task_is_no_weak_model(tmp_path, tiny_model):
    """It may have seen every sample that it would judge."""
    labels = {0: "a", 1: "b"}
    trained = BertForSequenceClassification(
        BertConfig(**BERT_SIZES, id2label=labels, label2id={name: n for n, name in labels.items()})
    )
    trained.save_pretrained(tmp_path)
    data = run_of(build(BASE, {}), tiny_model).data
    asked = {"hook": "poe", "bias": "weak"}
    for block in ({"loss": asked}, {"loss": {"hook": "distil"}, "teacher": {"loss": asked}}):
        config = build(BASE | {OURS: BASE[OURS] | block}, {})
        weak.check(config, tiny_model, data)
        with pytest.raises(UserError, match=r"loss.bias: 'weak' .* which may have seen them all"):
            weak.check(config, tmp_path, data)
    others = build(BASE | {OURS: BASE[OURS] | {"loss": {"hook": "poe"}}}, {})
    weak.check(others, tmp_path, data)


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
