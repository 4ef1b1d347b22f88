"""A study file becomes runs: each with its files, its seed and its directory.

Names of parts are files next to the study's folder or of `ds_configs/` (`imp40` is
`compression/imp40.json`); a name that ends in .json is a path. The files of a run are merged in this
order: engine, task, settings, compression, mitigation; then `set`, `task_set` and the command line.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from compress import checks
from compress.configuration import config, used_keys
from compress.configuration.blocks import Block
from compress.configuration.config import Config
from compress.configuration.merge import override, read
from compress.data import sources, tasks
from compress.errors import UserError, nearest
from compress.mitigations import PLAIN
from compress.stages.difficulty import Difficulty
from compress.stages.stage import Stage
from compress.stages.teacher import Teacher

Names = Annotated[list[str], Field(min_length=1)]
SHIPPED = Path(__file__).parents[2] / "ds_configs"
FOLDERS = {
    "engine": "",
    "settings": "",
    "tasks": "tasks",
    "compressions": "compression",
    "mitigations": "mitigation",
}
"""Key of a study -> folder of `ds_configs` that its names are files of."""
OWN = {
    "teachers": "for the student alone there is student.epochs",
    "difficulties": "alpha, normalisation and quantile may differ",
}
"""What the runs of one task and seed share -> what each may have of its own."""
TEACHER_LOSS = f"{used_keys.OURS}.teacher.loss"
SHARED: dict[str, Stage] = {"teachers": Teacher(), "difficulties": Difficulty()}
TABLES = Literal["table1", "table2", "table3", "table4", "table5", "table6", "figure1", "figure3"]


class StudyBlock(Block):
    """The file of a study: tasks x compressions x mitigations x seeds ([studies](studies.md)).

    Names are files of `ds_configs`, or of the folders beside that of the study; one that ends in .json
    is a path.
    """

    title: str
    """Heading of the report."""
    published: TABLES | None = None
    """Table of Du et al. 2023 whose numbers stand beside the measured ones."""
    engine: Names = Field(default=["zero2"])
    """Files of all runs that come first."""
    settings: list[str] = Field(default=[])
    """Files of all runs that come after the task, such as `minilm_cpu`."""
    tasks: Names
    """Files of the folder `tasks`."""
    compressions: Names
    """Files of the folder `compression`."""
    mitigations: Names
    """Files of the folder `mitigation`; `all` stands for every one of them, the plain loss first.
    Differences are to `vanilla`."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    """robust_compression.seed of the runs."""
    set: list[str] = Field(default=[])
    """Like --set, for all runs: `a.b.c=value`; `{task}` is the name of the task."""
    task_set: dict[str, list[str]] = Field(default={})
    """The same for the runs of one task, by its name; it comes after `set`."""


@dataclass(frozen=True)
class Run:
    """One run of a study: the names of its parts, its checked configuration, its directory."""

    task: str
    compression: str
    mitigation: str
    seed: int
    files: tuple[Path, ...]
    overrides: tuple[str, ...]
    output_dir: Path
    config: Config

    @property
    def name(self) -> str:
        """Its name in lists: its directory below the study's folder."""
        return f"{self.task}/{self.compression}-{self.mitigation}-seed{self.seed}"

    @property
    def teacher(self) -> str:
        """Its teacher's loss, such as `poe bias=partial`; empty for the plain one."""
        loss = self.config.robust.teacher.loss
        if loss == PLAIN:
            return ""
        own = loss.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"hook"})
        written = {k: v if isinstance(v, str) else json.dumps(v) for k, v in own.items()}
        return " ".join([loss.hook, *(f"{key}={value}" for key, value in written.items())])


def load(file: Path) -> StudyBlock:
    """The study in a JSON file; UserError names the file and the key of the first mistake."""
    values = read(file)
    try:
        return StudyBlock.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        hint = problem["msg"][0].lower() + problem["msg"][1:] + "."
        if problem["type"] == "extra_forbidden":
            hint = f"is not a key of a study{nearest(str(problem['loc'][-1]), StudyBlock.model_fields)}"
        raise UserError(f"{file}: '{key}': {hint}") from None


