"""The three batch sizes: train_batch_size = micro-batch x accumulation steps x ranks.

Results depend on train_batch_size, so it is the user's whatever the number of ranks, and the other two
follow from it. Only where it is left out (null) and a micro-batch is given, it follows from the ranks.
"""

from collections.abc import Mapping, MutableMapping
from typing import Any

from compress.configuration.deepspeed_schema import DeepSpeedBlock
from compress.errors import UserError

TOTAL, MICRO = "train_batch_size", "train_micro_batch_size_per_gpu"
ACCUMULATION = "gradient_accumulation_steps"


def complete(
    values: MutableMapping[str, Any],
    sources: MutableMapping[tuple[str, ...], list[str]],
    ranks: int | None,
) -> None:
    """Fill in train_batch_size where only the micro-batch is given.

    values, sources: of a merged configuration; ranks: of the run, None if they are not known yet.
    Raises UserError in that case, and leaves what is no valid number to the validation.
    """
    micro, steps = values.get(MICRO), values.get(ACCUMULATION, 1)
    if TOTAL in values or not (_is_count(micro) and _is_count(steps)):
        return
    source = sources.get((MICRO,), ["configuration"])[-1]
    if ranks is None:
        raise UserError(
            f"{source}: '{MICRO}' is given and '{TOTAL}' is not, so that it would depend on the number "
            f"of ranks, which is not known here; give '{TOTAL}' too."
        )
    values[TOTAL] = int(micro * steps * ranks)
    sources[TOTAL,] = [source]


def _is_count(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return value >= 1 and value % 1 == 0


def split(block: DeepSpeedBlock, ranks: int) -> tuple[int, int]:
    """(micro-batch of a rank, accumulation steps) for this number of ranks.

    Raises UserError, saying what could be set, unless the equation has a solution.
    """
    total, micro = block.train_batch_size, block.train_micro_batch_size_per_gpu
    accumulation = block.gradient_accumulation_steps
    if micro is None:
        accumulation = accumulation or 1
        micro = total // (ranks * accumulation)
    elif accumulation is None:
        accumulation = total // (ranks * micro)
    if micro and accumulation and micro * accumulation * ranks == total:
        return micro, accumulation
    given = {
        MICRO: block.train_micro_batch_size_per_gpu,
        ACCUMULATION: block.gradient_accumulation_steps,
    }
    made = f"{ranks} ranks x micro batch {micro or 1} x {ACCUMULATION} {accumulation or 1}"
    why = f"{TOTAL} is {total}, but {made} make {ranks * (micro or 1) * (accumulation or 1)}"
    if not micro or not accumulation:
        why = f"{TOTAL} is {total}, too small for {made}"
    raise UserError(f"{why}; {_ways_out(total, ranks, given)}.")


def _ways_out(total: int, ranks: int, given: Mapping[str, int | None]) -> str:
    """What to set: other ranks, another global batch, or none of the keys that fix the rest."""
    fixed = {key: value for key, value in given.items() if value is not None}
    product = 1
    for value in fixed.values():
        product *= value
    fitting = [n for n in range(1, ranks) if total % (n * product) == 0 and n * product <= total]
    if len(fixed) == 2:
        fitting = [n for n in fitting if n * product == total]
    unit = ranks * product
    lower = total - total % unit
    totals = [unit] if len(fixed) == 2 or not lower else [lower, lower + unit]
    ways = [f"start {fitting[-1]} rank{'s' * (fitting[-1] > 1)}"] if fitting else []
    if fixed and total % ranks == 0:
        ways.append(f"leave out {' and '.join(fixed)} (null)")
    ways.append(
        f"set {TOTAL} to {' or '.join(map(str, totals))}, which changes the results, and perhaps "
        "optimizer.params.lr with it"
    )
    return ", or ".join(ways)


def sentence(block: DeepSpeedBlock, ranks: int) -> str:
    """How the ranks share a batch, such as `32 samples a step = micro-batch 16 x 2 ranks`."""
    micro, steps = split(block, ranks)
    parts = [f"micro-batch {micro}", f"{steps} accumulation steps" if steps > 1 else ""]
    parts.append(f"{ranks} rank{'s' * (ranks > 1)}")
    return f"{block.train_batch_size} samples a step = {' x '.join(filter(None, parts))}"
