"""Started by test_resume.py: students that are saved, ended and continued; writes what came out.

    deepspeed tests/drivers/resume_steps.py OUTPUT MODEL SPEC

SPEC: as of parity_steps.py, and "at": step of a checkpoint or null, "saved": directory of the
checkpoints, "dropout". A job is trained to its end and saved on the way, `OUTPUT/<name>-whole.json`;
then begun anew and continued from there, `OUTPUT/<name>-continued.json`. With "from": NAME a job begins
with the checkpoint of that job, which other ranks or another stage have written: what it gives from
there is `OUTPUT/<name>-moved.json`; it is continued likewise if "at" is a step.
"""

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from parity_steps import Training, begun, contexts, prepare

from compress.checkpoints import pieces
from compress.checkpoints.unfinished import Unfinished
from compress.configuration.robust_schema import CheckpointBlock
from compress.runtime import ranks
from compress.stages.context import Context
from compress.training import engine_state
from compress.training.trainer import Trainer


def optimizer_digest(training: Training) -> list[str]:
    """Of each rank a digest of its part of the optimiser's states, and of the learning rates."""
    state = engine_state.state_dict(training.trainer.engine)
    digest = hashlib.sha256()
    for key, named in sorted(state["optimizer"].items()):
        for name, piece in sorted(named.items()):
            digest.update(f"{key} {name} {piece.start}".encode())
            digest.update((piece.values.detach().float() + 0.0).cpu().numpy().tobytes())
    rest = [state["groups"], state["scheduler"], state["counters"], state["scaler"]]
    digest.update(repr(rest).encode())
    return ranks.gathered(digest.hexdigest)


@contextmanager
def saving(trainer: Trainer, at: int | None) -> Iterator[None]:
    """Context of a training that is saved at a step; it is written once the next step is taken."""
    real, take, taken = pieces.write, trainer._train_step, threading.Event()

    def write(*words: Any) -> list[str]:
        assert taken.wait(60)
        return real(*words)

    def train_step(*parts: Any) -> None:
        take(*parts)
        if trainer.step == at:
            taken.set()

    trainer._train_step, pieces.write = train_step, write
    trainer.training.saver.due = lambda step: step == at
    try:
        yield
        trainer.training.saver.complete()
    finally:
        pieces.write = real


def trained(context: Context, spec: dict, at: int | None = None) -> dict:
    """A student to its last step, from the newest checkpoint if there is one, saved at a step."""
    training = begun(context, spec.get("dropout", 0.1))
    with saving(training.trainer, at):
        training.trainer.run_until(spec["steps"])
    states = optimizer_digest(training)
    rates = [group["lr"] for group in training.trainer.engine.basic_optimizer.param_groups]
    return {**training.facts(), "optimizer": states, "rates": rates}


def main() -> None:
    output, model, spec = prepare()
    for name, context in contexts(output, model, spec):
        source, at = spec["jobs"][name.rpartition("-")[0]].get("from", name), spec["at"]
        work = Unfinished(CheckpointBlock(keep=1), Path(spec["saved"]) / source)
        kept = replace(context, unfinished=work)
        results = {"whole" if source == name else "moved": trained(kept, spec, at)}
        if at is not None:
            torch.manual_seed(at)  # nothing that follows may depend on the state of this process
            results["continued"] = trained(kept, spec)
        for kind, facts in results.items():
            if ranks.is_main():
                (output / f"{name}-{kind}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
