"""Started by test_resume.py: students that are saved, ended and continued; writes what came out.

    deepspeed tests/drivers/resume_steps.py OUTPUT MODEL SPEC

SPEC: as of parity_steps.py, and "at": steps of checkpoints, "saved": directory of the checkpoints,
"dropout". A job is trained without a break, `OUTPUT/<name>-whole.json`; and again up to each of "at",
saved, ended, begun anew and continued, `OUTPUT/<name>-continued.json`. With "from": NAME a job only
continues the checkpoint of that job, which other ranks or another stage have written.
"""

import hashlib
import json
import sys
import threading
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


def save_beside(trainer: Trainer) -> None:
    """Save the state while the next step is taken: nothing is written before that."""
    step, taken = trainer.step, threading.Event()

    def write(*words: Any) -> list[str]:
        assert taken.wait(60)
        return real(*words)

    real, pieces.write = pieces.write, write
    try:
        trainer.training.saver.begin()
        trainer._train_step(*trainer._feed.step(step))
        taken.set()
        trainer.training.saver.complete()
    finally:
        pieces.write = real


def trained(context: Context, spec: dict, ends: list[int]) -> dict:
    """A student that is ended and begun anew at each of these steps but the last."""
    losses: list[float] = []
    for end in ends:
        training = begun(context, spec.get("dropout", 0.1))
        training.trainer.run_until(end)
        losses += training.recorder.losses
        if end != ends[-1]:
            save_beside(training.trainer)
            training.trainer.close()
            torch.manual_seed(end)  # nothing that follows may depend on the state of this process
    states = optimizer_digest(training)
    rates = [group["lr"] for group in training.trainer.engine.basic_optimizer.param_groups]
    facts = training.facts()
    return {**facts, "losses": losses, "optimizer": states, "rates": rates}


def main() -> None:
    output, model, spec = prepare()
    for name, context in contexts(output, model, spec):
        source = spec["jobs"][name.rpartition("-")[0]].get("from", name)
        work = Unfinished(CheckpointBlock(keep=1), Path(spec["saved"]) / source)
        kept = replace(context, unfinished=work)
        results = {}
        if source == name:
            results["whole"] = trained(context, spec, [spec["steps"]])
        results["continued"] = trained(kept, spec, [*spec["at"], spec["steps"]])
        for kind, facts in results.items():
            if ranks.is_main():
                (output / f"{name}-{kind}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
