"""Configuration: JSON files merged left to right, then `--set`, checked, frozen.

What: `load(files, overrides)` returns a `Config`; every other module gets its blocks and never sees
raw JSON. Why: DeepSpeed users tweak JSON, and nothing they set may be ignored in silence.

Precedence, the only place where it is written down: defaults below < files of `--deepspeed_config`
from left to right < `--set a.b.c=value` from left to right. Objects merge key by key; lists and
scalars replace; `null` returns a key to its default.

Any mistake is a `UserError` that names the file (or `--set`), the key and the nearest valid key.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError

from compress.deepspeed_schema import Block, DeepSpeedBlock, engine_keys
from compress.errors import UserError, nearest

Fraction = Annotated[float, Field(ge=0, le=1)]
Sparsity = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class SyntheticBlock(Block):
    """Size and seed of the embedded benchmark."""

    seed: int = 0
    train: Count = 4000
    dev: Count = 1000
    ood: Count = 2000
    conflicting: Annotated[float, Field(gt=0, lt=1)] = 0.05


class TaskBlock(Block):
    """Which data: a task of `compress.tasks`, from the hub or from files in `data_dir`.

    train_samples: use the first n rows of train; max_length: tokens of the pair, longest cut first;
    synthetic: seed and sizes of the embedded benchmark (`name` = "synthetic" only).
    """

    name: str
    data_dir: str | None = None
    max_length: Annotated[int, Field(ge=8)] = 128
    train_samples: Count | None = None
    synthetic: SyntheticBlock | None = None


class TeacherBlock(Block):
    """model: a fine-tuned classifier to use as it is (no training); epochs: default the run's."""

    model: str | None = None
    epochs: Count | None = None


class StudentBlock(Block):
    """init_from: weights that the student starts from; epochs: default the run's."""

    init_from: Literal["pretrained", "teacher"] = "pretrained"
    epochs: Count | None = None


class PruningBlock(Block):
    """Schedule of iterative magnitude pruning, in fractions of the student's training.

    Pruning goes from 0 at `begin` to the target at `end` in `updates` refreshes; what remains is
    recovery at full sparsity. DeepSpeed's schedule_offset, _end and _stride say the same in steps.
    """

    curve: Literal["cubic", "linear"] = "cubic"
    begin: Fraction = 0.0
    end: Fraction = 0.6
    updates: Count = 20


class UncertaintyBlock(Block):
    """Sample difficulty (Du et al. 2023, Sec. 5.1); see `compress.uncertainty`.

    epochs: length of the trajectory, or of each of the independent runs; default the run's.
    """

    protocol: Literal["trajectory", "independent"] = "trajectory"
    sparsities: Annotated[list[Sparsity], Field(min_length=2)] = Field(
        default=[0.2, 0.4, 0.6, 0.7, 0.85]
    )
    normalisation: Literal["minmax", "quantile"] = "minmax"
    quantile: Annotated[float, Field(gt=0, le=1)] = 0.95
    alpha: Fraction = 0.5
    init_from: Literal["pretrained", "teacher"] = "pretrained"
    epochs: Count | None = None


class LossBlock(Block):
    """hook: a name in `compress.losses.LOSSES` or "module:function"; lambda: Eq. 3."""

    hook: str = "rmc"
    lambda_: Fraction = Field(default=0.9, alias="lambda")


class EvaluationBlock(Block):
    """ood: names of the OOD sets (default: all of the task); sentences: shown in the report."""

    ood: list[str] | None = None
    batch_size: Count = 128
    sentences: Count = 12


class RobustCompression(Block):
    """Our block: `robust_compression`."""

    task: TaskBlock
    model: str
    seed: Annotated[int, Field(ge=0)] = 42
    epochs: Count = 3
    teacher: TeacherBlock = TeacherBlock()
    student: StudentBlock = StudentBlock()
    pruning: PruningBlock = PruningBlock()
    uncertainty: UncertaintyBlock = UncertaintyBlock()
    loss: LossBlock = LossBlock()
    evaluation: EvaluationBlock = EvaluationBlock()
    cache_dir: str | None = None


class Root(DeepSpeedBlock):
    """Everything a merged configuration may hold."""

    robust_compression: RobustCompression


@dataclass(frozen=True)
class Config:
    """A checked configuration: our block, DeepSpeed's, and the merged JSON as the user gave it."""

    robust: RobustCompression
    deepspeed: DeepSpeedBlock
    merged: Mapping[str, Any]

    @property
    def engine(self) -> dict[str, Any]:
        """The dictionary for `deepspeed.initialize`."""
        return engine_keys(dict(self.merged))


