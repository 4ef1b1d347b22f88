"""Pairs that stand in two splits: refused with a list, or dropped from train, and counted."""

import json
import unicodedata
from types import SimpleNamespace

import folders
import numpy as np
import pytest
from folders import config, error_of, from_folder
from reports import metrics

from compress.errors import UserError
from compress.reporting import report
from compress.scoring import evaluation
from compress.stages import results

KEY = "robust_compression.task.drop_overlap"


def questions(*labels, start=0, names=("question1", "question2", "label")):
    return [
        dict(zip(names, (f"who is {n} ?", f"what is {n} ?", label), strict=True))
        for n, label in enumerate(labels, start)
    ]


def swapped(rows):
    return [{**r, "question1": r["question2"], "question2": r["question1"]} for r in rows]


@pytest.fixture
def folder(tmp_path, write_table):
    """Ten pairs of train in a table (rows 2 to 11), two of dev and three of an OOD set."""
    place = tmp_path / "pairs"
    place.mkdir()
    write_table(place / "train.tsv", questions(*[0, 1] * 5))
    write_table(place / "dev.jsonl", questions(0, 1, start=20))
    write_table(place / "ood_mine.jsonl", questions(0, 1, 1, start=30))
    return place


@pytest.fixture
def put(folder, write_table):
    return lambda split, rows: write_table(folder / f"{split}.jsonl", rows)


def read(folder, output_dir=None, task="qqp", **block):
    return folders.read(config(task, data_dir=str(folder), **block), output_dir)


def listed(output_dir):
    return [json.loads(line) for line in (output_dir / "overlap.jsonl").read_text().splitlines()]


CASES = {"upper": str.upper, "blanks": lambda text: f"  {text} ", "same": lambda text: text}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_pair_of_train_whatever_its_case_and_blanks(folder, put, case):
    leak = {k: case(v) if isinstance(v, str) else v for k, v in questions(0, start=2)[0].items()}
    file = put("ood_mine", [*questions(1, start=30), leak])
    sentence = error_of(folder, "row 4 of train", "share no sample", KEY, task="qqp")
    for fact in ("1 of 2 samples", str(file), str(folder / "train.tsv"), "row 2 ("):
        assert fact in sentence
    assert "who is 2 ?" in sentence.lower()


def test_a_pair_of_train_in_another_form_of_unicode(folder, put):
    """Accents as characters of their own, marks without width, a blank that does not break."""
    texts = {"question1": "où est le café ?", "question2": "where is the coffee ?"}
    train = [*questions(0, 1, 0, 1), {**questions(0)[0], **texts}]
    (folder / "train.tsv").unlink()
    put("train", train)
    written = {key: unicodedata.normalize("NFD", text) for key, text in texts.items()}
    written["question2"] = "where\u00a0is \u200bthe cof\u00adfee ?"
    put("ood_mine", [*questions(1, start=30), {**questions(0, start=31)[0], **written}])
    assert "1 of 2 samples" in error_of(folder, "share no sample", task="qqp")


def test_all_sets_are_counted_and_every_sample_is_listed(folder, put, tmp_path):
    put("ood_mine", [*questions(1, start=30), *questions(0, 0, start=2)])
    put("ood_other", questions(1, start=40))
    put("ood_third", questions(*[1] * 4, start=7))
    sentence = error_of(folder, "2 of 3 samples", "ood_mine", "and 3 of 4 samples", "third", task="qqp")
    assert "ood_other" not in sentence
    with pytest.raises(UserError) as error:
        read(folder, tmp_path)
    assert str(tmp_path / "overlap.jsonl") in str(error.value)
    rows = listed(tmp_path)
    assert [(r["set"], r["row"], r["train_row"]) for r in rows] == [
        ("mine", 2, 4),
        ("mine", 3, 5),
        ("third", 1, 9),
        ("third", 2, 10),
        ("third", 3, 11),
    ]
    assert rows[1]["texts"] == rows[1]["train_texts"] == ["who is 3 ?", "what is 3 ?"]
    assert (rows[1]["label"], rows[1]["train_label"]) == ("not_duplicate", "duplicate")
    put("ood_mine", questions(1, start=30))
    put("ood_third", questions(1, start=50))
    read(folder, tmp_path)
    assert not (tmp_path / "overlap.jsonl").exists(), "the list of an earlier try is gone"


def test_exchanged_texts_are_the_same_pair_in_a_symmetric_task_only(folder, put, tmp_path):
    put("ood_mine", swapped(questions(0, start=2)))
    error_of(folder, "1 of 1 samples", "row 4 of train", task="qqp")
    definition = {"texts": ["question1", "question2"], "labels": ["other", "same"]}
    assert len(read(folder, task="mine", definition=definition).ood["mine"]) == 1
    with pytest.raises(UserError, match="1 of 1 samples"):
        read(folder, task="mine", definition={**definition, "symmetric": True})
    data = read(folder, drop_overlap=True)
    assert "who is 2 ?" not in data.train.texts[:][0] and len(data.train) == 9


