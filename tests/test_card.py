"""The model card: its claims are tried, its names stay text, nothing of the user's machine is in it."""

import json
import sys

import huggingface_hub
import pytest
import torch
from reports import metrics
from small_models import CONFIGS, IDS
from transformers import AutoModelForSequenceClassification, dynamic_module_utils

import compress
from compress.models import architectures, compressed, remote_code
from compress.models.compressed import Kept, Layer
from compress.reporting import card, markdown

NASTY = (
    "a|b",
    "<script>alert(1)</script>",
    'x: "y"',
    "two\nlines",
    "---",
    "[l](http://e.org)",
    "**b**",
)
ALL, ROWS = tuple(range(4)), tuple(range(32))
SHAPES = {
    "whole": [Kept(ALL, ROWS)] * 2,
    "even rows": [Kept(ALL, ROWS[:16]), Kept(ALL, ROWS[8:24])],
    "uneven rows": [Kept(ALL, ROWS[:16]), Kept(ALL, ROWS[:8])],
    "even heads": [Kept((0, 2), ROWS), Kept((1, 3), ROWS)],
    "even heads and rows": [Kept((0, 2), ROWS[:16]), Kept((1, 3), ROWS[:16])],
}
LOADS = ("whole", "even rows")


def about(source, **changes):
    values = {
        **{"task": "mnli", "base": "google-bert/bert-base-uncased", "source": source},
        **{"teacher": "google-bert/bert-base-uncased", "trained": True},
        **{"texts": ("premise", "hypothesis"), "compression": "heads20", "mitigation": "rmc"},
        **{"seed": 42, "max_length": 64},
    }
    return card.About(**values | changes)


def student(folder, name="bert", kept=SHAPES["whole"], labels=("yes", "no")):
    """Write a model of these heads and rows; labels: in id order."""
    config = CONFIGS[name].__class__.from_dict(CONFIGS[name].to_dict())
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: number for number, label in enumerate(labels)}
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    small = compressed.cut(model.state_dict(), model, kept)
    compressed.describe(config, [Layer(len(k.heads), len(k.neurons)) for k in kept])
    new = compressed.build(config).eval()
    new.load_state_dict(small)
    remote_code.save(new, folder)
    return new


