"""A teacher that a user brings: other names or order of labels, another tokenizer; the stages run.

What is expected is told by the label names in the data and by the tokenizers themselves.
"""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from launcher import ROOT, python
from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizer

from compress import predict
from compress.models import encoders

pytestmark = pytest.mark.slow

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
KEYS = ("Alpha", "Beta", "Gamma")
NOUNS = ("bird", "cat", "dog", "house", "river", "stone", "tree", "train")
LABELS = ("SUPPORTS", "REFUTES", "NOT ENOUGH INFO")
NLI = ("neutral", "entailment", "contradiction")
HEAD = (2, 0, 1)
"""Which of the task's labels each output of the teacher is."""


def rows(size, seed):
    """The label hangs on the claim's first word, written with a capital."""
    words = np.random.default_rng(seed).choice(NOUNS, (size, 6))
    return [
        {
            "claim": " ".join([KEYS[n % 3], *words[n][:3]]),
            "evidence": " ".join(words[n][3:]),
            "label": LABELS[n % 3],
        }
        for n in range(size)
    ]


def tokenizer(folder, lower, longest=32):
    words = [*SPECIAL, *KEYS, *(key.lower() for key in KEYS), *NOUNS]
    vocabulary = {word: number for number, word in enumerate(words)}
    BertTokenizer(vocab=vocabulary, do_lower_case=lower, model_max_length=longest).save_pretrained(
        folder
    )


def shape(**more):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    sizes |= {"vocab_size": 19, "intermediate_size": 32, "max_position_embeddings": 32}
    return BertConfig(**{**sizes, **rates, **more})


def fine_tuned(folder, names):
    """A classifier of the cased words with the outputs in the order of HEAD: right on every row."""
    tokenizer(folder, lower=False)
    torch.manual_seed(0)
    label2id = {name: number for number, name in enumerate(names)}
    model = BertForSequenceClassification(shape(id2label=dict(enumerate(names)), label2id=label2id))
    told = rows(96, 9)
    texts = [[row[key] for row in told] for key in ("claim", "evidence")]
    batch = encoders.load_tokenizer(folder)(*texts, return_tensors="pt", padding=True)
    labels = torch.tensor([HEAD.index(LABELS.index(row["label"])) for row in told])
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(150):
        optimiser.zero_grad()
        model(**batch, labels=labels).loss.backward()
        optimiser.step()
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory, write_table):
    """(folder of the runs, what was said of each)."""
    folder = tmp_path_factory.mktemp("brought")
    (folder / "fever").mkdir()
    for seed, (name, size) in enumerate({"train": 90, "dev": 60, "ood_sym1": 30}.items()):
        write_table(folder / f"fever/{name}.jsonl", rows(size, seed))
    tokenizer(folder / "model", lower=True)
    torch.manual_seed(1)
    BertModel(shape()).save_pretrained(folder / "model")
    fine_tuned(folder / "teacher", NLI)
    numbered = shutil.copytree(folder / "teacher", folder / "unnamed")
    values = json.loads((numbered / "config.json").read_text())
    del values["id2label"], values["label2id"]
    (numbered / "config.json").write_text(json.dumps(values | {"num_labels": 3}))
    ours = "robust_compression"
    common = [
        f"{ours}.model={folder / 'model'}",
        f"{ours}.task.data_dir={folder / 'fever'}",
        f"{ours}.task.max_length=24",
        f"{ours}.epochs=1",
        "train_batch_size=16",
        "optimizer.params.lr=1e-5",
        "tensorboard.enabled=false",
    ]
    given = [*common, f"{ours}.teacher.model={folder / 'teacher'}"]
    specs = {
        "distil": ("distil", "student", given),
        "from_teacher": ("vanilla", "all", [*given, f"{ours}.student.init_from=teacher"]),
        "numbered": ("vanilla", "teacher", [*common, f"{ours}.teacher.model={numbered}"]),
        "hidden": ("hidden", "student", given),
        "no_teacher": ("vanilla", "student", common),
    }
    parts = ["zero0", "tasks/fever", "compression/imp20"]
    listed = [
        {
            "files": [str(ROOT / f"ds_configs/{part}.json") for part in (*parts, f"mitigation/{loss}")],
            "set": overrides,
            "output": str(folder / name),
            "stage": stage,
        }
        for name, (loss, stage, overrides) in specs.items()
    ]
    done = python(str(ROOT / "tests/drivers/given_models.py"), json.dumps(listed))
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout.split("-- ")[1:]
    return folder, dict(zip(specs, said, strict=True))


