"""Samples of one text: what a definition may say, what is read, hashed, cut, and what bags hold."""

import json

import numpy as np
import pytest
import torch
from configs import ROOT
from folders import error_of, from_folder
from single_texts import DEFINITION, NAMES, folder_of, rows
from tokenizer_models import made
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from compress import checks, predict
from compress.configuration.config import load
from compress.configuration.task_schema import TaskBlock
from compress.data import tasks, texts
from compress.data.splits import Split
from compress.data.tasks import TASKS
from compress.errors import UserError
from compress.models import encoders, probe
from compress.models.model_questions import Questions
from compress.stages import bags, given_models, partial_input

# Definitions


def of(**changes):
    block = TaskBlock.model_validate({"name": "mine", "definition": DEFINITION | changes})
    return tasks.of(block)


def test_a_definition_of_one_column():
    task = of(ood={"far": {"texts": ["review"]}, "near": {}})
    assert task.single and not TASKS["mnli"].single
    assert tasks.columns(task, task.ood["far"]) == [("review",), ("label",)]
    assert tasks.columns(task, task.ood["near"]) == [("sentence",), ("label",)]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"partial": 1}, "definition.partial: has no effect, because the task has one column of text"),
        ({"partial": 0}, "definition.partial: has no effect"),
        ({"symmetric": False}, "definition.symmetric: has no effect"),
        ({"ood": {"x": {"texts": ["a", "b"]}}}, "ood.x.texts: names two columns, but the task has one"),
        (
            {"texts": ["a", "b"], "ood": {"x": {"texts": ["a"]}}},
            "ood.x.texts: names one column, but the task has two columns of text",
        ),
        ({"label": "sentence"}, "definition.label: the column 'sentence' is a text already"),
    ],
)
def test_what_one_column_does_not_go_with(changes, sentence):
    with pytest.raises(UserError) as error:
        of(**changes)
    assert sentence in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["loss", "teacher.loss"])
def test_a_bias_model_of_one_text_of_a_pair(key):
    files = [ROOT / f"ds_configs/{n}.json" for n in ("zero2", "tasks/sst2", "mitigation/poe_partial")]
    settings = load(files)
    if key == "teacher.loss":
        files[-1] = ROOT / "ds_configs/mitigation/vanilla.json"
        settings = load(files, ['robust_compression.teacher.loss={"hook": "poe", "bias": "partial"}'])
    with pytest.raises(UserError, match=rf"robust_compression\.{key}\.bias: 'partial' .* 'shallow'"):
        checks.check_bias(settings, TASKS["sst2"])
    checks.check_bias(settings, TASKS["fever"])
    others = load(files, [f"robust_compression.{key}.bias=shallow"] if key == "loss" else [])
    if key == "loss":
        checks.check_bias(others, TASKS["sst2"])


# Reading


@pytest.fixture
def mine(tmp_path, write_table):
    return folder_of(tmp_path / "mine", write_table, train=12, dev=6, ood_misled=6)


def read(folder, **block):
    return from_folder(folder, "mine", definition=DEFINITION, **block)


def test_a_folder_is_read(mine):
    data = read(mine)
    sentences = [row["sentence"] for row in rows(12, 0)]
    assert data.train.texts[:] == (sentences,)
    assert data.train.labels.tolist() == [0, 1] * 6 and data.labels == NAMES
    assert data.ood["misled"].texts[:] == ([row["sentence"] for row in rows(6, 2, misleads=True)],)
    assert data.notes == ()


def test_a_blank_text_and_one_that_train_shares(mine, write_table):
    shared = {**rows(12, 0)[4], "sentence": rows(12, 0)[4]["sentence"].upper() + "  "}
    write_table(mine / "ood_misled.csv", [*rows(6, 2), shared])
    error_of(
        mine, "1 of 7 samples", "row 6 of train", "share no sample", definition=DEFINITION, task="mine"
    )
    data = read(mine, drop_overlap=True)
    assert len(data.train) == 11 and len(data.ood["misled"]) == 7
    write_table(mine / "ood_misled.csv", rows(6, 2))
    write_table(mine / "dev.csv", [*rows(2, 1), {"sentence": " ", "label": "negative", "kind": "x"}])
    error_of(mine, "row 4 has no text: it is empty", definition=DEFINITION, task="mine")


