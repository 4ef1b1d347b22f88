"""Started by test_launcher.py: train a few steps with the package's own parts, write what happened.

    deepspeed tests/drivers/train_steps.py OUTPUT MODEL SPEC [key=value ...]

SPEC is a JSON list of {"name", "stage", "groups": {name: [keyword, target]}, "steps", "set",
"layerwise", "hook", "gamma", "dropout"}: one engine after another in this process. layerwise: the block
of that name, with a random teacher of another shape. Every rank writes OUTPUT/<name>-rank<r>.json, with
the `progress` that each call of the loss was given.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import BertConfig

sys.path.insert(0, str(Path(__file__).parents[2]))

from compress import checkpoint, losses, ranks, run
from compress.compression.masks import Masks
from compress.compression.pruners.magnitude import Magnitude, Weights
from compress.compression.pruning_schedule import PruningSchedule
from compress.compression.technique import match
from compress.configuration import config
from compress.configuration.robust_schema import LayerwiseBlock
from compress.distillation import layerwise
from compress.losses import LossWeights
from compress.models import compressed, encoders
from compress.signals import Signals
from compress.stages import context
from compress.training import trainer
from compress.training.monitor import Monitor


class Recorder(Monitor):
    """Keeps what the trainer reports."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, float]] = []

    def scalars(self, prefix: str, values: dict[str, float], step: int) -> None:
        self.seen.append({"step": step, **values})


def layers_of(spec: dict, model, device: torch.device) -> layerwise.Layerwise | None:
    if "layerwise" not in spec:
        return None
    shape = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3}
    shape["initializer_range"] = 0.5  # sharp attention
    with torch.random.fork_rng():
        torch.manual_seed(5)
        teacher = compressed.build(BertConfig(**{**model.config.to_dict(), **shape}))
    nn.Module.to(teacher, device)
    return layerwise.Layerwise(model, teacher, LayerwiseBlock(**spec["layerwise"]), seed=7)


def one(spec: dict, output: Path, files: list[str], overrides: list[str], device: torch.device) -> None:
    overrides = [*overrides, f"zero_optimization.stage={spec['stage']}", *spec.get("set", [])]
    settings = config.load(files, overrides)
    base = run.prepare(settings, output / "run", device)
    recorder = Recorder()
    here = context.Context(**{**base.__dict__, "monitor": recorder})
    torch.manual_seed(settings.robust.seed)
    model = encoders.load_classifier(here.encoder.model, here.data.labels)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = spec.get("dropout", 0.0)
    names = match(model, {name: [keyword] for name, (keyword, _) in spec["groups"].items()}, "sparse")
    groups = {
        name: Weights((PruningSchedule(0.0, target, 0, spec["steps"] - 1, 1),), tuple(names[name]))
        for name, (_, target) in spec["groups"].items()
    }
    masks = Masks([Magnitude(groups)] if groups else [])
    masks.attach(model)
    generator = np.random.default_rng(0)
    classes = len(here.data.labels)
    teacher = generator.dirichlet(np.ones(classes), len(here.data.train)).astype(np.float32)
    difficulty = generator.uniform(0.3, 1.0, len(here.data.train))
    hook = spec.get("hook", "rmc_weighted")
    weights = LossWeights(0.9, float(difficulty.mean()), gamma=spec.get("gamma", 2.0))
    layers, whole = layers_of(spec, model, device), losses.BATCH_WEIGHTS.get(hook)
    progress: list[float] = []

    def loss(*arguments):
        progress.append(arguments[-1].progress)
        return losses.LOSSES[hook](*arguments)

    signals = Signals(loss, weights, teacher, difficulty, layers, whole)
    projection = getattr(model, layerwise.PROJECTION).weight.tolist() if signals.layerwise else None
    training = context.new_trainer("t", here, model, masks, signals, settings.robust.epochs)
    training.run_until(spec["steps"], context.watch_dev(here) if signals.layerwise else None)
    scores = context.score_split(here, training, "dev")
    weights_now = checkpoint.gather(training.engine)
    trained = weights_now.get(f"{layerwise.PROJECTION}.weight", 0.0)
    plain = masks.finish(dict(weights_now)) if ranks.is_main() else {}
    state = training.state_dict()
    reports = [seen for seen in recorder.seen if "loss" in seen]
    result = {
        "progress": progress,
        "losses": [seen["loss"] for seen in reports],
        "sparsity": [seen["sparsity"] for seen in reports],
        "layers": [[seen.get("hidden"), seen.get("attention")] for seen in reports],
        "projection": [projection, torch.as_tensor(trained).tolist()],
        "masks": {
            name: "".join(map(str, m.int().flatten().tolist()))
            for name, m in state["masks"].get("magnitude", {}).items()
        },
        "scores": scores.tolist(),
        "weights": {
            name: float(value.double().sum()) for name, value in plain.items() if ranks.is_main()
        }
        if ranks.is_main()
        else {},
        "zeros": {n: int((w == 0).sum()) for n, w in plain.items() if n.endswith(".weight")},
    }
    training.close()
    (output / f"{spec['name']}-rank{ranks.rank()}.json").write_text(json.dumps(result))


def main() -> None:
    arguments = [a for a in sys.argv[1:] if not a.startswith("--local_rank")]
    output, model, specs, *overrides = arguments
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    root = Path(__file__).parents[2]
    files = [str(root / "ds_configs/zero2.json"), str(root / "ds_configs/tasks/synthetic.json")]
    overrides += [
        f"robust_compression.model={model}",
        'robust_compression.task.synthetic={"train": 60, "dev": 20, "ood": 20}',
        "robust_compression.epochs=2",
        "train_batch_size=16",
        "steps_per_print=1",
        "tensorboard.enabled=false",
    ]
    device = trainer.start()
    for spec in json.loads(specs):
        one(spec, output, files, overrides, device)
    trainer.stop()


if __name__ == "__main__":
    main()
