"""The sentence for a mistake in a block `loss`, of the student or of the teacher."""

import json

import pytest
from configs import FULL, OURS, Files, at


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def test_further_keys_that_a_loss_does_not_use_are_named_too(files):
    keys = {"hook": "vanilla", "gamma": 2, "lambda": 0.5, "bias": "partial"}
    sentence, _ = files.refused(FULL, at(f"{OURS}.loss", None), at(f"{OURS}.loss", keys), {"x": 1})
    assert sentence.count("has no effect with the hook 'vanilla'") == 1
    wanted = {f"{OURS}.loss.{key}" for key in ("gamma", "lambda", "bias")} | {"x"}
    first, rest = sentence.split(" Without effect too: ")
    assert {first.split("'")[1], *rest.removesuffix(".").replace("'", "").split(", ")} == wanted


def test_keys_beside_an_unknown_loss_are_not_said_to_be_without_effect(files):
    """With the hook that was meant they may have one."""
    keys = {"hook": "poes", "bias": "weak", "calibrate": True}
    sentence, _ = files.refused(FULL, at(f"{OURS}.loss", None), at(f"{OURS}.loss", keys), {"x": 1})
    assert f"'{OURS}.loss.hook' is unknown" in sentence
    assert sentence.endswith(" Without effect too: 'x'.")


@pytest.mark.parametrize("block", ["loss", "teacher.loss"])
@pytest.mark.parametrize("value", ["poe", 3, ["poe"]])
def test_a_loss_that_is_no_object(files, block, value):
    override = f"{OURS}.{block}={json.dumps(value)}"
    sentence, _ = files.refused(FULL, overrides=[override])
    given = f"'{OURS}.{block}' is {json.dumps(value)}"
    assert sentence.endswith(
        f'--set {override}: {given}, but it must be an object such as {{"hook": "poe"}}.'
    )