def test_repeated_texts_are_noted(mine, write_table):
    again = [{**row, "label": "positive"} for row in rows(1, 0)]
    write_table(mine / "train.csv", [*rows(12, 0), *again])
    write_table(mine / "dev.csv", [*rows(6, 1), *rows(2, 0)])
    assert read(mine).notes == (
        "2 of 8 samples of dev are in train too: dev accuracy may be too high.",
        "1 of 13 samples of train repeat the text of another one.",
        "1 repeated texts of train have labels that contradict each other.",
    )


def test_a_float_label_of_the_users_own_is_refused(mine, write_table):
    write_table(mine / "train.csv", [{**row, "label": 0.7} for row in rows(4, 0)])
    error_of(mine, "regression", definition=DEFINITION, task="mine")


def test_a_single_text_is_not_a_pair_with_an_empty_one():
    words = ["a", "b", "a b"]
    single, pair = texts.digests((words,), [0, 1, 0]), texts.digests((words, [""] * 3), [0, 1, 0])
    assert len({*single, *pair}) == 6
    assert texts.digests((["a"],), [1]) != texts.digests((["a"],), [0])
    one, other = (texts.keys((words,), symmetric) for symmetric in (False, True))
    assert one.tolist() == other.tolist() and len(set(one.tolist())) == 3
    whole = texts.Texts.of(words)
    assert whole[1:] == (["b", "a b"],) and whole.part(np.array([2]))[:] == (["a b"],)


PAIRS = ["0c2c3afba046ae74f2e1b08ccd3f4b98", "9cb89101e9a390d44ab5c8e20f31b6cd"]
KEY = 6340867770675341642


def test_what_pairs_hash_to_stays():
    """Fingerprints of data, and with them finished artefacts, are those of before single texts."""
    found = texts.digests((["a cat", ""], ["sat", "x"]), [1, 0])
    assert [digest.hex() for digest in found] == PAIRS
    assert texts.keys((["A  cat"], ["sat"]), False).tolist() == [KEY]


# The shipped tasks


def shipped(folder, name, **block):
    return from_folder(folder, name, **block)


def test_sst2_in_its_published_formats(tmp_path, write_table):
    """GLUE's own files, IMDB as the hub gives it, and the revised reviews of Kaushik et al."""
    write_table(tmp_path / "train.tsv", [{"sentence": f"s{n}", "label": n % 2} for n in range(4)])
    dev = [{"sentence": f"d{n}", "label": name, "idx": n} for n, name in enumerate(NAMES)]
    write_table(tmp_path / "dev.parquet", dev)
    imdb = [{"text": "dull", "label": "neg"}, {"text": "fine<br />", "label": "pos"}]
    write_table(tmp_path / "ood_imdb.jsonl", imdb)
    revised = [{"Sentiment": "Positive", "Text": "good"}, {"Sentiment": "Negative", "Text": "bad"}]
    write_table(tmp_path / "ood_imdb_revised.tsv", revised)
    data = shipped(tmp_path, "sst2")
    assert data.labels == NAMES and data.train.labels.tolist() == [0, 1, 0, 1]
    assert data.dev.texts[:] == (["d0", "d1"],)
    assert data.ood["imdb"].texts[:] == (["dull", "fine<br />"],)
    assert data.ood["imdb"].labels.tolist() == [0, 1]
    assert data.ood["imdb_revised"].labels.tolist() == [1, 0]


def civil(folder, write_table, scores=(0.0, 0.49, 0.5, 1.0), name="toxicity", text="text"):
    for split, first in (("train", 0), ("dev", 9)):
        found = [{text: f"c{n + first}", name: score} for n, score in enumerate(scores)]
        write_table(folder / f"{split}.parquet", found)
    cases = [
        {"functionality": "profanity_nh", "test_case": "x", "label_gold": "non-hateful"},
        {"functionality": "slur_h", "test_case": "y", "label_gold": "hateful"},
    ]
    for case, target in zip(cases, (None, "women"), strict=True):
        case["target_ident"] = target
    write_table(folder / "ood_hatecheck.jsonl", cases)
    return folder


@pytest.mark.parametrize(("name", "text"), [("toxicity", "text"), ("target", "comment_text")])
def test_civil_comments_are_toxic_from_a_score_of_one_half(tmp_path, write_table, name, text):
    data = shipped(civil(tmp_path, write_table, name=name, text=text), "civil_comments")
    assert data.labels == ("not_toxic", "toxic")
    assert data.train.labels.tolist() == data.dev.labels.tolist() == [0, 0, 1, 1]
    hate = data.ood["hatecheck"]
    assert hate.texts[:] == (["x", "y"],) and hate.labels.tolist() == [0, 1] and hate.groups == (0, 1)
    assert hate.subsets == {
        "functionality": ["profanity_nh", "slur_h"],
        "target_ident": ["none", "women"],
    }


