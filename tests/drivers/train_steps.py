"""Started by test_launcher.py: train a few steps with the package's own parts, write what happened.

    deepspeed tests/drivers/train_steps.py OUTPUT MODEL SPEC [key=value ...]

SPEC is a JSON list of {"name", "stage", "groups": {name: [keyword, target]}, "steps", "set",
"layerwise", "hook", "gamma", "dropout"}: one engine after another in this process. layerwise: the block
of that name, with a random teacher of another shape. Every rank writes OUTPUT/<name>-rank<r>.json, with
the `progress` that each call of a loss was given.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import BertConfig

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

from whole_weights import gathered

from compress import run
from compress.compression.masks import Masks
from compress.compression.pruners.magnitude import Magnitude, Weights
from compress.compression.pruning_schedule import PruningSchedule
from compress.compression.technique import match
from compress.configuration import config
from compress.files import shared
from compress.layerwise.block import LayerwiseBlock
from compress.layerwise.hidden import PROJECTION
from compress.layerwise.terms import Term, terms_of
from compress.methods import Method
from compress.microbatch import SampleData
from compress.mitigations import MITIGATIONS
from compress.models import compressed, encoders
from compress.runtime import ranks
from compress.scoring import split_pass
from compress.stages import context
from compress.training import distributed
from compress.training.monitor import Monitor


class Recorder(Monitor):
    """Keeps what the trainer reports."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, float]] = []

    def scalars(self, prefix: str, values: dict[str, float], step: int) -> None:
        self.seen.append({"step": step, **values})


class Witness(Method):
    """Keeps the progress that losses are told."""

    name = "witness"

    def __init__(self) -> None:
        self.progress: list[float] = []

    def loss(self, batch):
        self.progress.append(batch.progress)


def terms_for(spec: dict, model, device: torch.device) -> tuple[Term, ...]:
    terms = terms_of(LayerwiseBlock(**spec.get("layerwise", {})))
    if not terms:
        return ()
    shape = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 3}
    shape["initializer_range"] = 0.5  # sharp attention
    with torch.random.fork_rng():
        torch.manual_seed(5)
        teacher = compressed.build(BertConfig(**{**model.config.to_dict(), **shape}))
    nn.Module.to(teacher, device)
    terms[0].teacher.settle(model, teacher, seed=7)
    for term in terms:
        term.attach(model, None)
    return terms


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
    settings_of_loss = {"gamma": spec["gamma"]} if "gamma" in spec else {}
    loss, witness = MITIGATIONS[hook](hook=hook, **settings_of_loss), Witness()
    known = SampleData(teacher, difficulty, mean_difficulty=float(difficulty.mean()))
    terms = terms_for(spec, model, device)
    projection = getattr(model, PROJECTION).weight.tolist() if terms else None
    methods = [masks, witness, loss, *terms]
    training = context.new_trainer("t", here, model, methods, settings.robust.epochs, known)
    training.run_until(spec["steps"], context.WatchDev(here) if terms else None)
    training.engine.eval()
    scores = here.output_dir / "scores.npy"
    context.score(here, "dev", training.forward, split_pass.log_probabilities, scores)
    everywhere = gathered(training.engine)
    trained = everywhere.get(f"{PROJECTION}.weight", 0.0)
    plain = masks.finish(dict(everywhere)) if ranks.is_main() else {}
    reports = [seen for seen in recorder.seen if "loss" in seen]
    result = {
        "progress": witness.progress,
        "losses": [seen["loss"] for seen in reports],
        "sparsity": [seen["sparsity"] for seen in reports],
        "layers": [[seen.get("hidden"), seen.get("attention")] for seen in reports],
        "projection": [projection, torch.as_tensor(trained).tolist()],
        "masks": {
            name: "".join(map(str, (everywhere[f"{name}.weight"] != 0).int().flatten().tolist()))
            for pruner in masks.pruners
            for name in pruner.carriers
        },
        "scores": shared.mapped(scores).tolist(),
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
    device = distributed.start()
    for spec in json.loads(specs):
        one(spec, output, files, overrides, device)
    distributed.stop()


if __name__ == "__main__":
    main()
