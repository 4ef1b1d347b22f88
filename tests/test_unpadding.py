"""Training without padding: loss and gradient of the padded model, and batches by tokens."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_models import fresh
from torch.nn.attention import varlen
from transformers import AutoModelForSequenceClassification, GPT2Config

from compress.data.batches import EpochBatches
from compress.errors import UserError
from compress.models import unpadding
from compress.training.engine import checkpoint_activations

LENGTHS = np.array([5, 12, 1, 7, 12])
NAMES = ("bert", "roberta", "distilbert", "electra", "albert", "modernbert")
NAMES += ("llama", "llama-biases", "mistral", "ministral", "qwen2", "qwen3", "gemma", "gemma3")
LABELS = torch.tensor([0, 1, 1, 0, 1])
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
STILL |= {
    "classifier_dropout_prob": 0.0,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "seq_classif_dropout": 0.0,
}


def inputs():
    """Token ids and mask, padded on the right."""
    mask = (torch.arange(12) < torch.as_tensor(LENGTHS)[:, None]).long()
    ids = torch.randint(3, 40, mask.shape, generator=torch.Generator().manual_seed(1))
    return {"input_ids": torch.where(mask.bool(), ids, 0), "attention_mask": mask}


def layout():
    return {name: torch.as_tensor(v) for name, v in unpadding.arrays(LENGTHS).items()}


def models(config, training=True):
    """A random model, padded and padding-free, without dropout."""
    config = fresh(config) if isinstance(config, str) else config
    for key, value in STILL.items():
        if hasattr(config, key):
            setattr(config, key, value)
    torch.manual_seed(0)
    padded = AutoModelForSequenceClassification.from_config(config).train(training)
    free = AutoModelForSequenceClassification.from_config(config).train(training)
    free.load_state_dict(padded.state_dict())
    unpadding.leave_out(free)
    return padded, free


def trained(model, **more):
    """Loss of each sample and the gradients after a backward pass."""
    losses = F.cross_entropy(model(**inputs(), **more).logits, LABELS, reduction="none")
    losses.mean().backward()
    return losses.detach(), {name: p.grad for name, p in model.named_parameters()}


def test_the_places_are_those_of_the_mask():
    found = unpadding.arrays(LENGTHS)
    expected = inputs()["attention_mask"].flatten().nonzero().flatten()
    assert found[unpadding.PLACES].tolist() == expected.tolist()
    assert found[unpadding.STARTS].tolist() == [0, 5, 17, 18, 25, 37]


@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradient_are_those_with_padding(name):
    padded, free = models(name)
    (losses, gradients), (others, own) = trained(padded), trained(free, **layout())
    torch.testing.assert_close(losses, others, rtol=1e-5, atol=1e-6)
    for key, gradient in gradients.items():
        torch.testing.assert_close(own[key], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_each_sample_alone(name):
    """Also where there is more padding than a sliding window is wide."""
    config = fresh(name)
    for key in ("sliding_window", "local_attention"):
        if hasattr(config, key):
            setattr(config, key, 4)
    plain, free = models(config, training=False)
    given = inputs()
    with torch.no_grad():
        found = free(**given, **layout()).logits
        alone = [
            plain(**{key: value[n : n + 1, :length] for key, value in given.items()}).logits
            for n, length in enumerate(LENGTHS)
        ]
    torch.testing.assert_close(found, torch.cat(alone), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "modernbert", "llama"])
def test_bf16_is_as_near_as_its_rounding(name):
    """A tolerance of its own: 8 bits of mantissa, over the layers."""
    found = []
    for model, more in zip(models(name), ({}, layout()), strict=True):
        found.append(trained(model.bfloat16(), **more))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=0.03)
    for key, gradient in found[0][1].items():
        scale = float(gradient.float().abs().max()) + 1e-3
        torch.testing.assert_close(found[1][1][key], gradient, rtol=0, atol=0.05 * scale)


def test_attention_of_variable_lengths_gets_each_sample_by_itself(monkeypatch):
    """The kernel runs on GPUs alone; here a loop over the samples takes its place."""
    monkeypatch.setattr(varlen, "varlen_attn", by_samples)
    layout_ = unpadding.Layout(*layout().values(), inputs()["attention_mask"])
    q, k, v = torch.randn(3, 1, 4, LENGTHS.sum(), 8)
    expected, _ = unpadding.attention(None, q, k, v, None, layout_)
    states = [each.transpose(1, 2) for each in (q, k, v)]
    torch.testing.assert_close(unpadding._of_variable_length(states, layout_), expected[0])


@pytest.mark.parametrize(
    ("capability", "size", "kind", "scale", "expected"),
    [
        ((8, 0), 8, torch.bfloat16, None, True),
        ((8, 0), 64, torch.float16, 64**-0.5, True),
        ((9, 0), 256, torch.bfloat16, None, True),
        ((7, 5), 64, torch.float16, None, False),
        ((9, 0), 264, torch.bfloat16, None, False),
        ((9, 0), 6, torch.bfloat16, None, False),
        ((9, 0), 64, torch.bfloat16, 1.0, False),
        ((9, 0), 64, torch.float32, None, False),
        (None, 64, torch.bfloat16, None, False),
    ],
)
def test_the_kernel_is_asked_for_what_it_computes_alone(
    monkeypatch, capability, size, kind, scale, expected
):
    """Flash attention of torch: from compute capability 8.0 on, heads of up to 256; None: the CPU."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    query = SimpleNamespace(
        is_cuda=capability is not None, device=0, dtype=kind, shape=torch.Size((1, 4, 9, size))
    )
    assert unpadding._kernel_takes(query, scale) == expected