def test_scores_as_text_and_words_in_place_of_scores(tmp_path, write_table):
    civil(tmp_path, write_table)
    labels = ("0.5", "0.4999", "toxic", "not toxic", 1, 0)
    table = [{"text": f"t{n}", "toxicity": label} for n, label in enumerate(labels)]
    (tmp_path / "train.parquet").unlink()
    write_table(tmp_path / "train.csv", table)
    assert shipped(tmp_path, "civil_comments").train.labels.tolist() == [1, 0, 1, 0, 1, 0]


@pytest.mark.parametrize("score", ["1.01", "-0.1", "nan", "perhaps", "2"])
def test_what_is_no_score(tmp_path, write_table, score):
    civil(tmp_path, write_table)
    (tmp_path / "dev.parquet").unlink()
    table = [{"text": "t", "toxicity": "0.1"}, {"text": "u", "toxicity": score}]
    write_table(tmp_path / "dev.csv", table)
    told = error_of(tmp_path, f"row 3 has the unknown label '{score}'", task="civil_comments")
    assert "not_toxic, toxic and scores from 0 to 1" in told


def test_two_columns_of_scores_that_differ(tmp_path, write_table):
    civil(tmp_path, write_table)
    table = [{"text": "t", "toxicity": 0.1, "target": score} for score in (0.2, 0.8)]
    write_table(tmp_path / "train.parquet", table)
    error_of(tmp_path, "row 2: 'toxicity' and 'target'", "they differ", task="civil_comments")


def test_a_label_of_hatecheck_is_no_score(tmp_path, write_table):
    civil(tmp_path, write_table)
    row = {"functionality": "a", "test_case": "x", "label_gold": 0.7, "target_ident": ""}
    write_table(tmp_path / "ood_hatecheck.jsonl", [row])
    error_of(tmp_path, "unknown label '0.7'", "non-hateful, hateful", task="civil_comments")


def test_an_ood_set_of_a_users_own_has_scores_too(tmp_path, write_table):
    civil(tmp_path, write_table)
    write_table(tmp_path / "ood_new.csv", [{"text": "a", "toxicity": 0.7}])
    assert shipped(tmp_path, "civil_comments").ood["new"].labels.tolist() == [1]


# Bags of words


def test_the_bags_of_a_text_are_its_words_without_order_and_its_length():
    def found(text):
        return [bag.tolist() for bag in bags.keyword_bags(text)]

    assert found("A b a") == found("b, a b") and [len(bag) for bag in found("A b a")] == [2, 1]
    assert found("a b")[1] != found("a " * 9)[1] and found("a b")[0] != found("a " * 9)[0]
    assert found("a " * 40)[1] == found("a " * 42)[1]
    assert [len(bag) for bag in found("?!")] == [1, 1]
    one, two = (bags.Keywords()((["a b", "c"],))[n] for n in (0, 1))
    assert [bag.tolist() for bag in one] == found("a b") and [b.tolist() for b in two] == found("c")


def test_which_bags_a_task_has():
    assert bags.partial_input(TASKS["sst2"]) == bags.shallow(TASKS["sst2"]) == bags.Keywords()
    assert bags.partial_input(TASKS["fever"]) == bags.OfText(0)
    assert bags.shallow(TASKS["fever"]) == bags.OfPair()


