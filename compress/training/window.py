"""Means of per-sample values over the optimiser steps since the last report."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.runtime import ranks


class Window:
    """Sums of this rank's per-sample values since the last report."""

    def __init__(self) -> None:
        """Nothing is summed."""
        self.sums: dict[str, Tensor] = {}
        self.began = time.perf_counter()

    def restart(self) -> None:
        """Do not count the time since the last report (evaluation) as training."""
        if not self.sums:
            self.began = time.perf_counter()

    def add(self, counted: Tensor, **values: Tensor) -> None:
        """Add the values [B] of the samples that count; counted: 1, or 0 for padding, [B]."""
        rows = {"samples": counted.sum()}
        rows |= {name: (value.detach().float() * counted).sum() for name, value in values.items()}
        for name, value in rows.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value

    def means(self) -> dict[str, float]:
        """The means over all ranks, and `samples_per_second`; the next window begins."""
        names = list(self.sums)
        local = torch.stack(list(self.sums.values())).cpu().numpy().astype(np.float64)
        totals = dict(zip(names, ranks.all_sum(local), strict=True))
        samples = totals.pop("samples")
        seconds = time.perf_counter() - self.began
        self.sums, self.began = {}, time.perf_counter()
        means = {name: float(total / samples) for name, total in totals.items()}
        return {**means, "samples_per_second": float(samples / seconds)}

    def state_dict(self) -> dict[str, Any]:
        """The sums, and the seconds that they took."""
        return {"sums": dict(self.sums), "seconds": time.perf_counter() - self.began}

    def load_state_dict(self, states: Iterable[Mapping[str, Any]], device: torch.device) -> None:
        """Go on with the sums of these states, added up."""
        self.sums = {}
        for state in states:
            for name, value in state["sums"].items():
                value = value.to(device)
                self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value
            self.began = time.perf_counter() - state["seconds"]