def by_samples(query, key, value, starts, ends, longest, _):
    """[T, heads, D], sample by sample."""
    assert starts.dtype == torch.int32 and torch.equal(starts, ends) and longest == max(LENGTHS)
    parts = []
    for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        q, k, v = (each[begin:end].transpose(0, 1) for each in (query, key, value))
        parts.append(F.scaled_dot_product_attention(q, k, v).transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize(("name", "count"), [("bert", 12), ("modernbert", 8), ("llama", 14)])
def test_no_layer_computes_padding(name, count):
    _, free = models(name)
    seen = []
    for inner, module in free.named_modules():
        if isinstance(module, torch.nn.Linear) and "layer" in inner:
            module.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape[:2])))
    trained(free, **layout())
    assert len(seen) == count and set(seen) == {(1, LENGTHS.sum())}


def test_without_a_layout_it_is_the_padded_model():
    padded, free = models("bert", training=False)
    trained(free, **layout())
    with torch.no_grad():
        assert torch.equal(padded(**inputs()).logits, free(**inputs()).logits)


def test_a_failed_forward_leaves_no_layout_behind():
    padded, free = models("bert", training=False)
    with pytest.raises(ValueError):
        free(**inputs(), **layout(), inputs_embeds=torch.zeros(1))
    with torch.no_grad():
        assert torch.equal(padded(**inputs()).logits, free(**inputs()).logits)


@pytest.mark.parametrize("name", ["bert", "modernbert", "qwen3"])
def test_activations_may_be_computed_again(name):
    _, free = models(name)
    _, again = models(name)
    checkpoint_activations(again)
    (_, once), (_, twice) = trained(free, **layout()), trained(again, **layout())
    assert all(torch.equal(once[key], twice[key]) for key in once)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (fresh("deberta"), "attention in code of its own"),
        (fresh("mpnet"), "attention in code of its own"),
        (fresh("gemma2"), "fused attention"),
        (GPT2Config(vocab_size=40, n_embd=24, n_layer=1, n_head=4), "no entry says"),
    ],
)
def test_architectures_that_cannot(config, reason):
    model = AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(UserError, match=f"cannot leave out the padding, because .*{reason}"):
        unpadding.check(model)


def test_sides_that_cannot():
    with pytest.raises(UserError, match="pads on the left"):
        unpadding.check_side("left", "model")
    unpadding.check(AutoModelForSequenceClassification.from_config(fresh("roberta")))
    unpadding.check_side("right", "model")


# Batches


@pytest.mark.parametrize("count", [5000, 4801, 77])
@pytest.mark.parametrize("similar", [True, False])
def test_batches_by_tokens_have_as_many_tokens_and_all_samples(count, similar):
    drawn = np.random.default_rng(0).lognormal(3.4, 0.5, count)
    lengths = np.clip(drawn, 5, 128).astype(np.int64)
    batches = EpochBatches(lengths, 32, 3, 1, by="tokens", similar=similar)
    found = [batches[turn] for turn in range(len(batches))]
    assert len(found) == -(-count // 32)
    assert sorted(np.concatenate(found).tolist()) == list(range(count))
    tokens = np.sort([lengths[batch].sum() for batch in found])[1:]  # the last window may be short
    assert np.abs(tokens - tokens.mean()).max() < 2.5 * 128
    assert all((np.diff(lengths[batch]) >= 0).all() for batch in found), "the shortest first"
    sizes = [len(batch) for batch in found]
    assert min(sizes) < 32 < max(sizes) or count == 77


@pytest.mark.parametrize("lengths", [[1, 1, 100, 1, 1, 1], [100, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 100]])
def test_no_batch_is_empty_however_long_a_sample_is(lengths):
    batches = EpochBatches(np.array(lengths), 1, 0, 0, by="tokens")
    assert sorted(len(batch) for batch in batches) == [1] * 6
    batches = EpochBatches(np.array(lengths), 2, 0, 0, by="tokens")
    assert min(len(batch) for batch in batches) >= 1 and len(batches) == 3


def test_random_batches_are_not_of_similar_length():
    lengths = np.random.default_rng(0).integers(5, 128, 3200)
    spread = {
        similar: np.mean([np.ptp(lengths[b]) for b in EpochBatches(lengths, 32, 0, 0, similar=similar)])
        for similar in (True, False)
    }
    assert spread[True] < 10 < 90 < spread[False]