def teachers(folder):
    """Directory and probabilities of the teachers in the cache, by the path that each was given as."""
    found = {}
    for place in (folder / "shared/teacher").iterdir():
        inputs = json.loads((place / "complete.json").read_text())["inputs"]
        found[inputs["facts"]["teacher"]] = place
    return {name: found[encoders.fingerprint(folder / name)] for name in ("teacher", "unnamed")}


def test_a_given_teacher_is_read_by_its_label_names_in_its_own_tokens(outcome):
    folder, said = outcome
    place = teachers(folder)["teacher"]
    probabilities = np.load(place / "probabilities.npy")
    gold = [LABELS.index(row["label"]) for row in rows(90, 0)]
    assert (probabilities.argmax(axis=1) == gold).all()
    values = json.loads((place / "model/config.json").read_text())
    assert list(values["id2label"].values()) == list(LABELS)
    assert "put in the task's order" in said["distil"]
    assert "hardly above" not in said["distil"]


def test_predict_reads_the_exported_teacher_alike(outcome, tmp_path):
    folder, _ = outcome
    file = tmp_path / "out.jsonl"
    columns = ["--columns", "claim", "evidence", "--output", str(file), "--device", "cpu"]
    model = teachers(folder)["teacher"] / "model"
    predict.main([str(model), "--file", str(folder / "fever/dev.jsonl"), *columns])
    told = [json.loads(line)["label"] for line in file.read_text().splitlines()]
    assert told == [row["label"] for row in rows(60, 1)]


def test_each_model_keeps_its_own_tokenizer(outcome):
    folder, _ = outcome
    text = "Alpha bird"
    cased = encoders.load_tokenizer(folder / "teacher")(text)["input_ids"]
    lower = encoders.load_tokenizer(folder / "model")(text)["input_ids"]
    assert cased != lower

    def ids(path):
        return encoders.load_tokenizer(path / "model")(text)["input_ids"]

    assert ids(teachers(folder)["teacher"]) == cased
    assert ids(folder / "distil/student") == lower
    assert ids(folder / "from_teacher/student") == cased


def test_a_student_that_starts_from_the_teacher_reads_its_tokens(outcome):
    folder, _ = outcome
    metrics = json.loads((folder / "from_teacher/metrics.json").read_text())
    assert metrics["teacher"]["dev"] == metrics["teacher"]["train"] == 1.0
    assert metrics["student"]["dev"] > 0.9
    assert (folder / "from_teacher/report.html").is_file()


def test_a_loss_that_uses_no_difficulty_makes_none_and_a_given_teacher_needs_no_stage(outcome):
    folder, said = outcome
    assert (folder / "distil/student/model/model.safetensors").is_file()
    assert "teacher: done" in said["distil"] and "teacher: reused" in said["from_teacher"]
    assert not (folder / "shared/difficulty").exists()
    metrics = json.loads((folder / "from_teacher/metrics.json").read_text())
    assert "difficulty" not in metrics and "difficulty" not in metrics["seconds"]
    assert "error: --stage student: there is no teacher yet" in said["no_teacher"]


def test_numbers_for_names_are_said_and_a_teacher_at_chance_is_too(outcome):
    """LABEL_0 to LABEL_2 in another order: nobody can know, so the result is said."""
    folder, said = outcome
    assert "labels have numbers for names" in said["numbered"]
    assert re.search(r"WARNING: .*teacher .*majority class on train \(0\.0%", said["numbered"])
    assert np.load(teachers(folder)["unnamed"] / "probabilities.npy").shape == (90, 3)


def test_terms_that_compare_tokens_are_refused(outcome):
    sentence = outcome[1]["hidden"].splitlines()[-1]
    assert sentence.startswith("error: robust_compression.layerwise: the student's tokenizer does not")
