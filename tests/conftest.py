"""Fixtures shared by the tests: a tiny random encoder and small data folders, made at test time."""

import csv
import ctypes
import gzip
import io
import json
import os
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from hypothesis import settings
from transformers import AutoTokenizer, BertConfig, BertModel, BertTokenizer

from compress.synthetic import generator

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
pytest.register_assert_rewrite("configs", "folders", "reports")
sys.dont_write_bytecode = False  # else each run of pytest rewrites and compiles all tests anew

FIRST = ("cluster", "plan_measured", "launcher", "study_launch", "architectures")
FIRST += ("benchmark_families", "golden", "interrupts", "compressions", "resume", "parity")
FIRST += ("importance_engine", "soak", "other_teacher", "onnx_export", "prepare", "rows")
FIRST += ("schedule", "single_run", "one_run", "frozen")
"""Files that take longest, in this order."""
SLOWEST = 5.0
"""Seconds that a test of the fast tier may take; the smaller of processor time and wall-clock time."""


def pytest_configure(config):
    """Examples that hypothesis draws for a test: fewer in the fast tier."""
    examples = 10 if config.option.markexpr == "fast" else 20
    settings.register_profile(
        "tests", deadline=None, max_examples=examples, derandomize=True, database=None
    )
    settings.load_profile("tests")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark as `fast` what has none of the other marks of this kind; the longest files come first.

    With several processes (`pytest -n 2 --dist loadfile`) each takes whole files in this order.
    """
    for item in items:
        if not {"slow", "launcher", "cluster", "gpu"} & {mark.name for mark in item.iter_markers()}:
            item.add_marker("fast")
    order = {f"test_{name}.py": number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """In a run of the fast tier alone, fail a test that takes long: the tier has to stay fast."""
    processor, clock = sum(os.times()[:4]), time.perf_counter()
    result = yield
    spent = min(sum(os.times()[:4]) - processor, time.perf_counter() - clock)
    if spent > SLOWEST and item.config.option.markexpr == "fast":
        pytest.fail(f"takes {spent:.1f} s; mark it with pytest.mark.slow or make it faster")
    return result


SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
NLI_LABELS = ("entailment", "neutral", "contradiction")
HEURISTICS = ("lexical_overlap", "subsequence", "constituent")


def _table_bytes(suffix, rows):
    if suffix == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if suffix == ".parquet":
        target = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), target)
        return target.getvalue()
    cells = [list(rows[0]), *([row[name] for name in rows[0]] for row in rows)]
    if suffix == ".csv":
        text = io.StringIO(newline="")
        csv.writer(text).writerows(cells)
        return text.getvalue().encode()
    assert suffix in {".tsv", ".txt"}
    return "".join("\t".join(map(str, row)) + "\n" for row in cells).encode()


@pytest.fixture(scope="session")
def write_table():
    """Function (file, rows) -> file: writes dictionaries in the format that the file's name says."""

    def write(file, rows):
        name = file.name.removesuffix(".gz")
        content = _table_bytes(Path(name).suffix, rows)
        file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
        return file

    return write


def nli_rows(size, two_classes=False, seed=0):
    """Give NLI pairs that a tiny model can learn; with two_classes, HANS' labels and heuristics."""
    nouns, verbs = generator.NOUNS, generator.VERBS
    rows = []
    for number in range(size):
        turn = seed * 7919 + number
        agent, patient = nouns[turn % len(nouns)][0], nouns[(turn * 5 + 1) % len(nouns)][1]
        verb = verbs[(turn // 3) % len(verbs)][0]
        other = verbs[(turn // 3 + 1) % len(verbs)][0]
        label = NLI_LABELS[number % 3]
        told = {
            "entailment": f"the {agent} {verb} the {patient} .",
            "neutral": f"the {agent} {other} the {patient} .",
            "contradiction": f"the {patient} {verb} the {agent} .",
        }
        place = generator.PLACES[turn % len(generator.PLACES)]
        row = {
            "premise": f"in the {place} , {told['entailment']}",
            "hypothesis": told[label],
            "label": label,
        }
        if two_classes:
            row["label"] = label if label == "entailment" else "not_entailment"
            row["heuristic"] = HEURISTICS[number // 3 % 3]
        rows.append(row)
    return rows


@pytest.fixture(scope="session")
def nli_folder(write_table):
    """Function (folder, format, **sizes) -> folder: writes a data_dir for the task `mnli`.

    sizes: split name -> rows; default train=48, dev=24, ood_hans=24; 0 leaves the file out.
    """

    def write(folder, format=".jsonl", **sizes):
        folder.mkdir(parents=True, exist_ok=True)
        sizes = {"train": 48, "dev": 24, "ood_hans": 24, **sizes}
        for seed, (split, size) in enumerate(sizes.items()):
            if size:
                rows = nli_rows(size, two_classes=split == "ood_hans", seed=seed)
                write_table(folder / f"{split}{format}", rows)
        return folder

    return write


@pytest.fixture
def small_task(tmp_path, nli_folder):
    """A data_dir of the task `mnli`: 6 rows of train, 3 of dev, 6 of HANS."""
    return nli_folder(tmp_path / "nli", train=6, dev=3, ood_hans=6)


@pytest.fixture
def put_split(small_task, write_table):
    """Function (split, rows, suffix) -> file: replaces a split of `small_task`."""

    def write(split, rows, suffix=".jsonl"):
        for old in small_task.glob(f"{split}.*"):
            old.unlink()
        return write_table(small_task / f"{split}{suffix}", rows)

    return write


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Directory of a random BERT encoder without head and its tokenizer; treat it as read-only."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    words = tuple(dict.fromkeys((*SPECIAL, *generator.vocabulary(), ",", ".", "not")))
    tokenizer = BertTokenizer(
        vocab={word: number for number, word in enumerate(words)},
        do_lower_case=True,
        model_max_length=64,
    )
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def four_heads(tiny_model, tmp_path_factory):
    """Directory of a random encoder of four layers of four heads: every file removes something."""
    folder = tmp_path_factory.mktemp("four_heads") / "model"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
    lengths = {"intermediate_size": 64, "max_position_embeddings": 64}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=len(tokenizer), **sizes, **lengths)).save_pretrained(folder)
    return folder


LIBC = ctypes.CDLL(None, use_errno=True)


def mount(place, flags=0, options="size=300k"):
    """Mount a small tmpfs, or change one; skip the test where this machine does not allow it."""
    words = (b"tmpfs", os.fsencode(place), b"tmpfs", flags, options.encode())
    if LIBC.mount(*words):
        pytest.skip(f"cannot mount a tmpfs here ({os.strerror(ctypes.get_errno())})")


@pytest.fixture
def small(tmp_path):
    """A directory on a disk of its own of 300 kB."""
    place = tmp_path / "small"
    place.mkdir()
    mount(place)
    yield place
    LIBC.umount2(os.fsencode(place), 2)
