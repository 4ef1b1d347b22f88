"""What the command line says of a pair is what the model says of it."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from small_models import exported, masked
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig

import compress
from compress import predict
from compress.errors import UserError
from compress.models import encoders

pytestmark = pytest.mark.slow

LABELS = ("entailment", "neutral", "contradiction")
PAIRS = [
    ("the king saw the queen .", "the queen saw the king ."),
    ("not , the doctor", "."),
    ("the , the , the , the not " * 9, "the king ."),
    ('the king . "x"', "not"),
]


@pytest.fixture(scope="module")
def uneven(tiny_model, tmp_path_factory):
    """A classifier of uneven layers with a tokenizer and positions for 64 tokens."""
    folder = tmp_path_factory.mktemp("uneven") / "model"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BertConfig(
        vocab_size=len(tokenizer),
        intermediate_size=32,
        max_position_embeddings=64,
        id2label=dict(enumerate(LABELS)),
        label2id={name: number for number, name in enumerate(LABELS)},
        **sizes,
    )
    exported(masked(config), folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def plain(tiny_model, tmp_path):
    """A classifier that transformers made, trained with 24 tokens as its configuration says."""
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=2)
    torch.nn.init.normal_(model.classifier.weight, std=2.0)
    setattr(model.config, encoders.TRAINED_LENGTH, 24)
    model.save_pretrained(tmp_path / "plain")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"


def one_by_one(folder, max_length):
    """Probabilities [N, C] by the model's own forward, a pair at a time, without padding."""
    model, tokenizer = compress.load_compressed(folder), AutoTokenizer.from_pretrained(folder)
    out = []
    for first, second in PAIRS:
        inputs = tokenizer(
            first, second, truncation="longest_first", max_length=max_length, return_tensors="pt"
        )
        with torch.no_grad():
            logits = model(**inputs).logits[0].double().numpy()
        out.append(np.exp(logits) / np.exp(logits).sum())
    return np.array(out)


def table(write_table, file, names=predict.COLUMNS[2]):
    return write_table(file, [dict(zip(names, pair, strict=True)) for pair in PAIRS])


