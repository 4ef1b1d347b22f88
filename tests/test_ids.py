"""Ids of samples, and given probabilities that name samples by them."""

import json
import random
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
from configs import Files
from folders import config, labelled, read
from stage_runs import run_of

from compress.data import ids, sources, tasks
from compress.data.rows import Rows, about, batches, write
from compress.data.splits import entry_of
from compress.errors import UserError
from compress.scoring import probabilities
from compress.stages import given_probabilities, prepare, stage
from compress.stages.prepare import SourceRows
from compress.stages.teacher import Teacher

OURS = "robust_compression"
NLI = ["entailment", "neutral", "contradiction"]


def data(size=12, name="id", first=100):
    """Rows with ids in no order."""
    found = labelled(*(NLI[n % 3] for n in range(size)))
    order = random.Random(3).sample(range(first, first + size), size)
    return [{**row, name: f"n-{one}"} for row, one in zip(found, order, strict=True)]


def scores(rows, name="id", seed=0):
    drawn = np.random.default_rng(seed).dirichlet([1, 1, 1], len(rows))
    found = [
        {name: row[name], **dict(zip(NLI, p.tolist(), strict=True))}
        for row, p in zip(rows, drawn, strict=True)
    ]
    return random.Random(1).sample(found, len(found))


@pytest.fixture
def folder(tmp_path, write_table):
    """Function (rows of train) -> a data_dir of the task mnli."""

    def make(train, suffix=".jsonl"):
        place = tmp_path / "data"
        place.mkdir(exist_ok=True)
        write_table(place / f"train{suffix}", train)
        write_table(place / "dev.jsonl", labelled(*NLI, start=50_000))
        write_table(place / "ood_x.jsonl", labelled(*NLI, start=90_000))
        return place

    return make


def rows_in_a_file(task, split, place, labels, file):
    """Rows as the stage keeps them, with what the table says of itself."""
    found = batches(task, labels, place, entry_of(task, split), 1)
    write(file, found, about(place, labels), lambda _: None)
    return Rows.open(file)


@pytest.fixture
def split(folder, tmp_path, monkeypatch):
    """Function (rows of train, column) -> the split train."""
    import folders

    def make(train, name="id", suffix=".jsonl", **block):
        def rows_of(task, part, place, labels):
            return rows_in_a_file(task, part, place, labels, tmp_path / f"{part}.arrow")

        monkeypatch.setattr(folders, "rows_of", rows_of)
        place = folder(train, suffix)
        return read(config(data_dir=str(place), id=name, **block)).train

    return make


def filled(file, part, name="id", processes=1):
    out = np.full((len(part), 3), np.nan)
    wanted = probabilities.Wanted.of("train", part, name)
    probabilities.read(file, wanted, NLI, out, processes)
    return out


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_rows_are_joined_by_id_as_pandas_joins_them(tmp_path, write_table, split, suffix):
    rows = data()
    given = scores(rows)
    file = write_table(tmp_path / f"train{suffix}", given)
    expected = pandas.DataFrame(rows)[["id"]].merge(pandas.DataFrame(given), how="left", on="id")
    np.testing.assert_allclose(filled(file, split(rows)), expected[NLI].to_numpy(), atol=1e-12)


def test_several_processes_and_drawn_samples(tmp_path, write_table, split):
    rows = data(5000, "pair id")
    given = scores(rows, "pair id")
    part = split(rows, "pair id", ".parquet", train_samples=1700)
    merged = pandas.DataFrame(rows)[["pair id"]].merge(pandas.DataFrame(given), on="pair id")
    used = merged.iloc[part.texts.places]
    lacking = {row["pair id"] for row in rows} - set(used["pair id"])
    some = [row for row in given if row["pair id"] not in list(lacking)[:200]]
    file = write_table(tmp_path / "train.jsonl", some)
    found = filled(file, part, "pair id", 2)
    np.testing.assert_allclose(found, used[NLI].to_numpy(), atol=1e-12)