@dataclass
class _Merge:
    """The merged dictionary, and for each key path the source that set it last."""

    values: dict[str, Any] = field(default_factory=dict)
    sources: dict[tuple[str, ...], str] = field(default_factory=dict)

    def add(self, values: Mapping[str, Any], source: str) -> None:
        self._into(self.values, values, source, ())

    def _into(
        self, target: dict[str, Any], values: Mapping[str, Any], source: str, path: tuple[str, ...]
    ) -> None:
        for key, value in values.items():
            here = (*path, key)
            self.sources[here] = source
            if value is None:
                target.pop(key, None)
            elif isinstance(value, Mapping):
                if not isinstance(target.get(key), dict):
                    target[key] = {}
                self._into(target[key], value, source, here)
            else:
                target[key] = value

    def source(self, path: Sequence[str]) -> str:
        """The source of the key, or of the nearest enclosing key that has one."""
        for end in range(len(path), 0, -1):
            if tuple(path[:end]) in self.sources:
                return self.sources[tuple(path[:end])]
        return "configuration"

    def given(self, *path: str) -> bool:
        """Whether the user set this key (to other than null)."""
        node: Any = self.values
        for key in path:
            if not isinstance(node, dict) or key not in node:
                return False
            node = node[key]
        return True


def load(files: Iterable[str | Path], overrides: Iterable[str] = ()) -> Config:
    """Merge the JSON `files` and the `overrides` ("a.b.c=value"), check, freeze.

    Raises UserError for an unreadable file, an unknown key, a wrong type, a value out of range, or a
    setting that cannot take effect.
    """
    merge = _Merge()
    for file in files:
        merge.add(_read(Path(file)), str(file))
    for override in overrides:
        merge.add(_override(override), f"--set {override}")
    try:
        root = Root.model_validate(merge.values)
    except ValidationError as error:
        raise UserError(_sentence(error, merge)) from None
    _check_effects(root, merge)
    blocks = {name: getattr(root, name) for name in DeepSpeedBlock.model_fields}
    return Config(root.robust_compression, DeepSpeedBlock.model_construct(**blocks), dict(merge.values))


def _parse(text: str, source: str) -> Any:  # noqa: ANN401  any JSON value
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise UserError(f"{source}: the key '{key}' stands twice in one object.")
        return dict(pairs)

    return json.loads(text, object_pairs_hook=unique)


def _read(file: Path) -> dict[str, Any]:
    try:
        values = _parse(file.read_text(encoding="utf-8"), str(file))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: is not UTF-8 text.") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{file}: is not valid JSON (line {error.lineno}, column {error.colno}: {error.msg})."
        ) from None
    except ValueError as error:
        raise UserError(f"{file}: holds a value that cannot be read ({error}).") from None
    if not isinstance(values, dict):
        raise UserError(f"{file}: must hold a JSON object.")
    return values


def _override(text: str) -> dict[str, Any]:
    path, separator, raw = text.partition("=")
    if not separator or not path or "" in path.split("."):
        raise UserError(f"--set {text}: give it as a.b.c=value.")
    try:
        value = _parse(raw, f"--set {text}")
    except json.JSONDecodeError:
        value = raw
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def _keys_at(path: Sequence[str]) -> list[str]:
    """The keys that the block at a key path may hold, following optional and dict-valued fields."""
    blocks: list[type[BaseModel]] = [Root]
    for key in path:
        fields = [block.model_fields[key] for block in blocks if key in block.model_fields]
        if fields:
            found = [t for info in fields for t in _types(info.annotation)]
            blocks = [t for t in found if issubclass(t, BaseModel)]
    return [info.alias or name for block in blocks for name, info in block.model_fields.items()]


def _types(annotation: object) -> list[type]:
    if isinstance(annotation, type) and not get_args(annotation):
        return [annotation]
    return [t for argument in get_args(annotation) for t in _types(argument)]


def _sentence(error: ValidationError, merge: _Merge) -> str:
    """The first violation as one sentence: source, key, what is wrong, what would be right."""
    problems = error.errors()
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    path = _user_path([str(part) for part in problem["loc"]], merge, problem["type"])
    key, source = ".".join(path), merge.source(path)
    if problem["type"] == "extra_forbidden":
        names = nearest(path[-1], set(_keys_at(path[:-1])))
        return f"{source}: '{key}' is not a key that takes effect here{names}"
    if problem["type"] == "missing":
        return f"{source}: the key '{key}' is missing."
    value = json.dumps(problem["input"], default=str)
    reason = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{source}: '{key}' is {value}, but: {reason}."


