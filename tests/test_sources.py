"""Where the rows of a split come from: files of any OOD set, the hub, or the benchmark."""

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from configs import BASE, SPARSE
from folders import NLI, config, error_of, from_folder, labelled, read

from compress.data import sources, tasks
from compress.errors import UserError

# OOD sets


def test_an_unknown_set_is_picked_up(small_task, write_table):
    write_table(small_task / "ood_mine.jsonl", labelled("neutral", "contradiction"))
    write_table(small_task / "ood_a.b.csv.gz", labelled("neutral"))
    (small_task / "ood_notes.md").touch()
    read = from_folder(small_task).ood
    assert list(read) == ["a.b", "hans", "mine"]
    assert read["mine"].labels.tolist() == [1, 2]
    assert (read["mine"].names, read["mine"].groups) == (NLI, (0, 1, 2))
    assert read["mine"].subsets == {}


def test_the_asked_sets_are_read_in_their_order(small_task, write_table):
    write_table(small_task / "ood_mine.jsonl", labelled("neutral"))
    write_table(small_task / "ood_other.jsonl", [{"broken": 1}])
    assert list(from_folder(small_task, ood=["mine", "hans"]).ood) == ["mine", "hans"]
    assert list(from_folder(small_task, ood=["hans"]).ood) == ["hans"]


def test_an_unknown_set_that_is_asked_for(small_task):
    error_of(small_task, "robust_compression.evaluation.ood", "'hens'", "mean 'hans'", ood=["hens"])


def test_a_folder_without_any_set(small_task):
    (small_task / "ood_hans.jsonl").unlink()
    error_of(small_task, str(small_task), "OOD", "ood_<name>")


def test_the_stress_sets_report_by_test(small_task, write_table):
    rows = [{**row, "test": kind} for row, kind in zip(labelled(0, 1), "ab", strict=True)]
    write_table(small_task / "ood_stress.jsonl", rows)
    assert from_folder(small_task).ood["stress"].subsets == {"test": ["a", "b"]}


def test_the_sets_that_an_evaluation_goes_without(small_task, tmp_path, write_table):
    def absent(task, ood=None, **block):
        chosen = config(task, ood, **block)
        return sources.absent_ood(chosen, tasks.of(chosen.task))

    symmetric = {"sym1": ("ood_sym1", "fever_symmetric_generated")}
    assert absent("mnli") == absent("synthetic") == absent("mnli", data_dir=str(small_task)) == {}
    assert absent("qqp") == {"paws_qqp": ("ood_paws_qqp", "dev_and_test")}
    assert absent("qqp", ood=["paws_wiki"]) == {}, "what is asked for is what is wanted"
    (tmp_path / "fever_symmetric_test.jsonl").touch()
    assert absent("fever", ood_dir=str(tmp_path)) == symmetric
    (tmp_path / "dev_and_test.tsv").touch()
    assert absent("qqp", data_dir=str(tmp_path)) == {"paws_wiki": ("ood_paws_wiki",)}
    definition = {"texts": ["a", "b"], "labels": ["x", "y"], "ood": {"z": {"file": "z"}}}
    assert absent("mine", definition=definition, data_dir=str(tmp_path)) == {}


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
    found = read(config())
    assert found.train.labels.tolist() == [2, 0, 1, 1]
    assert found.train.texts[:] == (["p0", "p1", "p2", "p3"], ["h0", "h1", "h2", "h3"])
    assert found.dev.labels.tolist() == [1, 0]
    assert list(found.ood) == ["hans"]
    assert found.ood["hans"].labels.tolist() == [1, 0]
    assert found.ood["hans"].subsets == {"heuristic": ["a", "b"]}
    assert asked == [
        ("nyu-mll/glue", "mnli", "train", None),
        ("nyu-mll/glue", "mnli", "validation_matched", None),
        ("jhu-cogsci/hans", None, "validation", "refs/convert/parquet"),
    ]


def test_a_label_that_the_hub_leaves_out(fake_hub):
    for missing in (-1, None):
        fake_hub({("nyu-mll/glue", "train"): hub_table(NLI, [0, 1, 2, missing])})
        with pytest.raises(UserError, match=r"nyu-mll/glue \(train\): row 4"):
            read(config())


