"""The three batch sizes: what is left out follows as in DeepSpeed, and an error says what would do."""

import itertools
import re

import pytest
from configs import BASE, Files

from compress.configuration import batch_sizes, config, used_keys
from compress.configuration.config import batch_split
from compress.errors import UserError

TOTAL, MICRO = "train_batch_size", "train_micro_batch_size_per_gpu"
ACCUMULATION = "gradient_accumulation_steps"


@pytest.fixture
def load(tmp_path):
    """Function (sizes, ranks) -> configuration; null stands for a size that is left out."""
    files = Files(tmp_path)

    def make(sizes, ranks):
        return config.load([files.write(BASE), files.write(sizes)], world_size=ranks)

    return make


@pytest.mark.parametrize("ranks", [1, 2, 64])
@pytest.mark.parametrize("accumulation", [None, 1, 3])
def test_the_global_batch_follows_from_the_micro_batch_as_in_deepspeed(load, ranks, accumulation):
    sizes = {TOTAL: None, MICRO: 4, ACCUMULATION: accumulation}
    config = load(sizes, ranks)
    assert config.deepspeed.train_batch_size == _of_deepspeed(sizes, ranks)
    assert batch_split(config, ranks) == (4, accumulation or 1)
    assert config.merged[TOTAL] == config.engine[TOTAL] == 4 * (accumulation or 1) * ranks


def _of_deepspeed(sizes, ranks):
    """What the installed DeepSpeed fills in."""
    from deepspeed.runtime.config import DeepSpeedConfig

    config = object.__new__(DeepSpeedConfig)
    config.world_size = ranks
    config.train_batch_size = sizes[TOTAL]
    config.train_micro_batch_size_per_gpu = sizes[MICRO]
    config.gradient_accumulation_steps = sizes[ACCUMULATION]
    config._set_batch_related_parameters()
    return config.train_batch_size


def test_it_enters_the_keys_of_artefacts_as_if_it_were_given(load):
    derived, given = load({TOTAL: None, MICRO: 4}, 8), load({TOTAL: 32}, 2)
    keys = ("train_batch_size",)
    assert used_keys.values(derived, keys) == used_keys.values(given, keys) == {TOTAL: 32}
    assert used_keys.values(load({TOTAL: None, MICRO: 4}, 2), keys) == {TOTAL: 8}
    whole = [used_keys.whole(c) for c in (derived, load({TOTAL: 32, MICRO: 4}, 2))]
    assert whole[0] == whole[1]


def test_a_given_global_batch_stays_whatever_the_ranks(load):
    sizes = {TOTAL: 64, MICRO: 8}
    assert [load(sizes, n).deepspeed.train_batch_size for n in (1, 2, 4)] == [64] * 3
    assert [batch_split(load(sizes, n), n) for n in (1, 2, 4)] == [(8, 8), (8, 4), (8, 2)]


def test_ranks_that_are_not_known(load):
    with pytest.raises(UserError, match=rf"part\d+.json: '{MICRO}' is given and '{TOTAL}' is not"):
        load({TOTAL: None, MICRO: 4}, None)
    with pytest.raises(UserError, match=rf"the key '{TOTAL}' is missing; give it, or {MICRO}"):
        load({TOTAL: None}, 4)


@pytest.mark.parametrize("wrong", [0, 1.5, "4", True])
def test_a_wrong_micro_batch_is_named_itself(load, wrong):
    with pytest.raises(UserError, match=rf"'{MICRO}' is |'{TOTAL}' is missing"):
        load({TOTAL: None, MICRO: wrong}, 4)


def works(sizes, ranks):
    """Whether any micro-batch and accumulation of these make the global batch; by trying all."""
    total, micro, steps = sizes
    return any(
        (micro or m) * (steps or s) * ranks == total
        for m, s in itertools.product(range(1, total + 1), repeat=2)
        if (micro is None or m == 1) and (steps is None or s == 1)
    )


@pytest.mark.parametrize(
    ("sizes", "ranks"),
    [
        ((32, None, None), 64),
        ((32, None, None), 3),
        ((64, None, 5), 1),
        ((64, 7, None), 2),
        ((64, 8, 3), 2),
        ((8, 16, None), 1),
        ((1, None, None), 2),
    ],
)
def test_every_way_out_of_an_error_works(load, sizes, ranks):
    """As the task files' 32 over 64 ranks."""
    assert not works(sizes, ranks)
    given = dict(zip((TOTAL, MICRO, ACCUMULATION), sizes, strict=True))
    with pytest.raises(UserError) as caught:
        batch_split(load(given, ranks), ranks)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{TOTAL} is {sizes[0]}, ")
    totals = re.search(rf"set {TOTAL} to ([\d or]+), which changes the results", message).group(1)
    for total in map(int, totals.split(" or ")):
        assert works((total, *sizes[1:]), ranks), message
    if fewer := re.search(r"start (\d+) rank", message):
        assert works(sizes, int(fewer.group(1)))
        assert not any(works(sizes, n) for n in range(int(fewer.group(1)) + 1, ranks))
    else:
        assert not any(works(sizes, n) for n in range(1, ranks))
    if out := re.search(r"leave out (.*?) \(null\)", message):
        rest = [None if k in out.group(1) else v for k, v in given.items()]
        assert works(tuple(rest), ranks)


def test_what_a_run_says_of_its_batch(load):
    said = batch_sizes.sentence(load({TOTAL: None, MICRO: 4, ACCUMULATION: 2}, 8).deepspeed, 8)
    assert said == "64 samples a step = micro-batch 4 x 2 accumulation steps x 8 ranks"
    assert batch_sizes.sentence(load({}, 1).deepspeed, 1) == "8 samples a step = micro-batch 8 x 1 rank"
