"""Importance of heads and ffn neurons against numerical differentiation of the loss in the mask."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_models import CONFIGS, LABELS, Data
from transformers import AutoModelForSequenceClassification, BertConfig

from compress.compression import importance
from compress.compression.pruners.heads import kept_heads
from compress.compression.pruners.neurons import kept_neurons, rounded_width
from compress.errors import UserError
from compress.microbatch import SampleData
from compress.mitigations.vanilla import Vanilla
from compress.models.blocks import find_blocks
from compress.training.engine import checkpoint_activations
from compress.training.passes import Passes

pytestmark = pytest.mark.slow

EPSILON = 2e-2
"""Norms of decoders compute in float32, so a smaller one would drown in rounding."""
WEIGHTS = {1: 8, -1: -8, 2: -1, -2: 1}
"""Five-point difference: of the losses at multiples of EPSILON, over 12 EPSILON; exact to EPSILON^4."""


@pytest.fixture(params=CONFIGS)
def model(request):
    torch.manual_seed(1)
    config = CONFIGS[request.param].__class__.from_dict(CONFIGS[request.param].to_dict())
    model = AutoModelForSequenceClassification.from_config(config).eval().double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def numerical(model, name, groups):
    """|dL/dxi| by differences of five points, [N, groups]: scaling columns is scaling the mask."""
    layer = dict(model.named_modules())[name]
    width = layer.in_features // groups
    out = np.zeros((len(LABELS), groups))
    for group in range(groups):
        columns = slice(group * width, (group + 1) * width)
        original = layer.weight.data[:, columns].clone()
        total = 0
        for steps, weight in WEIGHTS.items():
            layer.weight.data[:, columns] = original * (1 + steps * EPSILON)
            with torch.no_grad():
                logits = model(**Data().batch(np.arange(len(LABELS)), "cpu")).logits
            total += weight * F.cross_entropy(logits, torch.as_tensor(LABELS), reduction="none")
        layer.weight.data[:, columns] = original
        out[:, group] = (total.abs() / (12 * EPSILON)).numpy()
    return out


def test_importance_is_the_derivative_in_the_mask(model):
    data, device = Data(), torch.device("cpu")
    blocks = find_blocks(model)
    wanted = [
        (numerical(model, b.attention_output, b.heads), numerical(model, b.output, b.neurons))
        for b in blocks
    ]
    objective = importance.Objective(Vanilla(), SampleData())
    what = importance.Measurement(data, np.arange(5), objective, device, 2)  # 2 + 2 + 1 samples
    found = importance.measure(Passes(model), what)
    for (heads, rows), got_heads, got_rows in zip(wanted, found.heads, found.neurons, strict=True):
        np.testing.assert_allclose(got_heads.numpy(), heads.mean(0), rtol=2e-3, atol=3e-5)
        np.testing.assert_allclose(got_rows.numpy(), rows.mean(0), rtol=2e-3, atol=3e-5)
        assert got_heads.max() > 5e-3 and got_rows.max() > 5e-3


HALF = torch.float16


def measured(model, scales=importance.SCALES, monkeypatch=None):
    if monkeypatch is not None:
        monkeypatch.setattr(importance, "SCALES", scales)
    objective = importance.Objective(Vanilla(), SampleData())
    what = importance.Measurement(Data(), np.arange(5), objective, torch.device("cpu"), 2)
    return importance.measure(Passes(model), what)


def bert(**changes):
    torch.manual_seed(1)
    config = BertConfig(**CONFIGS["bert"].to_dict() | changes)
    return AutoModelForSequenceClassification.from_config(config)


def test_half_precision_keeps_small_gradients(monkeypatch):
    """Without the scale the gradients are below the smallest number of fp16, or near it."""
    model = bert()
    model.classifier.weight.data *= 1e-4
    model.half()  # the weights that are compared are rounded in both
    wanted = torch.cat(measured(model.float()).neurons)
    scaled, plain = (
        torch.cat(measured(model.half(), (scale,), monkeypatch).neurons) for scale in (2.0**10, 1.0)
    )
    assert (scaled - wanted).abs().max() < 0.02 * wanted.max()
    assert (plain - wanted).abs().max() > 0.5 * wanted.max()


def test_a_scale_that_is_too_large_is_lowered(monkeypatch):
    wanted = measured(bert())
    found = measured(bert().to(HALF), (2.0**20, 2.0**10), monkeypatch)
    for ours, exact in zip(found.heads, wanted.heads, strict=True):
        torch.testing.assert_close(ours, exact, rtol=0.02, atol=0.02 * float(exact.max()))


def test_what_is_not_finite_is_an_error():
    model = bert()
    model.classifier.weight.data[0, 0] = torch.nan
    with pytest.raises(UserError, match="importance of heads and neurons is not finite"):
        measured(model)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.filterwarnings("error::FutureWarning")
def test_activations_computed_again_give_the_same(name):
    """In training mode with dropout, which stays as it is and draws nothing."""
    torch.manual_seed(1)
    config = CONFIGS[name].__class__.from_dict(CONFIGS[name].to_dict())
    model = AutoModelForSequenceClassification.from_config(config)
    wanted, calls = measured(model.train()), []
    if not model.supports_gradient_checkpointing:
        pytest.skip("cannot compute its activations again")
    checkpoint_activations(model)
    for block in find_blocks(model):
        layer = model.get_submodule(block.attention_output)
        layer.register_forward_pre_hook(lambda own, _: calls.append(own.weight.requires_grad))
    random, trained = torch.get_rng_state(), [p.requires_grad for p in model.parameters()]
    found = measured(model)
    assert torch.equal(torch.get_rng_state(), random) and all(m.training for m in model.modules())
    assert trained == [p.requires_grad for p in model.parameters()]
    assert all(p.grad is None for p in model.parameters())
    assert len(calls) == 2 * 3 * config.num_hidden_layers, "three batches, each computed twice"
    assert not any(calls), "a layer keeps no input for the gradient of its weight"
    for one, other in ((wanted.heads, found.heads), (wanted.neurons, found.neurons)):
        for first, second in zip(one, other, strict=True):
            torch.testing.assert_close(first, second, rtol=1e-12, atol=0)


def test_sample_is_the_same_for_all_ranks_and_within_the_data():
    first, second = importance.sample(100, 30, 7), importance.sample(100, 30, 7)
    assert first.tolist() == second.tolist() and len(set(first.tolist())) == 30
    assert importance.sample(100, 30, 8).tolist() != first.tolist()
    assert importance.sample(10, 30, 7).tolist() == list(range(10))


# ------------------------------------------------------------------------------------ the choice


def brute_force(scores, keep, gone):
    """One pass over all heads, lowest first: a head goes unless it is the last of its layer."""
    alive = {(n, h) for n, row in enumerate(scores) for h in range(len(row)) if h not in gone[n]}
    for _, layer, head in sorted((float(scores[n][h]), -n, -h) for n, h in alive):
        layer, head = -layer, -head
        if len(alive) > keep and sum(n == layer for n, _ in alive) > 1:
            alive.remove((layer, head))
    return [tuple(sorted(h for n, h in alive if n == layer)) for layer in range(len(scores))]


@pytest.mark.parametrize("seed", range(25))
def test_heads_are_those_of_a_brute_force_sort(seed):
    generator = torch.Generator().manual_seed(seed)
    layers = int(torch.randint(1, 5, (), generator=generator))
    sizes = torch.randint(1, 7, (layers,), generator=generator).tolist()
    scores = [torch.rand(size, generator=generator).round(decimals=1) for size in sizes]  # with ties
    gone = [set(torch.randperm(size, generator=generator)[: size // 3].tolist()) for size in sizes]
    alive = sum(sizes) - sum(map(len, gone))
    for keep in range(layers, alive + 1):
        assert kept_heads(scores, keep, gone) == brute_force(scores, keep, gone)


def test_one_head_stays_in_the_worst_layer():
    scores = [torch.tensor([0.1, 0.2]), torch.tensor([5.0, 6.0])]
    assert kept_heads(scores, 2, [(), ()]) == [(1,), (1,)]
    assert kept_heads(scores, 3, [(), ()]) == [(1,), (0, 1)]


def test_neurons_by_a_plain_sort():
    scores = torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0])
    assert kept_neurons(scores, 3, ()) == (0, 3, 4)
    assert kept_neurons(scores, 3, {3}) == (0, 2, 4)
    assert kept_neurons(torch.zeros(4), 2, ()) == (0, 1)


@pytest.mark.parametrize(
    ("width", "multiple", "full", "expected"),
    [(768, 1, 1536, 768), (770, 8, 1536, 768), (772, 8, 1536, 776), (3, 8, 1536, 8), (40, 64, 48, 48)],
)
def test_rounded_width(width, multiple, full, expected):
    assert rounded_width(width, multiple, full) == expected
