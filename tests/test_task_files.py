"""Published files of the tasks, and tasks defined in JSON."""

import folders
import numpy as np
import pytest
from folders import encode_split, token_rows
from transformers import AutoTokenizer

from compress.configuration.config import RobustCompression
from compress.data import splits
from compress.data.columns import Columns
from compress.errors import UserError


def read(folder, task, **block):
    return folders.read(
        RobustCompression.model_validate(
            {"task": {"name": task, "data_dir": str(folder), **block}, "model": "unused"}
        )
    )


def questions(*labels, start=0, names=("question1", "question2", "is_duplicate")):
    return [
        dict(zip(names, (f"who is {n} ?", f"what is {n} ?", label), strict=True))
        for n, label in enumerate(labels, start)
    ]


@pytest.fixture
def qqp(tmp_path, write_table):
    write_table(tmp_path / "train.tsv", questions(0, 1, 1))
    write_table(tmp_path / "dev.tsv", questions("not_duplicate", "duplicate"))
    write_table(tmp_path / "ood_paws_wiki.jsonl", questions(1, 0, start=10))
    return tmp_path


def test_qqp_with_the_columns_of_the_published_file(qqp):
    data = read(qqp, "qqp")
    assert data.labels == ("not_duplicate", "duplicate")
    assert data.train.labels.tolist() == [0, 1, 1]
    assert data.train.texts[:][1] == ["what is 0 ?", "what is 1 ?", "what is 2 ?"]
    assert data.ood["paws_wiki"].labels.tolist() == [1, 0]


def test_paws_qqp_as_it_is_published(qqp, write_table):
    rows = [
        {"id": 1, "sentence1": "b'Who is X ?'", "sentence2": 'b"Who isn\'t X ?"', "label": 0},
        {"id": 2, "sentence1": "b'caf\\xc3\\xa9'", "sentence2": "plain", "label": 1},
        {"id": 3, "sentence1": "b'not closed", "sentence2": "b and c", "label": 1},
    ]
    write_table(qqp / "dev_and_test.tsv", rows)
    found = read(qqp, "qqp").ood["paws_qqp"]
    assert found.texts[:] == (
        ["Who is X ?", "caf\u00e9", "b'not closed"],
        ["Who isn't X ?", "plain", "b and c"],
    )
    assert found.labels.tolist() == [0, 1, 1]


def test_byte_strings_elsewhere_stay_as_they_are(qqp, write_table):
    names = ("question1", "question2", "label")
    write_table(qqp / "ood_mine.jsonl", [dict(zip(names, ("b'x'", "y", 1), strict=True))])
    assert read(qqp, "qqp").ood["mine"].texts[:][0] == ["b'x'"]


def test_symmetric_as_it_is_published(tmp_path, write_table):
    for split, start in (("train", 0), ("dev", 10)):
        rows = [
            {"claim": f"c{n}", "evidence": f"e{n}", "label": x}
            for n, x in enumerate(("SUPPORTS", "REFUTES"), start)
        ]
        write_table(tmp_path / f"{split}.jsonl", rows)
    first = {"claim": "a", "evidence_sentence": "b", "label": "REFUTES", "weight": 0.5}
    second = {"claim": "c", "evidence": "d", "gold_label": "SUPPORTS", "cid": 3}
    write_table(tmp_path / "fever_symmetric_generated.jsonl", [first])
    write_table(tmp_path / "fever_symmetric_test.jsonl", [second])
    ood = read(tmp_path, "fever").ood
    assert list(ood) == ["sym1", "sym2"]
    assert (ood["sym1"].texts[:], ood["sym1"].labels.tolist()) == ((["a"], ["b"]), [1])
    assert (ood["sym2"].texts[:], ood["sym2"].labels.tolist()) == ((["c"], ["d"]), [0])


DEFINITION = {
    "texts": ["question", "answer"],
    "labels": ["good", "bad", "ugly"],
    "label": "verdict",
    "train": "pairs",
    "ood": {
        "hard": {
            "file": "adversarial.tsv",
            "labels": ["fine", "not_fine"],
            "label_map": {"good": "fine", "bad": "not_fine", "ugly": "not_fine"},
            "subsets": ["kind"],
        }
    },
}


def answers(*labels, start=0, **more):
    return [
        {"question": f"q{n}", "answer": f"a{n}", "verdict": label, **more}
        for n, label in enumerate(labels, start)
    ]


@pytest.fixture
def mine(tmp_path, write_table):
    write_table(tmp_path / "pairs.csv", answers("good", "ugly", "bad"))
    write_table(tmp_path / "train.csv", answers("good"))
    write_table(tmp_path / "dev.jsonl", answers("bad", "good", start=10))
    write_table(tmp_path / "adversarial.tsv", answers("fine", "not fine", start=20, kind="swap"))
    return tmp_path