def _user_path(path: Sequence[str], merge: _Merge, kind: str) -> list[str]:
    """Drop the parts that pydantic adds for unions, so that the path is what the user wrote."""
    node: Any = merge.values
    kept: list[str] = []
    for position, part in enumerate(path):
        missing = position == len(path) - 1 and kind == "missing"
        if isinstance(node, dict) and (part in node or missing):
            kept.append(part)
            node = node.get(part)
        elif isinstance(node, list) and part.isdigit():
            kept.append(part)
            node = None
    return kept


def _check_effects(root: Root, merge: _Merge) -> None:
    """Settings that are valid alone and cannot take effect together."""
    ours = root.robust_compression
    sparse = root.compression_training.sparse_pruning if root.compression_training else None
    shared = sparse.shared_parameters if sparse else None
    hook, enabled = ours.loss.hook, bool(shared and shared.enabled)
    offsets = ("schedule_offset", "schedule_offset_end", "schedule_offset_stride")
    shared_path = ("compression_training", "sparse_pruning", "shared_parameters")
    steps_given = [name for name in offsets if merge.given(*shared_path, name)]
    prefix = ("robust_compression",)

    def reject(condition: bool, path: tuple[str, ...], why: str) -> None:
        if condition and merge.given(*path):
            raise UserError(f"{merge.source(path)}: '{'.'.join(path)}' {why}.")

    reject(hook == "vanilla", (*prefix, "loss", "lambda"), "has no effect with the hook 'vanilla'")
    reject(
        ours.uncertainty.normalisation == "minmax",
        (*prefix, "uncertainty", "quantile"),
        "has no effect with normalisation 'minmax'; set normalisation to 'quantile'",
    )
    reject(
        ours.teacher.model is not None,
        (*prefix, "teacher", "epochs"),
        "has no effect: teacher.model is given and not trained",
    )
    reject(not enabled, (*prefix, "pruning"), "has no effect: no sparse_pruning is enabled for it")
    reject(
        ours.task.name != "synthetic",
        (*prefix, "task", "synthetic"),
        "has an effect for the task 'synthetic' only",
    )
    reject(
        ours.task.name == "synthetic",
        (*prefix, "task", "data_dir"),
        "has no effect: the task 'synthetic' makes its own data",
    )
    for name, twin in zip(offsets, ("begin", "end", "updates"), strict=True):
        reject(
            name in steps_given,
            (*prefix, "pruning", twin),
            f"contradicts compression_training's {name}; give one of them",
        )
    _check_values(root, merge, (*shared_path, "schedule_offset"))


def _check_values(root: Root, merge: _Merge, offset: tuple[str, ...]) -> None:
    ours = root.robust_compression
    pruning, levels = ours.pruning, ours.uncertainty.sparsities
    training = root.compression_training
    shared = training.sparse_pruning.shared_parameters if training and training.sparse_pruning else None

    def reject(wrong: bool, path: tuple[str, ...], why: str) -> None:
        if wrong:
            raise UserError(f"{merge.source(path)}: '{'.'.join(path)}' {why}.")

    begin, end = pruning.begin, pruning.end
    reject(begin > end, ("robust_compression", "pruning", "begin"), "is above pruning.end")
    if shared and shared.schedule_offset is not None and shared.schedule_offset_end is not None:
        above = shared.schedule_offset > shared.schedule_offset_end
        reject(above, offset, "is above schedule_offset_end")
    reject(
        any(a >= b for a, b in pairwise(levels)),
        ("robust_compression", "uncertainty", "sparsities"),
        "must increase from one entry to the next",
    )
    bf16, fp16 = root.bf16, root.fp16
    reject(
        bool(bf16 and bf16.enabled and fp16 and fp16.enabled),
        ("fp16",),
        "and bf16 exclude each other",
    )


def batch_split(config: Config, world_size: int) -> tuple[int, int]:
    """(micro batch per rank, accumulation steps) for this number of ranks.

    Raises UserError unless train_batch_size = micro * accumulation * world_size has a solution.
    """
    block = config.deepspeed
    total, micro = block.train_batch_size, block.train_micro_batch_size_per_gpu
    accumulation = block.gradient_accumulation_steps
    if micro is None:
        accumulation = accumulation or 1
        micro = total // (world_size * accumulation)
    elif accumulation is None:
        accumulation = total // (world_size * micro)
    if micro * accumulation * world_size != total:
        raise UserError(
            f"train_batch_size is {total}, but {world_size} ranks x micro batch {micro} x "
            f"gradient_accumulation_steps {accumulation} make {world_size * micro * accumulation}; "
            "change one of them so that they agree."
        )
    return micro, accumulation
