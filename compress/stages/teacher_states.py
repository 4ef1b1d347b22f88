"""Stage teacher_states: the teacher's hidden states of train, for the layer-wise term `hidden`.

They are constant, so that a student which reads them needs no teacher in its training. Every rank
computes a share of the samples and writes it into one file itself, beside the place of the artefact;
no rank holds more than a batch of them.
"""

from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from compress.checkpoints.passed import Passed
from compress.configuration.robust_schema import RobustCompression
from compress.data.batches import cut, scoring_order, share
from compress.errors import UserError
from compress.files import disk, ownership, shared
from compress.layerwise import layer_map, states
from compress.layerwise.states import GIB, Writer
from compress.models import encoders
from compress.runtime import agreement, interrupts, memory, ranks
from compress.runtime.long_work import LongWork
from compress.scoring import split_pass
from compress.stages.context import Context
from compress.stages.stage import Fill, Stage
from compress.stages.teacher import Teacher
from compress.stages.workspace import Artefact
from compress.training import frozen
from compress.training.engine import release

KEY = f"{layer_map.KEY}.cache_gib"
BLOCK = 512
"""Bytes of a block, as `os.stat` counts them."""


@dataclass(frozen=True)
class TeacherStates(Stage[Context]):
    """`states.bin` [T, K, H]; see `compress.layerwise.states`. layers: of the teacher, rising [K]."""

    layers: tuple[int, ...]
    name = states.NAME

    def needs(self, run: Context) -> tuple[Stage, ...]:
        """The teacher, whose key holds data, tokens and precision."""
        return (Teacher(),)

    def facts(self, run: Context) -> dict[str, Any]:
        """Which layers; the type and the order in the file."""
        return {"layers": list(self.layers), "type": states.TYPE.str, "gives": "[T, K, H]"}

    def make(self, run: Context, made: Mapping[str, Artefact]) -> Fill:
        """Run the teacher over train on all ranks, in its own tokens."""
        own, file = run.for_teacher(), run.unfinished.place(states.FILE)
        teacher = encoders.load_classifier(
            made["teacher"].path / "model", own.data.labels, trained=True, whole=False
        )
        engine = frozen.place(teacher, run.config, run.device)
        needed = size(own, teacher.config.hidden_size, len(self.layers))
        passed = run.unfinished.passed(file)
        done = passed.read()
        ranks.on_main(lambda: _make_room(file, needed, run))
        shared.look_again(file.parent)
        with closing(Writer(file, own.columns["train"])) as writer:
            self._pass_over(own, teacher, writer, passed, done)
        if engine is not None:
            release(engine)
        ranks.barrier()
        if errors := [text for text in ranks.gathered(writer.check) if text is not None]:
            if ranks.is_main():
                file.unlink(missing_ok=True)
            raise UserError(errors[0])

        def fill(place: Path) -> None:
            file.rename(place / states.FILE)
            states.describe(place, self.layers, teacher.config.hidden_size)

        return fill

    def _pass_over(
        self, run: Context, teacher: PreTrainedModel, writer: Writer, passed: Passed, done: int
    ) -> None:
        """Write the states of this rank's share of every batch; done: samples of earlier runs."""
        data = run.columns["train"]
        each = split_pass.together(run.config)
        done -= done % each
        work = LongWork(self.label, "samples", len(data), done)
        if done:
            ranks.say(f"{self.label}: continues at sample {done:,} of {len(data):,}")
        with agreement.loop(), torch.no_grad():
            for batch in cut(scoring_order(data.lengths)[done:], each):
                end, late, _ = agreement.exchange(passed.late())
                if end or late:
                    passed.save(done, writer.flush)
                if end:
                    raise interrupts.ended()
                indices, valid = share(batch, ranks.rank(), ranks.world_size())
                inputs = data.batch(indices, run.device)
                with memory.scoring(self.label, inputs, run.config):
                    found = teacher(**inputs, output_hidden_states=True).hidden_states
                    wanted = torch.stack([found[layer + 1] for layer in self.layers], dim=2)
                count = int(valid.sum())  # the rest repeats a sample
                writer.write(indices[:count], wanted.cpu().numpy())
                work.done(done := done + len(batch))
            if agreement.settled():
                passed.save(done, writer.flush)
                raise interrupts.ended()


def size(run: Context, width: int, layers: int) -> int:
    """Bytes of the states of so many layers of this width."""
    return int(run.columns["train"].offsets[-1]) * width * layers * states.TYPE.itemsize


def _make_room(file: Path, needed: int, run: Context) -> None:
    """Make the directory of the file; UserError if its disk does not hold so many bytes."""
    with disk.writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    free = disk.free(file.parent)
    with suppress(FileNotFoundError):
        needed -= BLOCK * file.stat().st_blocks
    if free is not None and free < needed:
        raise UserError(
            f"{ownership.cache_name(run.config)} {run.cache_dir}: its disk has {disk.size(free)} free, "
            f"and the teacher's hidden states take {disk.size(needed)}; free some, or set {KEY} to 0."
        )


def _layers(run: Context) -> tuple[int, ...]:
    """The teacher's layers that the student of this run is compared with."""
    robust: RobustCompression = run.config.robust
    depths = run.resolved.model.config.num_hidden_layers, layer_map.teacher(robust).num_hidden_layers
    return tuple(sorted({high for _, high in layer_map.pairs(*depths, robust.layerwise)}))


def obstacle(run: Context) -> str | None:
    """Why the states that the configuration asks for are not kept, as a line; None if they are.

    None too if it does not ask for them.
    """
    robust, both = run.config.robust, (run.for_student(), run.for_teacher())
    if not robust.layerwise.cache_gib:
        return None
    if any(one.encoder.tokenizer.padding_side != "right" for one in both):
        why = "with padding at the left the teacher's hidden states depend on the batch"
    else:
        needed = size(run, layer_map.teacher(robust).hidden_size, len(_layers(run))) / GIB
        if needed <= robust.layerwise.cache_gib:
            return None
        why = f"the teacher's hidden states of train take {needed:.3g} GiB"
    return f"note: {KEY} is {robust.layerwise.cache_gib:g}, but {why}; the teacher runs in every step"


def of(run: Context) -> tuple[TeacherStates, ...]:
    """The states that the student of this run reads; none if they are not to be kept."""
    wanted = run.config.robust.layerwise.cache_gib > 0 and obstacle(run) is None
    return (TeacherStates(_layers(run)),) if wanted else ()