def written(folder, found=None, **changes):
    """The card's text and its front matter."""
    card.write(folder, about(changes.pop("source", folder), **changes), found)
    text = (folder / "README.md").read_text(encoding="utf-8")
    return text, huggingface_hub.ModelCard(text).data.to_dict()


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_the_card_says_of_loading_is_true(tmp_path, name, shape, monkeypatch):
    """transformers' classes take hidden size / heads as the size where there is no key for it."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    kept, loads = SHAPES[shape], LOADS
    if name == "albert":
        kept, loads = kept[:1], (*loads, "uneven rows")
    if name == "mpnet":
        kept = [Kept(kept[0].heads, own.neurons) for own in kept]
    if architectures.find(CONFIGS[name]).groups is not None:
        loads = (*loads, "even heads", "even heads and rows")
    model = student(tmp_path, name, kept)
    text, _ = written(tmp_path)
    with torch.no_grad():
        wanted = model(IDS).logits
        assert torch.equal(compress.load_compressed(tmp_path)(IDS).logits, wanted)
        try:
            plain = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
            same = torch.equal(plain(IDS).logits, wanted)
        except RuntimeError:
            same = False
        trusted = AutoModelForSequenceClassification.from_pretrained(tmp_path, trust_remote_code=True)
        assert torch.equal(trusted.eval()(IDS).logits, wanted)
    assert ("trust_remote_code=True" in text) != same
    assert (tmp_path / "modeling_compressed.py").is_file() != same
    assert same == (shape in loads)
    assert ("from_pretrained` loads it too" in text) == same
    assert ("have lost heads" in text) == ("heads" in shape and not same)
    assert ("differ in the number of ffn neurons" in text) == (shape == "uneven rows" and not same)


def test_the_front_matter_holds_the_names_whatever_they_are(tmp_path):
    student(tmp_path, labels=NASTY)
    text, data = written(tmp_path, task=NASTY[3], texts=(NASTY[0], NASTY[2]), mitigation=NASTY[1])
    assert data["labels"] == list(NASTY) and data["text_columns"] == [NASTY[0], NASTY[2]]
    assert data["base_model"] == "google-bert/bert-base-uncased"
    assert data["pipeline_tag"] == "text-classification"
    body = huggingface_hub.ModelCard(text).text
    assert "<" not in body and body.lstrip().startswith("# two lines: ")
    rows = [line for line in body.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(NASTY)
    for line in rows:
        assert len([c for n, c in enumerate(line) if c == "|" and line[n - 1] != "\\"]) == 3
    assert "| 1 | &lt;script&gt;alert(1)&lt;/script&gt; |" in rows


def test_nasty_names_of_sets_and_notes_stay_in_their_place(tmp_path):
    student(tmp_path)
    found = metrics()
    for role in ("teacher", "student"):
        found[role]["ood"] = {"```\n<b>|": 0.5}
    found["notes"] = ["<img src=x> is `bad`\n\n# Not a heading"]
    found["remarks"] = ["<b> of `epoch` 2"]
    text, _ = written(tmp_path, found)
    body = huggingface_hub.ModelCard(text).text
    assert "* &lt;b&gt; of" in text
    assert "<" not in body and body.count("```") == 2
    headings = [line for line in body.splitlines() if line.startswith("#")]
    assert headings[1:] == [f"## {x}" for x in ("Input and labels", "Load", "Measured", "Limits")]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a_b", "a_b"),
        ("_a_", r"\_a\_"),
        ("# h", r"\# h"),
        ("1. x", r"1\. x"),
        ("0.5", "0.5"),
        ("- x", r"\- x"),
        ("a & b", "a &amp; b"),
        ("\x1b[31mred", r"\[31mred"),
    ],
)
def test_a_name_as_markdown(name, told):
    assert markdown.text(name) == told


def test_measured_figures_and_why_there_is_no_f_bias(tmp_path):
    student(tmp_path)
    apart = {"value": 0.01, "interval": [-0.02, 0.04]}
    found = metrics() | {"delta_difference": apart, "f_bias": None, "f_bias_reason": "no <bias>"}
    text, _ = written(tmp_path, found)
    assert r"| +0.010 \[−0.020, 0.040\] | n/a |" in text
    assert "F_bias is n/a: no &lt;bias&gt;." in text
    assert "Accuracy out of its distribution: 55.1 % on hans, against 83.8 % on dev." in text
    plain, _ = written(tmp_path)
    assert "has not been evaluated yet" in plain and "Measured" not in plain


def test_results_stand_in_the_front_matter_as_a_model_index(tmp_path):
    student(tmp_path)
    found = metrics()
    written(tmp_path, found, task=NASTY[2])
    card_data = huggingface_hub.ModelCard.load(tmp_path / "README.md").data
    values = {(r.dataset_split, r.metric_type): r.metric_value for r in card_data.eval_results}
    assert values == {
        ("dev", "accuracy"): found["student"]["dev"],
        ("hans", "accuracy"): found["student"]["ood"]["hans"],
        ("ood", "f_bias"): found["f_bias"],
    }
    assert {r.dataset_name for r in card_data.eval_results} == {NASTY[2]}
    written(tmp_path, found | {"f_bias": None})
    assert len(huggingface_hub.ModelCard.load(tmp_path / "README.md").data.eval_results) == 2


def test_the_teacher_that_was_used_is_named_without_its_path(tmp_path):
    student(tmp_path / "m")
    teacher = tmp_path / "secret/my-roberta"
    teacher.mkdir(parents=True)
    text, data = written(tmp_path / "m", base=str(teacher), teacher=str(teacher), trained=False)
    assert "Its teacher is my-roberta (a local directory), fine-tuned before." in text
    assert data["base_model"] == "my-roberta"
    assert str(tmp_path) not in text and "secret" not in text


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("hub/models--org--a-model/snapshots/0123abcd", "org/a-model"),
        ("hub/models--bert-base-uncased/snapshots/0123abcd", "bert-base-uncased"),
        ("my model!", None),
    ],
)
def test_a_directory_that_is_a_hub_model_or_has_no_name_of_one(tmp_path, place, told):
    (tmp_path / place).mkdir(parents=True)
    student(tmp_path / "m")
    _, data = written(tmp_path / "m", base=str(tmp_path / place))
    assert data.get("base_model") == told


@pytest.mark.parametrize(
    ("readme", "config", "told"),
    [
        ("---\nlicense: mit\n---\n# x", {}, {"license": "mit"}),
        (
            "---\nlicense: other\nlicense_name: l\nlicense_link: https://e.org\n---\n",
            {},
            {"license": "other", "license_name": "l", "license_link": "https://e.org"},
        ),
        ("---\nlicense: [mit, apache-2.0]\n---\n", {}, {"license": ["mit", "apache-2.0"]}),
        ("# no front matter", {"license": "apache-2.0"}, {"license": "apache-2.0"}),
        ("---\nlicense: [\n---\n", {}, {}),
        ("---\nlicense: {a: b}\n---\n", {}, {}),
        (None, {}, {}),
    ],
)
def test_the_licence_is_that_of_the_base_or_said_to_be_unknown(tmp_path, readme, config, told):
    source = tmp_path / "base"
    student(source)
    values = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(values | config))
    if readme is not None:
        (source / "README.md").write_text(readme)
    student(tmp_path / "m")
    text, data = written(tmp_path / "m", source=source)
    assert {key: value for key, value in data.items() if key.startswith("license")} == told
    assert ("none is given here" in text) == (not told)


def test_the_card_of_a_student_of_before_names_no_code(tmp_path):
    student(tmp_path, kept=SHAPES["uneven rows"])
    config = json.loads((tmp_path / "config.json").read_text())
    left = {key: config[key] for key in config.keys() - {"auto_map", "compressed_modules"}}
    (tmp_path / "config.json").write_text(json.dumps(left))
    text, _ = written(tmp_path)
    assert "does not load it: its layers differ" in text and "trust_remote_code" not in text
