"""A loss of the user's: whatever is wrong with it is one sentence, before anything is trained."""

import sys
from dataclasses import replace

import pytest
import torch
from configs import ROOT

from compress.configuration import config
from compress.errors import UserError
from compress.microbatch import Batch
from compress.mitigations import USER

HEAD = "import torch, torch.nn.functional as F\n"
SIGNATURE = "def loss(logits, labels, teacher, difficulty, weights):\n"
GOLD = "F.cross_entropy(logits.float(), labels, reduction='none')"
BODIES = {
    "raise KeyError('weight')": ("raises KeyError: 'weight'", "own_hook.py:3"),
    "assert len(labels) > 4": ("raises AssertionError", "own_hook.py:3"),
    "return 1 / weights.progress * logits[:, 0]": ("raises ZeroDivisionError", "own_hook.py:3"),
    "return logits[:, 5]": ("raises IndexError", "own_hook.py:3"),
    "raise SystemExit(3)": ("raises SystemExit: sys.exit(3)", "own_hook.py:3"),
    "return teacher + labels": ("raises RuntimeError", "own_hook.py:3"),
    "pass": ("returned None", "own_hook.py:2"),
    "return 1.0": ("returned a float", "own_hook.py:2"),
    "return [0.5] * len(labels)": ("returned a list", "own_hook.py:2"),
    f"return {GOLD}.detach().numpy()": ("returned a ndarray", "own_hook.py:2"),
    "yield logits": ("returned a generator", "own_hook.py:2"),
    f"return {GOLD}.mean()": (
        "shape [], but one loss per sample is",
        "leave the mean",
        "own_hook.py:2",
    ),
    f"return {GOLD}.to_sparse()": ("returned a sparse tensor, but one loss per sample",),
    "return logits": ("shape [4, 3], but one loss per sample is a tensor of shape [4]",),
    f"return {GOLD}.squeeze() if len(labels) > 1 else {GOLD}.squeeze()": ("shape []", "shape [1]"),
    f"return {GOLD}[:, None]": ("shape [4, 1]",),
    "return (logits.argmax(1) != labels).long()": ("values of type int64",),
    "return (logits.argmax(1) != labels).float()": ("without a gradient",),
    f"return {GOLD}.detach()": ("without a gradient", "own_hook.py:2"),
    f"with torch.no_grad(): return {GOLD}": ("without a gradient",),
    f"return {GOLD} * float('nan')": ("returned nan, nan", "the loss is not finite at step 0"),
    f"return {GOLD} / 0": ("the loss is not finite at step 0",),
    "return torch.ones(len(labels), requires_grad=True)": ("does not depend on the logits",),
    f"return (logits[:, 0] * 0).sqrt() + {GOLD}": ("a gradient that is not finite",),
}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Function (text): writes own_hook.py, which a run would import."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(text):
        sys.modules.pop("own_hook", None)
        (tmp_path / "own_hook.py").write_text(text)
        return "own_hook:loss"

    yield write
    sys.modules.pop("own_hook", None)


def refused(call, *words):
    with pytest.raises(UserError) as caught:
        call()
    sentence = str(caught.value)
    assert sentence.startswith("robust_compression.loss.hook: 'own_hook:loss'")
    assert "\n" not in sentence and sentence[-1] == "."
    for word in words:
        assert word in sentence
    return sentence


def tried(hook, classes=3, *overrides):
    files = [f"{ROOT}/ds_configs/{name}.json" for name in ("zero2", "tasks/synthetic")]
    given = [f"robust_compression.loss.hook={hook}", *overrides]
    settings = config.load(files, given)
    settings.robust.loss.trial(settings, classes, torch.device("cpu"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SIGNATURE + "    return (logits\n", ("SyntaxError", "own_hook.py:2")),
        (HEAD + "1 / 0\n" + SIGNATURE + "    return 0\n", ("ZeroDivisionError", "own_hook.py:2")),
        (HEAD + "import no_such_thing\n", ("No module named 'no_such_thing'", "own_hook.py:2")),
        ("raise SystemExit\n", ("SystemExit", "own_hook.py:1")),
        ("import sys\nsys.exit('bye')\n", ("sys.exit('bye')", "own_hook.py:2")),
        ("def lose(*signals):\n    return 0\n", ("has no 'loss'; did you mean 'lose'?",)),
        ("class loss:\n    pass\n", ("is not a function",)),
        ("def loss(logits, labels):\n    return 0\n", ("takes (logits, labels)", "own_hook.py:1")),
        ("def loss(*, logits, **rest):\n    return 0\n", ("takes (*, logits, **rest)",)),
        ("\tdef loss(a):\n", ("IndentationError", "own_hook.py:1")),
        ("x = '\0'\n", ("SyntaxError",)),
    ],
)
def test_a_module_that_cannot_be_used(written, text, words):
    hook = written(text)
    refused(USER(hook=hook).load, *words)


@pytest.mark.parametrize("body", BODIES)
def test_a_function_is_tried_before_the_training(written, body):
    hook = written(f"{HEAD}{SIGNATURE.strip()}\n    {body}\n")
    refused(lambda: tried(hook), *BODIES[body])


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("type_", [(), ('bf16={"enabled": true}',)], ids=["float32", "bf16"])
def test_a_good_function_passes_and_draws_nothing(written, classes, type_):
    noise = "logits + torch.rand_like(logits)"
    hook = written(f"{HEAD}{SIGNATURE}    return {GOLD.replace('logits', f'({noise})')} * difficulty\n")
    before = torch.get_rng_state()
    tried(hook, classes, *type_)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_constant_zero_is_a_loss_beside_layerwise_terms_only(written):
    hook = written(f"{HEAD}{SIGNATURE}    return torch.zeros(len(labels))\n")
    refused(lambda: tried(hook), "without a gradient")
    tried(hook, 3, "robust_compression.layerwise.hidden=1")


