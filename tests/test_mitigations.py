"""Every shipped mitigation on two ranks; and how alpha "auto" decides."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from launcher import ROOT, two_ranks
from stage_runs import run_of

from compress.configuration import config
from compress.errors import UserError
from compress.files import artefacts
from compress.mitigations import MITIGATIONS
from compress.mitigations.user import UserLoss
from compress.stages import remaining_work
from compress.stages.alpha import Candidate, choose, settle, unused
from compress.stages.stage import key_of
from compress.stages.student import Student

NAMES = sorted(file.stem for file in (ROOT / "ds_configs/mitigation").glob("*.json"))
LAYERWISE = {"hidden": "vanilla", "rmc_plus_hidden": "rmc_plus", "poe_hidden": "poe"}
OF_TEACHER = {"debiased_teacher": "poe_partial", "debiased_teacher_encoder": "poe_partial_encoder"}
"""Files whose teacher has the loss of another file."""
LAYERWISE |= {"poe_partial_hidden": "poe_partial", **OF_TEACHER}
"""Files that add layer-wise terms to another file."""
SHALLOW = {"weighted_shallow": "weighted", "rmc_plus_shallow": "rmc_plus"}
"""Files that give a hook of another name the difficulty of the shallow classifier."""
BIAS = {"poe_partial": "partial", "poe_partial_encoder": "partial_encoder", "poe_weak": "weak"}
"""Files that give `poe` another bias model."""
HOOKS = {name: name for name in NAMES} | LAYERWISE | SHALLOW
OTHER_BIAS = (*BIAS, "poe_partial_hidden", *OF_TEACHER)
HOOKS |= dict.fromkeys(OTHER_BIAS, "poe")
SPARSE = str(ROOT / "ds_configs/compression/imp40.json")


def settings(name, *overrides):
    files = ["zero2", "tasks/synthetic", f"mitigation/{name}"]
    return config.load([ROOT / f"ds_configs/{file}.json" for file in files], overrides)


def test_there_is_a_file_for_every_loss():
    assert {settings(name).robust.loss.hook for name in NAMES} == set(MITIGATIONS) <= set(NAMES)
    for files, suffix in ((LAYERWISE, "layerwise"), (SHALLOW, "shallow")):
        for name, hook in files.items():
            own = settings(hook).mitigation_label
            label, _, teacher = settings(name).mitigation_label.partition(", teacher with ")
            assert label == f"{own}+{suffix}"
            assert teacher == (
                settings(OF_TEACHER[name]).mitigation_label if name in OF_TEACHER else ""
            )
    for name, bias in BIAS.items():
        assert settings(name).mitigation_label == f"poe+{bias}"


CLIPPED = {"normalisation": "quantile", "quantile": 0.95}
SAFE = {"warmup": 0.1, "max_weight": 4}
CONSTANTS = {
    "distil": ({"lambda": 0.9}, {}),
    "smooth": ({"lambda": 0.9, "smoothing": 0.9}, {}),
    "focal": ({"gamma": 2}, {}),
    "jtt": ({"first_epochs": 2, "upweight": 2, "warmup": 0, "max_weight": None}, {}),
    "rmc": ({"lambda": 0.9}, {"normalisation": "minmax"}),
    "rmc_weighted": ({"lambda": 0.9, "warmup": 0, "max_weight": None}, {"normalisation": "minmax"}),
    "weighted": (SAFE, CLIPPED | {"alpha": 0.2}),
    "rmc_plus": (SAFE | {"lambda": 0.9, "floor": 0.1}, CLIPPED | {"alpha": 0.5}),
}
"""Scalars of the loss and settings of the difficulty: the paper's, and ours as README tells them."""


@pytest.mark.parametrize("name", [name for name in NAMES if HOOKS[name] in CONSTANTS])
def test_the_constants_are_those_of_the_paper_and_of_the_readme(name):
    robust = settings(name).robust
    scalars, difficulty = CONSTANTS[HOOKS[name]]
    used = robust.loss.inputs()
    assert used.pop("hook") == HOOKS[name]
    assert used.pop("difficulty", "variance") == ("shallow" if name in SHALLOW else "variance")
    assert used == scalars
    assert difficulty.items() <= robust.uncertainty.model_dump().items()
    assert robust.layerwise.hidden == (name in LAYERWISE)


