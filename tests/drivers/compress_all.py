"""Started by test_compressions.py: train and export students of a random teacher, one after another.

    deepspeed tests/drivers/compress_all.py OUTPUT MODEL SPECS

SPECS is a JSON list of {"name", "files": [compression, ...], "stage", "set": [...], "mitigation",
"trained": whether the teacher is trained too, "difficulty": whether the sub-networks are trained too,
"broken_at": a step at which the student's training fails once, and is continued, "moved": whether to
measure how far it is from the teacher that it starts from, with all layers}. The run directory of a
student is OUTPUT/<name>; every rank writes OUTPUT/<name>/rank<r>.json.
"""

import functools
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from compress import run
from compress.configuration import config
from compress.errors import UserError
from compress.files import artefacts
from compress.models import encoders, probe
from compress.runtime import ranks
from compress.stages import difficulty, export
from compress.stages.context import Context
from compress.stages.difficulty import Difficulty
from compress.stages.stage import Artefact, find, obtain, publish
from compress.stages.student import Student
from compress.stages.teacher import Teacher
from compress.training import distributed
from compress.training.monitor import Monitor
from compress.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
OURS = [
    'robust_compression.task.synthetic={"train": 64, "dev": 32, "ood": 16}',
    "robust_compression.epochs=2",
    "train_batch_size=16",
    "steps_per_print=1",
    "tensorboard.enabled=false",
]


class Recorder(Monitor):
    """Keeps the losses that the trainer reports."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def scalars(self, prefix: str, values: dict[str, float], step: int) -> None:
        self.losses += [values["loss"]] if "loss" in values else []


def teacher_of(here: Context) -> None:
    """A random teacher, the same on all ranks, in place of a trained one."""
    torch.manual_seed(5)
    model = encoders.load_classifier(here.encoder.model, here.data.labels)
    generator = np.random.default_rng(0)
    rows = generator.dirichlet(np.ones(len(here.data.labels)), len(here.data.train))

    def fill(path: Path) -> None:
        np.save(path / "probabilities.npy", rows.astype(np.float32))
        export.save(model, here.encoder.tokenizer, 48, here.data.task, path / "model")

    find(Teacher(), here) or publish(Teacher(), here, time.perf_counter(), fill)


def losses_of(here: Context) -> None:
    """A random loss matrix, the same on all ranks, in place of that of sub-networks."""
    labels = here.columns["train"].labels
    matrix = np.random.default_rng(1).exponential(size=(len(labels), 3))

    def fill(path: Path) -> None:
        difficulty.save_losses(path / "train.parquet", [0.2, 0.4, 0.6], matrix.T, labels)

    find(Difficulty(), here) or publish(Difficulty(), here, time.perf_counter(), fill)


class PlannedError(Exception):
    """The end of a training that is to be continued."""


def broken(here: Context, at: int) -> None:
    """Train the student up to a step and fail there; its checkpoints stay."""
    take = Trainer._train_step

    def failing(trainer, *parts):
        if trainer.step == at:
            trainer.training.saver.complete()
            trainer.close()
            raise PlannedError
        take(trainer, *parts)

    Trainer._train_step = failing
    try:
        obtain(Student(), here)
    except PlannedError:
        pass
    finally:
        Trainer._train_step = take


def one(spec: dict, output: Path, model: str, device: torch.device) -> None:
    files = ["zero2", "tasks/synthetic", f"mitigation/{spec.get('mitigation', 'distil')}"]
    paths = [ROOT / f"ds_configs/{name}.json" for name in files] + spec["files"]
    overrides = [*OURS, f"robust_compression.model={model}", f"zero_optimization.stage={spec['stage']}"]
    if not spec.get("trained"):  # other epochs than the first model's, whose place it must not take
        overrides.append("robust_compression.teacher.epochs=9")
    settings = config.load(paths, overrides + spec.get("set", []))
    base = run.prepare(settings, output / spec["name"], device)
    recorder = Recorder()
    here = replace(base, monitor=recorder)
    if "mitigation" in spec and not spec.get("difficulty"):
        losses_of(here)
    if not spec.get("trained"):
        teacher_of(here)
    if "broken_at" in spec:
        broken(here, spec["broken_at"])
    made = obtain(Student(), here)
    digests = {}
    if ranks.is_main():
        digests = {name: float(v.double().abs().sum()) for name, v in _weights(made).items()}
    values = {"losses": recorder.losses, "weights": digests}
    if spec.get("moved") and ranks.is_main():
        values["moved"] = _moved(made, find(Teacher(), here))
    artefacts.write_json(output / spec["name"] / f"rank{ranks.rank()}.json", values)


def _weights(made: Artefact) -> dict[str, torch.Tensor]:
    return encoders.load_compressed(made.path / "model").state_dict()


def _moved(made: Artefact, start: Artefact) -> float:
    """Distance between two models, without the tensors that were cut and the weights that are 0."""
    first, last = (
        {name: v.double() for name, v in _weights(each).items() if v.is_floating_point()}
        for each in (start, made)
    )
    whole = [name for name, v in last.items() if v.shape == first[name].shape]
    return sum(float(((last[n] - first[n])[last[n] != 0] ** 2).sum()) for n in whole) ** 0.5


def main() -> None:
    output, model, specs = [a for a in sys.argv[1:] if not a.startswith("--local_rank")]
    device = distributed.start()
    probe.check = functools.cache(probe.check)  # each model is tried once
    for spec in json.loads(specs):
        try:
            one(spec, Path(output), model, device)
        except UserError as error:
            sys.stderr.write(f"{spec['name']}: {error}\n")
            raise
    distributed.stop()


if __name__ == "__main__":
    main()
