"""Settings that are valid alone and cannot take effect together: each is an error, not a wish."""

from itertools import pairwise

from compress.errors import UserError
from compress.merge import Merge
from compress.robust_schema import Root


def check(root: Root, merge: Merge) -> None:
    """Raise UserError, naming source and key, for the first setting without effect.

    root: the checked blocks; merge: what the user gave, and where.
    """
    _together(root, merge)
    _values(root, merge)
    _engine(root, merge)


def _together(root: Root, merge: Merge) -> None:
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
    reject(
        not ours.layerwise.hidden and not ours.layerwise.attention,
        (*prefix, "layerwise", "layer_map"),
        "has no effect: layerwise.hidden and layerwise.attention are 0",
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


def _values(root: Root, merge: Merge) -> None:
    """Values that contradict each other."""
    offset = ("compression_training", "sparse_pruning", "shared_parameters", "schedule_offset")
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


def _engine(root: Root, merge: Merge) -> None:
    """Keys of DeepSpeed's blocks that the ZeRO stage or a disabled block leaves without effect."""
    stage = root.zero_optimization.stage

    def reject(path: tuple[str, ...], why: str) -> None:
        if merge.given(*path):
            raise UserError(f"{merge.source(path)}: '{'.'.join(path)}' has no effect {why}.")

    for key in type(root.zero_optimization).model_fields:
        if stage < 3 and (key.startswith("stage3_") or key in {"offload_param", "sub_group_size"}):
            reject(("zero_optimization", key), f"under ZeRO stage {stage}")
    if stage == 0:
        reject(("zero_optimization", "offload_optimizer"), "under ZeRO stage 0")
    for name in ("bf16", "fp16", "torch_autocast"):
        block = getattr(root, name)
        if block is not None and not block.enabled:
            for key in set(type(block).model_fields) - {"enabled"}:
                reject((name, key), f"while {name}.enabled is false")
