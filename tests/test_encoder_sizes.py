"""Size and shape of an encoder: its blocks, its longest input, its numbers of parameters."""

import pytest
import torch
from small_models import BERT_SIZES as SIZES
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    XLNetConfig,
)
from transformers.models.bert.modeling_bert import BertSelfAttention

from compress.models import encoders, probe

DISTIL = {"vocab_size": 20, "dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 64}


def classifier(kind):
    return {
        "bert": lambda: BertForSequenceClassification(BertConfig(**SIZES)),
        "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**SIZES, pad_token_id=1)),
        "distilbert": lambda: DistilBertForSequenceClassification(DistilBertConfig(**DISTIL)),
        "mpnet": lambda: MPNetForSequenceClassification(MPNetConfig(**SIZES, pad_token_id=1)),
        "deberta": lambda: DebertaV2ForSequenceClassification(DebertaV2Config(**SIZES)),
    }[kind]()


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        (BertConfig(**SIZES), 64),
        (RobertaConfig(**SIZES, pad_token_id=1), 62),
        (RobertaConfig(**SIZES, pad_token_id=0), 63),
        (DistilBertConfig(**DISTIL, max_position_embeddings=50), 50),
        (DebertaV2Config(**SIZES), 64),
        (DebertaV2Config(**SIZES, position_biased_input=False, relative_attention=True), 100),
        (MPNetConfig(**SIZES, pad_token_id=1), 62),
        (XLNetConfig(vocab_size=20, d_model=32, n_layer=2, n_head=2, d_inner=64), 100),
        (T5Config(vocab_size=20, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2), 100),
    ],
    ids=[
        "bert",
        "roberta",
        "roberta pad 0",
        "distilbert",
        "deberta",
        "deberta without a table",
        "mpnet",
        "xlnet",
        "t5",
    ],
)
def test_the_longest_input(tmp_path, config, longest):
    """Of at most 100 tokens; models without a table of positions take all of them."""
    config.save_pretrained(tmp_path)
    assert probe.longest(tmp_path, 100) == longest
    assert probe.longest(tmp_path, longest) == longest
    assert probe.longest(tmp_path, 7) == 7


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "mpnet"])
def test_the_longest_input_runs_and_one_more_does_not(tmp_path, kind):
    model = classifier(kind).eval()
    model.config.save_pretrained(tmp_path)
    longest = probe.longest(tmp_path, 1000)
    with torch.inference_mode():
        assert model(input_ids=torch.full((1, longest), 5)).logits.shape == (1, 2)
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, longest + 1), 5))


def test_a_row_of_many_tokens_is_not_run_through_all_blocks(tmp_path, monkeypatch):
    """What comes after the tables would take memory with the square of the length."""
    classifier("bert").config.save_pretrained(tmp_path)
    lengths = []
    forward = BertSelfAttention.forward

    def noted(self, states, *others, **more):
        lengths.append(states.shape[1])
        return forward(self, states, *others, **more)

    monkeypatch.setattr(BertSelfAttention, "forward", noted)
    assert probe.longest(tmp_path, 50_000) == 64
    big = BertConfig(**{**SIZES, "max_position_embeddings": 60_000})
    big.save_pretrained(tmp_path)
    assert probe.longest(tmp_path, 50_000) == 50_000
    assert max(lengths) <= 1024


def count(tensor):
    """Plain loop over the numbers: how many there are, and how many are not 0."""
    numbers = tensor.detach().flatten().tolist()
    return len(numbers), sum(1 for number in numbers if number != 0.0)


def test_numbers_of_parameters_against_a_plain_loop():
    torch.manual_seed(0)
    model = classifier("bert")
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.view(-1)[:: number + 2] = 0.0
        model.classifier.weight[0, 1] = -0.0
        model.classifier.weight[0, 3] = 1e-45
        model.classifier.weight[1, 0] = float("nan")
    counts = [count(parameter) for parameter in model.parameters()]
    assert encoders.parameters(model) == sum(size for size, _ in counts)
    assert encoders.nonzero_parameters(model) == sum(nonzero for _, nonzero in counts)
    assert 0 < encoders.nonzero_parameters(model) < encoders.parameters(model)


def test_a_shared_parameter_counts_once():
    shared = torch.nn.Linear(3, 2, bias=False)
    both = torch.nn.ModuleList([shared, shared, torch.nn.BatchNorm1d(4)])
    assert encoders.parameters(both) == 6 + 8
    torch.nn.init.ones_(shared.weight)
    assert encoders.nonzero_parameters(both) == 6 + 4
