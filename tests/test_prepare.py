"""The stage prepare: what it makes, when it is made again, that ranks map it and hold no text."""

import json
import os
import pickle
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from configs import BASE, SPARSE
from folders import config as block
from folders import error_of, labelled, rows_of
from folders import read as read_in_memory
from launcher import job, python, two_ranks
from upath import UPath

from compress.configuration import config as configuration
from compress.data import overlap, reading, rows, sources, splits, tasks, texts
from compress.data.rows import Rows
from compress.errors import UserError
from compress.files import integrity
from compress.stages import prepare
from compress.stages.workspace import Workspace

ROOT = Path(__file__).parents[1]


@pytest.fixture
def workspace(tmp_path):
    """Function (data folder, **task) -> what the stage works in."""

    def make(folder, **task):
        ours = {**BASE["robust_compression"], "task": {"name": "mnli", "data_dir": str(folder), **task}}
        file = tmp_path / "settings.json"
        file.write_text(json.dumps({**BASE, **SPARSE, "robust_compression": ours}))
        output = tmp_path / "run"
        output.mkdir(exist_ok=True)
        return Workspace(
            config=configuration.load([file]),
            output_dir=output,
            cache_dir=tmp_path / "shared",
            device=torch.device("cpu"),
        )

    return make


def made(space):
    """What a run of the stage made, by label; the data of the run."""
    data = prepare.task_data(space)
    return data, {path.name: artefact.reused for path, artefact in space.known.items()}


# Artefacts


def test_it_is_what_reading_gives(nli_folder, workspace, tmp_path):
    folder = nli_folder(tmp_path / "nli")
    data, reused = made(workspace(folder))
    expected = read_in_memory(block(data_dir=str(folder)))
    assert data.fingerprint() == expected.fingerprint() and data.labels == expected.labels
    for name, split in data.splits().items():
        other = expected.splits()[name]
        assert split.texts[:] == other.texts[:] and split.labels.tolist() == other.labels.tolist()
        assert (split.names, split.groups, split.subsets) == (other.names, other.groups, other.subsets)
        assert split.set_size == other.set_size
    assert list(reused.values()) == [False] * 4


def test_an_ood_file_of_another_kind_is_not_left_out_silently(nli_folder, workspace, tmp_path, capsys):
    folder = nli_folder(tmp_path / "nli")
    (folder / "ood_mine.json").write_text("[]")
    data, _ = made(workspace(folder))
    assert list(data.ood) == ["hans"]
    assert f"note: {folder}: ood_mine.json is of another kind" in capsys.readouterr().out


def test_an_unchanged_source_is_not_opened_again(nli_folder, workspace, tmp_path, monkeypatch):
    folder = nli_folder(tmp_path / "nli")
    first, _ = made(workspace(folder))
    monkeypatch.setattr(sources.reading, "blocks", lambda file: pytest.fail(f"{file} was read"))
    again, reused = made(workspace(folder))
    assert again.fingerprint() == first.fingerprint() and all(reused.values())
    drawn, reused = made(workspace(folder, train_samples=20))
    assert len(drawn.train) == 20 and drawn.train.set_size == 48
    assert list(reused.values()).count(False) == 1, "what is drawn is made of the rows that are there"


def test_a_changed_source_is_read_and_nothing_else(nli_folder, workspace, tmp_path):
    folder = nli_folder(tmp_path / "nli")
    before, _ = made(workspace(folder))
    file = folder / "dev.jsonl"
    changed = file.read_text().replace("in the", "at the", 1)
    assert len(changed) == file.stat().st_size, "the size alone does not tell"
    time.sleep(0.02)
    file.write_text(changed)
    after, reused = made(workspace(folder))
    assert list(reused.values()).count(False) == 2
    assert after.train.fingerprint() == before.train.fingerprint()
    assert after.dev.fingerprint() != before.dev.fingerprint()