def answers(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("kind", [".jsonl", ".tsv", ".csv.gz", ".parquet"])
def test_a_file_of_pairs(kind, uneven, write_table, tmp_path, capsys):
    file = table(write_table, tmp_path / f"pairs{kind}", ("claim", "evidence"))
    arguments = [str(uneven), "--file", str(file), "--columns", "claim", "evidence"]
    predict.main([*arguments, "--batch_size", "3", "--device", "cpu"])
    found = answers(capsys.readouterr().out)
    wanted = one_by_one(uneven, 64)
    first = 1 if kind in (".jsonl", ".parquet") else 2
    assert [answer["row"] for answer in found] == list(range(first, first + len(PAIRS)))
    assert [answer["label"] for answer in found] == [LABELS[i] for i in wanted.argmax(1)]
    values = [[answer["probabilities"][name] for name in LABELS] for answer in found]
    np.testing.assert_allclose(values, wanted, atol=2e-6)
    assert np.abs(wanted[0] - wanted[1]).max() > 1e-4


def test_a_file_is_read_by_the_columns_of_the_training(plain, write_table, tmp_path, capsys):
    """Without `--columns`; with them the model's own are of no account."""
    names = ("claim", "evidence")
    settings = json.loads((plain / "config.json").read_text())
    (plain / "config.json").write_text(json.dumps({**settings, encoders.TRAINED_COLUMNS: names}))
    ours, other = (table(write_table, tmp_path / f"{n[0]}.csv", n) for n in (names, predict.COLUMNS[2]))
    predict.main([str(plain), "--file", str(ours), "--device", "cpu"])
    told = capsys.readouterr().out
    assert [answer["row"] for answer in answers(told)] == list(range(2, 2 + len(PAIRS)))
    predict.main(
        [str(plain), "--file", str(other), "--columns", *predict.COLUMNS[2], "--device", "cpu"]
    )
    assert capsys.readouterr().out == told
    with pytest.raises(UserError, match=r"has no column 'claim' [(]choose with --columns[)]"):
        predict.main([str(plain), "--file", str(other), "--device", "cpu"])


def test_a_pair_is_cut_as_in_training(plain, capsys):
    """A model that was trained with its claims whole reads them whole."""
    claim, evidence = " ".join(["doctor"] * 12), " ".join(["lawyer"] * 30)
    arguments = [str(plain), "--premise", claim, "--hypothesis", evidence, "--max_length", "20"]
    told = []
    for keep in (None, 0):
        settings = json.loads((plain / "config.json").read_text())
        (plain / "config.json").write_text(json.dumps({**settings, encoders.TRAINED_KEEP: keep}))
        predict.main([*arguments, "--device", "cpu"])
        told.append(capsys.readouterr().out)
    assert told[0] != told[1]
    whole = [
        str(plain),
        "--premise",
        claim,
        "--hypothesis",
        " ".join(["lawyer"] * 5),
        "--device",
        "cpu",
    ]
    predict.main(whole)
    assert capsys.readouterr().out == told[1]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((encoders.TRAINED_LENGTH, value) for value in ("x", 0, -3, 2.5, True, [8], 10**12)),
        *((encoders.TRAINED_KEEP, value) for value in (5, -1, "0", False, 0.0, {})),
        *((encoders.TRAINED_TEXTS, value) for value in (0, 3, "2", True, 1.0)),
        *(
            (encoders.TRAINED_COLUMNS, value)
            for value in ("ab", [], ["a"], ["a", "a"], ["a", 1], {"a": 1})
        ),
    ],
)
def test_odd_values_of_the_training_in_config_json(plain, key, value, tmp_path):
    settings = json.loads((plain / "config.json").read_text())
    (plain / "config.json").write_text(json.dumps({**settings, key: value}))
    (tmp_path / "x.csv").write_text("a,b\nthe,king\n")
    given = ["--premise", "a", "--hypothesis", "b"]
    if key == encoders.TRAINED_COLUMNS:
        given = ["--file", str(tmp_path / "x.csv")]
    with pytest.raises(UserError) as caught:
        predict.main([str(plain), *given, "--device", "cpu"])
    assert str(caught.value).startswith(f"{plain}/config.json: '{key}' is {json.dumps(value)}, but")


def test_a_trained_length_that_leaves_no_text(plain):
    settings = json.loads((plain / "config.json").read_text())
    (plain / "config.json").write_text(json.dumps({**settings, encoders.TRAINED_LENGTH: 2}))
    with pytest.raises(UserError, match=r"config\.json: trained_max_length 2: .* at least 5 tokens"):
        predict.main([str(plain), "--premise", "a", "--hypothesis", "b", "--device", "cpu"])


@pytest.mark.parametrize("entry", [5, "x", {}, {"heads": 1e999, "rows": 4}, {"heads": None, "rows": 4}])
def test_odd_sizes_of_layers_in_config_json(uneven, tmp_path, entry):
    folder = shutil.copytree(uneven, tmp_path / "model")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "compressed_layers": [entry] * 2}))
    with pytest.raises(UserError, match="'compressed_layers' must list heads and rows"):
        predict.main([str(folder), "--premise", "a", "--hypothesis", "b", "--device", "cpu"])


