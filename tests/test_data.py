"""Splits of a task: read from files, the hub or the benchmark, checked, and tokenised once."""

import datasets
import numpy as np
import pytest
from transformers import AutoTokenizer, RobertaTokenizer

from compress.configuration.config import RobustCompression
from compress.data import splits
from compress.data.reading import SUFFIXES
from compress.errors import UserError

PAIR = {"premise": "a b", "hypothesis": "b"}
NLI = ("entailment", "neutral", "contradiction")


def config(task="mnli", ood=None, **block):
    return RobustCompression.model_validate(
        {"task": {"name": task, **block}, "model": "unused", "evaluation": {"ood": ood}}
    )


def from_folder(folder, task="mnli", ood=None, **block):
    return splits.read(config(task, ood, data_dir=str(folder), **block))


def error_of(folder, *words, **options):
    with pytest.raises(UserError) as caught:
        from_folder(folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def labelled(*labels, start=0):
    return [
        {"premise": f"p{n}", "hypothesis": f"h{n}", "label": x} for n, x in enumerate(labels, start)
    ]


def renamed(rows, **names):
    return [{names.get(key, key): value for key, value in row.items()} for row in rows]


@pytest.fixture
def folder(tmp_path, nli_folder):
    return nli_folder(tmp_path / "nli", train=6, dev=3, ood_hans=6)


@pytest.fixture
def put(folder, write_table):
    """Function (split, rows, suffix): replaces a split of the folder."""

    def write(split, rows, suffix=".jsonl"):
        for old in folder.glob(f"{split}.*"):
            old.unlink()
        return write_table(folder / f"{split}{suffix}", rows)

    return write


# Content


def test_a_folder_gives_texts_labels_and_subsets(tmp_path, write_table):
    write_table(tmp_path / "train.jsonl", labelled("neutral", "entailment", "contradiction"))
    write_table(tmp_path / "dev.csv", labelled("contradiction", "neutral"))
    hans = [
        {**row, "heuristic": f"kind {n}"} for n, row in enumerate(labelled("non-entailment", start=9))
    ]
    write_table(tmp_path / "ood_hans.tsv", hans)
    read = from_folder(tmp_path)
    assert read.labels == NLI
    assert read.train.texts == (["p0", "p1", "p2"], ["h0", "h1", "h2"])
    assert read.train.labels.tolist() == [1, 0, 2]
    assert read.train.labels.dtype == np.int64
    assert (read.train.names, read.train.groups) == (NLI, (0, 1, 2))
    assert read.dev.labels.tolist() == [2, 1]
    assert read.ood["hans"].labels.tolist() == [1]
    assert read.ood["hans"].names == ("entailment", "not_entailment")
    assert read.ood["hans"].groups == (0, 1, 1)
    assert read.ood["hans"].subsets == {"heuristic": ["kind 0"]}
    assert [len(split) for split in read.splits().values()] == [3, 2, 1]
    assert list(read.splits()) == ["train", "dev", "ood_hans"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_format_of_the_files_does_not_matter(tmp_path, nli_folder, suffix):
    sizes = {"train": 6, "dev": 3, "ood_hans": 9}
    first = from_folder(nli_folder(tmp_path / "a", **sizes))
    second = from_folder(nli_folder(tmp_path / "b", format=suffix, **sizes))
    assert first.fingerprint() == second.fingerprint()
    assert first.ood["hans"].subsets == second.ood["hans"].subsets
    assert len(set(first.ood["hans"].subsets["heuristic"])) == 3


@pytest.mark.parametrize(
    "written",
    [
        ("entailment", "neutral", "contradiction"),
        ("Entailment", " NEUTRAL", "Contradiction "),
        (0, 1, 2),
        ("0", "1", "2"),
    ],
    ids=["words", "other case", "ids", "ids as strings"],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".txt", ".parquet"])
def test_labels_as_words_and_ids(folder, put, written, suffix):
    put("train", labelled(*reversed(written)), suffix)
    assert from_folder(folder).train.labels.tolist() == [2, 1, 0]


def test_columns_of_the_published_files(folder, put):
    names = {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"}
    extra = [{"annotator": "x", **row} for row in labelled(*NLI)]
    put("train", renamed(extra, **names))
    read = from_folder(folder).train
    assert read.texts == (["p0", "p1", "p2"], ["h0", "h1", "h2"])
    assert read.labels.tolist() == [0, 1, 2]


HANS = [
    ("non-entailment", "The president advised the doctor .", "The doctor advised the president ."),
    ("entailment", 'The judge said "stop" by the actor .', "The judge spoke ."),
]


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".txt.gz"])
def test_the_published_hans_file_is_read_as_it_is(folder, put, write_table, suffix):
    (folder / "ood_hans.jsonl").unlink()
    rows = [
        {
            "gold_label": label,
            "sentence1_binary_parse": "( ( The judge ) )",
            "sentence2_binary_parse": "( ( The ) )",
            "sentence1_parse": "(ROOT (S))",
            "sentence2_parse": "(ROOT (S))",
            "sentence1": first,
            "sentence2": second,
            "pairID": f"ex{number}",
            "heuristic": "lexical_overlap",
            "subcase": "ln_subject/object_swap",
            "template": "temp1",
        }
        for number, (label, first, second) in enumerate(HANS)
    ]
    write_table(folder / f"heuristics_evaluation_set{suffix}", rows)
    read = from_folder(folder).ood
    assert list(read) == ["hans"]
    assert read["hans"].labels.tolist() == [1, 0]
    assert read["hans"].texts == ([row[1] for row in HANS], [row[2] for row in HANS])
    assert read["hans"].subsets == {"heuristic": ["lexical_overlap"] * 2}