def expand(file: Path, output_dir: Path, overrides: Sequence[str] = ()) -> list[Run]:
    """All runs of the study in `file`, checked: by task and seed, so that a teacher is made once.

    Raises UserError for an unknown part, two runs in one place, or a configuration that is refused.
    """
    block = load(file)
    parts = {
        key: [(_label(name), _find(file, key, name)) for name in _names(file, key, getattr(block, key))]
        for key in FOLDERS
    }
    _check_names(file, block, parts)
    _check_values(file, block, parts, overrides)
    engine, settings = ([path for _, path in parts[key]] for key in ("engine", "settings"))
    runs = []
    varied = (parts["tasks"], block.seeds, parts["compressions"], parts["mitigations"])
    for (task, task_file), seed, (compression, how), (mitigation, loss) in product(*varied):
        common = [*block.set, *block.task_set.get(task, []), *overrides]
        given = [text.replace("{task}", task) for text in common]
        files = (*engine, task_file, *settings, how, loss)
        texts = (*given, f"robust_compression.seed={seed}")
        place = output_dir / task / f"{compression}-{mitigation}-seed{seed}"
        checked = config.load(files, texts)
        runs.append(Run(task, compression, mitigation, seed, files, texts, place, checked))
    _check_places(file, runs)
    return runs


def check(runs: Sequence[Run], processes: int | None) -> None:
    """Raise UserError now for what every run would find for itself: task, data folder, hook, batch.

    And for what none would: runs of one task and seed that would not share teacher and difficulty, but
    for the loss of the teacher, which a mitigation may choose, and runs of one task that would not be
    evaluated alike.
    processes: of a run, None if they cannot be counted; then the batch is left to the runs.
    """
    first: dict[tuple[str, int], Run] = {}
    known: dict[str, tuple[dict[str, Any], str]] = {}
    for run in runs:
        other = first.setdefault((run.task, run.seed), run)
        own, expected = _shared(run.config), _shared(other.config)
        for what, key in {**own, **expected}:
            if key == TEACHER_LOSS:
                continue
            if own.get((what, key)) != expected.get((what, key)):
                key = used_keys.written(run.config, key)
                raise UserError(
                    f"{run.name}: '{key}' is not that of {other.name}, so their {what} would differ "
                    "and their figures could not stand in one table; set it for the whole study "
                    f"({OWN[what]})."
                )
        try:
            checks.check(run.config, "all")
            run.config.robust.loss.load()
            if processes is not None:
                config.batch_split(run.config, processes)
            evaluated = _evaluated(run.config)
        except UserError as error:
            raise UserError(f"{run.name}: {error}") from None
        usual, name = known.setdefault(run.task, (evaluated, run.name))
        for key in [key for key, value in evaluated.items() if value != usual[key]]:
            raise UserError(
                f"{run.name}: '{used_keys.OURS}.evaluation.{key}' is not that of {name}, so their "
                "figures could not stand in one table; set it for the whole study."
            )


def _evaluated(config: Config) -> dict[str, Any]:
    """What the figures of a run depend on and its models do not, by key of `evaluation`."""
    block = config.robust.evaluation
    ood = sources.ood_names(config.robust, tasks.of(config.robust.task))
    return {"precision": block.precision, "metric": block.metric, "ood": sorted(ood)}


def notes(runs: Sequence[Run]) -> list[str]:
    """A line for each OOD set that a task of the study goes without, and how to have it."""
    lines: list[str] = []
    for run in runs:
        robust = run.config.robust
        for name, files in sources.absent_ood(robust, tasks.of(robust.task)).items():
            lines.append(
                f"note: {run.task} goes without the OOD set {name}; to have it, put the file "
                f"{' or '.join(files)} into a folder and name that in robust_compression.task.ood_dir."
            )
    return list(dict.fromkeys(lines))


def _shared(config: Config) -> dict[tuple[str, str], Any]:
    """The settings that a teacher and then a difficulty depend on, by (which, key)."""
    found = {}
    for what, stage in SHARED.items():
        keys = stage.reads(config)
        for key, value in used_keys.values(config, keys, names=True).items():
            found[what, key] = value
    return found


