"""What a run says of its models: label maps, pooling, and when F_bias must not be believed."""

import numpy as np
import pytest
import torch
from launcher import two_ranks
from small_models import IDS, fresh
from transformers import AutoModelForSequenceClassification

from compress.data.splits import Split
from compress.scoring import evaluation, measures, split_pass

NLI = ("entailment", "neutral", "contradiction")
HANS = ("entailment", "not_entailment")


def split(labels, names=HANS, groups=(0, 1, 1), **more):
    texts = [""] * len(labels)
    return Split.of((texts, texts), np.array(labels), names, groups, **more)


def scores(*classes, of=3):
    """Log-probabilities in which these classes win."""
    return np.log(np.eye(of)[list(classes)] + 0.1)


def test_neutral_and_contradiction_both_count_as_not_entailment():
    hits = evaluation.correct(scores(0, 1, 2, 0, 1, 2), split([1, 1, 1, 0, 0, 0]))
    assert hits.tolist() == [False, True, True, True, False, False]


def test_a_set_that_is_scored_in_part_pools_as_the_whole():
    dev = split([0, 1, 2, 0], NLI, (0, 1, 2))
    ood = {"a": split([0, 0]), "b": split([1, 1], whole=6)}
    given = evaluation.Scores(scores(0, 1, 2, 1), {"a": scores(0, 0), "b": scores(0, 1)})
    found = evaluation.summary(given, dev, ood, None)
    assert found["ood"] == {"a": 1.0, "b": 0.5}
    assert found["ood_pooled"] == pytest.approx((2 * 1.0 + 6 * 0.5) / 8)
    assert (found["dev"], found["delta"]) == (0.75, pytest.approx((0.75 - 0.625) / 0.75))
    assert found["predicted"] == {"entailment": 0.25, "neutral": 0.5, "contradiction": 0.25}


@pytest.mark.parametrize(("share", "gone"), [(0.0, True), (0.029, True), (0.03, False), (0.3, False)])
def test_a_class_has_vanished_below_a_tenth_of_its_gold_share(share, gone):
    dev = split([0] * 30 + [1] * 70)
    measure = {"measure": {"dev": 0.7, "ood": {}}}
    student = {"predicted": {"entailment": share, "not_entailment": 1 - share}, **measure}
    teacher = {"predicted": {"entailment": 0.3, "not_entailment": 0.7}, **measure}
    assert evaluation.vanished(teacher, student, dev) == ["entailment"] * gone
    told = evaluation.notes(teacher, student, dev, {})
    assert any("almost stopped predicting 'entailment'" in note for note in told) == gone
    never = teacher | {"predicted": {"entailment": 0.0, "not_entailment": 1.0}}
    told = evaluation.notes(never, student, dev, {})
    assert any("nor did its teacher" in note for note in told) == gone
    assert not any("collapsed" in note for note in told)
    assert evaluation.vanished(never, student, dev) == []


@pytest.mark.parametrize(
    ("labels", "chance"), [([0, 1] * 450, 0.5), ([0] * 300 + [1] * 600, 2 / 3), ([1] * 900, 1.0)]
)
def test_at_chance_is_within_three_standard_errors_of_the_majority_class(labels, chance):
    ood = {"hans": split(labels)}
    bound = chance + 3 * np.sqrt(chance * (1 - chance) / 900)
    for accuracy, found in ((0.1, True), (bound - 1e-6, True), (bound + 1e-6, False)):
        teacher = {"measure": {"ood": {"hans": accuracy}}}
        assert ("hans" in evaluation.at_chance(teacher, ood)) == found
    teacher = {"measure": {"ood": {"hans": 0}}}
    assert evaluation.at_chance(teacher, ood) == {"hans": pytest.approx(chance)}


def test_scores_in_bf16_are_near_and_leave_the_weights_alone():
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(fresh("bert"))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    inputs, cpu = {"input_ids": IDS}, torch.device("cpu")
    with torch.no_grad():
        exact, rounded = (split_pass.model_forward(model, cpu, bf16)(inputs) for bf16 in (False, True))
    assert exact.dtype == torch.float32 and rounded.dtype == torch.bfloat16
    assert not torch.equal(exact, rounded.float())
    torch.testing.assert_close(rounded.float(), exact, rtol=0.05, atol=0.05)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def known(dev, hans):
    return {
        "predicted": {"entailment": 0.5, "not_entailment": 0.5},
        "measure": {"dev": dev, "ood": {"hans": hans}},
    }


def test_what_a_reader_must_know_before_believing_f_bias():
    dev, ood, teacher = split([0, 1]), {"hans": split([0, 1] * 50)}, known(0.9, 0.8)
    assert evaluation.notes(teacher, known(0.89, 0.8), dev, ood) == []
    assert evaluation.notes(teacher, known(0.88, 0.8), dev, ood) == []
    (lost,) = evaluation.notes(teacher, known(0.879, 0.8), dev, ood)
    assert "2 points of dev accuracy" in lost
    (chance,) = evaluation.notes(known(0.9, 0.55), known(0.89, 0.8), dev, ood)
    assert all(fact in chance for fact in ("majority class", "hans", "55.0% against 50.0%"))


@pytest.mark.parametrize(
    ("metric", "figure", "told"),
    [
        ("macro_f1", 0.55, "chance on hans (macro F1 55.0% against 50.0%"),
        ("balanced_accuracy", 0.55, "chance on hans (balanced accuracy 55.0% against 50.0%"),
        ("matthews", 0.2, "chance on hans (Matthews correlation 0.200 against 0.000"),
    ],
)
def test_with_another_figure_the_notes_go_by_it(metric, figure, told):
    """A set of 90 and 10: an accuracy of 0.9 is that of the majority class, which says nothing here."""
    dev, ood = split([0, 1]), {"hans": split([0] * 90 + [1] * 10)}
    assert evaluation.notes(known(0.7, 0.8), known(0.69, 0.7), dev, ood, metric) == []
    (chance,) = evaluation.notes(known(0.7, figure), known(0.69, 0.5), dev, ood, metric)
    assert told in chance and "majority" not in chance
    (lost,) = evaluation.notes(known(0.7, 0.8), known(0.6, 0.7), dev, ood, metric)
    assert f"2 points of dev {measures.NAMES[metric]}" in lost


ON_TWO = """
import numpy as np, torch, torch.distributed as dist
from compress.runtime import ranks
from compress.scoring import split_pass

class Data:
    lengths = np.array([3, 1, 4, 1, 5, 9, 2])
    def __len__(self):
        return 7
    def batch(self, indices, device):
        return {"number": torch.as_tensor(indices)}

def forward(inputs):
    sizes.append(len(inputs["number"]))
    return torch.stack([inputs["number"] * 1.0, inputs["number"] * 2.5], dim=1)

sizes = []
dist.init_process_group("gloo")
def over():
    return split_pass.SplitPass(forward, Data(), 4, torch.device("cpu"))

found = over().logits()
assert found.tolist() == [[number, 2.5 * number] for number in range(7)], found
assert sizes == [2, 2], sizes
alone = over().logits(alone=True)
assert np.array_equal(alone, found) and sizes == [2, 2, 4, 3]
"""


@pytest.mark.slow
def test_two_ranks_compute_a_part_each_and_have_all():
    done = two_ranks("-c", ON_TWO)
    assert done.returncode == 0, done.stderr
