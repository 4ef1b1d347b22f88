"""What the README tells a user to write is taken by the program, and names what is there."""

import re
from pathlib import Path

import pytest
from launcher import ROOT
from pydantic import BaseModel

from compress.configuration import config
from compress.configuration.robust_schema import RobustCompression
from compress.data import tasks
from compress.microbatch import Batch
from compress.mitigations import MITIGATIONS, USER
from compress.study import plan

README = (ROOT / "README.md").read_text(encoding="utf-8")
CONFIGS = ROOT / "ds_configs"


FENCED = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def blocks(language):
    return [text for name, text in FENCED if name == language]


@pytest.fixture
def written(tmp_path, monkeypatch):
    """The README's JSON and loss in the working directory, under the names that it uses."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("my").mkdir()
    answers, own, study = blocks("json")
    Path("my/answers.json").write_text(answers)
    Path("own.json").write_text(own)
    Path("study.json").write_text(study)
    loss = next(text for text in blocks("python") if "def careful" in text)
    Path("my_losses.py").write_text(loss)
    Path("my/careful.json").write_text(re.search(r'\{"robust_compression".*\}', loss).group())
    return tmp_path


def test_the_task_in_json(written):
    files = [CONFIGS / "zero2.json", "my/answers.json"]
    task = tasks.of(config.load(files, ["robust_compression.model=x"]).robust.task)
    assert task.labels == ("good", "bad", "unclear") and task.ood["swapped"].labels == (
        "fine",
        "not_fine",
    )


def test_the_classifier_of_ones_own(written):
    names = ("zero2", "tasks/mnli", "compression/heads40", "mitigation/rmc_plus")
    files = [CONFIGS / f"{name}.json" for name in names]
    robust = config.load([*files, "own.json"]).robust
    assert robust.teacher.model and robust.student.init_from == "teacher"


def test_the_study_and_the_loss_of_ones_own(written):
    import torch

    runs = plan.expand(Path("study.json"), Path("out"))
    hooks = {run.config.robust.loss.hook for run in runs}
    assert hooks == {"vanilla", "rmc_plus", "my_losses:careful"}
    logits, labels, d = torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), torch.rand(4)
    batch = Batch(logits, labels, None, d)
    assert USER(hook="my_losses:careful").loss(batch).shape == (4,)


@pytest.mark.parametrize("folder", ["compression", "mitigation", "tasks"])
def test_every_part_is_named(folder):
    for file in (CONFIGS / folder).glob("*.json"):
        assert f"`{file.stem}`" in README or re.match(r"imp\d\d$", file.stem), file.stem


def test_every_study_and_loss_is_named():
    for file in (CONFIGS / "studies").glob("*.json"):
        assert f"`{file.stem.removesuffix('_small')}`" in README or f"`{file.stem}`" in README, (
            file.stem
        )
    assert all(f"`{name}`" in README for name in MITIGATIONS)


def test_every_file_of_the_tree_is_there():
    tree = next(text for text in blocks("") if "train.py  " in text)
    folders: dict[int, Path] = {}
    for line in tree.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        place = folders.get(depth - 1, ROOT) / name
        if "..." not in line.split("  ")[0]:
            assert place.exists(), place
        folders[depth] = place
    modules = {f.name for f in (ROOT / "compress").rglob("*.py")} - {"__init__.py"}
    assert not [name for name in modules if name not in tree]


def test_every_setting_of_ours_is_told():
    """The last part of each key of `robust_compression` stands somewhere in the README."""
    names: set[str] = set()

    def collect(block):
        for name, field in block.model_fields.items():
            names.add(field.alias or name)
            for kind in config._types(field.annotation):
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    collect(kind)

    collect(RobustCompression)
    assert len(names) > 50
    assert not [name for name in names if not re.search(rf"\b{name}\b", README)]