@pytest.fixture(scope="module")
def students(tmp_path_factory, tiny_model) -> Path:
    folder = tmp_path_factory.mktemp("mitigations")
    specs = [{"name": n, "files": [SPARSE], "stage": 2, "mitigation": n} for n in NAMES]
    raw = ["robust_compression.loss.calibrate=false"]  # of 64 samples they know nothing
    for name in OTHER_BIAS:
        specs[NAMES.index(name)]["set"] = raw
    own = [*raw, "robust_compression.teacher.loss.calibrate=false"]
    for name in OF_TEACHER:
        specs[NAMES.index(name)] |= {"set": own, "trained": True}
    specs.append({**specs[NAMES.index("jtt")], "name": "jtt_zero3", "stage": 3})
    specs.append({**specs[NAMES.index("rmc_plus")], "name": "rmc_plus_zero3", "stage": 3})
    shallow = str(ROOT / "ds_configs/mitigation/rmc_plus_shallow.json")
    specs.append({"name": "shallow_alone", "files": [SPARSE, shallow], "stage": 2})
    specs.append({**specs[NAMES.index("poe_partial")], "name": "poe_partial_zero3", "stage": 3})
    twice = {"name": "poe_twice", "set": [*raw, "robust_compression.teacher.loss.hook=poe"]}
    specs.append({**specs[NAMES.index("poe_weak")], **twice, "trained": True})
    other = [f"robust_compression.cache_dir={folder}/other"]
    specs.append({**specs[NAMES.index("jtt")], "name": "jtt_twin", "trained": True, "set": other})
    driver = str(ROOT / "tests/drivers/compress_all.py")
    done = two_ranks(driver, str(folder), str(tiny_model), json.dumps(specs))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def losses_of(folder: Path, name: str) -> list[float]:
    first, second = (
        json.loads((folder / name / f"rank{r}.json").read_text())["losses"] for r in (0, 1)
    )
    assert first == second
    return first


@pytest.mark.launcher
@pytest.mark.timeout(600)
def test_every_mitigation_trains_a_student_of_its_own(students: Path) -> None:
    series = {name: losses_of(students, name)[-8:] for name in NAMES}
    assert all(np.isfinite(values).all() for values in series.values())
    assert len({tuple(values) for values in series.values()}) == len(NAMES)
    for name in NAMES:
        assert (students / name / "student/model/model.safetensors").is_file()


@pytest.mark.launcher
@pytest.mark.parametrize("name", ["jtt", "rmc_plus"])
def test_zero_3_trains_the_same(students: Path, name: str) -> None:
    found, expected = losses_of(students, f"{name}_zero3"), losses_of(students, name)
    np.testing.assert_allclose(found[-8:], expected[-8:], rtol=1e-5)


