"""Loss hooks: found by name or path, and refused without the signals that they need."""

import sys

import pytest
import torch
from equations import an_ordinary_batch

from compress.configuration.robust_schema import LOSS_SCALARS
from compress.errors import UserError
from compress.losses import LOSSES, NEED_DIFFICULTY, LossWeights, resolve


@pytest.mark.parametrize("hook", ["weighted", "jtt"])
def test_weights_need_a_difficulty(hook):
    logits, labels, teacher, _ = an_ordinary_batch()
    with pytest.raises(ValueError, match="need a difficulty"):
        LOSSES[hook](logits, labels, teacher, None, LossWeights())


@pytest.mark.parametrize("missing", ["teacher", "difficulty"])
@pytest.mark.parametrize("hook", sorted(NEED_DIFFICULTY - {"weighted"}))
def test_missing_signals_are_refused(hook, missing):
    logits, labels, teacher, d = an_ordinary_batch()
    given_ = (None, d) if missing == "teacher" else (teacher, None)
    with pytest.raises(ValueError, match=r"needs? the teacher"):
        LOSSES[hook](logits, labels, *given_, LossWeights())


def test_the_configuration_knows_which_hooks_take_a_difficulty():
    assert set(LOSS_SCALARS["difficulty"]) == NEED_DIFFICULTY


@pytest.fixture
def hook_module(tmp_path, monkeypatch):
    (tmp_path / "my_loss_hooks.py").write_text(
        "NUMBER = 3\ndef twice(logits, *signals):\n    return logits[:, 0] * 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_loss_hooks"
    sys.modules.pop("my_loss_hooks", None)


@pytest.mark.parametrize("hook", LOSSES)
def test_resolve_by_name(hook):
    assert resolve(hook) is LOSSES[hook]
    assert resolve(hook).__name__ == hook


def test_resolve_by_path(hook_module):
    loss = resolve(f"{hook_module}:twice")
    assert loss(torch.tensor([[3.0, 1.0]]), None, None, None, None).tolist() == [6.0]
    assert resolve("compress.losses:rmc") is LOSSES["rmc"]


@pytest.mark.parametrize(
    ("hook", "hint"),
    [
        ("rcm", "did you mean 'rmc'?"),
        ("distill", "did you mean 'distil'?"),
        ("rmc-weighted", "did you mean 'rmc_weighted'?"),
        ("Vanila", "did you mean 'vanilla'?"),
        (
            "zzz",
            "valid here: distil, focal, jtt, rmc, rmc_plus, rmc_weighted, smooth, vanilla, weighted",
        ),
        ("my_loss_hooks:thrice", "cannot be imported"),
        ("my_loss_hooks:NUMBER", "is not a function"),
        ("my_loss_hooks:", "cannot be imported"),
        ("no_such_module:f", "No module named 'no_such_module'"),
        (":f", "cannot be imported"),
        (".relative:f", "cannot be imported"),
    ],
)
def test_resolve_names_the_mistake(hook_module, hook, hint):
    with pytest.raises(UserError) as error:
        resolve(hook)
    sentence = str(error.value)
    assert sentence.startswith("robust_compression.loss.hook:")
    assert f"'{hook}'" in sentence and hint in sentence
