"""Calibration of a bias model by one temperature (Guo et al. 2017; Xiong et al. 2021).

A model that is surer than it is right has more of it taken out of the loss than a shortcut explains.
The labels are those of training samples that the model was not trained on.
"""

import numpy as np
from numpy.typing import NDArray

from compress.data import draw

MOST = 100_000
"""Samples that the exponent is fitted on."""
HIGHEST, HALVINGS = 20.0, 40
TINY = float(np.finfo(np.float32).tiny)


def exponent(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """1/T, at which p^(1/T), normalised, has the lowest cross-entropy with the labels.

    probabilities: [N, C]; labels: [N]. Between 0, where the model knows nothing, and `HIGHEST`. The
    cross-entropy is convex in 1/T: its slope, the mean of log p under the model less log p of the gold
    label, is brought to 0 by bisection.
    """
    places = draw.evenly(len(labels), MOST)
    logs = np.log(np.maximum(np.asarray(probabilities[places], np.float64), TINY))
    gold = logs[np.arange(len(places)), labels[places]]

    def rises(power: float) -> bool:
        scaled = power * (logs - logs.max(axis=1, keepdims=True))
        model = np.exp(scaled)
        model /= model.sum(axis=1, keepdims=True)
        return bool(((model * logs).sum(axis=1) - gold).mean() >= 0)

    low, high = 0.0, HIGHEST
    if rises(low):
        return low
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if rises(middle) else (middle, high)
    return (low + high) / 2


def accuracy(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Share of the samples whose likeliest class is the label, of `MOST` at most; as `exponent`."""
    places = draw.evenly(len(labels), MOST)
    return float((probabilities[places].argmax(axis=1) == labels[places]).mean())
