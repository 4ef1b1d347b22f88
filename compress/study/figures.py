"""A figure of a model over seeds, with the replicates of the bootstrap, and what is made of several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compress.scoring import bootstrap

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure: point estimate, sample standard deviation over seeds (None with one), 95 % interval."""

    value: float
    sd: float | None
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Figures:
    """Figures of one model: a value for each seed, the value of the means, and R replicates."""

    by_seed: Mapping[int, float]
    value: float
    replicates: Array

    def estimate(self) -> Estimate:
        """Summarise."""
        known = [v for v in self.by_seed.values() if np.isfinite(v)]
        sd = float(np.std(known, ddof=1)) if len(known) > 1 else None
        return Estimate(self.value, sd, *bootstrap.interval(self.replicates))

    def minus(self, other: "Figures") -> "Figures":
        """The paired difference: by seed where both have the seed, and replicate by replicate."""
        common = {s: v - other.by_seed[s] for s, v in self.by_seed.items() if s in other.by_seed}
        return Figures(common, self.value - other.value, self.replicates - other.replicates)


def mean_of(several: Sequence[Figures]) -> Figures:
    """The mean of one figure over tasks: by seed where all have it, and replicate by replicate."""
    common = set.intersection(*(set(figures.by_seed) for figures in several))
    by_seed = {s: float(np.mean([f.by_seed[s] for f in several])) for s in sorted(common)}
    value = float(np.mean([figures.value for figures in several]))
    return Figures(by_seed, value, np.mean([figures.replicates for figures in several], axis=0))