def test_rows_that_another_version_read_otherwise_are_read_again(
    nli_folder, workspace, tmp_path, monkeypatch
):
    folder = nli_folder(tmp_path / "nli")
    before, _ = made(workspace(folder))
    monkeypatch.setattr(rows, "READING", rows.READING + 1)
    after, reused = made(workspace(folder))
    assert not any(reused.values())
    assert after.fingerprint() == before.fingerprint(), "so that nothing else is made again"


def test_the_same_content_elsewhere_gives_the_same_fingerprint(nli_folder, workspace, tmp_path):
    folder = nli_folder(tmp_path / "nli")
    before, _ = made(workspace(folder))
    shutil.copytree(folder, tmp_path / "copy")
    after, reused = made(workspace(tmp_path / "copy"))
    assert not any(reused.values()) and after.fingerprint() == before.fingerprint()


def test_a_source_that_changes_while_it_is_read(nli_folder, workspace, tmp_path, monkeypatch):
    folder = nli_folder(tmp_path / "nli")
    whole = sources.reading.blocks

    def growing(file):
        yield from whole(file)
        with Path(file).open("a") as target:
            target.write("\n")

    monkeypatch.setattr(sources.reading, "blocks", growing)
    with pytest.raises(UserError, match=r"train\.jsonl: has changed while it was read"):
        made(workspace(folder))
    assert not list((tmp_path / "shared").glob("rows/[!.]*"))


def test_a_list_of_shared_samples_comes_back_with_what_is_reused(small_task, put_split, workspace):
    twin = json.loads((small_task / "train.jsonl").read_text().splitlines()[0])
    others = [{**row, "heuristic": "a"} for row in (twin, *labelled("entailment", start=30))]
    put_split("ood_hans", [{**row, "label": "entailment"} for row in others])
    space = workspace(small_task, drop_overlap=True)
    listing = space.output_dir / overlap.FILE
    data, _ = made(space)
    (line,) = listing.read_text().splitlines()
    assert json.loads(line)["train_row"] == 1 and len(data.train) == data.train.set_size - 1 == 5
    listing.unlink()
    _, reused = made(workspace(small_task, drop_overlap=True))
    assert all(reused.values()) and listing.read_text().splitlines() == [line]


def test_a_large_file_is_read_again_only_if_its_time_has_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(integrity, "LARGE", 4)
    (tmp_path / "large").write_text("large")
    (tmp_path / "few").write_text("few")
    marker = {"files": integrity.listing(tmp_path)}
    assert ["time" in about for about in marker["files"].values()] == [False, True]
    integrity._known.clear()
    assert integrity.damage(tmp_path, marker) is None
    assert len(integrity._known) == 1, "the small one was read"
    stat = (tmp_path / "large").stat()
    (tmp_path / "large").write_text("other")
    assert "large (its checksum" in integrity.damage(tmp_path, marker)
    (tmp_path / "large").write_text("large")
    os.utime(tmp_path / "large", ns=(stat.st_atime_ns, stat.st_mtime_ns + 5))
    assert integrity.damage(tmp_path, marker) is None, "a copy has another time and the same content"


# Rows


@pytest.mark.slow
def test_several_processes_give_the_same_file(nli_folder, tmp_path):
    file = nli_folder(tmp_path / "nli", train=18_000, dev=0, ood_hans=0) / "train.jsonl"
    task = tasks.TASKS["mnli"]
    found = []
    for processes in (1, 2):
        source = sources._from_file(file)
        batches = rows.batches(task, task.labels, source, splits.entry_of(task, "train"), processes)
        target = tmp_path / f"{processes}.arrow"
        rows.write(target, batches, rows.about(source, task.labels), lambda count: None)
        found.append(target.read_bytes())
    assert found[0] == found[1]
    opened = Rows.open(target)
    assert len(opened) == 18_000 and opened.column("number").tolist() == list(range(1, 18_001))
    assert opened.texts(17_999) == rows_of(task, "train", source, task.labels).texts(17_999)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_the_first_mistake_of_a_file_is_told(nli_folder, tmp_path, processes):
    file = nli_folder(tmp_path / "nli", train=18_000, dev=0, ood_hans=0) / "train.jsonl"
    lines = file.read_text().splitlines()
    lines[17_800] = "{"
    lines[17_500] = json.dumps({**json.loads(lines[17_500]), "label": "perhaps"})
    file.write_text("\n".join(lines))
    task = tasks.TASKS["mnli"]
    found = rows.batches(
        task, task.labels, sources._from_file(file), splits.entry_of(task, "train"), processes
    )
    with pytest.raises(UserError, match="row 17501 has the unknown label 'perhaps'"):
        list(found)