SCALARS = {"lambda": 0.3, "smoothing": 0.4, "gamma": 3.0, "floor": 0.2, "warmup": 0.5}


def test_the_scalars_of_the_run_reach_both_kinds_of_functions(written):
    """Five arguments get them as attributes of `weights`, one as `batch.settings` and fields."""
    batch = Batch(torch.randn(3, 2), torch.tensor([0, 1, 1]), torch.rand(3, 2), torch.rand(3))
    batch = replace(batch, progress=0.25, ceiling=0.8, mean_difficulty=0.6, alpha=0.1)
    names = "w.distillation, w.smoothing, w.gamma, w.floor, w.warmup, w.progress, w.ceiling, "
    names += "w.mean_difficulty, w.alpha, w.onset"
    five = written(
        f"{HEAD}def loss(x, y, t, d, w):\n    return torch.tensor([{names}, t.sum(), d.sum()])\n"
    )
    batch = replace(batch, labels=torch.zeros(12))
    found = USER(hook=five, **SCALARS).loss(batch).tolist()
    assert found[:10] == pytest.approx([0.3, 0.4, 3.0, 0.2, 0.5, 0.25, 0.8, 0.6, 0.1, 0.5])
    assert found[10:] == pytest.approx([float(batch.teacher.sum()), float(batch.difficulty.sum())])
    one = written(
        f"{HEAD}def loss(batch):\n    batch.watch('mine', batch.labels)\n    s = batch.settings\n"
        "    return torch.tensor([s.lambda_, s.smoothing, s.gamma, batch.onset(s.warmup)] * 3)\n"
    )
    assert USER(hook=one, **SCALARS).loss(batch)[:4].tolist() == pytest.approx([0.3, 0.4, 3.0, 0.5])
    assert set(batch.watched) == {"mine"}


def test_a_function_of_the_batch_is_tried_and_says_what_it_needs(written):
    text = f"{HEAD}def loss(batch):\n    return batch.divergence(batch.difficulty)\n"
    tried(hook := written(text))
    assert USER(hook=hook).uses("difficulty")
    assert not USER(hook=written(f"{text}loss.needs = {{'teacher'}}\n")).uses("difficulty")
    for needs in ("{'dificulty'}", "{'mistakes'}", "'difficulty'"):
        with pytest.raises(UserError, match=r"needs .*'difficulty' and 'teacher'"):
            USER(hook=written(f"{text}loss.needs = {needs}\n")).load()
    refused(
        lambda: tried(written(text.replace("divergence", "nothing"))), "AttributeError", "own_hook.py:3"
    )


def test_a_key_that_the_function_does_not_use_is_refused(written):
    text = f"{HEAD}def loss(batch):\n    return batch.cross_entropy()\nloss.needs = {{'teacher'}}\n"
    for key, value in {"bias": "weak", "calibrate": False, "difficulty": "shallow"}.items():
        why = rf"loss\.{key}: has no effect: .* has no '.*' among its needs"
        with pytest.raises(UserError, match=why):
            USER(hook=written(text), **{key: value}).load()
    five = SIGNATURE.replace("difficulty", "_difficulty")
    why = r"loss\.difficulty: .*'own_hook:loss' does without the difficulty"
    with pytest.raises(UserError, match=why):
        USER(hook=written(f"{HEAD}{five}    return {GOLD}\n"), difficulty="shallow").load()
    USER(hook=written(f"{HEAD}{SIGNATURE}    return {GOLD}\n"), difficulty="shallow").load()


def test_mistakes_that_come_later_name_the_function_too(written):
    hook = written(
        f"{HEAD}{SIGNATURE}    if len(labels) == 9:\n        return None\n"
        f"    if difficulty is None:\n        return {GOLD} * difficulty\n    return {GOLD}\n"
    )
    tried(hook)
    logits, labels, own = torch.randn(9, 3), torch.arange(9) % 3, USER(hook=hook)
    refused(lambda: own.loss(Batch(logits, labels, logits, labels)), "returned None")
    refused(lambda: own.loss(Batch(logits[:4], labels[:4])), "TypeError", "own_hook.py:6")


def test_out_of_memory_and_an_interrupt_are_no_mistake_of_the_function(written):
    for error in ("torch.OutOfMemoryError('CUDA out of memory')", "KeyboardInterrupt()"):
        hook = written(f"{HEAD}{SIGNATURE}    raise {error}\n")
        with pytest.raises((torch.OutOfMemoryError, KeyboardInterrupt)):
            tried(hook)


def test_the_sources_of_a_decorated_function_are_its_own_file_and_its_decorators(written, tmp_path):
    (tmp_path / "own_decorator.py").write_text(
        "import functools\ndef twice(f):\n    @functools.wraps(f)\n"
        "    def inner(*a):\n        return 2 * f(*a)\n    return inner\n"
    )
    hook = written(f"{HEAD}from own_decorator import twice\n@twice\n{SIGNATURE}    return {GOLD}\n")
    assert USER(hook=hook).files() == [tmp_path / "own_hook.py", tmp_path / "own_decorator.py"]
    tried(hook)
