"""A classifier's labels become the task's, by name: outputs compared with those of transformers."""

import json
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BartConfig,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    RobertaConfig,
    XLNetConfig,
)

from compress.configuration.task_schema import TaskBlock
from compress.data import tasks
from compress.errors import UserError
from compress.models import compressed, encoders, label_order
from compress.stages import given_models

FEVER = tasks.TASKS["fever"]
SMALL = {"vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
BERT = {**SMALL, "intermediate_size": 24, "max_position_embeddings": 32}
SHAPES = {
    "bert": BertConfig(**BERT),
    "roberta": RobertaConfig(**BERT),
    "electra": ElectraConfig(**BERT, embedding_size=24),
    "deberta": DebertaV2Config(**BERT, type_vocab_size=0),
    "distilbert": DistilBertConfig(vocab_size=40, dim=24, n_layers=1, n_heads=2, hidden_dim=24),
    "xlnet": XLNetConfig(vocab_size=40, d_model=24, n_layer=1, n_head=2, d_inner=24),
    "gpt2": GPT2Config(vocab_size=40, n_embd=24, n_layer=1, n_head=2, pad_token_id=0),
    "bart": BartConfig(
        vocab_size=40,
        d_model=24,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
    ),
}
IDS = torch.tensor([[5, 9, 7, 11, 2]])
NLI = ("entailment", "neutral", "contradiction")


def classifier(folder, names, shape="bert", label2id=None):
    """Directory of a random classifier whose outputs have these names."""
    config = SHAPES[shape].__class__(**SHAPES[shape].to_dict())
    config.id2label = dict(enumerate(names))
    config.label2id = label2id or {name: number for number, name in enumerate(names)}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = AutoModelForSequenceClassification.from_config(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(folder)
    return folder


def logits(model):
    with torch.inference_mode():
        return model.eval()(input_ids=IDS).logits


def loaded(folder, labels=FEVER.labels, task=FEVER, trained=True):
    return encoders.load_classifier(folder, labels, trained=trained, task=task)


@pytest.mark.slow
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_are_put_in_the_tasks_order(tmp_path, shape, trained):
    folder = classifier(tmp_path / "m", NLI, shape)
    theirs = logits(AutoModelForSequenceClassification.from_pretrained(folder))
    model = loaded(folder, trained=trained)
    assert torch.allclose(logits(model), theirs[:, [0, 2, 1]], atol=1e-5)
    assert (theirs[:, 1] - theirs[:, 2]).abs() > 1e-3
    assert model.config.id2label == dict(enumerate(FEVER.labels))
    model.save_pretrained(tmp_path / "again")
    assert torch.allclose(logits(loaded(tmp_path / "again")), logits(model), atol=1e-6)
    fresh = compressed.build(model.config)
    fresh.load_state_dict(model.state_dict())


@pytest.mark.parametrize(
    ("names", "outputs"),
    [
        (("SUPPORTS", "REFUTES", "NOT ENOUGH INFO"), (0, 1, 2)),
        (("Not enough info", "supports", "REFUTES"), (1, 2, 0)),
        (("NEI", "contradiction", "ENTAILMENT"), (2, 1, 0)),
        (("LABEL_0", "LABEL_1", "LABEL_2"), (0, 1, 2)),
        (("LABEL_2", "LABEL_0", "LABEL_1"), (1, 2, 0)),
        (("0", "1", "2"), (0, 1, 2)),
    ],
)
def test_every_spelling_that_the_task_knows(tmp_path, names, outputs):
    order = encoders.find_labels(classifier(tmp_path / "m", names), FEVER.labels, FEVER, trained=True)
    assert order.outputs == outputs
    numbered = "LABEL_0" in names or "0" in names
    assert ("numbers for names" in (order.note or "")) == numbered
    assert (order.note is None) == (outputs == (0, 1, 2) and not numbered)
    assert (label_order.inputs_of(order) == {}) == (outputs == (0, 1, 2))


def test_a_task_in_json_has_spellings_too(tmp_path):
    definition = {"texts": ["a", "b"], "label": "l", "labels": ["good", "bad"]}
    definition["spellings"] = {"good": ["fine"], "bad": ["poor", "wrong"]}
    task = tasks.of(TaskBlock.model_validate({"name": "mine", "definition": definition}))
    order = encoders.find_labels(classifier(tmp_path / "m", ("Wrong", "fine")), task.labels, task, True)
    assert order.outputs == (1, 0)


def test_a_label_that_train_lacks_is_left_out(tmp_path):
    """FEVER with two classes and a teacher of three: the others' probabilities make 1."""
    folder = classifier(tmp_path / "m", NLI)
    model = loaded(folder, FEVER.labels[:2])
    whole = logits(AutoModelForSequenceClassification.from_pretrained(folder)).softmax(1)
    expected = whole[:, [0, 2]] / whole[:, [0, 2]].sum()
    assert torch.allclose(logits(model).softmax(1), expected, atol=1e-6)
    assert model.config.num_labels == 2
    order = encoders.find_labels(folder, FEVER.labels[:2], FEVER, trained=True)
    assert "'neutral' is in no training sample" in order.note


def test_names_that_only_label2id_has(tmp_path):
    names = [f"LABEL_{number}" for number in range(3)]
    folder = classifier(tmp_path / "m", names, label2id={"NEI": 0, "SUPPORTS": 1, "REFUTES": 2})
    assert encoders.find_labels(folder, FEVER.labels, FEVER, trained=True).outputs == (1, 2, 0)
    assert list(encoders.load_compressed(folder).config.id2label.values()) == [
        "NEI",
        "SUPPORTS",
        "REFUTES",
    ]


@pytest.mark.parametrize(
    ("names", "labels", "words"),
    [
        (("yes", "no", "perhaps"), FEVER.labels, "'yes' is none of them"),
        (("SUPPORTS", "REFUTES", "LABEL_2"), FEVER.labels, "'LABEL_2' is none of them"),
        (("entailment", "SUPPORTS", "REFUTES"), FEVER.labels, "both mean 'SUPPORTS'"),
        (("entailment", "neutral"), FEVER.labels[:2], "none of them means 'REFUTES'"),
        (("SUPPORTS", "REFUTES"), FEVER.labels, "2 labels"),
        ((*NLI, "other"), FEVER.labels, "4 labels"),
        ((*NLI, "SUPPORTS"), FEVER.labels, "both mean 'SUPPORTS'"),
        (tuple(f"LABEL_{n}" for n in range(4)), FEVER.labels, "4 labels"),
        (("LABEL_1", "LABEL_2", "LABEL_3"), FEVER.labels, "'LABEL_1' is none of them"),
    ],
)
def test_what_cannot_be_mapped_is_one_sentence(tmp_path, names, labels, words):
    folder = classifier(tmp_path / "m", names)
    with pytest.raises(UserError) as caught:
        loaded(folder, labels)
    sentence = str(caught.value)
    assert words in sentence and str(folder) in sentence and "\n" not in sentence


def written(folder, **keys):
    """The directory of a classifier with these keys in its config.json, without those that are None."""
    file = folder / "config.json"
    values = json.loads(file.read_text()) | keys
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    return folder


NUMBERED = {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
TURNED = {"contradiction": 0, "neutral": 1, "entailment": 2}


@pytest.mark.parametrize(
    ("id2label", "label2id"),
    [
        (None, TURNED),
        (NUMBERED, {name: str(number) for name, number in TURNED.items()}),
        ({"0": "contradiction", "1": "neutral", "2": "entailment"}, None),
    ],
    ids=["label2id alone", "ids as strings", "id2label alone"],
)
def test_names_are_read_as_config_json_has_them(tmp_path, id2label, label2id):
    """transformers drops a label2id that stands alone, and takes the model for one of two labels."""
    folder = written(classifier(tmp_path, NLI), id2label=id2label, label2id=label2id)
    assert encoders.find_labels(folder, NLI, trained=True).outputs == (2, 1, 0)
    model = encoders.load_classifier(folder, NLI, trained=True).eval()
    plain = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3).eval()
    assert torch.allclose(model(IDS).logits, plain(IDS).logits[:, [2, 1, 0]], atol=1e-6)


@pytest.mark.parametrize(
    ("id2label", "label2id", "words"),
    [
        (NUMBERED, {"contradiction": 0, "entailment": 2}, "names some of the 3 outputs only"),
        (NUMBERED, {"LABEL_2": 0, "LABEL_1": 1, "LABEL_0": 2}, "contradict each other"),
        (["a", "b"], None, "cannot be read"),
    ],
)
def test_names_that_leave_the_order_open_are_refused(tmp_path, id2label, label2id, words):
    folder = written(classifier(tmp_path, NLI), id2label=id2label, label2id=label2id)
    with pytest.raises(UserError, match=words):
        encoders.find_labels(folder, NLI, trained=True)


@pytest.mark.parametrize(
    ("names", "kind", "words"),
    [
        (("LABEL_0",), None, "gives scores, not classes"),
        (("score",), "regression", "gives scores, not classes"),
        (NLI, "regression", "gives scores, not classes"),
        (NLI, "multi_label_classification", "gives several labels to a text"),
    ],
)
def test_outputs_that_are_no_classes_are_refused(tmp_path, names, kind, words):
    """A softmax over one output is 1 for any text."""
    folder = written(classifier(tmp_path, names), problem_type=kind)
    data = SimpleNamespace(labels=NLI, task=tasks.TASKS["mnli"])
    with pytest.raises(UserError, match=f"{folder}: {words}"):
        encoders.load_compressed(folder)
    with pytest.raises(UserError, match=f"{folder}: {words}"):
        given_models.check({"teacher.model": folder}, data)
    if names == NLI:
        given_models.check({"model": folder}, data)
        assert (
            encoders.load_classifier(folder, NLI).config.problem_type == "single_label_classification"
        )


def test_two_orders_in_one_configuration_are_refused(tmp_path):
    label2id = {"entailment": 1, "neutral": 0, "contradiction": 2}
    folder = classifier(tmp_path / "m", NLI, label2id=label2id)
    with pytest.raises(UserError, match=r"id2label and label2id .*config\.json"):
        loaded(folder)


def test_an_encoder_with_a_head_of_other_labels_gets_a_new_one(tmp_path):
    folder = classifier(tmp_path / "m", ("yes", "no", "perhaps"), "roberta")
    old = AutoModelForSequenceClassification.from_pretrained(folder)
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model = loaded(folder, trained=False)
        heads.append(model.classifier.out_proj.weight)
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert not torch.allclose(heads[0], old.classifier.out_proj.weight, atol=1e-3)
    assert torch.equal(model.classifier.dense.weight, old.classifier.dense.weight)
    order = encoders.find_labels(folder, FEVER.labels, FEVER)
    assert "drawn afresh" in order.note and label_order.inputs_of(order) == {"outputs": None}


def test_a_head_of_its_own_width_is_not_taken_for_another_layer(tmp_path):
    """As many hidden units as labels: every layer has the shape of the head."""
    names = [f"l{number}" for number in range(24)]
    model = AutoModelForSequenceClassification.from_pretrained(classifier(tmp_path / "m", names))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert label_order.find_head(model, 24) is model.classifier
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.classifier = torch.nn.Sequential(
        model.classifier, torch.nn.Softmax(1), torch.nn.Linear(24, 9)
    )
    assert label_order.find_head(model, 24) is None


def test_a_cut_model_is_put_in_order_too(tmp_path):
    config = BertConfig(**{**BERT, "intermediate_size": 24}, id2label=dict(enumerate(NLI)))
    config.label2id = {name: number for number, name in enumerate(NLI)}
    setattr(config, compressed.KEY, [{"heads": 1, "rows": 5}])
    config.architectures = ["BertForSequenceClassification"]
    model = compressed.build(config).eval()
    model.save_pretrained(tmp_path)
    assert torch.allclose(logits(loaded(tmp_path)), logits(model)[:, [0, 2, 1]], atol=1e-6)
