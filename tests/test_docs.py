"""What README and docs tell a user to write is taken by the program, and what they name is there."""

import ast
import re
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from equations import an_ordinary_batch
from launcher import ROOT

from compress.configuration import config
from compress.data import tasks
from compress.mitigations import USER
from compress.runtime import threads
from compress.study import plan

CONFIGS = ROOT / "ds_configs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
WRITTEN = {page: page.read_text(encoding="utf-8") for page in PAGES}
MEASURED_BY_A_COMMIT = "real_table.sh", "synthetic_table.sh"
"""Scripts of earlier commits, which docs/results names as such."""


def blocks(page, language):
    """The fenced blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", WRITTEN[ROOT / page], re.DOTALL | re.MULTILINE)


def shipped(*names):
    return [CONFIGS / f"{name}.json" for name in names]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_the_classifier_from_csv_files(folder):
    Path("mine.json").write_text(*blocks("README.md", "json"))
    names = "zero2", "compression/heads20", "compression/rows50", "mitigation/vanilla"
    robust = config.load([*shipped(*names), "mine.json"]).robust
    assert robust.teacher.model == robust.model and robust.student.init_from == "teacher"
    assert list(tasks.of(robust.task).labels) == ["entailment", "not_entailment"]


def test_the_task_and_the_teacher_of_ones_own(folder):
    answers, single, no_ood, identities, teacher = blocks("docs/data.md", "json")
    Path("answers.json").write_text(answers)
    Path("own.json").write_text(teacher)
    task = tasks.of(
        config.load([*shipped("zero2"), "answers.json"], ["robust_compression.model=x"]).robust.task
    )
    assert list(task.labels) == ["good", "bad", "unclear"]
    assert list(task.ood["swapped"].labels) == ["fine", "not_fine"]
    Path("single.json").write_text(single)
    robust = config.load([*shipped("zero2"), "single.json"], ["robust_compression.model=x"]).robust
    assert tasks.of(robust.task).single
    Path("no_ood.json").write_text(no_ood)
    task = tasks.of(
        config.load([*shipped("zero2"), "no_ood.json"], ["robust_compression.model=x"]).robust.task
    )
    assert (dict(task.ood), task.subsets) == ({}, ["source"])
    Path("identities.json").write_text(identities)
    robust = config.load([*shipped("zero2"), "identities.json"], ["robust_compression.model=x"]).robust
    assert tasks.of(robust.task).subgroups[:2] == ["male", "female"]
    names = "zero2", "tasks/mnli", "compression/heads40", "mitigation/rmc_plus"
    robust = config.load([*shipped(*names), "own.json"]).robust
    assert robust.teacher.model and robust.student.init_from == "teacher"


def test_the_study_and_the_loss_of_ones_own(folder):
    Path("my").mkdir()
    Path("my/answers.json").write_text(blocks("docs/data.md", "json")[0])
    loss, of_batch = blocks("docs/mitigations.md", "python")
    Path("my_losses.py").write_text(loss + of_batch)
    Path("my/careful.json").write_text(re.search(r'\{"robust_compression".*\}', loss).group())
    Path("study.json").write_text(*blocks("docs/studies.md", "json"))
    runs = plan.expand(Path("study.json"), Path("out"))
    hooks = {run.config.robust.loss.hook for run in runs}
    assert hooks == {"vanilla", "rmc_plus", "my_losses:careful"}
    batch = an_ordinary_batch(4)
    assert all(USER(hook=f"my_losses:{f}").loss(batch).shape == (4,) for f in ("careful", "gentle"))


def test_the_mitigation_of_the_extension_page():
    text = WRITTEN[ROOT / "docs/extending.md"]
    example = textwrap.dedent(
        re.search(r"^   ```python\n(.*?)^   ```$", text, re.DOTALL | re.M).group(1)
    )
    made = {"__name__": "entropy"}
    exec(example, made)
    batch = an_ordinary_batch()
    q = batch.logits.double().softmax(1)
    expected = (1 - 2 * (q * q.log()).sum(1)) * batch.cross_entropy()
    torch.testing.assert_close(
        made["Entropy"](hook="entropy", strength=2.0).loss(batch), expected.float()
    )


def test_the_messages_of_the_troubleshooting_page_are_those_of_the_program():
    trees = (ast.parse(file.read_text("utf-8")) for file in (ROOT / "compress").rglob("*.py"))
    nodes = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    said = [node.value for node in nodes if isinstance(node.value, str)]
    seen = re.findall(r"^\| ([^|]*)\|", WRITTEN[ROOT / "docs/troubleshooting.md"], re.MULTILINE)
    quoted = [words for cell in seen for words in re.findall(r"`([^`]*)`", cell) if " " in words]
    assert len(quoted) > 8
    said.append(threads.sentence([("a", 2, frozenset(range(2)), None)] * 2))
    assert not {words for words in quoted if not any(words in text for text in said)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page):
    text = WRITTEN[page]
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert not [link for link in links if not (page.parent / link).exists()]
    files = set(re.findall(r"(?:ds_configs|launch_scripts)/[\w/]+\.(?:json|sh)", text))
    missing = [name for name in files if not (ROOT / name).exists()]
    assert not [name for name in missing if Path(name).name not in MEASURED_BY_A_COMMIT]
    modules = re.findall(r"python -m (compress[\w.]*)", text)
    assert not [name for name in modules if find_spec(name) is None]
