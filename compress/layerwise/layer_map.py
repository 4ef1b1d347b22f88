"""Which student layer learns from which teacher layer, and whether the two can be compared.

Needs the models' configurations only, so that a mistake is found before any training.
"""

from pathlib import Path

from transformers import PreTrainedConfig

from compress.configuration.robust_schema import RobustCompression
from compress.data import tokens
from compress.errors import UserError
from compress.layerwise.block import LayerwiseBlock
from compress.methods import Shapes
from compress.models import architectures, encoders, joining, probe

KEY = "robust_compression.layerwise"
Pairs = list[tuple[int, int]]


def pairs(student: int, teacher: int, block: LayerwiseBlock) -> Pairs:
    """Pairs (student layer, teacher layer), counted from 0, for models of these depths S and T.

    Without a map the student's layers are spread evenly over the teacher's, the last on the last:
    s -> (s + 1) T / S - 1, rounded down. Raises UserError for a map that does not fit the models.
    """
    if block.layer_map is None:
        if student > teacher:
            raise UserError(
                f"{KEY}.layer_map: the student has {student} layers and the teacher {teacher}, so they "
                "cannot be spread evenly; give the pairs."
            )
        return [(layer, (layer + 1) * teacher // student - 1) for layer in range(student)]
    seen: set[int] = set()
    for low, high in block.layer_map:
        for whose, layer, depth in (("student", low, student), ("teacher", high, teacher)):
            if layer >= depth:
                raise UserError(
                    f"{KEY}.layer_map: [{low}, {high}] names layer {layer} of the {whose}, "
                    f"whose layers are 0 to {depth - 1}."
                )
        if low in seen:
            raise UserError(
                f"{KEY}.layer_map: names layer {low} of the student twice; keep one pair of it."
            )
        seen.add(low)
    return [(low, high) for low, high in block.layer_map]


def check(student: PreTrainedConfig, teacher: PreTrainedConfig, block: LayerwiseBlock) -> None:
    """Raise UserError now for a map or an architecture that the term cannot use."""
    for whose, config in (("student", student), ("teacher", teacher)):
        if config.model_type not in architectures.ARCHITECTURES:
            raise UserError(
                f"{KEY}: the {whose}'s architecture '{config.model_type}' is not known to give hidden "
                f"states and attention of each layer ({', '.join(architectures.ARCHITECTURES)} are); "
                "set hidden and attention to 0."
            )
    pairs(student.num_hidden_layers, teacher.num_hidden_layers, block)


def teacher_start(robust: RobustCompression) -> Path:
    """The directory of what the teacher is, or starts from: it has the teacher's shape."""
    name = robust.teacher.model or robust.model
    return encoders.directory(name, "robust_compression.teacher.model")


def teacher(robust: RobustCompression) -> PreTrainedConfig:
    """The teacher's shape."""
    return encoders.load_config(teacher_start(robust))


def tokens_differ() -> UserError:
    """The error of two models that do not read the same tokens."""
    return UserError(
        f"{KEY}: the student's tokenizer does not produce the teacher's tokens on the training texts, "
        "so they cannot be compared; set hidden and attention to 0, or take a student with the "
        "teacher's tokenizer."
    )


def check_run(shapes: Shapes, block: LayerwiseBlock) -> None:
    """Raise UserError now if this run's student cannot be compared with its teacher.

    Both must read the same tokens, judged by what the two tokenizers produce on training texts.
    """
    robust, data = shapes.config.robust, shapes.data
    teacher = teacher_start(robust)
    check(shapes.shape, encoders.load_config(teacher), block)
    if shapes.start == teacher or robust.student.init_from == "teacher":
        return
    count = len(data.task.texts)
    pair = probe.settled(shapes.start, count), probe.settled(teacher, count)
    if count == 2:
        joining.settle(pair[0])
        if robust.teacher.model is None:
            joining.settle(pair[1])
    if tokens.equal(*pair):
        return
    if not tokens.agree(*pair, data.train.texts, robust.task.max_length, data.task.keep):
        raise tokens_differ()