def test_one_pair_in_a_fresh_process(uneven):
    first, second = PAIRS[0]
    command = [sys.executable, "-m", "compress.predict", str(uneven)]
    done = subprocess.run(
        [*command, "--premise", first, "--hypothesis", second], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    wanted = one_by_one(uneven, 64)[0]
    lines = done.stdout.splitlines()
    assert lines[0] == LABELS[wanted.argmax()]
    shown = {line.split()[0]: float(line.split()[1]) for line in lines[1:]}
    assert shown == pytest.approx(dict(zip(LABELS, 100 * wanted, strict=True)), abs=0.051)


@pytest.mark.parametrize(("asked", "used"), [([], 24), (["--max_length", "9"], 9)])
def test_the_length_is_the_trained_one_unless_asked_for(asked, used, plain, write_table, tmp_path):
    file, output = table(write_table, tmp_path / "pairs.csv"), tmp_path / "out.jsonl"
    predict.main([str(plain), "--file", str(file), "--output", str(output), *asked])
    found = [list(answer["probabilities"].values()) for answer in answers(output.read_text())]
    np.testing.assert_allclose(found, one_by_one(plain, used), atol=2e-6)
    other = one_by_one(plain, 33 - used)
    assert np.abs(np.array(found) - other).max() > 1e-4
    assert not [*tmp_path.glob(".out*")]


def refused(*arguments):
    with pytest.raises(UserError) as caught:
        predict.main([str(argument) for argument in arguments])
    return str(caught.value)


def test_half_a_pair_and_options_without_effect(uneven, tmp_path):
    file, premise = ("--file", tmp_path / "x.csv"), ("--premise", "the king")
    whole = (*premise, "--hypothesis", "the queen")
    assert refused(uneven, *premise).startswith("--hypothesis: missing")
    assert refused(uneven, "--hypothesis", "x").startswith("--premise: missing")
    assert refused(uneven).startswith("--premise and --hypothesis: missing")
    assert "not both" in refused(uneven, *file, *premise)
    assert "--columns: takes effect with --file" in refused(uneven, *whole, "--columns", "a", "b")
    assert "--output: takes effect with --file" in refused(uneven, *whole, "--output", tmp_path / "o")
    assert "--batch_size 0" in refused(uneven, *whole, "--batch_size", 0)
    assert "both are empty" in refused(uneven, "--premise", " ", "--hypothesis", "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("premise\thypotesis\nthe\tking\n", "'hypothesis'.*'hypotesis'"),
        ("premise\thypothesis\nthe\tking\n \t\n", "row 3 has no text: both are empty"),
        ("premise\thypothesis\nthe\n", "row 2 has 1 cells"),
        ("premise\thypothesis\n", "holds no row"),
    ],
)
def test_a_bad_table_is_named_with_its_row(content, message, uneven, tmp_path):
    file = tmp_path / "pairs.tsv"
    file.write_text(content)
    assert_names(file, message, uneven)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"premise": "the"}, "row 2 has no text in 'hypothesis'"),
        ({"premise": None, "hypothesis": "x"}, "row 2 has no text in 'premise'"),
        ({"premise": "the", "hypothesis": 7}, "row 2, 'hypothesis' is not a text"),
        ({"premise": "the", "hypothesis": "\ud800"}, "row 2, 'hypothesis' is not valid Unicode"),
    ],
)
def test_a_bad_json_row(row, message, uneven, tmp_path):
    file = tmp_path / "pairs.jsonl"
    good = {"premise": "the", "hypothesis": "king"}
    file.write_text(f"{json.dumps(good)}\n{json.dumps(row)}\n")
    assert_names(file, message, uneven)


def assert_names(file, message, folder):
    with pytest.raises(UserError, match=f"{file.name}: .*{message}|{file.name}: {message}"):
        predict.main([str(folder), "--file", str(file)])


def test_one_text_of_a_pair_may_be_empty_as_in_training(plain, tmp_path, capsys):
    pairs = [("the king", ""), ("", "the king"), ("  ", "the queen"), ("the king", "the queen")]
    file = tmp_path / "pairs.jsonl"
    file.write_text(
        "".join(json.dumps(dict(zip(predict.COLUMNS[2], p, strict=True))) + "\n" for p in pairs)
    )
    predict.main([str(plain), "--file", str(file), "--device", "cpu"])
    told = [answer["probabilities"] for answer in answers(capsys.readouterr().out)]
    model, tokenizer = compress.load_compressed(plain), AutoTokenizer.from_pretrained(plain)
    for (first, second), found in zip(pairs, told, strict=True):
        inputs = tokenizer([first], [second], return_tensors="pt")
        assert (inputs["input_ids"] == tokenizer.sep_token_id).sum() == 2
        with torch.no_grad():
            wanted = model(**inputs).logits.softmax(1)[0]
        assert list(found.values()) == pytest.approx(wanted.tolist(), abs=2e-6)
    predict.main([str(plain), "--premise", "the king", "--hypothesis", "", "--device", "cpu"])
    shown = capsys.readouterr().out.splitlines()[1:]
    values = [float(line.split()[1]) for line in shown]
    assert values == pytest.approx([100 * p for p in told[0].values()], abs=0.051)