def test_a_task_defined_in_json_is_read(mine):
    data = read(mine, "mine", definition=DEFINITION)
    assert data.labels == ("good", "bad", "ugly")
    assert data.train.labels.tolist() == [0, 2, 1]
    assert list(data.ood) == ["hard"]
    assert data.ood["hard"].groups == (0, 1, 1)
    assert data.ood["hard"].labels.tolist() == [0, 1]
    assert data.ood["hard"].subsets == {"kind": ["swap", "swap"]}


def test_a_file_that_a_definition_names_and_is_not_there(mine):
    (mine / "pairs.csv").unlink()
    with pytest.raises(UserError, match=r"has no file pairs \("):
        read(mine, "mine", definition=DEFINITION)


def test_a_definitions_label_column_wins_over_one_called_label(mine, write_table):
    write_table(mine / "pairs.csv", answers("good", "ugly", "bad", label="good"))
    assert read(mine, "mine", definition=DEFINITION).train.labels.tolist() == [0, 2, 1]


def test_a_missing_column_is_called_as_the_definition_calls_it(mine, write_table):
    rows = [{"question": "q", "answer": "a", "label": "good", "verdickt": "good"}]
    write_table(mine / "pairs.csv", rows)
    for label, hint in (("lab", "label"), ("verdict", "verdickt")):
        with pytest.raises(UserError) as error:
            read(mine, "mine", definition={**DEFINITION, "label": label})
        assert str(error.value).startswith(f"{mine / 'pairs.csv'}: has no column '{label}'")
        assert f" '{hint}'?" in str(error.value)


def test_a_column_of_subsets_that_is_not_there(mine):
    definition = {**DEFINITION, "ood": {"hard": {**DEFINITION["ood"]["hard"], "subsets": ["kimd"]}}}
    with pytest.raises(UserError) as error:
        read(mine, "mine", definition=definition)
    assert str(error.value).startswith(f"{mine / 'adversarial.tsv'}: has no column 'kimd'")
    assert "'subsets'" in str(error.value) and "'kind'" in str(error.value)


def test_a_set_of_the_program_may_lack_the_columns_of_its_subsets(tmp_path, nli_folder, write_table):
    folder = nli_folder(tmp_path / "nli", ood_hans=0)
    row = {"premise": "p", "hypothesis": "h", "label": "entailment"}
    write_table(folder / "ood_hans.jsonl", [row])
    assert read(folder, "mnli").ood["hans"].subsets == {}


def test_a_text_may_be_called_label(mine, write_table):
    rows = [{"label": f"q{n}", "answer": "a", "verdict": w} for n, w in enumerate(DEFINITION["labels"])]
    for name in ("pairs.csv", "dev.jsonl"):
        write_table(mine / name, rows)
    definition = {**DEFINITION, "texts": ["label", "answer"], "ood": {"train": {}}}
    write_table(mine / "ood_train.csv", [{"label": "x", "answer": "y", "verdict": "bad"}])
    assert read(mine, "mine", definition=definition).train.texts[:][0] == ["q0", "q1", "q2"]


SYMMETRIC = {
    "texts": ["claim", "evidence"],
    "labels": ["SUPPORTS", "REFUTES"],
    "spellings": {"SUPPORTS": ["yes"]},
    "ood": {
        "first": {"file": "fever_symmetric_generated.jsonl", "texts": ["claim", "evidence_sentence"]},
        "second": {
            "file": "fever_symmetric_test",
            "label": "gold_label",
            "spellings": {"SUPPORTS": ["true", "yes"], "REFUTES": ["false"]},
        },
        "third": {
            "texts": ["b", "a"],
            "label": "c",
            "labels": ["right", "wrong"],
            "label_map": {"SUPPORTS": "right", "REFUTES": "wrong"},
            "spellings": {"wrong": ["no"]},
        },
    },
}


def test_an_ood_set_may_have_columns_and_spellings_of_its_own(tmp_path, write_table):
    """The columns of the task are there too, with something else in them."""
    for split, start in (("train", 0), ("dev", 10)):
        pairs = [("yes", start), ("REFUTES", start + 1)]
        rows = [{"claim": f"c{n}", "evidence": f"e{n}", "label": x} for x, n in pairs]
        write_table(tmp_path / f"{split}.jsonl", rows)
    first = {"claim": "a", "evidence_sentence": "b", "label": "REFUTES", "evidence": "other"}
    write_table(tmp_path / "fever_symmetric_generated.jsonl", [first])
    second = [
        {"claim": "c", "evidence": "d", "gold_label": word, "label": "REFUTES"}
        for word in ("True", "yes", "false", "SUPPORTS")
    ]
    write_table(tmp_path / "fever_symmetric_test.jsonl", second)
    write_table(tmp_path / "ood_third.csv", [{"a": "2", "b": "1", "c": x} for x in ("no", "right")])
    ood = read(tmp_path, "mine", definition=SYMMETRIC).ood
    assert (ood["first"].texts[:], ood["first"].labels.tolist()) == ((["a"], ["b"]), [1])
    assert (ood["second"].texts[:][1][0], ood["second"].labels.tolist()) == ("d", [0, 0, 1, 0])
    assert ood["third"].texts[:] == (["1", "1"], ["2", "2"])
    assert (ood["third"].labels.tolist(), ood["third"].groups) == ([1, 0], (0, 1))