def test_keys_are_those_of_equal_pairs_only():
    first = ["A b", "a  B", "b", "ab", "x"]
    second = ["c", "C", "a", "", "X"]
    plain, symmetric = (texts.keys((first, second), s) for s in (False, True))
    assert plain[0] == plain[1] and len(set(plain.tolist())) == 4
    turned = (["c"], ["a b"])
    assert texts.keys(turned, True)[0] == symmetric[0] != texts.keys(turned, False)[0]


def test_digests_tell_every_difference_of_content():
    found = texts.digests((["a", "a", "ab", "a", "A"], ["bc", "bc", "c", "b c", "bc"]), [0, 1, 0, 0, 0])
    assert len(set(found)) == 5 and {len(digest) for digest in found} == {texts.DIGEST}


def test_pairs_by_slice_by_number_and_in_blocks():
    numbers = [str(n) for n in range(10)]
    whole = texts.Texts.of(numbers, [f"{n}!" for n in numbers])
    some = whole.part(np.array([7, 1, 3]))
    assert some[:] == (["7", "1", "3"], ["7!", "1!", "3!"])
    assert some[np.array([2])] == (["3"], ["3!"]) and some[1:] == (["1", "3"], ["1!", "3!"])
    assert [block[0] for block in some.blocks(2)] == [["7", "1"], ["3"]]
    assert whole[2:9:3][0] == ["2", "5", "8"] and whole[8:20][0] == ["8", "9"]
    assert whole.spread(4)[0] == ["0", "2", "4", "6"] and len(some) == 3


def test_pairs_of_a_table_in_many_pieces_come_from_their_places():
    numbers = [str(n) for n in range(100)]
    pieces = [texts.Texts.of(numbers[n : n + 7], numbers[n : n + 7]).table for n in range(0, 100, 7)]
    whole = texts.Texts(pa.concat_tables(pieces))
    assert whole.table.column("first").num_chunks == 15
    for chosen in ([99, 0, 7, 6, 7, 50], [], list(range(100))):
        assert whole[np.array(chosen, np.int64)][0] == [numbers[n] for n in chosen]
    assert whole.part(np.arange(0, 100, 3))[5:8][1] == ["15", "18", "21"]


@pytest.mark.parametrize("places", [None, [0, 6, 7, 8, 99], list(range(0, 100, 9))])
def test_digests_of_some_rows(places, monkeypatch):
    monkeypatch.setattr(rows, "PIECE", 4)
    every = [f"{n:016}".encode() for n in range(100)]
    pieces = [pa.array(every[n : n + 7], pa.binary(texts.DIGEST)) for n in range(0, 100, 7)]
    table = pa.table({"digest": pa.chunked_array([p.slice(0) for p in pieces])})
    found = Rows("x", (), table).digests(None if places is None else np.array(places))
    assert b"".join(found) == b"".join(every if places is None else [every[n] for n in places])


def test_a_block_of_parquet_is_sent_without_what_it_does_not_hold(tmp_path):
    texts = [f"a rather long text, number {n}" for n in range(5000)]
    column = pa.array(texts).dictionary_encode()
    pq.write_table(pa.table({"a": column}), tmp_path / "x.parquet")
    blocks = list(reading.blocks(tmp_path / "x.parquet"))
    assert [next(block.rows())[0] for block in blocks] == [1, 1001, 2001, 3001, 4001]
    assert max(len(pickle.dumps(block)) for block in blocks) < 2 * len("".join(texts[:1000]))
    assert [
        row["a"] for block in blocks for _, row in pickle.loads(pickle.dumps(block)).rows()
    ] == texts


