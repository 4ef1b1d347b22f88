"""Masks without an engine, ours and the library's: masked and cut models agree; layers are copied."""

import copy

import pytest
import torch
from small_models import CONFIGS, IDS
from transformers import AutoModelForSequenceClassification, BartConfig, Gemma3TextConfig
from whole_weights import cut

from compress.compression.importance import Importance
from compress.compression.masks import Masks
from compress.compression.pruners.heads import Heads
from compress.compression.pruners.layers import LayerReduction, outside
from compress.compression.pruners.magnitude import Magnitude, Weights
from compress.compression.pruners.movement import Movement
from compress.compression.pruners.neurons import Neurons
from compress.compression.pruning_schedule import PruningSchedule
from compress.compression.units import Units
from compress.models import architectures, compressed
from compress.models.blocks import find_blocks
from compress.runtime import versions

END = (PruningSchedule(0.0, 1.0, 0, 4),)
HALF = (PruningSchedule(0.0, 0.5, 0, 4),)


@pytest.fixture(params=CONFIGS)
def model(request):
    return fresh(request.param)


def fresh(name):
    torch.manual_seed(2)
    config = CONFIGS[name].__class__.from_dict(CONFIGS[name].to_dict())
    model = AutoModelForSequenceClassification.from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def scorer(engine):
    """Made-up importance: what it is called with does not matter here."""
    generator = torch.Generator().manual_seed(0)
    return Importance(
        [torch.rand(4, generator=generator) for _ in range(2)],
        [torch.rand(32, generator=generator) for _ in range(2)],
    )


def everything(model, learned):
    """Heads, neurons and half of the weights of all blocks."""
    names = [
        one.layer
        for block in find_blocks(model)
        for unit in ("heads", "neurons")
        for one in block.slices(unit)
    ]
    numbers, keep = tuple(range(len(find_blocks(model)))), heads_left(model, learned)
    heads, neurons = Units(END, numbers, keep), Units(END, numbers, keep=11)
    weights = Weights(HALF, tuple(names))
    pruners = [Heads({"g": heads}), Neurons({"g": neurons}), Magnitude({"g": weights})]
    for pruner in pruners[:2]:
        pruner.learned = learned
    return pruners


def heads_left(model, learned):
    """Of each block with learned scores or a table that they share, else of all."""
    return 3 if learned else {"albert": 3, "mpnet": 3}.get(model.config.model_type, 5)


def movement(model):
    """Half of the weights of the attention of both blocks, by learned scores."""
    names = tuple(one.layer for block in find_blocks(model) for one in block.head_slices[1:])
    return [Movement({"g": Weights(HALF, names)})]


LIMITED = {"modernbert", "gemma", "gemma2", "gemma3"}
"""What DeepSpeed's library cannot mask."""


@pytest.fixture(params=["native", "deepspeed"])
def kind(request):
    if request.param == "deepspeed" and not versions.has_library():
        pytest.skip("this release of DeepSpeed has no compression library")
    if request.param == "deepspeed" and request.node.callspec.params.get("model") in LIMITED:
        pytest.skip("refused: test_resolved.test_what_the_library_cannot_mask")
    return request.param


def masked(model, pruners, kind="native", scorer=scorer):
    masks = Masks(pruners, scorer, kind)
    masks.attach(model)
    return masks


def pruned(model, pruners, kind="native"):
    masks = masked(model, pruners, kind)
    generator = torch.Generator().manual_seed(1)
    for score in masks.scores():
        score.data = torch.randn(score.shape, generator=generator)
    for step in range(5):
        masks.after_step(step)
    return masks


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.slow
@pytest.mark.parametrize("learned", [False, True], ids=["chosen", "learned"])
def test_masked_and_cut_model_agree(model, learned, kind):
    if learned and model.config.model_type == "mpnet":
        pytest.skip("refused: test_resolved.test_what_shares_a_table_loses_the_same_heads")
    shape = copy.deepcopy(model)
    dense = logits(model)
    masks = pruned(model, everything(model, learned), kind)
    wanted = logits(model)
    assert (wanted - dense).abs().max() > 1e-3
    small = cut(masks, model.state_dict(), shape).eval()
    torch.testing.assert_close(logits(small), wanted, atol=1e-5, rtol=1e-5)
    blocks = find_blocks(small)
    left = heads_left(model, learned)
    each = learned or model.config.model_type == "mpnet"
    assert sum(block.heads for block in blocks) == (left * len(blocks) if each else left)
    assert {block.neurons for block in blocks} == {11}