def test_a_set_that_the_hub_does_not_have(fake_hub):
    table = hub_table(("entailment", "contradiction"), [0, 1])
    fake_hub({("pietrolesci/nli_fever", split): table for split in ("train", "dev")})
    with pytest.raises(UserError, match=r"hub: has no OOD set of fever.*task\.data_dir"):
        read(config("fever"))
    with pytest.raises(UserError, match=r"evaluation\.ood.*'sym1'"):
        read(config("fever", ood=["sym1"]))


def test_a_set_of_a_definition_with_both_a_file_and_a_place_on_the_hub(
    small_task, fake_hub, write_table, tmp_path
):
    (small_task / "ood_hans.jsonl").unlink()
    whole, web = hub_table(NLI, [0, 1, 2]), hub_table(NLI, [0, 1], start=40)
    asked = fake_hub({("someone/pairs", "train"): whole, ("someone/pairs", "test"): web})
    place = {"path": "someone/pairs", "split": "train"}
    entry = {"file": "sub/mine.jsonl", "hub": {**place, "split": "test"}}
    local = {"texts": ["premise", "hypothesis"], "labels": list(NLI)}
    local["ood"] = {"mine": entry}
    hub = {**local, "train": place, "dev": place}

    def seen(definition, **block):
        asked.clear()
        found = read(config("mine", definition=definition, **block)).ood["mine"]
        return len(found), [split for _, _, split, _ in asked]

    with pytest.raises(UserError, match=r"nli: has no file sub/mine \("):
        seen(local, data_dir=str(small_task))
    (small_task / "sub").mkdir()
    write_table(small_task / "sub/mine.jsonl", labelled("neutral", "neutral", "neutral", start=60))
    assert seen(local, data_dir=str(small_task)) == (3, [])
    assert seen(hub, ood_dir=str(small_task)) == (3, ["train", "train"])
    assert seen(hub) == (2, ["train", "train", "test"])
    assert seen(hub, ood_dir=str(tmp_path)) == (2, ["train", "train", "test"])


# The embedded benchmark


def test_the_benchmark():
    sizes = {"train": 40, "dev": 20, "ood": 30}
    found = read(config("synthetic", synthetic=sizes))
    assert found.labels == ("entailment", "not_entailment")
    assert [len(split) for split in (found.train, found.dev, found.ood["synthetic"])] == [40, 20, 30]
    assert list(found.ood) == ["synthetic"]
    assert set(found.train.subsets) == {"alignment"}
    assert set(found.ood["synthetic"].subsets) == {"structure"}
    assert len(set(found.ood["synthetic"].subsets["structure"])) == 6
    assert found.ood["synthetic"].labels.sum() == 15
    again = read(config("synthetic", synthetic=sizes))
    other = read(config("synthetic", synthetic={**sizes, "seed": 1}))
    assert found.fingerprint() == again.fingerprint()
    for name in found.splits():
        assert found.fingerprint(name) != other.fingerprint(name)


def test_a_benchmark_that_is_too_large():
    with pytest.raises(UserError, match=r"robust_compression\.task\.synthetic: .*at most"):
        read(config("synthetic", synthetic={"train": 10_000_000}))


# Before anything is read


@pytest.fixture
def unread(monkeypatch):
    """Fails the test if a file is read."""

    def refuse(file):
        raise AssertionError(f"{file} was read")
        yield

    monkeypatch.setattr("compress.data.reading.blocks", refuse)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["dev.jsonl"], ("no file dev",)),
        (["train.jsonl"], ("no file train",)),
        (["ood_hans.jsonl"], ("no OOD set",)),
    ],
)
def test_a_missing_file_is_known_before_train_is_read(small_task, unread, names, words):
    for name in names:
        (small_task / name).unlink()
    error_of(small_task, str(small_task), *words)


def test_an_asked_set_and_a_defined_file_are_known_before_train_is_read(small_task, unread):
    error_of(small_task, "evaluation.ood", "'other'", ood=["other"])
    definition = {"texts": ["premise", "hypothesis"], "labels": list(NLI), "dev": "checks.csv"}
    error_of(small_task, "no file checks", task="mine", definition=definition)
    definition = {**definition, "dev": "dev", "ood": {"hard": {"file": "hard.tsv"}}}
    error_of(small_task, "no file hard", task="mine", definition=definition)