def test_no_file_an_unknown_kind_and_no_folder_for_the_output(uneven, write_table, tmp_path):
    assert "cannot be read" in refused(uneven, "--file", tmp_path / "none.csv")
    assert "is of no known kind" in refused(uneven, "--file", tmp_path / "pairs.xlsx")
    file = table(write_table, tmp_path / "pairs.csv")
    output = tmp_path / "none" / "out.jsonl"
    assert "its folder does not exist" in refused(uneven, "--file", file, "--output", output)
    assert "cannot be written" in refused(uneven, "--file", file, "--output", tmp_path)


def test_an_output_that_would_replace_the_pairs(uneven, write_table, tmp_path):
    file = table(write_table, tmp_path / "pairs.csv")
    before = file.read_bytes()
    (tmp_path / "link.jsonl").symlink_to(file)
    for output in (file, tmp_path / "link.jsonl", tmp_path / ".." / tmp_path.name / "pairs.csv"):
        assert "is the file of samples itself" in refused(uneven, "--file", file, "--output", output)
    assert file.read_bytes() == before


def test_an_output_that_is_a_link_or_no_file_is_written_to_and_stays(tmp_path):
    """As root `--output /dev/null` would make a file of that."""
    target, link, pipe = (tmp_path / name for name in ("target.jsonl", "link.jsonl", "pipe"))
    target.write_text("before")
    link.symlink_to(target)
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    predict.write("told\n", link)
    predict.write("told\n", pipe)
    assert link.is_symlink() and target.read_text() == "told\n"
    assert pipe.is_fifo() and os.read(reading, 99) == b"told\n"
    os.close(reading)


def test_who_reads_the_lines_may_stop_before_their_end(monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as standard_output:
        monkeypatch.setattr(sys, "stdout", standard_output)
        predict.tell("told\n" * 50_000)


def test_one_column_for_both_texts_and_a_column_named_twice(uneven, tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text("premise,hypothesis,premise\nthe,king,cook\n")
    assert "names 'premise' twice" in refused(uneven, "--file", file, "--columns", "premise", "premise")
    assert "2 columns named 'premise'" in refused(uneven, "--file", file)


def test_lengths_and_devices_that_cannot_be(uneven):
    pair = (uneven, "--premise", "the", "--hypothesis", "king")
    assert "has 64 positions" in refused(*pair, "--max_length", 65)
    assert "at least 5 tokens" in refused(*pair, "--max_length", 4)
    assert "is no device" in refused(*pair, "--device", "gpu")
    assert "choose cpu" in refused(*pair, "--device", "meta")
    assert "GPUs that PyTorch can use" in refused(*pair, "--device", "cuda:99")


def test_a_damaged_directory(uneven, tmp_path):
    pair = ("--premise", "the", "--hypothesis", "king")
    assert "is no model directory" in refused(tmp_path, *pair)
    for file in uneven.iterdir():
        if file.name != "model.safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    assert "has no weights of a model" in refused(tmp_path, *pair)


def test_scores_that_are_no_numbers(plain):
    model = AutoModelForSequenceClassification.from_pretrained(plain)
    torch.nn.init.constant_(model.classifier.bias, float("nan"))
    model.save_pretrained(plain)
    assert "not finite" in refused(plain, "--premise", "the", "--hypothesis", "king")


def test_a_text_with_a_token_that_has_no_embedding(plain, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(plain)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    tokenizer.save_pretrained(plain)
    predict.main([str(plain), "--premise", "the king", "--hypothesis", "not", "--device", "cpu"])
    file = tmp_path / "pairs.csv"
    file.write_text("premise,hypothesis\nthe,king\nthe king,<image_soft_token>\n")
    assert "row 3 holds '<image_soft_token>'" in refused(plain, "--file", file)