def sentences(count, seed, telling):
    """A word tells the label, or the length does; else nothing."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, count)
    hidden = labels if telling == "word" else draw.integers(0, 2, count)
    longer = labels if telling == "length" else draw.integers(0, 2, count)
    words = [
        " ".join([*draw.permutation([f"w{n}" for n in range(4 + 20 * more)]), ("bad", "good")[tells]])
        for tells, more in zip(hidden, longer, strict=True)
    ]
    return Split.of((words,), labels, ("a", "b"), (0, 1))


@pytest.mark.parametrize(
    ("telling", "low", "high"), [("word", 0.95, 1), ("length", 0.95, 1), ("", 0.35, 0.65)]
)
def test_dev_is_easy_where_words_or_length_tell_the_label(telling, low, high):
    train, dev = sentences(600, 0, telling), sentences(200, 1, telling)
    predicted = partial_input.classify(train, dev, bags.partial_input(TASKS["sst2"]), 2)
    assert low <= (predicted == dev.labels).mean() <= high


# Models and the command line


@pytest.mark.parametrize(
    ("kind", "types"), [("bert", False), ("roberta pad 1", False), ("gpt2", False)]
)
def test_a_model_is_asked_with_one_text(tmp_path, kind, types):
    settings = {} if kind == "bert" else {"model_input_names": ["input_ids", "attention_mask"]}
    folder = made(tmp_path, kind, **settings)
    fit = probe.check(folder, "the model", 32, 1)
    assert ("token_type_ids" in fit.names) == types
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = encoders.fresh_from(folder).eval()
    questions = Questions(model, tokenizer, "the model", 1)
    assert questions.least == len(tokenizer("wa")["input_ids"])
    assert len(questions.row(9)["input_ids"]) == 9
    separator = tokenizer.sep_token_id
    if separator is not None:
        assert questions.row(9)["input_ids"].count(separator) == 1


def test_a_tokenizer_that_takes_segments_of_a_pair_only_fits_single_texts(tmp_path):
    """A model with one segment has no embedding for the second text of a pair; texts need none."""
    folder = made(tmp_path, "roberta")
    with pytest.raises(UserError, match="segment ids"):
        probe.check(folder, "the model", 32, 2)
    assert "token_type_ids" not in probe.check(folder, "the model", 32, 1).names


@pytest.fixture
def classifier(tiny_model, tmp_path):
    """Function (**settings) -> directory of a classifier whose config.json has them."""

    def write(**settings):
        torch.manual_seed(1)
        model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=2)
        torch.nn.init.normal_(model.classifier.weight, std=2.0)
        folder = tmp_path / "classifier"
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
        return folder

    return write


ONE = {encoders.TRAINED_TEXTS: 1, encoders.TRAINED_LENGTH: 24}


def refused(*words):
    with pytest.raises(UserError) as caught:
        predict.main([str(word) for word in words])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_pair_for_a_model_of_single_texts(classifier, tmp_path):
    folder, file = classifier(**ONE), tmp_path / "x.csv"
    file.write_text("a,b\nthe,king\n")
    pair = ("--premise", "the king", "--hypothesis", "slept")
    for words in (pair, ("--file", file, "--columns", "a", "b")):
        told = refused(folder, *words)
        assert told.startswith(words[0] if words is pair else "--columns a b: ")
        assert f"{folder} classifies single texts; give --text, or one column of a --file" in told
    assert "has no column 'text'" in refused(folder, "--file", file)
    assert "not both" in refused(folder, "--text", "x", *pair)
    assert "not both" in refused(folder, "--text", "x", "--file", file)
    assert "no text: it is empty" in refused(folder, "--text", " ")
    assert "a text needs at least 3 tokens" in refused(folder, "--text", "x", "--max_length", 2)
    assert "3 columns" in refused(folder, "--file", file, "--columns", "a", "b", "c")


@pytest.mark.parametrize("settings", [{encoders.TRAINED_TEXTS: 2}, {encoders.TRAINED_LENGTH: 24}])
def test_a_text_for_a_model_of_pairs(classifier, settings):
    """Models of before say nothing of the number of texts, but of the length: they read pairs."""
    told = refused(folder := classifier(**settings), "--text", "the king")
    assert told.startswith(f"--text: {folder} classifies pairs of texts; give --premise and")


def test_a_model_of_another_program_is_given_what_the_options_say(classifier, capsys, tmp_path):
    folder = classifier()
    predict.main([str(folder), "--text", "the king slept", "--device", "cpu"])
    model, tokenizer = encoders.load_compressed(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        wanted = model(**tokenizer("the king slept", return_tensors="pt")).logits.softmax(1)[0]
    values = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()[1:]]
    assert values == pytest.approx((100 * wanted).tolist(), abs=0.051)


def test_a_teacher_of_pairs_is_none_of_single_texts(classifier, mine):
    data = read(mine)
    folder = classifier(**{encoders.TRAINED_TEXTS: 2}, id2label=dict(enumerate(NAMES)))
    with pytest.raises(
        UserError, match="was trained on pairs of texts, but the samples of the task are"
    ):
        given_models.check({"teacher.model": folder}, data)
    given_models.check({"teacher.model": classifier(**ONE, id2label=dict(enumerate(NAMES)))}, data)