def test_pairs_of_train_that_are_not_drawn_count_too(folder, put):
    for number in range(10):
        put("ood_mine", questions(0, start=number))
        error_of(folder, f"row {number + 2} of train", task="qqp", train_samples=4)
    put("ood_mine", questions(0, start=40))
    assert len(read(folder, train_samples=4).ood["mine"]) == 1


def test_a_dropped_pair_leaves_train_and_the_ood_set_stays_whole(folder, put, tmp_path):
    before = read(folder)
    put("train", [*questions(*[0, 1] * 5), *questions(1, start=3)])
    (folder / "train.tsv").unlink()
    put("ood_mine", [*questions(1, start=30), *questions(0, 0, start=2)])
    put("ood_third", questions(0, start=3))
    after = read(folder, tmp_path, drop_overlap=True)
    assert after.train.texts[:][0] == [f"who is {n} ?" for n in (0, 1, 4, 5, 6, 7, 8, 9)]
    assert after.train.labels.tolist() == [0, 1] * 4
    assert (len(after.ood["mine"]), len(after.ood["third"])) == (3, 1)
    assert after.train.fingerprint() != before.train.fingerprint()
    (note,) = after.notes
    assert note.startswith("3 of 11 samples of train were dropped") and "(mine 2, third 1)" in note
    assert note.endswith("; overlap.jsonl lists them.") and len(listed(tmp_path)) == 3
    part = read(folder, drop_overlap=True, train_samples=8)
    assert part.train.texts[:] == after.train.texts[:], "samples are drawn from what is left"
    error_of(
        folder, "is 9, but train has 8 samples after", task="qqp", drop_overlap=True, train_samples=9
    )


def test_nothing_to_drop_is_told(folder):
    (note,) = read(folder, drop_overlap=True).notes
    assert note.startswith(f"{KEY}: no OOD set holds a sample of train")
    assert read(folder).notes == ()


def test_dropping_that_leaves_no_class_or_no_sample(folder, put):
    put("ood_mine", [row for row in questions(*[0, 1] * 5) if row["label"]])
    error_of(folder, "no sample with the label 'duplicate' after", KEY, task="qqp", drop_overlap=True)
    put("ood_mine", questions(*[0, 1] * 5))
    error_of(folder, "leaves no sample", KEY, task="qqp", drop_overlap=True)


def test_dev_pairs_in_train_and_repeated_ones_are_notes(folder, put):
    put("dev", [*questions(0, 1, 1, start=8), *swapped(questions(1, start=5))])
    (note,) = read(folder).notes
    assert note.startswith("3 of 4 samples of dev are in train too")
    (folder / "train.tsv").unlink()
    put("train", [*questions(0, 1, 0), *questions(0, 0), *questions(0)])
    put("dev", questions(0, 1, start=20))
    repeated, contrary = read(folder).notes
    assert repeated.startswith("3 of 6 samples of train repeat")
    assert contrary.startswith("1 repeated texts of train") and "contradict" in contrary


def test_a_list_that_cannot_be_written_is_a_sentence(folder, put, tmp_path):
    put("ood_mine", questions(0, start=2))
    with pytest.raises(UserError, match=r"overlap\.jsonl: cannot be written"):
        read(folder, tmp_path / "missing")


def test_the_settings_of_a_task_are_read_from_json(folder):
    assert from_folder(folder, "qqp").task.symmetric
    assert not config("mnli").task.drop_overlap


def test_the_notes_stand_in_the_metrics_and_are_escaped_in_the_report(folder, put, tmp_path):
    """Apart from `notes`, which mark F_bias as doubtful."""
    put("dev", questions(0, 1, start=8))
    data = read(folder)
    scores = evaluation.Scores(np.log([[0.4, 0.6]] * 2), {"mine": np.log([[0.6, 0.4]] * 3)})
    labels = {"compression_label": "imp40", "mitigation_label": "rmc"}
    settings = SimpleNamespace(robust=config("qqp"), **labels)
    context = SimpleNamespace(data=data, config=settings, cut_notes=lambda: ["Cut to 8 tokens."])
    found = results.collect(context, {"teacher": scores, "student": scores}, None)
    assert found["data_notes"] == [*data.notes, "Cut to 8 tokens."] and len(data.notes) == 1
    assert not set(data.notes) & set(found["notes"])
    shown = metrics() | {"data_notes": ["2 of <b>9</b> samples"]}
    report.write_report(tmp_path / "report.html", shown, {}, None)
    page = (tmp_path / "report.html").read_text()
    assert "2 of &lt;b&gt;9&lt;/b&gt; samples" in page