def _check_places(file: Path, runs: Sequence[Run]) -> None:
    """Raise UserError if two runs would write to the same place."""
    owners: dict[Path, Run] = {}
    for run in runs:
        other = owners.setdefault(run.output_dir, run)
        if other is not run:
            raise UserError(
                f"{file}: {other.compression} with {other.mitigation} and {run.compression} with "
                f"{run.mitigation} would share one place ({run.output_dir}); rename a file."
            )


def _check_names(file: Path, block: StudyBlock, parts: dict[str, list[tuple[str, Path]]]) -> None:
    """Raise UserError for a part that is named twice, or if `task_set` names no task."""
    keys = ("tasks", "compressions", "mitigations")
    labels = {key: [label for label, _ in parts[key]] for key in keys}
    labels["seeds"] = [str(seed) for seed in block.seeds]
    for key, found in labels.items():
        for label in found:
            if found.count(label) > 1:
                raise UserError(f"{file}: '{key}' has '{label}' twice: two runs would share one place.")
    for task in block.task_set:
        if task not in labels["tasks"]:
            raise UserError(f"{file}: 'task_set.{task}': no such task{nearest(task, labels['tasks'])}")


def _check_values(
    file: Path, block: StudyBlock, parts: dict[str, list[tuple[str, Path]]], overrides: Sequence[str]
) -> None:
    """Raise UserError for a part or an override that says what the study says: the task or the seed."""
    everywhere = [*block.set, *(t for texts in block.task_set.values() for t in texts), *overrides]
    given: list[tuple[str, Mapping[str, Any]]] = [(f"--set {t}", override(t)) for t in everywhere]
    for key, found in parts.items():
        for _, path in found:
            given.append((str(path), read(path)))
            task = _below(_below(given[-1][1], "robust_compression"), "task")
            if key != "tasks" and not {"name", "definition"}.isdisjoint(task):
                raise UserError(
                    f"{path}: says which task (robust_compression.task.name); name it in 'tasks' of "
                    f"{file}, not in '{key}'."
                )
    for source, values in given:
        if "seed" in _below(values, "robust_compression"):
            raise UserError(
                f"{source}: 'robust_compression.seed': the study's 'seeds' say which; set them in "
                f"{file}."
            )


def _below(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = values.get(key)
    return found if isinstance(found, Mapping) else {}


def _names(file: Path, key: str, given: Sequence[str]) -> list[str]:
    """The names of a part, with those of every file of the folder in place of the mitigation "all"."""
    if key != "mitigations":
        return list(given)
    found = {path.stem for root in _roots(file, key) for path in root.glob("*.json")}
    every = sorted(found, key=lambda name: (name != PLAIN.hook, name))
    return [name for one in given for name in (every if one == "all" else [one])]


def _roots(file: Path, key: str) -> list[Path]:
    """The folders of a part's files: beside the study's folder, and in the program's `ds_configs`."""
    return [root / FOLDERS[key] for root in (file.absolute().parent.parent, SHIPPED)]


def _label(name: str) -> str:
    return Path(name).stem if name.endswith(".json") else name


def _find(file: Path, key: str, name: str) -> Path:
    """The configuration file of a part: beside the study's folder, or in the program's `ds_configs`."""
    if not name.endswith(".json") and ("/" in name or "\\" in name):
        plain = name.replace("\\", "/").rstrip("/")
        raise UserError(
            f"{file}: '{key}': '{name}' is neither a name nor a path that ends in .json; write "
            f"'{plain.rpartition('/')[2]}' or '{plain}.json'."
        )
    roots = _roots(file, key)
    paths = [Path(name)] if name.endswith(".json") else [root / f"{name}.json" for root in roots]
    for path in paths:
        if path.is_file():
            return path
    known = {found.stem for root in roots for found in root.glob("*.json")}
    raise UserError(f"{file}: '{key}': there is no '{name}' ({paths[0]}){nearest(name, known)}")
