"""train.py on a task of single texts: every stage, prediction, ONNX, two ranks, a continued run."""

import json
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from launcher import ROOT, python, two_ranks
from reports import Page
from same_run import differences
from single_texts import folder_of, job, rows
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from compress import predict
from compress.models import encoders

pytestmark = [pytest.mark.launcher, pytest.mark.timeout(600)]
USR1 = "10"


@pytest.fixture(scope="module")
def data(tmp_path_factory, write_table) -> Path:
    return folder_of(tmp_path_factory.mktemp("data") / "mine", write_table)


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model, data) -> Path:
    """The output directory of a whole run with the difficulty of sub-networks and an ONNX file."""
    folder = tmp_path_factory.mktemp("run") / "rmc"
    done = python(*job(tiny_model, data, folder, export=True))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def tokens(folder: Path, texts: list[str]) -> dict[str, torch.Tensor]:
    """As transformers encodes single texts."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return dict(tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt"))


def expected(folder: Path, texts: list[str]) -> np.ndarray:
    """Probabilities by transformers alone [N, C]."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**tokens(folder, texts)).logits.double().softmax(1).numpy()


def test_accuracies_are_those_of_the_exported_model_on_single_texts(run):
    found = json.loads((run / "metrics.json").read_text())
    dev, ood = rows(40, 1), rows(40, 2, misleads=True)
    for name, part, accuracy in (
        ("dev", dev, found["student"]["dev"]),
        ("ood", ood, found["student"]["ood"]["misled"]),
    ):
        p = expected(run / "student/model", [row["sentence"] for row in part])
        gold = np.array([row["label"] == "positive" for row in part])
        assert accuracy == pytest.approx(float((p.argmax(1) == gold).mean())), name
    assert set(found["student"]["ood_subsets"]["misled"]) == {
        *(f"{kind}, {name}" for kind in ("long", "short") for name in ("negative", "positive"))
    }


def test_words_give_dev_away_and_the_report_shows_one_text(run):
    """The cue tells every label of dev, so that a bag of words finds nearly all easy."""
    found = json.loads((run / "metrics.json").read_text())["easy_hard"]
    assert found["easy"] >= 36 and found["easy"] + found["hard"] == 40
    text = (run / "report.html").read_text()
    page = Page(text)
    assert "words of the sentence (without their order) and its length" in page.text
    cells = [part.partition("</td>")[0] for part in text.split('<td class="word texts">')[1:]]
    assert cells and all(cell.count("<p") == 1 for cell in cells)
    card = (run / "student/model/README.md").read_text()
    assert "A classifier of single texts." in card
    assert "One text (column sentence), at most 32 tokens." in card
    assert "text_columns:\n- sentence\n" in card


def test_the_model_says_how_many_texts_it_reads(run):
    for folder in (run / "student/model", *(run.parent / "shared/teacher").glob("*/model")):
        settings = json.loads((folder / "config.json").read_text())
        assert settings[encoders.TRAINED_COLUMNS] == ["sentence"]
        assert settings[encoders.TRAINED_TEXTS] == 1 and settings[encoders.TRAINED_KEEP] is None


def test_a_text_and_a_file_are_predicted_as_transformers_does(run, data, capsys):
    model = run / "student/model"
    texts = [row["sentence"] for row in rows(40, 1)]
    wanted = expected(model, texts)
    arguments = [str(model), "--file", str(data / "dev.csv"), "--device", "cpu"]
    predict.main([*arguments, "--columns", "sentence"])
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    values = [list(answer["probabilities"].values()) for answer in answers]
    np.testing.assert_allclose(values, wanted, atol=2e-6)
    predict.main([str(model), "--text", texts[3], "--device", "cpu"])
    label, *shown = capsys.readouterr().out.splitlines()
    assert label == ("negative", "positive")[wanted[3].argmax()]
    assert [float(line.split()[1]) for line in shown] == pytest.approx(100 * wanted[3], abs=0.051)