def test_hans_twice_is_an_error(folder, write_table):
    write_table(folder / "heuristics_evaluation_set.txt", labelled("entailment"))
    error_of(folder, str(folder), "ood_hans.jsonl", "heuristics_evaluation_set.txt")


def fever(*labels, claim="claim", evidence="evidence", start=0):
    return [{claim: f"c{n}", evidence: f"e{n}", "label": x} for n, x in enumerate(labels, start)]


@pytest.fixture
def fever_folder(tmp_path, write_table):
    def write(train, dev=("SUPPORTS", "REFUTES"), sym1=("REFUTES", "SUPPORTS"), **names):
        for split, labels in (("train", train), ("dev", dev), ("ood_sym1", sym1)):
            start = 10 * split.startswith("ood")
            write_table(tmp_path / f"{split}.jsonl", fever(*labels, **names, start=start))
        return tmp_path

    return write


def test_fever_with_two_classes(fever_folder):
    read = from_folder(fever_folder(("REFUTES", "SUPPORTS", "SUPPORTS")), task="fever")
    assert read.labels == ("SUPPORTS", "REFUTES")
    assert read.train.labels.tolist() == [1, 0, 0]
    assert read.train.texts == (["c0", "c1", "c2"], ["e0", "e1", "e2"])
    assert read.ood["sym1"].names == ("SUPPORTS", "REFUTES")
    assert read.ood["sym1"].groups == (0, 1)
    assert read.ood["sym1"].labels.tolist() == [1, 0]


def test_fever_with_three_classes(fever_folder):
    train = ("NOT ENOUGH INFO", "REFUTES", "SUPPORTS")
    read = from_folder(fever_folder(train, dev=train), task="fever")
    assert read.labels == ("SUPPORTS", "REFUTES", "NOT ENOUGH INFO")
    assert read.train.labels.tolist() == read.dev.labels.tolist() == [2, 1, 0]
    assert read.ood["sym1"].names == read.labels
    assert read.ood["sym1"].groups == (0, 1, 2)


def test_fever_with_labels_and_columns_of_nli(fever_folder):
    names = {"claim": "premise", "evidence": "evidence_sentence"}
    train = ("entailment", "contradiction", "neutral", "NEI", "supports", "not_enough_info")
    read = from_folder(fever_folder(train, **names), task="fever")
    assert read.train.labels.tolist() == [0, 1, 2, 2, 0, 2]
    assert read.train.texts[0][0] == "c0"
    assert read.train.texts[1][0] == "e0"


