"""Importance that the engine measures, against that of a plain float32 copy of the masked model.

On two ranks, at every ZeRO stage, with what else may act on the model: see drivers/importance_steps.py.
"""

import json

import numpy as np
import pytest
from families import write
from launcher import ROOT, two_ranks
from transformers import AutoTokenizer

from compress.runtime import versions

STEPS = 10
ROUNDS = 2
WAYS = ("engine", "copy")
FILE = "heads20_rows50_imp40"
LEARNED = [
    "compression_training.row_pruning.shared_parameters.method=topk",
    "robust_compression.score_lr=0.1",
]
BF16 = ['bf16={"enabled": true}']
AGAIN = ["robust_compression.activation_checkpointing=true"]
PADDING = ["robust_compression.padding_free=true"]
ACCUMULATED = ["gradient_accumulation_steps=2"]
JOBS = {
    0: {"plain": [], "learned": LEARNED, "again": AGAIN, "padding": PADDING, "llama": [], "bf16": BF16},
    1: {"plain": ACCUMULATED, "bf16": BF16},
    2: {"plain": []},
    3: {
        "plain": [],
        "learned": LEARNED,
        "again": AGAIN,
        "llama": AGAIN,
        "albert": [],
        "bf16": BF16,
    },
}
LIBRARY = {"plain", "learned"} if versions.has_library() else set()
"""Jobs with the masks of DeepSpeed's library too."""
pytestmark = [pytest.mark.launcher, pytest.mark.timeout(900)]


def jobs(stage, folder, words):
    """What is trained at a stage; another type takes the place of BERT under its name."""
    found = {}
    for name, settings in JOBS[stage].items():
        settings = [*settings, f"robust_compression.structured.rounds={ROUNDS}"]
        if name in ("llama", "albert"):
            model = write(name, folder / name, vocab_size=words, pad_token_id=0)
            settings.append(f"robust_compression.student.model={model}")
        kinds = ["native", "deepspeed"] if name in LIBRARY and stage in (0, 3) else ["native"]
        found[name] = {"file": FILE, "kinds": kinds, "set": settings}
    return found


@pytest.fixture(scope="module", params=JOBS, ids=lambda stage: f"zero{stage}")
def results(request, four_heads, tmp_path_factory):
    """What each job gave, of both ranks, by name and kind of masks."""
    folder = tmp_path_factory.mktemp("importance")
    words = len(AutoTokenizer.from_pretrained(four_heads))
    settings = [
        "optimizer.params.lr=0.002",
        "robust_compression.structured.samples=50",
        "robust_compression.structured.end=0.6",
    ]
    given = {"stage": request.param, "steps": STEPS, "set": settings}
    given["jobs"] = jobs(request.param, folder, words)
    driver = str(ROOT / "tests/drivers/importance_steps.py")
    done = two_ranks(driver, str(folder), str(four_heads), json.dumps(given))
    assert done.returncode == 0, done.stderr[-3000:]
    names = [f"{name}-{kind}" for name, job in given["jobs"].items() for kind in job["kinds"]]
    return {
        name: [json.loads((folder / f"{name}-rank{rank}.json").read_text()) for rank in range(2)]
        for name in names
    }


def exact(results):
    return {name: both for name, both in results.items() if not name.startswith("bf16")}


def test_importance_is_that_of_a_float32_copy(results):
    for name, both in exact(results).items():
        assert len(both[0]["engine"]["seen"]) == ROUNDS, name
        for seen in both[0]["engine"]["seen"]:
            for key in ("heads", "neurons"):
                for ours, copied in zip(seen["engine"][key], seen["copy"][key], strict=True):
                    largest = max(copied)
                    assert largest > 0
                    np.testing.assert_allclose(
                        ours, copied, rtol=1e-5, atol=1e-6 * largest, err_msg=f"{name} {key}"
                    )
            assert seen["chosen"][0] == seen["chosen"][1], name


def test_the_second_round_measures_the_masked_model(results):
    for name, both in exact(results).items():
        key = "neurons" if name.startswith("albert") else "heads"  # of whose four one goes at the end
        later = both[0]["engine"]["seen"][1]["engine"][key]
        assert any(0.0 in scores for scores in later), name


def test_training_goes_on_as_with_the_copy(results):
    """Bit for bit with dropout: losses, what is kept, weights."""
    for name, both in exact(results).items():
        for one in both:
            ours, copied = ({k: v for k, v in one[way].items() if k != "seen"} for way in WAYS)
            assert len(ours["losses"]) == STEPS
            assert ours == copied, name


def test_nothing_is_left_behind(results):
    for name, both in results.items():
        for one in both:
            for seen in one["engine"]["seen"]:
                assert seen["changed"] == [], name
                assert set(seen["fetched"].values()) <= {0}, name


def test_ranks_agree(results):
    for name, both in results.items():
        first, second = (one["engine"]["seen"] for one in both)
        assert [s["engine"] for s in first] == [s["engine"] for s in second], name


def test_bf16_correlates_with_float32(results):
    for name, both in results.items():
        for seen in both[0]["engine"]["seen"] if name.startswith("bf16") else ():
            for key in ("heads", "neurons"):
                ours, copied = (np.concatenate(seen[one][key]) for one in WAYS)
                assert np.corrcoef(ours, copied)[0, 1] > 0.999, (name, key)
