"""Bootstrap over samples and seeds: what another draw of test samples and seeds would have given.

In each replicate the samples of every set and the seeds are drawn anew with replacement, the same draw
for all models, so that differences between models are paired (Efron and Tibshirani 1993, Ch. 10;
Koehn 2004 for paired tests on test sets). With one seed the spread over seeds is unknown.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
REPLICATES = 1000
PAIRED_REPLICATES = 10_000
MOST_UNKNOWN = 0.05
MOST_COUNTS = 1 << 22
"""Counts of joint outcomes that are drawn at once."""
NORMAL_975 = 1.96
STUDENT_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""0.975 quantiles of Student's t for 1 to 10 degrees of freedom."""


@dataclass(frozen=True)
class Draws:
    """Weights of R replicates: of S seeds, [R, S], and of the N samples of each set, [R, N].

    Each row sums to 1.
    """

    seeds: Array
    samples: Mapping[tuple[str, str], NDArray[np.float32]]

    def over(self, positions: Sequence[int]) -> Array:
        """Weights of a model that has only the seeds at these positions, [R, len(positions)].

        Drawn from its own seeds, the same for every model that has just these.
        """
        if len(positions) == self.seeds.shape[1]:
            return self.seeds
        generator = np.random.default_rng([1, *positions])
        return _weights(generator, len(self.seeds), len(positions)).astype(np.float64)


def draw(
    sizes: Mapping[tuple[str, str], int], seeds: int, replicates: int = REPLICATES, seed: int = 0
) -> Draws:
    """Draw all replicates; sizes: samples of each (set, subset); seeds: S."""
    generator = np.random.default_rng(seed)
    over_seeds = _weights(generator, replicates, seeds).astype(np.float64)
    return Draws(
        over_seeds, {name: _weights(generator, replicates, size) for name, size in sizes.items()}
    )


def _weights(generator: np.random.Generator, replicates: int, count: int) -> NDArray[np.float32]:
    """How often each of `count` things is drawn among as many draws, as shares, [R, count]."""
    rows = np.empty((replicates, count), dtype=np.float32)
    for row in rows:
        row[:] = np.bincount(generator.integers(count, size=count), minlength=count) / count
    return rows


def stretch(seeds: int) -> float:
    """Factor of the deviations of S drawn seeds: sqrt(S / (S - 1)) t(S - 1) / 1.96.

    Few seeds, drawn again, vary too little. With it the interval is as wide as Student's where only the
    seeds vary: exactly for two seeds, within 3 % on average for more. The square root undoes the bias
    of a variance over S values, the quotient is Student's correction for an estimated variance. Two
    seeds drawn again are not normal: their interval is their range, 2 s / sqrt(2), and Student's is
    t(1) times that.
    """
    freedom = seeds - 1
    if freedom < 1:
        return 1.0
    if freedom == 1:
        return STUDENT_975[0]
    beyond = NORMAL_975 + 2.37 / freedom + 2.8 / freedom**2
    quantile = STUDENT_975[freedom - 1] if freedom <= len(STUDENT_975) else beyond
    return float(np.sqrt(seeds / freedom)) * quantile / NORMAL_975


def accuracy(draws: Draws, part: tuple[str, str], hits: Mapping[int, NDArray[np.bool_]]) -> Array:
    """Accuracy [R] of one model on one (set, subset), the mean over its seeds.

    The observed deviations of the drawn seeds are `stretch`ed; what the drawn samples add is not.

    hits: seed's position -> whether each sample was right, [N].
    """
    positions = sorted(hits)
    each = over_samples(draws, part, hits)
    observed = np.array([hits[position].mean(dtype=np.float64) for position in positions])
    return over_seeds(draws, positions, each, observed)