@pytest.mark.launcher
def test_the_first_model_of_jtt_is_shared_in_the_cache(students: Path) -> None:
    made = list((students / "shared/first").iterdir())
    stages = {json.loads((f / "complete.json").read_text())["inputs"]["stage"] for f in made}
    assert stages == {"first"}
    probabilities = np.load(made[0] / "probabilities.npy")
    assert probabilities.shape == (64, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.launcher
def test_a_teacher_of_as_many_epochs_is_the_first_model(students: Path) -> None:
    """Trained anew it has the same probabilities, so it need not be."""
    found = [next((students / f"{cache}/first").iterdir()) for cache in ("shared", "other")]
    trained, reused = (np.load(path / "probabilities.npy") for path in found)
    np.testing.assert_array_equal(trained, reused)
    steps = len(losses_of(students, "vanilla"))
    assert len(losses_of(students, "jtt")) == len(losses_of(students, "jtt_twin")) == 2 * steps


@pytest.mark.launcher
def test_the_shallow_difficulty_needs_no_sub_networks(students: Path) -> None:
    """The student depends on the shallow classifier alone; the loss matrix changes nothing."""
    with_matrix, without = (
        json.loads((students / name / "student/complete.json").read_text())["inputs"]
        for name in ("rmc_plus_shallow", "shallow_alone")
    )
    assert with_matrix == without
    assert losses_of(students, "rmc_plus_shallow") == losses_of(students, "shallow_alone")
    made, needed = students / "shared/shallow", with_matrix["needs"]["shallow"]
    inputs = {m: json.loads((m / "complete.json").read_text())["inputs"] for m in made.iterdir()}
    (made,) = (path for path, values in inputs.items() if artefacts.key(values) == needed)
    assert "difficulty" not in with_matrix["needs"]
    probabilities = np.load(made / "probabilities.npy")
    assert probabilities.shape == (64, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.launcher
def test_the_bias_models_are_kept_and_change_student_and_teacher(students: Path) -> None:
    """Of both texts, one text, few samples; and a teacher that is trained with the bias as well."""
    names = ("poe", "poe_partial_zero3", "poe_partial_encoder", "poe_twice")
    series = [losses_of(students, name)[-8:] for name in names]
    assert np.isfinite(series).all() and len({*map(tuple, series)}) == len(names)
    for kind in ("weak", "partial_encoder"):
        (folder,) = (students / "shared" / kind).iterdir()
        found = np.load(folder / "probabilities.npy")
        assert found.shape == (64, 2) and found.std() > 0
        np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    inputs = json.loads((students / "poe_twice/student/complete.json").read_text())["inputs"]
    assert inputs["needs"].keys() == {"teacher", "weak"}
    teachers = [
        json.loads((made / "complete.json").read_text())["inputs"]["needs"]
        for made in (students / "shared/teacher").iterdir()
    ]
    assert sorted(map(len, teachers))[-1] == 1  # the shallow classifier, by default


# What is known of the training samples


def known(name, d, *overrides):
    return settings(name, *overrides).robust.loss.sample_data(None, d, 0.5)


def test_weights_have_mean_one_and_keep_their_bound():
    free = known("weighted", np.array([0.2] * 90 + [1.0] * 10))
    assert (free.ceiling, free.mean_difficulty, free.alpha) == (1.0, pytest.approx(0.28), 0.5)
    d = np.linspace(0.2, 1, 100) ** 2
    bound = known("weighted", d, "robust_compression.loss.max_weight=1.5")
    weights = np.minimum(d, bound.ceiling) / bound.mean_difficulty
    assert weights.mean() == pytest.approx(1) and 1.4 < weights.max() <= 1.5


def test_a_bound_that_no_weights_keep():
    with pytest.raises(UserError, match=r"loss\.max_weight: 2 cannot be kept"):
        known("weighted", np.array([0.0] * 9 + [1.0]), "robust_compression.loss.max_weight=2")
    with pytest.raises(UserError, match=r"uncertainty\.alpha: every sample has difficulty 0"):
        known("weighted", np.zeros(9))
    assert UserLoss(hook="stage_runs:own_loss").scale(np.zeros(9)) == (1, 1)


def test_a_batch_has_the_samples_and_the_scalars():
    data = known("rmc_plus", np.array([0.2, 0.5, 1.0]))
    teacher = np.array([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]])
    batch = replace(data, teacher=teacher).batch(np.array([2, 0]), torch.zeros(2, 2), torch.zeros(2))
    assert batch.difficulty.tolist() == pytest.approx([1.0, 0.2])
    assert batch.teacher.numpy() == pytest.approx(teacher[[2, 0]])
    assert (batch.mean_difficulty, batch.alpha) == (data.mean_difficulty, 0.5)


# alpha "auto"


def undecided(hook, model, folder):
    chosen = settings(hook, "robust_compression.uncertainty.alpha=auto")
    return run_of(chosen, model, folder, stage="student", chosen=("student",))


def test_alpha_auto_cannot_cut_dev_without_the_variance(tiny_model, tmp_path):
    with pytest.raises(UserError, match=r"alpha: 'auto' .*--stage difficulty"):
        settle(undecided("rmc", tiny_model, tmp_path))


@pytest.mark.parametrize("hook", ["vanilla", "distil", "focal"])
def test_alpha_auto_trains_nothing_for_a_loss_without_a_difficulty(hook, tiny_model, tmp_path):
    run, choice = settle(undecided(hook, tiny_model, tmp_path))
    assert choice is None and run.config.robust.uncertainty.alpha != "auto"


def test_a_run_with_an_alpha_auto_that_nothing_uses_knows_its_finished_student(tiny_model, tmp_path):
    """By its key, by which the events of the training are kept when the same command is given again."""
    words = ("hook=stage_runs:own_loss_without_difficulty", "uncertainty.alpha=auto")
    hook, alpha = (f"robust_compression.{'loss.' * (n == 0)}{word}" for n, word in enumerate(words))
    run = run_of(settings("vanilla", hook, alpha), tiny_model, tmp_path, chosen=("student",))
    made, choice = settle(run)
    assert choice is None and key_of(Student(), made) in remaining_work.keys(unused(run))
    chooses = undecided("rmc", tiny_model, tmp_path)
    assert unused(chooses) is chooses


def halves(dev, easy, hard):
    return Candidate(dev, easy, hard)


def test_the_smallest_relative_gap_wins():
    # gaps: 0.2 / 0.9 = 0.22, 0.1 / 0.85 = 0.12, 0.15 / 0.9 = 0.17
    found = {0.2: halves(0.8, 0.9, 0.7), 0.5: halves(0.8, 0.85, 0.75), 0.7: halves(0.8, 0.9, 0.75)}
    assert choose(found) == 0.5


def test_a_candidate_more_than_a_point_below_the_best_dev_is_out():
    found = {0.2: halves(0.78, 0.78, 0.78), 0.5: halves(0.8, 0.9, 0.7), 0.7: halves(0.795, 0.88, 0.71)}
    assert choose(found) == 0.7


def test_of_equal_gaps_the_larger_alpha():
    assert choose({0.2: halves(0.8, 0.9, 0.7), 0.7: halves(0.8, 0.9, 0.7)}) == 0.7