def test_a_third_class_that_train_does_not_have(fever_folder):
    folder = fever_folder(("REFUTES", "SUPPORTS"), dev=("SUPPORTS", "NOT ENOUGH INFO"))
    message = error_of(folder, str(folder / "dev.jsonl"), "row 2", "NOT ENOUGH INFO", task="fever")
    assert "known are SUPPORTS, REFUTES and 0 to 1" in message


# OOD sets


def test_an_unknown_set_is_picked_up(folder, write_table):
    write_table(folder / "ood_mine.jsonl", labelled("neutral", "contradiction"))
    write_table(folder / "ood_a.b.csv.gz", labelled("neutral"))
    (folder / "ood_notes.md").touch()
    read = from_folder(folder).ood
    assert list(read) == ["a.b", "hans", "mine"]
    assert read["mine"].labels.tolist() == [1, 2]
    assert (read["mine"].names, read["mine"].groups) == (NLI, (0, 1, 2))
    assert read["mine"].subsets == {}


def test_the_asked_sets_are_read_in_their_order(folder, write_table):
    write_table(folder / "ood_mine.jsonl", labelled("neutral"))
    write_table(folder / "ood_other.jsonl", [{"broken": 1}])
    assert list(from_folder(folder, ood=["mine", "hans"]).ood) == ["mine", "hans"]
    assert list(from_folder(folder, ood=["hans"]).ood) == ["hans"]


def test_an_unknown_set_that_is_asked_for(folder):
    error_of(folder, "robust_compression.evaluation.ood", "'hens'", "mean 'hans'", ood=["hens"])


def test_a_folder_without_any_set(folder):
    (folder / "ood_hans.jsonl").unlink()
    error_of(folder, str(folder), "OOD", "ood_<name>")


def test_the_stress_sets_report_by_test(folder, write_table):
    rows = [{**row, "test": kind} for row, kind in zip(labelled(0, 1), "ab", strict=True)]
    write_table(folder / "ood_stress.jsonl", rows)
    assert from_folder(folder).ood["stress"].subsets == {"test": ["a", "b"]}


# Errors


@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_missing_file(folder, split):
    (folder / f"{split}.jsonl").unlink()
    error_of(folder, str(folder), f"no file {split}", ".jsonl", ".parquet", ".gz")


def test_two_files_for_a_split(folder, write_table):
    write_table(folder / "dev.csv", labelled(*NLI))
    error_of(folder, "dev.csv", "dev.jsonl")


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_data_dir_that_is_no_folder(tmp_path, kind):
    place = tmp_path / "place"
    if kind == "file":
        place.write_text("x")
    error_of(place, "robust_compression.task.data_dir", str(place), "not a folder")


@pytest.mark.parametrize("split", ["train", "dev", "ood_hans"])
@pytest.mark.parametrize(
    ("column", "typed"), [("premise", "premiss"), ("hypothesis", "hypotesis"), ("label", "labels")]
)
def test_a_missing_column_and_the_nearest(folder, put, split, column, typed):
    file = put(split, renamed(labelled("entailment"), **{column: typed}))
    error_of(folder, str(file), f"no column '{column}'", f"mean '{typed}'")


@pytest.mark.parametrize("split", ["train", "dev", "ood_hans"])
@pytest.mark.parametrize("label", ["entailmant", 3, -1, "-", "", 1.5, True])
def test_an_unknown_label(folder, put, split, label):
    file = put(split, [*labelled("entailment"), {**PAIR, "label": label}])
    error_of(folder, f"{file}: row 2", f"'{label}'", "known are entailment, n")


def test_a_label_of_the_task_that_the_set_does_not_have(folder, put):
    file = put("ood_hans", labelled("entailment", "not_entailment", "neutral"))
    error_of(folder, f"{file}: row 3", "'neutral'")


def test_the_row_of_an_error_is_the_line_of_the_file(folder, put):
    file = put("dev", [*labelled("entailment", "neutral"), {**PAIR, "label": "x"}], ".csv")
    error_of(folder, f"{file}: row 4")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("column", ["premise", "hypothesis", "label"])
def test_a_null_cell(folder, put, suffix, column):
    row = {**PAIR, "label": "neutral", column: None}
    file = put("dev", [*labelled("entailment"), row], suffix)
    error_of(folder, f"{file}: row 2", f"'{column}'")