def over_seeds(draws: Draws, positions: Sequence[int], each: Array, observed: Array) -> Array:
    """The mean [R] of a figure over drawn seeds, whose observed deviations are `stretch`ed.

    positions: of the S seeds; each: the figure of each seed over drawn samples [R, S]; observed: over
    the samples as they are [S].
    """
    weights = draws.over(positions)
    deviation = weights @ (observed - observed.mean())
    return (each * weights).sum(axis=1) + (stretch(len(positions)) - 1) * deviation


def over_samples(draws: Draws, part: tuple[str, str], hits: Mapping[int, NDArray[np.bool_]]) -> Array:
    """Accuracy [R, S] of one model on one (set, subset) for each of its S seeds, which are not drawn.

    hits: seed's position -> whether each sample was right, [N]; columns in the order of the positions.
    """
    matrix = np.stack([hits[position] for position in sorted(hits)]).astype(np.float32)
    return (draws.samples[part] @ matrix.T).astype(np.float64)


def paired(
    first: NDArray[np.bool_],
    second: NDArray[np.bool_],
    generator: np.random.Generator,
    replicates: int = PAIRED_REPLICATES,
) -> tuple[Array, Array]:
    """Accuracies [R] of two models on one set whose N samples are drawn anew, the same for both.

    The counts of the four joint outcomes are multinomial, so no weights of samples are kept.

    first, second: whether each sample was right, [N].
    """
    size = len(first)
    cells = np.bincount(2 * first.astype(np.int64) + second, minlength=4)
    drawn = generator.multinomial(size, cells / size, size=replicates)
    return (drawn[:, 2] + drawn[:, 3]) / size, (drawn[:, 1] + drawn[:, 3]) / size


def paired_tables(
    cells: tuple[NDArray[np.int64], NDArray[np.int64]],
    classes: int,
    figure: Callable[[NDArray[np.int64]], Array],
    generator: np.random.Generator,
    replicates: int = PAIRED_REPLICATES,
) -> tuple[Array, Array]:
    """A figure [R] of two models on one set whose N samples are drawn anew, the same for both.

    The counts of the joint outcomes are multinomial, as in `paired`. cells: of each sample the cell
    gold * C + predicted of either model's confusion table, [N] each; classes: C; figure: of such tables
    [n, C, C], gives [n].
    """
    size, table = len(cells[0]), classes**2
    joint, counts = np.unique(cells[0] * table + cells[1], return_counts=True)
    columns = [np.eye(table, dtype=np.int64)[one] for one in (joint // table, joint % table)]
    found: tuple[list[Array], list[Array]] = ([], [])
    step = max(1, MOST_COUNTS // (len(joint) + table))
    for start in range(0, replicates, step):
        drawn = generator.multinomial(size, counts / size, size=min(step, replicates - start))
        for values, column in zip(found, columns, strict=True):
            values.append(figure((drawn @ column).reshape(-1, classes, classes)))
    return np.concatenate(found[0]), np.concatenate(found[1])


def over_sample_tables(
    draws: Draws,
    part: tuple[str, str],
    cells: Mapping[int, NDArray[np.int64]],
    classes: int,
    figure: Callable[[NDArray[np.int64]], Array],
) -> Array:
    """A figure [R, S] of one model on one (set, subset) for each of its S seeds; see `over_samples`.

    cells: seed's position -> as for `paired_tables`, [N].
    """
    weights, found = draws.samples[part], []
    for position in sorted(cells):
        used, where = np.unique(cells[position], return_inverse=True)
        shares = weights @ np.eye(len(used), dtype=np.float32)[where]
        tables = np.zeros((len(weights), classes**2), np.int64)
        tables[:, used] = np.rint(shares * len(where))  # shares are counts over N
        found.append(figure(tables.reshape(-1, classes, classes)))
    return np.stack(found, axis=1)


def interval(values: Array, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval; NaN if more than `MOST_UNKNOWN` of the replicates are."""
    known = values[np.isfinite(values)]
    if len(known) < (1 - MOST_UNKNOWN) * len(values) or not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