def test_every_source_is_found_without_reading_or_asking_the_hub(small_task, unread, monkeypatch):
    monkeypatch.setattr("compress.data.hub.load_split", lambda *_: pytest.fail("the hub was asked"))
    local = config(data_dir=str(small_task))
    assert list(sources.every(local, tasks.of(local.task))) == ["train", "dev", "ood_hans"]
    for name, sets in (("mnli", ["ood_hans"]), ("synthetic", ["ood_synthetic"])):
        chosen = config(name)
        assert list(sources.every(chosen, tasks.of(chosen.task))) == ["train", "dev", *sets]


def test_a_run_says_so_before_it_loads_the_libraries_that_take_seconds(small_task, tmp_path):
    (small_task / "dev.jsonl").unlink()
    task = {"name": "mnli", "data_dir": str(small_task)}
    ours = {**BASE["robust_compression"], "task": task}
    (tmp_path / "all.json").write_text(json.dumps({**BASE, **SPARSE, "robust_compression": ours}))
    root = Path(__file__).parents[1]
    command = [sys.executable, "-X", "importtime", str(root / "train.py"), "--output_dir", "out"]
    done = subprocess.run(
        [*command, "--deepspeed_config", "all.json"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: {small_task}: has no file dev")
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "compress.data.sources" in loaded
    assert not loaded & {"torch", "deepspeed", "transformers", "datasets"}
    assert not (tmp_path / "out").exists()


def test_what_has_the_name_of_a_split_and_is_no_file(small_task):
    for name, made, why in (
        ("train.jsonl", lambda path: path.mkdir(), "train.jsonl is a folder"),
        ("dev.jsonl", lambda path: path.symlink_to(path.parent / "gone"), "is a link to"),
        ("ood_hans.jsonl", lambda path: path.mkdir(), "ood_hans.jsonl is a folder"),
        (
            "train.jsonl",
            lambda path: path.with_suffix(".json").touch(),
            "train.json is of another kind",
        ),
    ):
        path = small_task / name
        whole = path.read_bytes()
        path.unlink()
        made(path)
        error_of(small_task, name.partition(".")[0], why)
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        path.write_bytes(whole)


def test_a_published_file_that_is_a_link_to_nothing_is_not_passed_over(small_task):
    (small_task / "ood_hans.jsonl").rename(small_task / "ood_mine.jsonl")
    (small_task / "heuristics_evaluation_set.txt").symlink_to(small_task / "gone")
    error_of(small_task, "heuristics_evaluation_set.txt", "is a link to")


def test_a_set_in_both_folders(small_task, tmp_path, write_table):
    more = tmp_path / "more"
    more.mkdir()
    write_table(more / "ood_hans.csv", labelled("entailment", start=30))
    error_of(small_task, "ood_hans.jsonl and", str(more / "ood_hans.csv"), ood_dir=str(more))
    assert len(from_folder(small_task, ood_dir=str(small_task)).ood["hans"]) == 6


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "/" + "long/" * 2000])
def test_a_folder_whose_name_no_folder_can_have(name):
    error_of(name, "robust_compression.task.data_dir", "is not a folder")
    definition = {"texts": ["premise", "hypothesis"], "labels": list(NLI), "dev": name}
    chosen = config("mine", definition=definition, data_dir="/")
    assert sources.files(chosen.task, tasks.of(chosen.task)) == []


@pytest.mark.parametrize("closed", ["nli", "nli/dev.jsonl"])
def test_what_may_not_be_read(small_task, unread, monkeypatch, closed):
    """As root everything may be; so the answer is made up."""
    refused = str(small_task.parent / closed)
    monkeypatch.setattr("os.access", lambda path, _mode: str(path) != refused)
    error_of(small_task, refused, "Permission denied")


def test_an_ood_file_without_a_name(small_task, write_table):
    write_table(small_task / "ood_.jsonl", labelled("entailment", start=30))
    error_of(small_task, "ood_.jsonl", "name of the OOD set is missing")
