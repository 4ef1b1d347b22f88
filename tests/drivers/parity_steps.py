"""Started by test_parity.py: one student after another with each kind of masks; writes what came out.

    deepspeed tests/drivers/parity_steps.py OUTPUT MODEL SPEC

SPEC: JSON of {"stage", "steps", "set": [...], "jobs": {name: {"file": name in ds_configs/compression,
"kinds": [...], "set": [...]}}}. The main rank writes OUTPUT/<name>-<kind>.json: the loss of
each step, the size of each exported tensor, digests of its values and zeros, what each layer keeps.
"""

import hashlib
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

from whole_weights import cut, gathered

from compress import run
from compress.compression import resolved
from compress.compression.masks import Masks
from compress.configuration import config
from compress.configuration.config import training_steps
from compress.microbatch import SampleData
from compress.models import compressed
from compress.runtime import ranks, versions
from compress.stages import student
from compress.stages.context import Context, new_trainer
from compress.training import distributed
from compress.training.monitor import Monitor
from compress.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
PARTS = "tasks/synthetic mitigation/rmc"


class Recorder(Monitor):
    """Keeps the losses that the trainer reports."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def scalars(self, prefix: str, values: dict[str, float], step: int) -> None:
        if "loss" in values:
            self.losses.append(values["loss"])


def make_ties_stable() -> None:
    """Let the library keep the first of equal scores, as ours do.

    Its sort is not stable: which of equal scores stay depends on the processor's instructions.
    """
    if not versions.has_library():
        return
    from deepspeed.compression.utils import TopKBinarizer

    def forward(ctx, inputs, threshold, sigmoid):
        flat = torch.zeros(inputs.numel(), dtype=inputs.dtype)
        order = inputs.flatten().sort(descending=True, stable=True).indices
        flat[order[: math.ceil(threshold * inputs.numel())]] = 1.0
        ctx.sigmoid = sigmoid
        mask = flat.view(inputs.shape)
        ctx.save_for_backward(mask)
        return mask

    TopKBinarizer.forward = staticmethod(forward)


def digest(tensor: torch.Tensor) -> str:
    value = tensor if tensor.dtype == torch.bool else tensor + 0.0  # no negative zeros
    return hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()[:16]


@dataclass
class Training:
    """A student in training, what records it, and its masks."""

    trainer: Trainer
    recorder: Recorder
    masks: Masks
    shape: PreTrainedModel

    def facts(self) -> dict:
        """What came out, on the main rank; ends the training."""
        weights = gathered(self.trainer.engine)
        sparsity = self.masks.sparsity()
        small = cut(self.masks, weights, self.shape)
        self.trainer.close()
        if not ranks.is_main():
            return {}
        tensors = small.state_dict()
        return {
            "losses": self.recorder.losses,
            "sparsity": sparsity,
            "kept": [[k.heads, k.neurons] for k in self.masks.kept() or []],
            "shapes": {name: list(t.shape) for name, t in tensors.items()},
            "zeros": {name: digest(t == 0) for name, t in tensors.items()},
            "pruned": sum(int((t == 0).sum()) for t in tensors.values()),
            "weights": {name: digest(t) for name, t in tensors.items()},
            "largest": {name: float(t.abs().max()) for name, t in tensors.items()},
        }


def begun(base: Context, dropout: float = 0.1) -> Training:
    """A student of the context's configuration before its first step."""
    recorder = Recorder()
    here = replace(base, monitor=recorder)
    settings, data = here.config, here.columns["train"]
    model = student._start(here, here.encoder.model)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    shape = compressed.build(model.config)
    generator = np.random.default_rng(0)
    teacher = generator.dirichlet(np.ones(len(here.data.labels)), len(data)).astype(np.float32)
    difficulty = generator.uniform(0.3, 1.0, len(data))
    known = SampleData(teacher, difficulty, mean_difficulty=float(difficulty.mean()))
    scorer = student._scorer(here, known)
    masks = Masks(here.resolved.pruners, scorer, settings.robust.masks)
    masks.attach(model)
    methods = [masks, settings.robust.loss]
    trainer = new_trainer("t", here, model, methods, settings.robust.epochs, known)
    return Training(trainer, recorder, masks, shape)


def contexts(output: Path, model: str, spec: dict) -> Iterator[tuple[str, Context]]:
    """Each job of a spec, `<name>-<kind>`, with the context of its student."""
    files = [str(ROOT / f"ds_configs/{n}.json") for n in PARTS.split()]
    epochs = -(-spec["steps"] // 5)
    overrides = [
        f"robust_compression.model={model}",
        'robust_compression.task.synthetic={"train": 80, "dev": 20, "ood": 20}',
        f"robust_compression.epochs={epochs}",
        "train_batch_size=16",
        "steps_per_print=1",
        "tensorboard.enabled=false",
        *spec.get("set", []),
    ]
    device = distributed.start()
    base: Context | None = None
    for name, job in spec["jobs"].items():
        stage = str(ROOT / f"ds_configs/zero{job.get('stage', spec.get('stage'))}.json")
        file = str(ROOT / f"ds_configs/compression/{job['file']}.json")
        for kind in job["kinds"]:
            more = [f"robust_compression.masks={kind}", *job.get("set", [])]
            settings = config.load([stage, *files, file], [*overrides, *more])
            if base is None:
                base = run.prepare(settings, output / "run", device)
                assert training_steps(settings, len(base.data.train), epochs) >= spec["steps"]
            start = Path(settings.robust.student.model or model)
            found = resolved.resolve(settings, start, len(base.data.train))
            encoder = replace(base.encoder, model=start)
            made = replace(base, config=settings, resolved=found, encoders={"model": encoder})
            yield f"{name}-{kind}", made
    distributed.stop()


def prepare() -> tuple[Path, str, dict]:
    """OUTPUT, MODEL and SPEC of the command line."""
    arguments = [a for a in sys.argv[1:] if not a.startswith("--local_rank")]
    output, model, spec = Path(arguments[0]), arguments[1], json.loads(arguments[2])
    output.mkdir(parents=True, exist_ok=True)
    make_ties_stable()
    return output, model, spec


def main() -> None:
    output, model, spec = prepare()
    for name, context in contexts(output, model, spec):
        training = begun(context)
        training.trainer.run_until(spec["steps"])
        facts = training.facts()
        if ranks.is_main():
            (output / f"{name}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
