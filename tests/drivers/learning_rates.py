"""Print, as JSON, the highest learning rate of each parameter group over a training, on real engines.

Arguments: the base configuration, and a JSON list of overrides for each engine.
"""

import json
import sys

import deepspeed
import torch

from compress.configuration.config import load
from compress.training import distributed
from compress.training.engine import engine_settings, parameter_groups

STEPS = 50


class Small(torch.nn.Module):
    """A layer with a learned score."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)
        self.mask_scores = torch.nn.Parameter(torch.ones(4))

    def forward(self, x):
        return self.layer(x * self.mask_scores).sum()


def peaks(config):
    """Highest rate of each group over all steps."""
    model = Small()
    groups = parameter_groups(model, config, [model.mask_scores])
    settings = engine_settings(config, STEPS, 2, 1, groups)
    engine = deepspeed.initialize(model=model, model_parameters=groups, config=settings)[0]
    seen = []
    for _ in range(STEPS):
        seen.append([group["lr"] for group in engine.optimizer.param_groups])
        engine.backward(engine(torch.ones(2, 4)))
        engine.step()
    engine.destroy()
    return [max(rates) for rates in zip(*seen, strict=True)]


def main():
    """Build each engine in turn."""
    base, cases = sys.argv[1], json.loads(sys.argv[2])
    distributed.start()
    found = [peaks(load([base], overrides)) for overrides in cases]
    distributed.stop()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