def test_a_key_that_only_some_rows_have(folder, put):
    file = put("dev", [*labelled("entailment"), {**PAIR, "gold_label": "neutral"}])
    error_of(folder, f"{file}: row 2", "'label'")


@pytest.mark.parametrize("column", ["premise", "hypothesis"])
@pytest.mark.parametrize("value", [7, ["a"], {"a": 1}])
def test_a_text_that_is_none(folder, put, column, value):
    file = put("dev", [{**PAIR, "label": "neutral", column: value}])
    error_of(folder, f"{file}: row 1", f"'{column}'", "not a text")


@pytest.mark.parametrize("split", ["train", "dev", "ood_hans"])
def test_a_text_that_no_encoding_can_write(folder, split):
    """JSON can say half of a surrogate pair; nothing later can hash or tokenise it."""
    file = folder / f"{split}.jsonl"
    row = '{"premise": "a \\ud800", "hypothesis": "b", "label": "entailment", "heuristic": "x"}\n'
    file.write_text(file.read_text() + row)
    number = len(file.read_text().splitlines())
    with pytest.raises(UserError, match=f"row {number}"):
        from_folder(folder).fingerprint()


@pytest.mark.parametrize("split", ["train", "dev", "ood_hans"])
@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_split(folder, split, content):
    file = folder / f"{split}.jsonl"
    file.write_text(content)
    error_of(folder, str(file), "no sample")


def test_a_table_with_a_header_only(folder):
    (folder / "dev.jsonl").unlink()
    (folder / "dev.csv").write_text("premise,hypothesis,label\n")
    error_of(folder, "dev.csv", "no sample")


@pytest.mark.parametrize("missing", NLI)
def test_a_class_that_train_does_not_have(folder, put, missing):
    file = put("train", labelled(*(label for label in NLI if label != missing)))
    error_of(folder, str(file), f"'{missing}'")


def test_a_dev_split_with_one_class(folder, put):
    put("dev", labelled("neutral", "neutral"))
    error_of(folder, "dev", "same label")


def test_train_samples_that_leave_one_class(folder, put):
    put("train", labelled("neutral", "neutral", "entailment", "contradiction"))
    error_of(folder, "train", "same label", train_samples=2)
    assert from_folder(folder, train_samples=4).labels == NLI


def test_train_samples_takes_the_first_rows(folder):
    whole, part = from_folder(folder), from_folder(folder, train_samples=4)
    assert len(whole.train) == 6
    assert part.train.texts == (whole.train.texts[0][:4], whole.train.texts[1][:4])
    assert part.train.labels.tolist() == whole.train.labels.tolist()[:4]
    assert part.dev.fingerprint() == whole.dev.fingerprint()
    assert part.train.fingerprint() != whole.train.fingerprint()
    assert from_folder(folder, train_samples=6).fingerprint() == whole.fingerprint()


def test_train_samples_beyond_the_file(folder):
    error_of(folder, "robust_compression.task.train_samples is 7", "has 6", train_samples=7)


# Fingerprints


def change_text(rows):
    rows[1]["hypothesis"] += " "


def change_label(rows):
    rows[1]["label"] = next(label for label in NLI if label != rows[1]["label"])


def swap_rows(rows):
    rows[0], rows[1] = rows[1], rows[0]


def swap_texts(rows):
    rows[1]["premise"], rows[1]["hypothesis"] = rows[1]["hypothesis"], rows[1]["premise"]


def drop_row(rows):
    rows.pop()


def double_row(rows):
    rows.append(rows[-1])


@pytest.mark.parametrize("split", ["train", "dev", "ood_mine"])
@pytest.mark.parametrize(
    "change", [change_text, change_label, swap_rows, swap_texts, drop_row, double_row]
)
def test_any_change_of_content_changes_the_fingerprint(folder, put, split, change):
    rows = labelled(*NLI, *NLI, start=20 * (split == "ood_mine"))
    put("ood_mine", labelled(*NLI, start=20))
    put(split, rows)
    before = from_folder(folder)
    change(rows)
    put(split, rows)
    after = from_folder(folder)
    assert before.fingerprint() != after.fingerprint()
    for name in before.splits():
        same = before.fingerprint(name) == after.fingerprint(name)
        assert same == (name != split)
        assert (before.splits()[name].fingerprint() == after.splits()[name].fingerprint()) == same


