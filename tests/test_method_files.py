"""Mistakes in the file of a new method: each is one sentence that names the file, in time."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import compress
from compress import method_files
from compress.compression.technique import Technique
from compress.configuration import config
from compress.errors import UserError
from compress.layerwise.block import LayerwiseBlock
from compress.layerwise.terms import classes_of
from compress.mitigations import MITIGATIONS, vanilla
from compress.mitigations._shared import Mitigation

ROOT = Path(compress.__file__).parents[1]
HEAD = """
from typing import Annotated
from pydantic import Field
from compress.compression.technique import PruningTechnique, Technique
from compress.configuration.blocks import NonNegative
from compress.methods import Method
from compress.mitigations._shared import Batch, Mitigation, Tensor
"""
LOSS = """
    def loss(self, batch):
        return batch.cross_entropy()
"""
GOOD = f"class Entropy(Mitigation):\n    strength: NonNegative = 1.0\n{LOSS}"
TECHNIQUE = """
class Shorter(Technique):
    key = "shorter"
    order = 1
    active = label = property(lambda self: "")
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Function (text of the file entropy.py) -> a package with that file, and the file."""

    def make(text):
        name = f"package_{abs(hash((text, str(tmp_path))))}"
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        (folder / "entropy.py").write_text(HEAD + text)
        return importlib.import_module(name), folder / "entropy.py"

    monkeypatch.syspath_prepend(tmp_path)
    return make


def refused(call, *words):
    with pytest.raises(UserError) as caught:
        call()
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".")
    for word in words:
        assert str(word) in sentence


def test_a_good_file(package):
    folder, _ = package(GOOD)
    found = method_files.only(folder, Mitigation)
    assert found["entropy"].__name__ == "Entropy" and list(found) == ["entropy"]
    folder, _ = package(TECHNIQUE)
    assert method_files.only(folder, Technique)["entropy"].key == "shorter"


CLASS = "class Entropy(Mitigation):\n"
MISTAKES = {
    "syntax": ("def f(:\n", ["cannot be imported (SyntaxError", "at line 8"]),
    "missing import": ("import no_such_module_anywhere\n", ["ModuleNotFoundError", "at line 8"]),
    "unknown name": ("class Entropy(Nothing):\n    pass\n", ["NameError", "'Nothing'"]),
    "exit": ("import sys\nsys.exit(3)\n", ["SystemExit", "at line 9"]),
    "no class": ("x = 1\n", ["defines no class derived from Mitigation"]),
    "two classes": (GOOD + GOOD.replace("Entropy", "Other"), ["exactly one", "Entropy and Other"]),
    "no type": (CLASS + "    strength = 1.0\n" + LOSS, ["cannot be imported", "strength"]),
    "needs with a type": (
        CLASS + '    needs: frozenset = frozenset({"teacher"})\n' + LOSS,
        ["Entropy gives 'needs' a type", "needs = ..."],
    ),
    "unknown need": (
        CLASS + '    needs = frozenset({"teachers"})\n' + LOSS,
        ["teachers", "'teacher', 'difficulty', 'mistakes', 'bias', 'batch_mean'"],
    ),
    "needs of another type": (CLASS + '    needs = "teacher"\n' + LOSS, ["has needs 'teacher'"]),
    "needs of a second class": (
        GOOD + '\n\nclass Beside(Method):\n    needs = {"x"}\n',
        ["the class Beside has needs {'x'}"],
    ),
    "batch mean without weight": (
        CLASS + '    needs = frozenset({"batch_mean"})\n' + LOSS,
        ["needs 'batch_mean' but does not define 'batch_weight'"],
    ),
    "default out of range": (GOOD.replace("1.0", "-1.0"), ["'strength'", "-1.0", "greater than"]),
    "default of another type": (GOOD.replace("1.0", "'x'"), ["'strength'", "'x'", "valid number"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_file_of_a_mitigation(package, mistake):
    text, words = MISTAKES[mistake]
    folder, file = package(text)
    refused(lambda: method_files.only(folder, Mitigation), file, *words)


TECHNIQUES = {
    "syntax": ("def f(:\n", ["cannot be imported (SyntaxError"]),
    "no class": ("x = 1\n", ["defines no class derived from Technique"]),
    "no key": (TECHNIQUE.replace('key = "shorter"', "pass"), ["must have a value of 'key'"]),
    "no order": (TECHNIQUE.replace("order = 1", "pass"), ["must have a value of 'order'"]),
    "key with a type": (TECHNIQUE.replace("key =", "key: str ="), ["gives 'key' a type"]),
    "no label": (TECHNIQUE.replace("= label", ""), ["Shorter does not define 'label'"]),
    "no resolve": (
        TECHNIQUE.replace("(Technique", "(PruningTechnique") + '    fractions = word = "x"\n',
        ["Shorter does not define 'resolve'"],
    ),
}


@pytest.mark.parametrize("mistake", TECHNIQUES)
def test_a_mistake_in_the_file_of_a_pruner(package, mistake):
    text, words = TECHNIQUES[mistake]
    folder, file = package(text)
    refused(lambda: method_files.subclasses_in(folder, Technique), file, *words)


# Whole programs: the copy of the package has a file with a mistake


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "compress", folder / "compress")
    shutil.copy(ROOT / "train.py", folder)
    return folder


PROGRAMS = {
    "train": ["train.py", "--deepspeed_config", "x.json", "--output_dir", "out"],
    "reference": ["-m", "compress.configuration.reference"],
    "study": ["-m", "compress.study", "x.json", "--output_dir", "out"],
    "benchmark": ["-m", "compress.benchmark", "x"],
}
FILES = {
    "mitigations/entropy.py": {
        "no loss": (HEAD + CLASS + "    pass\n", "Entropy does not define 'loss'"),
        "mistakes": (
            HEAD + CLASS + '    needs = frozenset({"mistakes"})\n' + LOSS,
            "first_model_epochs",
        ),
    },
    "compression/pruners/shorter.py": {
        "twice": (HEAD + TECHNIQUE.replace('"shorter"', '"layer_reduction"'), "has the same"),
        "key": (HEAD + TECHNIQUE.replace('"shorter"', "3"), "a value of 'key', str"),
        "no default": (
            HEAD + TECHNIQUE.replace('"shorter"', '"layer_reduction"\\n    method = "x"'),
            "exactly one of them must have a default",
        ),
    },
}


def ended(copy, program):
    """What a program prints as its error; it has to end with exit code 1."""
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    words = [sys.executable, *PROGRAMS[program]]
    done = subprocess.run(words, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    return [line for line in done.stderr.splitlines() if "accelerator" not in line]


@pytest.mark.parametrize(
    ("place", "mistake"), [(place, mistake) for place, found in FILES.items() for mistake in found]
)
def test_a_class_that_does_not_fit_the_others(copy, place, mistake):
    text, why = FILES[place][mistake]
    file = copy / "compress" / place
    file.write_text(text.replace("\\n", "\n"))
    try:
        (line,) = ended(copy, "train")
        assert line.startswith("error: /") and str(file) in line and why in line
    finally:
        file.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_prints_one_sentence(copy, program):
    file = copy / "compress/mitigations/entropy.py"
    file.write_text("def f(:\n")
    try:
        (line,) = ended(copy, program)
        assert line == f"error: {file}: cannot be imported (SyntaxError: invalid syntax at line 1)."
    finally:
        file.unlink()


# Layer-wise terms


@pytest.mark.parametrize("name", ["depth", "block"])
def test_a_weight_without_its_term(name):
    kind = type("More", (LayerwiseBlock,), {"__annotations__": {name: float}, name: 1.0})
    file = ROOT / f"compress/layerwise/{name}.py"
    why = "is missing" if name == "depth" else "defines no class Block derived from Term"
    refused(lambda: classes_of(kind()), file, why)


# The trial before anything is trained


def settings(hook, *overrides):
    files = ["zero2", "tasks/synthetic", f"mitigation/{hook}"]
    return config.load([ROOT / f"ds_configs/{file}.json" for file in files], overrides)


@pytest.mark.parametrize("precision", [[], ["bf16.enabled=true"], ["fp16.enabled=true"]], ids=repr)
@pytest.mark.parametrize("hook", sorted(MITIGATIONS))
def test_the_shipped_ones_pass_the_trial_and_leave_the_random_state(hook, precision):
    one, state = settings(hook, *precision), torch.get_rng_state()
    one.robust.loss.trial(one, 3, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), state)


LOSSES = {
    "difficulty without needs": (
        lambda self, batch: batch.sample_weight() * batch.cross_entropy(),
        "needs a difficulty",
    ),
    "shape": (lambda self, batch: batch.cross_entropy()[:, None], "shape"),
    "scalar": (lambda self, batch: batch.cross_entropy().mean(), "leave the mean to the training"),
    "nothing": (lambda self, batch: None, "returned None"),
    "no gradient": (lambda self, batch: batch.cross_entropy().detach(), "without a gradient"),
    "not finite": (lambda self, batch: batch.cross_entropy() / 0, "not finite"),
    "raises": (lambda self, batch: batch.logit, "AttributeError"),
    "logits in place": (
        lambda self, batch: (batch.logits.mul_(2), batch.cross_entropy())[1],
        "changes 'logits' in place",
    ),
    "teacher in place": (
        lambda self, batch: (batch.teacher.zero_(), batch.cross_entropy())[1],
        "changes 'teacher' in place",
    ),
}


@pytest.mark.parametrize("mistake", LOSSES)
def test_a_loss_that_would_fail_in_training(monkeypatch, mistake):
    loss, why = LOSSES[mistake]
    monkeypatch.setattr(vanilla.Vanilla, "loss", loss)
    one = settings("vanilla")
    refused(
        lambda: one.robust.loss.trial(one, 3, torch.device("cpu")), vanilla.__file__, "Vanilla", why
    )


def test_a_batch_weight_of_another_shape(monkeypatch):
    monkeypatch.setattr(MITIGATIONS["focal"], "batch_weight", lambda self, batch: batch.logits)
    one = settings("focal")
    refused(lambda: one.robust.loss.trial(one, 3, torch.device("cpu")), "focal.py", "'batch_weight'")


def test_without_a_loss_nothing_is_tried():
    files = [ROOT / f"ds_configs/{file}.json" for file in ("zero2", "tasks/synthetic")]
    one = config.load(files)
    one.robust.loss.trial(one, 3, torch.device("cpu"))
