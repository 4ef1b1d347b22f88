"""A stage of a run, and its artefact: what it depends on, under which key, where it is kept.

The key of an artefact is a hash of everything that the result depends on (`inputs_of`). The stage is
made with a configuration that holds nothing else (`used_keys.reduced`), so that no result depends on a
value that is not in its key. All ranks call `find`, `obtain` and `publish` alike; only the main rank
reads and writes files.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from compress.checkpoints import unfinished as unfinished_work
from compress.checkpoints.unfinished import Unfinished
from compress.configuration import used_keys
from compress.configuration.config import Config
from compress.errors import UserError
from compress.files import artefacts, disk, ownership, shared
from compress.runtime import memory, provenance, ranks
from compress.stages.workspace import Artefact, Workspace

Fill = Callable[[Path], None]
R = TypeVar("R", bound=Workspace)
"""A context that holds what the stage needs."""


class Stage(ABC, Generic[R]):
    """One step of a run, with its parameters."""

    name: ClassVar[str]
    """Name of its directory."""
    asked: ClassVar[bool] = False
    """Whether it is made only if `--stage` asks for it; otherwise whenever another stage needs it."""

    packages: ClassVar[tuple[str, ...]] = provenance.DECISIVE
    """Packages on whose versions the result depends."""

    @property
    def label(self) -> str:
        """Its name in messages, events and the needs of another stage."""
        return self.name

    def configured(self, config: Config) -> Config:
        """The configuration that it is made with, before it is reduced."""
        return config

    def reads(self, config: Config) -> tuple[str, ...]:
        """Keys of the configuration that the result depends on, dotted; each with all below it."""
        return ()

    def needs(self, run: R) -> tuple["Stage", ...]:
        """Stages whose artefacts it reads."""
        return ()

    def optional(self, run: R) -> tuple["Stage", ...]:
        """Stages whose artefacts save it work and change nothing in its result; not in its key."""
        return ()

    def facts(self, run: R) -> dict[str, Any]:
        """What else the result depends on, as JSON. run: with the reduced configuration."""
        return {}

    def place(self, run: R, key: str) -> Path:
        """Its directory."""
        return run.cache_dir / self.name / key[:16]

    def includes(self, label: str) -> bool:
        """Whether the seconds of the needed stage of this label count as its own."""
        return False

    def missing(self, run: R) -> str:
        """The error message for an artefact that is needed but not made by this run."""
        return f"--stage {run.stage}: there is no {self.name} yet; run --stage {self.name} first."

    @abstractmethod
    def make(self, run: R, made: Mapping[str, Artefact]) -> Fill:
        """Compute it on all ranks; the returned function writes it into a directory, on the main rank.

        run: with the reduced configuration; made: the needed and optional artefacts by label.
        """


def inputs_of(stage: Stage[R], run: R) -> dict[str, Any]:
    """What the result of a stage depends on, as JSON.

    Settings are the values of the keys that it reads, facts such as fingerprints of data and models,
    needs the keys of the artefacts that it reads.
    """
    config = stage.configured(run.config)
    return {
        "stage": stage.name,
        "numerics": artefacts.NUMERICS,
        "settings": used_keys.values(config, stage.reads(config)),
        "facts": stage.facts(_reduced(stage, run)),
        "needs": {need.label: key_of(need, run) for need in stage.needs(run)},
    }


def key_of(stage: Stage[R], run: R) -> str:
    """Hash of `inputs_of`."""
    return artefacts.key(inputs_of(stage, run))


def find(stage: Stage[R], run: R) -> Artefact | None:
    """The finished artefact of a stage, None if there is none that may be reused.

    A damaged one is put aside; one of other versions is not reused unless the run accepts that, nor one
    that was made from a needed artefact which has been made again and came out otherwise. Each is
    reported once.
    """
    found = _there(stage, run)
    other = None if found is None else _made_again(stage, run, found)
    if other is not None:
        say_once(run, f"{stage.label}: not reused, because it was made from another {other}")
    return found if other is None else None


def _there(stage: Stage[R], run: R) -> Artefact | None:
    """The artefact that the run knows, or finds sound and of versions that it accepts."""
    inputs = inputs_of(stage, run)
    key = artefacts.key(inputs)
    path = stage.place(run, key)
    known = run.known.get(path)
    if known is not None and known.key == key:
        return known
    marker, damage = ranks.on_main(lambda: artefacts.checked(path, inputs))
    if damage is not None:
        ranks.say(damage)
    if marker is None:
        return None
    shared.await_everywhere(path, marker)
    origin, accepted = marker.get("origin", {}), run.accept_versions
    usable, note = provenance.decide(stage.label, origin, accepted, stage.packages)
    if note is not None:
        say_once(run, note)
    if not usable:
        return None
    run.known[path] = Artefact(path, marker, reused=True)
    return run.known[path]


def _made_again(stage: Stage[R], run: R, found: Artefact) -> str | None:
    """Label of the first needed artefact that is no longer what `found` was made from, or None.

    Nor may that have been made from another itself. One that is not there does not count: it is
    compared when it has been made again.
    """
    made_from = found.marker.get("made_from", {})
    for need in stage.needs(run):
        now = _there(need, run) if need.label in made_from else None
        if now is None:
            continue
        if now.content != made_from[need.label] or _made_again(need, run, now) is not None:
            return need.label
    return None


def say_once(run: Workspace, line: str) -> None:
    """Print a line, from the main rank, unless this run has printed it before."""
    if line not in run.said:
        run.said.add(line)
        ranks.say(line)


def obtain(stage: Stage[R], run: R) -> Artefact:
    """The artefact of a stage: the finished one, or else made, with all that it needs.

    Raises UserError if it is missing and `--stage` does not ask for it.
    """
    if (old := find(stage, run)) is not None:
        if ranks.is_main():
            unfinished_work.clear(old.path)
        return old
    if stage.asked and stage.name not in run.chosen:
        raise UserError(stage.missing(run))
    check_place(stage, run)
    needed = (*stage.needs(run), *stage.optional(run))
    made = {need.label: obtain(need, run) for need in needed}
    key = key_of(stage, run)
    place = stage.place(run, key)
    needs = {need.label: made[need.label].content for need in stage.needs(run)}
    inputs = {"key": key, "made_from": needs}
    wanted = place.is_relative_to(run.cache_dir)
    unfinished = Unfinished.of(run.config.robust.checkpoint, place, inputs, wanted)
    with unfinished.alone(stage.label, partial(_appeared, stage, run, needs)):
        if (other := find(stage, run)) is not None:
            return other
        included = sum(a.seconds for label, a in made.items() if stage.includes(label))
        provenance.begin(run.device)
        with run.monitor.making(key):
            fill = stage.make(replace(_reduced(stage, run), unfinished=unfinished), made)
        published = publish(stage, run, unfinished.began - unfinished.earlier - included, fill)
        unfinished.remove()
    del fill
    memory.give_back()
    return published


def _appeared(stage: Stage[R], run: R, needs: Mapping[str, str]) -> bool:
    """Whether an artefact that `find` takes has appeared; on the main rank alone.

    needs: content of those that it is made from, by label.
    """
    inputs = inputs_of(stage, run)
    marker = artefacts.completed(stage.place(run, artefacts.key(inputs)), inputs)
    if marker is None:
        return False
    origin, accepted = marker.get("origin", {}), run.accept_versions
    made_from = marker.get("made_from", {})
    same = all(needs.get(label, content) == content for label, content in made_from.items())
    return same and provenance.decide(stage.label, origin, accepted, stage.packages)[0]


def check_place(stage: Stage[R], run: R) -> None:
    """Raise UserError if the artefact of a stage cannot be written to the cache; by look alone."""
    folder = stage.place(run, key_of(stage, run)).parent
    if folder.is_relative_to(run.cache_dir):
        cache = ownership.cache_name(run.config)
        name = f"{cache}: has no {stage.label} of this run, which must be written to"
        ranks.on_main(lambda: disk.check(folder, name))


def publish(stage: Stage[R], run: R, began: float, fill: Fill) -> Artefact:
    """Write the artefact of a stage: the main rank alone; all ranks wait, and fail if it fails.

    began: `time.perf_counter()` at the start of its making. The marker keeps what the needed artefacts
    were, as far as the run knows them.
    """
    inputs = inputs_of(stage, run)
    path = stage.place(run, artefacts.key(inputs))
    needed = ((need.label, find(need, run)) for need in stage.needs(run))
    made_from = {label: made.content for label, made in needed if made is not None}

    def write() -> None:
        making = {"origin": provenance.now(run.device), "made_from": made_from, "label": stage.label}
        with artefacts.writing(path, inputs, began, making) as folder:
            fill(folder)

    ranks.on_main(write)
    run.known.pop(path, None)
    made = find(stage, run)
    if made is None:
        raise UserError(f"{path}: is not there after it was written; is another program at work there?")
    run.known[path] = replace(made, reused=False)
    return run.known[path]


def _reduced(stage: Stage[R], run: R) -> R:
    """The run with the configuration that a stage sees."""
    config = stage.configured(run.config)
    return replace(run, config=used_keys.reduced(config, stage.reads(config)))
