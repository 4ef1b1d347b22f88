"""What the formula of `compress.plan` says of the trainings that drivers/training_bytes.py measures."""

import json
from pathlib import Path

import torch

from compress.compression.pruners.magnitude import Magnitude, Weights
from compress.compression.pruning_schedule import PruningSchedule
from compress.configuration import config
from compress.models import encoders
from compress.models.blocks import linear_layers
from compress.plan import memory, sizes
from compress.plan.communication import Traffic
from compress.plan.engine import Engine

PARTS = ("steady", "forward", "backward", "step")


def specs(bucket: int = 1_000_000) -> list[dict]:
    """The trainings that are compared: each ZeRO stage in float32 and bf16; masks; other settings."""
    found = []
    for zero in range(4):
        for name in ("fp32", "bf16"):
            settings = [f"zero_optimization.stage={zero}"]
            if zero:
                settings.append(f"zero_optimization.reduce_bucket_size={bucket}")
            if zero == 3:
                settings.append("zero_optimization.stage3_prefetch_bucket_size=0")
                settings.append("zero_optimization.stage3_max_reuse_distance=0")
            if name == "bf16":
                settings.append('bf16={"enabled": true}')
            found.append({"name": f"zero{zero}-{name}", "set": settings})
    masked = {"name": "masked", "set": ["zero_optimization.stage=3", *found[-1]["set"][1:-1]]}
    block = "zero_optimization.stage3_"
    whole = {"name": "reused", "set": masked["set"][:-1]}
    ahead = [f"{block}prefetch_bucket_size=100000", f"{block}max_live_parameters=300000"]
    ahead = {"name": "ahead", "set": [*masked["set"], *ahead]}
    own = {"name": "own-bucket", "set": ["zero_optimization.stage=2"]}
    return [*found, masked | {"masked": True}, whole, ahead, own]


def planned(
    spec: dict, model: Path, files: list[str], overrides: list[str], ranks: int
) -> dict[str, float]:
    """Bytes by part that the formula says, and how often the weights are gathered in a step."""
    settings = config.load(files, [*overrides, *spec["set"]], ranks)
    with torch.device("meta"):
        shape = encoders.fresh_from(model)
    weights = Weights((PruningSchedule(0.0, 0.5, 0, 1, 1),), tuple(linear_layers(shape)))
    own = sizes.of(shape, [Magnitude({"all": weights})] if spec.get("masked") else [])
    engine = Engine.of(settings, ranks, own.parameters, gloo=True)
    micro = settings.deepspeed.train_batch_size // ranks
    kept = memory.activations(own, engine.width, micro, settings.robust.task.max_length)
    parts = {
        "steady": memory.steady(own, engine),
        "forward": memory.forward(own, engine, kept),
        "backward": memory.backward(own, engine, kept),
        "step": memory.step(own, engine),
    }
    traffic = Traffic.of(own, engine, 1)
    times = {3: traffic.gatherings, 0: 0.0}.get(engine.zero, 1.0)
    return {name: sum(items.values()) for name, items in parts.items()} | {"gatherings": times}


def measured(folder: Path, name: str, ranks: int) -> list[dict[str, int]]:
    """What each rank measured."""
    return [json.loads((folder / f"{name}-rank{rank}.json").read_text()) for rank in range(ranks)]