def test_movement_masked_and_finished_model_agree(model, kind):
    shape = copy.deepcopy(model)
    masks = pruned(model, movement(model), kind)
    small = cut(masks, model.state_dict(), shape).eval()
    torch.testing.assert_close(logits(small), logits(model), atol=1e-5, rtol=1e-5)
    assert masks.sparsity() == masks.sparsity_of(small.get_parameter) == 0.5


@pytest.mark.parametrize("learned", [False, True], ids=["chosen", "learned"])
def test_before_the_first_step_the_model_is_the_plain_one(model, learned):
    """Bit for bit, and only the planned layers are of another kind."""
    dense, kinds = logits(model), {name: type(m) for name, m in model.named_modules()}
    masks = masked(model, everything(model, learned))
    assert torch.equal(logits(model), dense)
    planned = {name for p in masks.pruners if p.learned for name in p.carriers}
    changed = {name for name, m in model.named_modules() if type(m) is not kinds[name]}
    assert changed == planned


@pytest.mark.parametrize("learned", [False, True], ids=["chosen", "learned"])
def test_state_brings_the_masks_back(model, learned, kind):
    other = copy.deepcopy(model)
    masks = pruned(model, everything(model, learned), kind)
    again = masked(other, masks.pruners, kind)
    other.load_state_dict(model.state_dict())
    again.load_state_dict(masks.state_dict())
    assert torch.equal(logits(other), logits(model))
    assert again.sparsity() == pytest.approx(masks.sparsity())


SCALED = {
    "gemma3": Gemma3TextConfig(
        vocab_size=40, hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=40, pad_token_id=0,
    ),
    "bart": BartConfig(
        vocab_size=40, d_model=24, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=40,
        pad_token_id=0, eos_token_id=3, scale_embedding=True,
    ),
}  # fmt: skip
"""Their embeddings are classes of their own, which multiply by a constant (upstream issue #2283)."""


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("sparse", [Magnitude, Movement], ids=["magnitude", "movement"])
def test_embeddings_of_a_class_of_their_own_stay(name, sparse):
    """The library replaces every embedding by its own class: Gemma's logits change, BART's are none."""
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_config(SCALED[name]).eval()
    ids = IDS + 1
    ids[:, -1] = 3
    with torch.no_grad():
        dense, before = model(ids).logits, type(model.get_input_embeddings())
    layers = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "layers." in n]
    masks = masked(model, [sparse({"g": Weights(HALF, tuple(layers))})])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, dense)
    assert type(model.get_input_embeddings()) is before is not torch.nn.Embedding
    for step in range(5):
        masks.after_step(step)
    assert masks.sparsity() == pytest.approx(0.5)
    with torch.no_grad():
        assert not torch.equal(model(ids).logits, dense)


def test_sparsity_holds_among_what_heads_and_rows_leave(kind):
    model = fresh("bert")
    shape = copy.deepcopy(model)
    masks = pruned(model, everything(model, learned=False), kind)
    small = cut(masks, model.state_dict(), shape)
    for name in masks.sparse[0].carriers:
        weight = dict(small.named_modules())[name].weight
        assert int((weight == 0).sum()) == round(weight.numel() * 0.5), name
    assert masks.sparsity() == pytest.approx(0.5, abs=1e-2)


def test_removed_heads_stay_removed_over_the_rounds():
    model = fresh("bert")
    turn = iter(range(10))

    def changing(weights):
        generator = torch.Generator().manual_seed(next(turn))
        return Importance([torch.rand(4, generator=generator) for _ in range(2)], [])

    linear = PruningSchedule(0.0, 1.0, 0, 4, 1, "linear")
    masks = masked(model, [Heads({"h": Units((linear,), (0, 1), keep=4)})], scorer=changing)
    before = [set(range(4)), set(range(4))]
    for step, left in zip(range(1, 5), (7, 6, 5, 4), strict=True):
        masks.after_step(step)
        now = [set(masks.pruners[0].kept[number]) for number in (0, 1)]
        assert sum(map(len, now)) == left
        assert all(new <= old for new, old in zip(now, before, strict=True))
        before = now