def test_the_onnx_file_takes_what_the_tokenizer_gives_of_texts(run):
    texts = [row["sentence"] for row in rows(6, 1)]
    given = {name: value.numpy() for name, value in tokens(run / "onnx", texts).items()}
    session = onnxruntime.InferenceSession(run / "onnx/model.onnx", providers=["CPUExecutionProvider"])
    assert {node.name for node in session.get_inputs()} == set(given)
    (logits,) = session.run(None, given)
    p = np.exp(logits.astype(np.float64))
    wanted = expected(run / "student/model", texts)
    np.testing.assert_allclose(p / p.sum(1, keepdims=True), wanted, atol=1e-4)


def test_poe_with_the_words_as_bias_model_uses_the_same_teacher(run, tiny_model, data):
    done = python(*job(tiny_model, data, run.parent / "poe", mitigation="poe"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "teacher: reused" in done.stdout and "difficulty: done" not in done.stdout
    (shallow,) = (run.parent / "shared/shallow").glob("*/probabilities.npy")
    p = np.load(shallow)
    gold = np.array([row["label"] == "positive" for row in rows(120, 0)]).astype(int)
    assert p.shape == (120, 2) and (p.argmax(1) == gold).mean() > 0.6, (
        "the cue tells more than half of the labels"
    )


def test_one_text_of_a_pair_is_refused_as_bias_model_at_once(tiny_model, data, tmp_path):
    done = python(*job(tiny_model, data, tmp_path / "run", mitigation="poe_partial"))
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "robust_compression.loss.bias: 'partial' sees one text of a pair" in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_shipped_tasks_are_prepared_from_local_files(tiny_model, tmp_path, write_table):
    """sst2 as GLUE publishes it; civil_comments with scores, and cases of HateCheck."""
    sst2, civil = tmp_path / "sst2", tmp_path / "civil_comments"
    sst2.mkdir(), civil.mkdir()
    for seed, split in enumerate(("train", "dev", "ood_imdb")):
        found = rows(12, seed)
        name = "text" if split == "ood_imdb" else "sentence"
        table = [{name: row["sentence"], "label": n % 2} for n, row in enumerate(found)]
        write_table(sst2 / f"{split}.tsv", table)
        scores = [{"text": row["sentence"], "toxicity": n % 2 * 0.6} for n, row in enumerate(found)]
        write_table(civil / f"{split}.parquet", scores)
    (civil / "ood_imdb.parquet").unlink()
    case = {"functionality": "slur_h", "test_case": "the king slept", "label_gold": "hateful"}
    write_table(civil / "ood_hatecheck.csv", [{**case, "target_ident": ""}])
    for folder, told in ((sst2, "ood_imdb 12"), (civil, "ood_hatecheck 1")):
        files = [f"{ROOT}/ds_configs/{name}.json" for name in ("zero2", f"tasks/{folder.name}")]
        words = ["--deepspeed_config", *files, "--output_dir", str(folder / "run")]
        settings = [f"model={tiny_model}", f"task.data_dir={folder}", "task.max_length=32"]
        words += ["--stage", "prepare", "--set", *(f"robust_compression.{s}" for s in settings)]
        done = python(str(ROOT / "train.py"), *words)
        assert done.returncode == 0, done.stderr[-3000:]
        assert f"samples: train 12, dev 12, {told}\n" in done.stdout


def test_two_ranks_and_a_continued_training_give_the_same(tiny_model, data, tmp_path):
    """One is hit by a signal on one rank while the student trains, and started again."""
    part = {"mitigation": "weighted_shallow"}
    driver = str(ROOT / "tests/drivers/killed_run.py")
    whole, hit = (
        [driver, *job(tiny_model, data, tmp_path / name / "run", **part)[1:]]
        for name in ("whole", "hit")
    )
    assert (done := two_ranks(*whole, KILL_AT="never 0")).returncode == 0, done.stderr[-3000:]
    signal = {"KILL_AT": "step student 6", "KILL_WITH": USR1, "KILL_RANK": "1"}
    done = two_ranks(*hit, **signal)
    assert done.returncode == 75, done.stderr[-3000:]
    done = two_ranks(*hit, KILL_AT="never 0")
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"^student: continues at step [6-9] of 16$", done.stdout, re.MULTILINE)
    assert differences(tmp_path / "whole", tmp_path / "hit") == []
