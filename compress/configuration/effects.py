"""Settings that are valid alone and cannot take effect together: each is an error, not a wish."""

from itertools import pairwise

from compress.compression.settings import CompressionTraining
from compress.compression.technique import PruningTechnique
from compress.configuration import engine_table
from compress.configuration.deepspeed_schema import WarmupParams
from compress.configuration.merge import Merge
from compress.configuration.robust_schema import Root
from compress.errors import UserError


def check(root: Root, merge: Merge) -> None:
    """Raise UserError, naming source and key, for the first setting without effect.

    root: the checked blocks; merge: what the user gave, and where.
    """
    _together(root, merge)
    _values(root, merge)
    _schedule(root, merge)
    engine_table.check(merge)


def _together(root: Root, merge: Merge) -> None:
    """Settings that are valid alone and cannot take effect together."""
    ours = root.robust_compression
    prefix = ("robust_compression",)
    _compression(root, merge)

    def reject(condition: bool, path: tuple[str, ...], why: str) -> None:
        if condition and merge.given(*path):
            raise UserError(f"{merge.source(path)}: '{'.'.join(path)}' {why}.")

    reject(
        ours.uncertainty.normalisation == "minmax",
        (*prefix, "uncertainty", "quantile"),
        "has no effect with normalisation 'minmax'; set normalisation to 'quantile'",
    )
    reject(
        ours.uncertainty.alpha != "auto",
        (*prefix, "uncertainty", "alpha_candidates"),
        "has an effect only with alpha 'auto'",
    )
    reject(
        ours.teacher.model is not None,
        (*prefix, "teacher", "epochs"),
        "has no effect: teacher.model is given and not trained",
    )
    reject(
        not ours.layerwise.hidden and not ours.layerwise.attention,
        (*prefix, "layerwise", "layer_map"),
        "has no effect: layerwise.hidden and layerwise.attention are 0",
    )
    reject(
        ours.task.name != "synthetic",
        (*prefix, "task", "synthetic"),
        "has an effect for the task 'synthetic' only",
    )
    for key in ("data_dir", "ood_dir"):
        reject(
            ours.task.name == "synthetic",
            (*prefix, "task", key),
            "has no effect: the task 'synthetic' makes its own data",
        )
    reject(
        ours.student.model is not None,
        (*prefix, "student", "init_from"),
        "has no effect: student.model names what the student starts from",
    )
    compression = root.compression_training or CompressionTraining()
    reject(
        ours.student.uncompressed and (ours.student.model is not None or compression.removes),
        (*prefix, "student", "uncompressed"),
        "is true, but compression_training or student.model makes the student smaller",
    )


UNTAKEN = {
    "pruning": "no sparse_pruning is enabled for it",
    "pruning.updates": "learned scores are refreshed at every step",
    "structured": "no head_pruning or row_pruning is enabled for it",
    "structured.begin": "in one round everything goes at structured.end",
    "structured.rounds": "nothing is chosen by importance",
    "structured.samples": "nothing is chosen by importance",
    "structured.multiple_of": "no row_pruning is enabled for it",
    "score_lr": "no scores are learned (method topk)",
}
"""Keys of `robust_compression` for pruners -> why one has no effect where no pruner takes it."""


def _compression(root: Root, merge: Merge) -> None:
    """Schedules and choices that no pruner takes up, or that are given twice."""
    blocks = root.compression_training or CompressionTraining()
    taken = blocks.takes(root.robust_compression)
    for key, why in UNTAKEN.items():
        path = ("robust_compression", *key.split("."))
        if key not in taken and merge.given(*path):
            raise UserError(f"{merge.source(path)}: '{'.'.join(path)}' has no effect: {why}.")
    for block in (b for b in blocks.given if isinstance(b, PruningTechnique)):
        shared = ("compression_training", block.key, "shared_parameters")
        stride = (*shared, "schedule_offset_stride")
        if block.active and block.learned and merge.given(*stride):
            raise UserError(
                f"{merge.source(stride)}: '{'.'.join(stride)}' has no effect: learned scores are "
                "refreshed at every step."
            )
        twins = {"schedule_offset_stride": "updates", "schedule_offset": "begin"}
        for key, twin in {**twins, "schedule_offset_end": "end"}.items():
            path = ("robust_compression", block.fractions, twin)
            if merge.given(*shared, key) and merge.given(*path):
                raise UserError(
                    f"{merge.source(path)}: '{'.'.join(path)}' contradicts compression_training's "
                    f"{key}; give one of them."
                )
        offset, end = (
            block.shared_parameters.schedule_offset,
            block.shared_parameters.schedule_offset_end,
        )
        if offset is not None and end is not None and offset > end:
            path = (*shared, "schedule_offset")
            raise UserError(f"{merge.source(path)}: '{'.'.join(path)}' is above schedule_offset_end.")


def _values(root: Root, merge: Merge) -> None:
    """Values that contradict each other."""
    ours = root.robust_compression
    pruning, levels = ours.pruning, ours.uncertainty.sparsities

    def reject(wrong: bool, path: tuple[str, ...], why: str) -> None:
        if wrong:
            raise UserError(f"{merge.source(path)}: '{'.'.join(path)}' {why}.")

    begin, end = pruning.begin, pruning.end
    reject(begin > end, ("robust_compression", "pruning", "begin"), "is above pruning.end")
    begin, end = ours.structured.begin, ours.structured.end
    reject(begin > end, ("robust_compression", "structured", "begin"), "is above structured.end")
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


def _schedule(root: Root, merge: Merge) -> None:
    """A warmup that starts above its peak."""
    params = root.scheduler.params if root.scheduler else None
    if not isinstance(params, WarmupParams) or not params.warmup_min_lr:
        return
    rate = root.optimizer.params.lr
    peak = params.warmup_max_lr if isinstance(params.warmup_max_lr, float) else rate
    peaks = {"its peak (scheduler.params.warmup_max_lr, else optimizer.params.lr)": peak}
    if (root.compression_training or CompressionTraining()).learned:
        peaks["robust_compression.score_lr"] = root.robust_compression.score_lr
    for name, value in peaks.items():
        if params.warmup_min_lr > value:
            path = ("scheduler", "params", "warmup_min_lr")
            raise UserError(f"{merge.source(path)}: '{'.'.join(path)}' is above {name}, {value}.")
