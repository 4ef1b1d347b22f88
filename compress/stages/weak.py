"""Stage weak: the encoder trained on few samples, a bias model that needs no idea of the bias.

With 2,000 samples an encoder learns what is easy, mostly shortcuts (Utama et al. 2020b). Two are
trained on different samples: the second judges the samples of the first, the first all others.
"""

from collections.abc import Iterator

import numpy as np

from compress.data.columns import Columns
from compress.stages.encoder_bias import Cut, EncoderBias

SAMPLES, EPOCHS = 2000, 3


class Weak(EncoderBias):
    """The encoder trained on `SAMPLES` samples."""

    name = "weak"
    epochs = EPOCHS

    def cuts(self, columns: Columns, seed: int) -> Iterator[Cut]:
        """Two."""
        order = np.random.default_rng((seed, 0x3EA)).permutation(len(columns))
        few, _ = self.sizes(len(columns))
        first, second = np.sort(order[:few]), np.sort(order[few : 2 * few])
        yield first, np.sort(order[few:])
        yield second, first

    def sizes(self, count: int) -> list[int]:
        """Of both."""
        return [min(SAMPLES, count // 2)] * 2

    def settings(self) -> dict[str, int]:
        """Samples and epochs."""
        return {"samples": SAMPLES, "epochs": EPOCHS}
