"""What a run will do, in one line before it starts."""

from compress import ranks
from compress.configuration.config import Config
from compress.data.splits import TaskData


def line(config: Config, data: TaskData, stages: tuple[str, ...], device: str) -> str:
    """Task, rows, teacher, compression, loss, stages, ranks and device of a run.

    stages: those that are asked for, in order.
    """
    parts = [_data(config, data), _teacher(config)]
    if "student" in stages:
        parts.append(_student(config))
    where = f"{ranks.world_size()} rank{'s' if ranks.world_size() > 1 else ''} ({device})"
    word = "stages" if len(stages) > 1 else "stage"
    return "; ".join([*parts, f"{word} {', '.join(stages)}; {where}"])


def _data(config: Config, data: TaskData) -> str:
    ood = ", ".join(f"{name} {len(split):,}" for name, split in data.ood.items())
    name, seed = config.robust.task.name, config.robust.seed
    return (
        f"task {name}, seed {seed}: train {len(data.train):,} samples, dev {len(data.dev):,}, "
        f"OOD {ood or 'none'}"
    )


def _teacher(config: Config) -> str:
    robust = config.robust
    if robust.teacher.model is not None:
        return f"teacher {robust.teacher.model} as it is"
    epochs = robust.teacher.epochs or robust.epochs
    return f"teacher {robust.model}, {_epochs(epochs)}"


def _student(config: Config) -> str:
    robust = config.robust
    label = config.compression_label if config.compresses else "not compressed, as configured,"
    epochs = robust.student.epochs or robust.epochs
    return f"student {label} with the loss {config.mitigation_label}, {_epochs(epochs)}"


def _epochs(count: int) -> str:
    return f"{count} epoch{'s' if count > 1 else ''}"