@pytest.mark.parametrize(
    ("in_data", "in_scores"), [([7, 8, 9], ["9", "7", "8"]), (["a ", "B", "b"], ["b", "a ", "B"])]
)
def test_whole_numbers_and_texts_are_one_id_in_any_format(
    tmp_path, write_table, split, in_data, in_scores
):
    rows = [{**row, "id": one} for row, one in zip(labelled(*NLI), in_data, strict=True)]
    given = [{"id": one, **dict.fromkeys(NLI, 0.0), NLI[n]: 1} for n, one in enumerate(in_scores)]
    found = filled(write_table(tmp_path / "train.csv", given), split(rows))
    assert found.argmax(axis=1).tolist() == [in_scores.index(str(one)) for one in in_data]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda given: given.append(dict(given[2])), "row 13 is the second with 'id' 'n-"),
        (lambda given: given[4].update(id="n-7"), "'id' of row 5 is 'n-7', which no sample of train"),
        (lambda given: given.pop(3), r"has no row with 'id' 'n-\d+', .* \(1 of 12 are missing\)"),
        (lambda given: given[4].update(id=None), "row 5: 'id' is 'None', which is no id"),
        (lambda given: given[4].update(id=1.5), "row 5: 'id' is '1.5', which is no id"),
        (lambda given: given[0].pop("id"), "has no column 'id'"),
        (lambda given: given[4].update(neutral=2), "the probabilities of row 5 of the file sum to"),
    ],
)
def test_every_mistake_in_the_probabilities_names_file_and_row(
    tmp_path, write_table, split, change, told
):
    rows = data()
    given = scores(rows)
    change(given)
    file = write_table(tmp_path / "train.jsonl", given)
    with pytest.raises(UserError, match=told) as error:
        filled(file, split(rows))
    assert str(error.value).startswith(f"{file}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: rows[7].update(id=rows[2]["id"]), r"rows 3 and 8 have the same 'id', 'n-\d+'"),
        (lambda rows: rows[7].update(id=""), "row 8: 'id' is '', which is no id"),
        (lambda rows: rows[7].pop("id"), "row 8: 'id' is 'None', which is no id"),
    ],
)
def test_every_mistake_in_the_data_names_file_and_row(tmp_path, write_table, split, change, told):
    rows = data()
    file = write_table(tmp_path / "scores.jsonl", scores(rows))
    change(rows)
    with pytest.raises(UserError, match=told) as error:
        filled(file, split(rows))
    assert str(error.value).startswith(str(tmp_path / "data/train.jsonl"))


def test_data_without_the_column_are_named_by_row_and_a_column_of_none_is_refused(
    tmp_path, write_table, split
):
    part = split(data(), "pairId")
    given = [{**row, "row": n} for n, row in enumerate(scores(data()))]
    file = write_table(tmp_path / "train.jsonl", given)
    np.testing.assert_allclose(filled(file, part, "pairId"), [[row[n] for n in NLI] for row in given])
    teacher = SimpleNamespace(probabilities=str(file))
    place = SimpleNamespace(
        config=SimpleNamespace(robust=SimpleNamespace(teacher=teacher)),
        data=SimpleNamespace(
            splits=lambda: {"train": part}, task=tasks.TASKS["mnli"].model_copy(update={"id": "pairId"})
        ),
    )
    with pytest.raises(
        UserError, match=r"task\.id: no file of the data of train has a column 'pairId'"
    ):
        given_probabilities.contents(place)


def test_a_class_called_as_the_column(tmp_path, write_table, split):
    rows = data(name="neutral")
    file = write_table(tmp_path / "train.jsonl", scores(data()))
    with pytest.raises(UserError, match="'neutral' is a class and names the samples too"):
        filled(file, split(rows, "neutral"), "neutral")


def test_where_an_id_stands():
    names = [f"{n % 40}-{n}" for n in range(2000)]
    found = ids.Index.of(np.array(ids.keys(names), ids.KIND))
    some = [names[n] for n in (1999, 0, 77)]
    assert found.places(np.array(ids.keys([*some, "?"]), ids.KIND)).tolist() == [1999, 0, 77, -1]
    assert found.twice() is None
    names[900], names[1500] = names[800], names[3]
    assert ids.Index.of(np.array(ids.keys(names), ids.KIND)).twice() == (800, 900)


# Keys


def test_ids_enter_the_keys_and_nothing_changes_without_them(tmp_path, folder, tiny_model):
    overrides = [f"{OURS}.teacher.probabilities=scores"]
    place = run_of(Files(tmp_path).load(overrides=overrides), tiny_model, given={"train": "a"})

    def key(hashed, column="id"):
        train = place.data.train
        task = place.data.task.model_copy(update={"id": column})
        changed = {"train": type(train)(**{**vars(train), "ids": hashed}), "task": task}
        made = type(place.data)(**{**vars(place.data), **changed})
        run = type(place)(**{**vars(place), "data": made})
        return stage.key_of(Teacher(), run), Teacher().facts(run)

    assert len({key("one")[0], key("two")[0], key("one", "name")[0], key("")[0]}) == 4
    assert key("", "id") == key("", None) and set(key("")[1]) == {"labels", "files", "data"}

    def rows_facts(column):
        block = config(data_dir=str(folder(data())), id=column)
        task = tasks.of(block.task)
        source = sources.every(block, task)["train"]
        one = SourceRows(task, "train", source, tuple(task.labels))
        return json.dumps(one.facts(place)["task"])

    assert '"id"' not in rows_facts(None) and '"id": "name"' in rows_facts("name")
    splits_of = prepare.Splits(tasks.TASKS["mnli"], ()).facts(place)["task"]
    assert "id" not in splits_of


def test_a_column_of_ids_has_an_effect_with_given_probabilities_only(tmp_path):
    sentence, _ = Files(tmp_path).refused(
        {OURS: {"task": {"name": "mnli"}}}, overrides=[f"{OURS}.task.id=id"]
    )
    assert "task.id' has no effect without teacher.probabilities" in sentence
