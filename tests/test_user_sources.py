"""Which files of the user's a loss of his depends on: their contents enter the student's key."""

import sys

import pytest

from compress.mitigations import USER

LOSS = "def loss(logits, labels, teacher, difficulty, weights):\n    return logits[:, 0]\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Function (files by name, below the current folder) -> their folder; what is imported goes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def make(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    yield make
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


def names(hook, folder):
    return [file.relative_to(folder).as_posix() for file in USER(hook=hook).files()]


CASES = {
    "alone": ({"own_a.py": f"import torch, json\n{LOSS}"}, "own_a:loss", []),
    "import": ({"own_a.py": f"import own_b\n{LOSS}", "own_b.py": ""}, "own_a:loss", ["own_b.py"]),
    "import of another": (
        {"own_a.py": f"import own_b\n{LOSS}", "own_b.py": "from own_c import x", "own_c.py": "x = 1"},
        "own_a:loss",
        ["own_b.py", "own_c.py"],
    ),
    "in a circle": (
        {"own_a.py": f"import own_b\n{LOSS}", "own_b.py": "import own_a"},
        "own_a:loss",
        ["own_b.py"],
    ),
    "inside a function": (
        {"own_a.py": f"{LOSS}\ndef f():\n    from own_b import x\n", "own_b.py": ""},
        "own_a:loss",
        ["own_b.py"],
    ),
    "made by a factory": (
        {
            "own_a.py": "from own_b import make\nloss = make()\n",
            "own_b.py": "def make():\n    return lambda a, b, c, d, e: a[:, 0]\n",
        },
        "own_a:loss",
        ["own_b.py"],
    ),
    "a package": (
        {
            "own_p/__init__.py": "from own_x import x",
            "own_p/a.py": f"from .b import x\nfrom . import c\n{LOSS}",
            "own_p/b.py": "from .inner.e import x",
            "own_p/inner/e.py": "from .. import d\nx = 1",
            "own_p/c.py": "",
            "own_p/d.py": "",
            "own_p/unused.py": "",
            "own_x.py": "x = 1",
        },
        "own_p.a:loss",
        ["own_p/__init__.py", "own_p/b.py", "own_p/c.py", "own_p/d.py", "own_p/inner/e.py", "own_x.py"],
    ),
    "a package's own file": (
        {"own_p/__init__.py": f"from own_p.b import x\n{LOSS}", "own_p/b.py": "x = 1"},
        "own_p:loss",
        ["own_p/b.py"],
    ),
    "installed ones and this package": (
        {"own_a.py": f"import numpy as np\nfrom compress.microbatch import Batch\n{LOSS}"},
        "own_a:loss",
        [],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_files(write, case):
    files, hook, others = CASES[case]
    folder = write(files)
    first, *found = names(hook, folder)
    assert first == hook.partition(":")[0].replace(".", "/") + (
        "/__init__.py" if case == "a package's own file" else ".py"
    )
    assert sorted(found) == others


def test_a_module_beside_the_hook_counts_when_the_program_starts_elsewhere(
    write, tmp_path, monkeypatch
):
    folder = write({"own_a.py": f"import own_b\n{LOSS}", "own_b.py": "", "elsewhere/x.txt": ""})
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert names("own_a:loss", folder) == ["own_a.py", "own_b.py"]


def test_what_was_imported_before_changes_nothing(write):
    folder = write({"own_a.py": LOSS, "own_b.py": ""})
    __import__("own_b")
    assert names("own_a:loss", folder) == ["own_a.py"]


def test_an_edited_helper_is_another_loss_and_a_new_import_is_seen(write):
    folder = write({"own_a.py": f"import own_b\n{LOSS}", "own_b.py": "x = 1\n", "own_c.py": ""})
    before = USER(hook="own_a:loss").inputs()
    assert USER(hook="own_a:loss").inputs() == before
    (folder / "own_b.py").write_text("x = 22\n")
    after = USER(hook="own_a:loss").inputs()
    assert after != before and len(after["sources"]) == 2
    (folder / "own_b.py").write_text("import own_c\nx = 333\n")
    assert names("own_a:loss", folder) == ["own_a.py", "own_b.py", "own_c.py"]