def split_of(*pairs, names=("x", "y"), groups=(0, 1)):
    firsts, seconds = [list(texts) for texts in zip(*pairs, strict=True)]
    return splits.Split((firsts, seconds), np.zeros(len(pairs), np.int64), names, groups)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (split_of(("a\0b", "c")), split_of(("a", "b\0c"))),
        (split_of(("a", "b\0000\nc\0d")), split_of(("a", "b"), ("c", "d"))),
        (split_of(("a", "b")), split_of(("a", "b"), names=("y", "x"))),
        (split_of(("a", "b")), split_of(("a", "b"), groups=(0, 0))),
    ],
    ids=["NUL inside", "row inside", "names", "groups"],
)
def test_different_content_never_has_one_fingerprint(one, other):
    assert one.fingerprint() != other.fingerprint()


# The hub


def hub_table(names, rows, start=0, **columns):
    features = {"premise": "string", "hypothesis": "string", "idx": "int64"}
    features |= dict.fromkeys(columns, "string")
    types = datasets.Features(
        {name: datasets.Value(kind) for name, kind in features.items()}
        | {"label": datasets.ClassLabel(names=list(names))}
    )
    numbers = range(start, start + len(rows))
    texts = {"premise": [f"p{n}" for n in numbers], "idx": list(numbers)}
    texts["hypothesis"] = [f"h{n}" for n in numbers]
    return datasets.Dataset.from_dict({**texts, "label": rows, **columns}, features=types)


@pytest.fixture
def fake_hub(monkeypatch):
    """Function (tables by (path, split)) -> list of what was asked of the hub."""

    def serve(tables):
        asked = []

        def load_split(path, config, split, revision):
            asked.append((path, config, split, revision))
            return tables[path, split]

        monkeypatch.setattr("compress.data.hub.load_split", load_split)
        return asked

    return serve


def test_class_ids_of_the_hub_are_mapped_by_name(fake_hub):
    names = ("contradiction", "entailment", "neutral")
    asked = fake_hub(
        {
            ("nyu-mll/glue", "train"): hub_table(names, [0, 1, 2, 2]),
            ("nyu-mll/glue", "validation_matched"): hub_table(names, [2, 1]),
            ("jhu-cogsci/hans", "validation"): hub_table(
                ("non-entailment", "entailment"), [0, 1], start=9, heuristic=["a", "b"]
            ),
        }
    )
    read = splits.read(config())
    assert read.train.labels.tolist() == [2, 0, 1, 1]
    assert read.train.texts == (["p0", "p1", "p2", "p3"], ["h0", "h1", "h2", "h3"])
    assert read.dev.labels.tolist() == [1, 0]
    assert list(read.ood) == ["hans"]
    assert read.ood["hans"].labels.tolist() == [1, 0]
    assert read.ood["hans"].subsets == {"heuristic": ["a", "b"]}
    assert asked == [
        ("nyu-mll/glue", "mnli", "train", None),
        ("nyu-mll/glue", "mnli", "validation_matched", None),
        ("jhu-cogsci/hans", None, "validation", "refs/convert/parquet"),
    ]


def test_a_label_that_the_hub_leaves_out(fake_hub):
    for missing in (-1, None):
        fake_hub({("nyu-mll/glue", "train"): hub_table(NLI, [0, 1, 2, missing])})
        with pytest.raises(UserError, match=r"nyu-mll/glue \(train\): row 4"):
            splits.read(config())


def test_a_set_that_the_hub_does_not_have(fake_hub):
    table = hub_table(("entailment", "contradiction"), [0, 1])
    fake_hub({("pietrolesci/nli_fever", split): table for split in ("train", "dev")})
    with pytest.raises(UserError, match=r"hub: has no OOD set of fever.*task\.data_dir"):
        splits.read(config("fever"))
    with pytest.raises(UserError, match=r"evaluation\.ood.*'sym1'"):
        splits.read(config("fever", ood=["sym1"]))


# The embedded benchmark