def test_even_leaves_as_many_heads_in_each_layer_the_most_important_of_each():
    """By hand: over both layers the heads 0, 1, 3 of the second would stay, and one of the first."""
    scores = [torch.tensor([0.1, 0.3, 0.2, 0.15]), torch.tensor([5.0, 6.0, 1.0, 7.0])]
    linear = PruningSchedule(0.0, 1.0, 0, 2, 1, "linear")
    kept = {}
    for even in (False, True):
        heads = Units((linear,), (0, 1), keep=2 if even else 4, even=even)
        masks = masked(fresh("bert"), [Heads({"h": heads})], scorer=lambda _: Importance(scores, []))
        for step in (1, 2):
            masks.after_step(step)
            kept[even, step] = tuple(masks.pruners[0].kept[n] for n in (0, 1))
    assert kept[True, 1] == ((1, 2, 3), (0, 1, 3)) and kept[True, 2] == ((1, 2), (1, 3))
    assert kept[False, 2] == ((1,), (0, 1, 3))


def test_even_over_layers_of_different_numbers_leaves_as_many_in_each():
    config = copy.deepcopy(CONFIGS["bert"])
    compressed.describe(config, [compressed.Layer(4, 32), compressed.Layer(2, 32)])
    scores = [torch.tensor([0.1, 0.3, 0.2, 0.15]), torch.tensor([5.0, 6.0])]
    linear = PruningSchedule(0.0, 1.0, 0, 2, 1, "linear")
    heads = Heads({"h": Units((linear,), (0, 1), keep=1, even=True)})
    masks = masked(compressed.build(config), [heads], scorer=lambda _: Importance(scores, []))
    found = []
    for step in (1, 2):
        masks.after_step(step)
        found.append(tuple(masks.pruners[0].kept[n] for n in (0, 1)))
    assert found == [((1, 2), (0, 1)), ((1,), (1,))]


# ------------------------------------------------------------------------------------ layer reduction


def reduce_layers(model, layers, others=None, kind="native"):
    block = LayerReduction(enabled=True, teacher_layer=layers, other_module_name=others)
    return block.reduced(model, layers, kind)


def test_layers_are_copied(model, kind, capfd):
    if architectures.find(model.config).repeated:
        pytest.skip("refused: test_resolved.test_a_repeated_block_loses_no_layer")
    student = reduce_layers(model, [1], kind=kind).eval()
    prefix = architectures.find(model.config).blocks
    source, target = model.state_dict(), student.state_dict()
    assert len(target) > len(outside(model))
    for name, value in target.items():
        assert torch.equal(value, source[name.replace(f"{prefix}.0.", f"{prefix}.1.")]), name
    types = getattr(model.config, "layer_types", None)
    assert getattr(student.config, "layer_types", None) == (types and types[1:])
    assert len(find_blocks(student)) == 1
    assert capfd.readouterr().out == ""


def test_all_layers_in_order_are_the_model_itself(model):
    if architectures.find(model.config).repeated:
        pytest.skip("one block")
    assert torch.equal(logits(reduce_layers(model, [0, 1]).eval()), logits(model))


def test_uneven_layers_keep_their_sizes():
    model = fresh("bert")
    shape = copy.deepcopy(model)
    masks = pruned(model, everything(model, learned=False))
    small = cut(masks, model.state_dict(), shape)
    sizes = [(b.heads, b.neurons) for b in find_blocks(small)]
    one = reduce_layers(small, [1])
    assert [(b.heads, b.neurons) for b in find_blocks(one)] == [sizes[1]]
    assert compressed.sizes(one.config) is not None


def test_other_modules_that_are_left_out_are_fresh():
    model = fresh("bert")
    names = outside(model)
    assert set(names) == {"bert.embeddings", "bert.pooler", "classifier"}
    student = reduce_layers(model, [0], ["bert.embeddings"])
    assert torch.equal(
        student.bert.embeddings.word_embeddings.weight, model.bert.embeddings.word_embeddings.weight
    )
    assert not torch.equal(student.classifier.weight, model.classifier.weight)