def test_a_subset_that_is_no_unicode(small_task):
    rows_of_set = [
        json.loads(line) for line in (small_task / "ood_hans.jsonl").read_text().splitlines()
    ]
    rows_of_set[2]["heuristic"] = "\ud800x"
    lines = [json.dumps(row) for row in rows_of_set]
    (small_task / "ood_hans.jsonl").write_text("\n".join(lines))
    error_of(small_task, "row 3, 'heuristic' is not valid Unicode")


# A file system by URL


def test_a_folder_may_be_a_url(nli_folder, tmp_path):
    local = nli_folder(tmp_path / "nli")
    place = UPath("memory://somewhere/nli")
    place.mkdir(parents=True)
    for file in local.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    found = read_in_memory(block(data_dir="memory://somewhere/nli"))
    assert found.fingerprint() == read_in_memory(block(data_dir=str(local))).fingerprint()
    (source,) = [
        s for n, s in sources.every(block(data_dir=str(place)), found.task).items() if n == "dev"
    ]
    before = source.version()
    assert before == source.version()
    (place / "dev.jsonl").write_bytes((local / "train.jsonl").read_bytes())
    assert before != source.version()
    (place / "train.jsonl").unlink()
    error_of("memory://somewhere/nli", "has no file train")
    error_of("memory://nowhere", "task.data_dir: 'memory://nowhere' is not a folder")


@pytest.mark.parametrize(
    "url", ["nothing://here", "http://127.0.0.1:9/nli", "sftp://nowhere.invalid/x"]
)
def test_a_file_system_that_cannot_be_reached_is_a_sentence(url):
    error_of(url, url.partition("://")[2][:4])


def test_a_file_that_tells_no_time_is_read_by_every_run():
    place = UPath("memory://times/train.jsonl")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("")
    assert sources._from_file(place).version() == sources._from_file(place).version()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "CHANGES", ())
        one, other = sources._from_file(place), sources._from_file(place)
        assert one.version() == one.version() != other.version()


# Runs


@pytest.mark.launcher
def test_the_stage_alone_and_before_a_run_of_two_ranks(tiny_model, tmp_path):
    """The stage alone needs no ranks and no batch that fits them; a run finds what it made."""
    output, batch = tmp_path / "run", "train_micro_batch_size_per_gpu=8"
    alone = python(*job(tiny_model, output, batch, stage="prepare"))
    assert alone.returncode == 0, alone.stderr[-2000:]
    assert alone.stdout.count(": done in ") == 3 + 1 + 3
    assert alone.stdout.count("\nrows of dev: done in") == 1
    assert alone.stdout.endswith("samples: train 120, dev 40, ood_synthetic 40\n")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "shared").glob("*/*/*")}
    assert {path.parts[-3] for path in kept} == {"rows", "splits", "tokens"}
    for stage, lines in (("prepare", 7), ("teacher", 0)):
        done = two_ranks(*job(tiny_model, output, batch, stage=stage))
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count(": reused") == lines
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.launcher
def test_a_mistake_in_the_data_ends_both_ranks_with_one_sentence(tiny_model, nli_folder, tmp_path):
    folder = nli_folder(tmp_path / "nli")
    with (folder / "dev.jsonl").open("a") as target:
        target.write('{"premise": "a", "hypothesis": "b", "label": "perhaps"}\n')
    task = f'robust_compression.task={{"name": "mnli", "data_dir": "{folder}", "synthetic": null}}'
    done = two_ranks(*job(tiny_model, tmp_path / "run", task))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.count("row 25 has the unknown label 'perhaps'") == 1
    assert not list((tmp_path / "shared").glob("splits/*"))