def test_the_benchmark():
    sizes = {"train": 40, "dev": 20, "ood": 30}
    read = splits.read(config("synthetic", synthetic=sizes))
    assert read.labels == ("entailment", "not_entailment")
    assert [len(split) for split in (read.train, read.dev, read.ood["synthetic"])] == [40, 20, 30]
    assert list(read.ood) == ["synthetic"]
    assert set(read.train.subsets) == {"alignment"}
    assert set(read.ood["synthetic"].subsets) == {"structure"}
    assert len(set(read.ood["synthetic"].subsets["structure"])) == 6
    assert read.ood["synthetic"].labels.sum() == 15
    again = splits.read(config("synthetic", synthetic=sizes))
    other = splits.read(config("synthetic", synthetic={**sizes, "seed": 1}))
    assert read.fingerprint() == again.fingerprint()
    for name in read.splits():
        assert read.fingerprint(name) != other.fingerprint(name)


def test_a_benchmark_that_is_too_large():
    with pytest.raises(UserError, match=r"robust_compression\.task\.synthetic: .*at most"):
        splits.read(config("synthetic", synthetic={"train": 10_000_000}))


# Encoding


@pytest.fixture(scope="module")
def bert(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def roberta():
    letters = [*"abcdefghijklmnopqrstuvwxyz", "\u0120"]
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters]
    vocabulary = {word: number for number, word in enumerate(words)}
    return RobertaTokenizer(vocab=vocabulary, merges=[])


def encoded(split, tokenizer, length, folder):
    splits.encode(split, tokenizer, length, folder)
    return datasets.load_from_disk(str(folder))


def test_encode_gives_what_the_tokenizer_gives(tmp_path, bert, nli_folder):
    split = from_folder(nli_folder(tmp_path / "nli")).train
    table = encoded(split, bert, 64, tmp_path / "arrow")
    assert set(table.column_names) == {"input_ids", "token_type_ids", "length", "label"}
    assert table["label"][:] == split.labels.tolist()
    for number in (0, 7, 47):
        pair = bert(split.texts[0][number], split.texts[1][number])
        assert table[number]["input_ids"] == pair["input_ids"]
        assert table[number]["token_type_ids"] == pair["token_type_ids"]
        assert bert.unk_token_id not in pair["input_ids"]
    assert table["length"][:] == [len(ids) for ids in table["input_ids"]]


def test_encode_is_mapped_into_memory(tmp_path, bert):
    table = encoded(split_of(("the king", "the cook")), bert, 64, tmp_path / "arrow")
    assert table.cache_files
    for file in table.cache_files:
        assert str(tmp_path) in file["filename"]


@pytest.mark.parametrize("long_first", [True, False])
def test_truncation_keeps_both_texts(tmp_path, bert, long_first):
    long, short = "the king " * 100, "the cook hid"
    pair = (long, short) if long_first else (short, long)
    equal = (long, long)
    table = encoded(split_of(pair, (short, short), equal), bert, 16, tmp_path / "arrow")
    assert table["length"][:] == [16, 9, 16]
    assert table["length"][:] == [len(ids) for ids in table["input_ids"]]
    kept = [bert.convert_ids_to_tokens(ids) for ids in table["input_ids"]]
    first, second = [part.split() for part in " ".join(kept[0]).split("[SEP]")[:2]]
    assert first[0] == "[CLS]"
    whole, cut = (second, first[1:]) if long_first else (first[1:], second)
    assert whole == short.split()
    assert cut == long.split()[:10]
    assert abs(table[2]["token_type_ids"].count(1) - 8) <= 1, "two long texts are cut alike"


def test_a_roberta_has_no_token_types(tmp_path, roberta):
    split = split_of(("abc", "de"), ("abc " * 50, "de"))
    table = encoded(split, roberta, 12, tmp_path / "arrow")
    assert set(table.column_names) == {"input_ids", "length", "label"}
    assert table[0]["input_ids"] == roberta("abc", "de")["input_ids"]
    assert table["length"][:] == [len(table[0]["input_ids"]), 12]
    ends = [n for n, token in enumerate(table[1]["input_ids"]) if token == roberta.sep_token_id]
    assert ends == [7, 8, 11]