@pytest.mark.parametrize(
    ("name", "key", "value", "sentence"),
    [
        ("first", "texts", ["claim", "evidense_sentence"], "'evidence_sentence'"),
        ("second", "label", "gold", "'gold_label'"),
        ("second", "spellings", {}, "unknown label 'true'"),
    ],
)
def test_a_column_or_word_that_an_ood_set_does_not_have(
    tmp_path, write_table, name, key, value, sentence
):
    rows = [{"claim": str(n), "evidence": "e", "label": n} for n in range(2)]
    for split in ("train", "dev"):
        write_table(tmp_path / f"{split}.jsonl", rows)
    row = {"claim": "a", "evidence_sentence": "b", "label": "REFUTES"}
    write_table(tmp_path / "fever_symmetric_generated.jsonl", [row])
    row = {"claim": "c", "evidence": "d", "gold_label": "true"}
    write_table(tmp_path / "fever_symmetric_test.jsonl", [row])
    entries = {**SYMMETRIC["ood"], name: {**SYMMETRIC["ood"][name], key: value}}
    definition = {**SYMMETRIC, "ood": {n: entries[n] for n in ("first", "second")}}
    with pytest.raises(UserError) as error:
        read(tmp_path, "mine", definition=definition)
    assert str(error.value).startswith(f"{tmp_path}/fever_symmetric_") and sentence in str(error.value)


def test_an_ood_set_of_a_definition_must_be_there(mine):
    (mine / "adversarial.tsv").rename(mine / "ood_other.tsv")
    with pytest.raises(UserError, match=r"has no file adversarial \("):
        read(mine, "mine", definition=DEFINITION)


def test_a_file_that_a_definition_names_is_no_set_of_its_own(mine, write_table):
    definition = {**DEFINITION, "ood": {"z": {"file": "ood_y.jsonl"}}}
    write_table(mine / "ood_y.jsonl", answers("good", start=40))
    assert list(read(mine, "mine", definition=definition).ood) == ["z"]
    write_table(mine / "ood_w.jsonl", answers("good", start=50))
    assert list(read(mine, "mine", definition=definition).ood) == ["w", "z"]


def test_more_ood_sets_from_a_folder_of_their_own(qqp, write_table, tmp_path_factory):
    more = tmp_path_factory.mktemp("more")
    write_table(more / "ood_mine.jsonl", questions(1, start=40))
    write_table(more / "dev_and_test.tsv", questions(1, 0, 1, start=50))
    data = read(qqp, "qqp", ood_dir=str(more))
    assert {name: len(split) for name, split in data.ood.items()} == {
        "mine": 1,
        "paws_qqp": 3,
        "paws_wiki": 2,
    }
    with pytest.raises(UserError, match=r"task\.ood_dir: '/nowhere' is not a folder"):
        read(qqp, "qqp", ood_dir="/nowhere")


@pytest.mark.parametrize("keep", [0, 1])
def test_the_kept_text_is_cut_last(tiny_model, tmp_path, keep):
    """A claim of more than half the room stays whole where the plain rule would cut both."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    long, longer = "doctor " * 12, "lawyer " * 30
    texts = ([long, long, "doctor"], [longer, "lawyer", longer])
    texts = texts if keep == 0 else texts[::-1]
    split = splits.Split.of(texts, np.zeros(3, np.int64), ("x", "y"), (0, 1))
    kept, cut = (tokenizer.convert_tokens_to_ids(word) for word in ("doctor", "lawyer"))
    counts = {}
    for name, which in (("plain", None), ("kept", keep)):
        encode_split(split, tokenizer, 20, tmp_path / name, which)
        rows = token_rows(Columns.open(tmp_path / name, 0))
        assert all(len(ids) <= 20 for ids in rows)
        counts[name] = [(ids.count(kept), ids.count(cut)) for ids in rows]
    assert counts["plain"][0] == (8, 9) or counts["plain"][0] == (9, 8)
    assert counts["kept"] == [(12, 5), (12, 1), (1, 16)]
    assert counts["plain"][1:] == counts["kept"][1:]
    both = splits.Split.of(([longer], [longer]), np.zeros(1, np.int64), ("x", "y"), (0, 1))
    encode_split(both, tokenizer, 20, tmp_path / "both", keep)
    assert len(token_rows(Columns.open(tmp_path / "both", 0))[0]) == 20
