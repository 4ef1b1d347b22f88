"""Settings that are valid alone and cannot take effect together: each is an error."""

import json
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise

from compress.compression.settings import CompressionTraining
from compress.configuration import engine_table
from compress.configuration.deepspeed_schema import WarmupParams
from compress.configuration.merge import Merge, further
from compress.configuration.robust_schema import RobustCompression, Root
from compress.errors import UserError

UNTAKEN = {
    "pruning": "no sparse_pruning is enabled for it",
    "pruning.updates": "learned scores are refreshed at every step",
    "structured": "no head_pruning or row_pruning is enabled for it",
    "structured.begin": "in one round everything goes at structured.end",
    "structured.rounds": "nothing is chosen by importance",
    "structured.samples": "nothing is chosen by importance",
    "structured.even": "no heads are chosen by importance",
    "structured.multiple_of": "no row_pruning is enabled for it",
    "score_lr": "no scores are learned (method topk)",
}
"""Keys of `robust_compression` for pruners -> why one has no effect where no pruner takes it."""
TWINS = {
    "schedule_offset_stride": "updates",
    "schedule_offset": "begin",
    "schedule_offset_end": "end",
}
"""Keys of DeepSpeed's, in steps -> the keys of this program that set the same as fractions."""

Cases = Iterator[tuple[str, str]]


def check(root: Root, merge: Merge) -> None:
    """Raise UserError, naming source and key, for the first setting without effect, and the other keys.

    root: the checked blocks; merge: what the user gave, and where.
    """
    blocks = root.compression_training or CompressionTraining()
    cases = chain(
        _pruners(root, blocks, merge),
        _robust(root, blocks),
        _repeated(root),
        _epochs(root, merge),
        _masks(root, blocks),
        _schedule(root, blocks),
    )
    wrong = [*(case for case in cases if merge.given(case[0])), *engine_table.wrong(merge)]
    if wrong:
        first, *others = dict.fromkeys(key for key, _ in wrong)
        named = tuple(f"{key}." for key in (first, *others))
        others = [key for key in others if not key.startswith(named)]
        raise UserError(f"{merge.error(*wrong[0])}{further('To be changed too', others)}")


def _pruners(root: Root, blocks: CompressionTraining, merge: Merge) -> Cases:
    """(key, why it is an error if given) of schedules that no pruner takes, or that are given twice."""
    taken = blocks.takes(root.robust_compression)
    for key, why in UNTAKEN.items():
        if key not in taken:
            yield f"robust_compression.{key}", f"has no effect: {why}"
    for block in blocks.pruning:
        shared = f"compression_training.{block.key}.shared_parameters"
        if block.learned:
            why = "has no effect: learned scores are refreshed at every step"
            yield f"{shared}.schedule_offset_stride", why
        for key, twin in TWINS.items():
            if merge.given(f"{shared}.{key}"):
                why = f"contradicts compression_training's {key}; give one of them"
                yield f"robust_compression.{block.fractions}.{twin}", why
        parameters = block.shared_parameters
        offset, end = parameters.schedule_offset, parameters.schedule_offset_end
        if offset is not None and end is not None and offset > end:
            yield f"{shared}.schedule_offset", "is above schedule_offset_end"
        at_once = block.at_once(root.robust_compression)
        if at_once and offset is not None and end not in (None, offset):
            why = "has no effect beside schedule_offset_end: in one round everything goes at the end"
            yield f"{shared}.schedule_offset", why


def _robust(root: Root, blocks: CompressionTraining) -> Cases:
    """(key, why it is an error if given) of settings that contradict others or make them needless."""
    robust, bf16, fp16 = root.robust_compression, root.bf16, root.fp16
    student, synthetic = robust.student, robust.task.name == "synthetic"
    smaller = student.model is not None or blocks.removes
    own_data = "has no effect: the task 'synthetic' makes its own data"
    given = "model" if robust.teacher.model is not None else "probabilities"
    untrained = f"has no effect: teacher.{given} is given and not trained"
    only_scores = robust.teacher.probabilities is not None
    no_ood = robust.evaluation.ood == []
    no_weights = "teacher.probabilities gives no weights"
    cases = {
        "uncertainty.quantile": (
            robust.uncertainty.normalisation == "minmax",
            "has no effect with normalisation 'minmax'; set normalisation to 'quantile'",
        ),
        "uncertainty.alpha_candidates": (
            robust.uncertainty.alpha != "auto",
            "has an effect only with alpha 'auto'",
        ),
        "teacher.epochs": (not robust.teacher_trained, untrained),
        "teacher.loss": (not robust.teacher_trained, untrained),
        "teacher.probabilities": (
            only_scores and robust.teacher.model is not None,
            "and teacher.model exclude each other; give one of them",
        ),
        "uncertainty.init_from": (
            only_scores and robust.uncertainty.init_from == "teacher",
            f"is 'teacher', but {no_weights} to start from; set it to 'pretrained'",
        ),
        "layerwise.layer_map": (
            not robust.layerwise.any,
            "has no effect: layerwise.hidden and layerwise.attention are 0",
        ),
        "layerwise.cache_gib": (
            robust.layerwise.cache_gib > 0 and robust.layerwise.weights.keys() != {"hidden"},
            "has an effect only where layerwise.hidden is above 0 and layerwise.attention is 0, whose "
            "attention maps are not kept: the teacher would run in every step all the same",
        ),
        "padding_free": (
            robust.padding_free and robust.layerwise.any,
            "excludes layerwise.hidden and layerwise.attention, which compare padded states",
        ),
        "evaluation.baseline": (
            robust.evaluation.baseline
            and robust.loss.hook == "vanilla"
            and not (robust.layerwise.any or robust.plain_teacher),
            "has no effect: the student is trained with the plain loss itself",
        ),
        "task.id": (
            not only_scores or synthetic,
            own_data if synthetic else "has no effect without teacher.probabilities",
        ),
        "task.subgroups": (synthetic, own_data),
        "task.synthetic": (not synthetic, "has an effect for the task 'synthetic' only"),
        "task.data_dir": (synthetic, own_data),
        "task.ood_dir": (
            synthetic or no_ood,
            own_data if synthetic else "has no effect: evaluation.ood is empty",
        ),
        "task.drop_overlap": (
            robust.task.drop_overlap and no_ood,
            "has no effect: evaluation.ood is empty",
        ),
        "student.init_from": (
            student.model is not None or (only_scores and student.init_from == "teacher"),
            "has no effect: student.model names what the student starts from"
            if student.model is not None
            else f"is 'teacher', but {no_weights} to start from; set it to 'pretrained'",
        ),
        "student.uncompressed": (
            student.uncompressed and smaller,
            "is true, but compression_training or student.model makes the student smaller",
        ),
        "pruning.begin": (robust.pruning.begin > robust.pruning.end, "is above pruning.end"),
        "structured.begin": (
            robust.structured.begin > robust.structured.end,
            "is above structured.end",
        ),
        "uncertainty.sparsities": (
            any(a >= b for a, b in pairwise(robust.uncertainty.sparsities)),
            "must increase from one entry to the next",
        ),
    }
    if only_scores:
        why = f"needs the teacher's model, and {no_weights}; set it to 0"
        cases |= {f"layerwise.{term}": (True, why) for term in robust.layerwise.weights}
    yield from ((f"robust_compression.{key}", why) for key, (holds, why) in cases.items() if holds)
    adam = root.optimizer.params
    if adam.fused is not None and not adam.torch_adam:
        yield "optimizer.params.fused", "has an effect only with torch_adam true"
    for block in ("bf16", "fp16", "torch_autocast"):
        given = getattr(root, block)
        if given and given.enabled and robust.precision is not None:
            yield "robust_compression.precision", f"and {block} exclude each other; give one of them"
    if bf16 and bf16.enabled and fp16 and fp16.enabled:
        yield "fp16", "and bf16 exclude each other"


def _repeated(root: Root) -> Cases:
    """Lists that name something twice."""
    robust = root.robust_compression
    lists: dict[str, Sequence[object]] = {
        "evaluation.ood": robust.evaluation.ood or [],
        "task.subgroups": robust.task.subgroups,
        "uncertainty.alpha_candidates": robust.uncertainty.alpha_candidates,
    }
    for key, values in lists.items():
        if twice := [value for value in values if values.count(value) > 1]:
            yield f"robust_compression.{key}", f"names {json.dumps(twice[0])} twice"


def _epochs(root: Root, merge: Merge) -> Cases:
    """Epochs on the command line that every training replaces by its own.

    Those of a file may be replaced: task files give some, and a run's config.json holds all of them.
    """
    robust = root.robust_compression
    trained = {"student": robust.student.epochs, "uncertainty": robust.uncertainty.epochs}
    if robust.teacher_trained:
        trained["teacher"] = robust.teacher.epochs
    source = merge.source(["robust_compression", "epochs"])
    if None not in trained.values() and source.startswith("--set "):
        names = " and ".join(f"{name}.epochs" for name in sorted(trained))
        yield "robust_compression.epochs", f"has no effect: {names} replace it for every training"


def _difficulty(robust: RobustCompression) -> bool:
    """Whether sub-networks for a difficulty are, or may be, pruned."""
    return robust.loss.user_code is not None or robust.loss.uses("difficulty")


def native_zeros(robust: RobustCompression, blocks: CompressionTraining) -> bool:
    """Whether our own masks hold weights at 0."""
    held = any(not block.learned for block in blocks.pruning) or _difficulty(robust)
    return robust.masks == "native" and held


def _masks(root: Root, blocks: CompressionTraining) -> Cases:
    """What takes the weights that are held at 0, or their gradients, out of reach."""
    robust, zero = root.robust_compression, root.zero_optimization
    if not (blocks.active or _difficulty(robust)):
        yield "robust_compression.masks", "has no effect: nothing is pruned and no layers go"
    if not native_zeros(robust, blocks):
        return
    optimizer, parameters = zero.offload_optimizer, zero.offload_param
    for key, block in (("offload_optimizer", optimizer), ("offload_param", parameters)):
        if block is not None and block.device == "nvme":
            yield (
                f"zero_optimization.{key}.device",
                "is nvme, where the weights that pruning holds at 0 cannot be reached; set it to cpu",
            )
    offloaded = optimizer is not None and optimizer.device == "cpu"
    if zero.stage in (1, 2) and offloaded and root.gradient_clipping:
        yield (
            "gradient_clipping",
            "counts pruned weights under ZeRO 1 and 2 with offload_optimizer; remove one of them or "
            "set zero_optimization.stage to 3",
        )


def _schedule(root: Root, blocks: CompressionTraining) -> Cases:
    """A warmup that starts above its peak."""
    params = root.scheduler.params if root.scheduler else None
    if not isinstance(params, WarmupParams) or not params.warmup_min_lr:
        return
    rate = root.optimizer.params.lr
    peak = params.warmup_max_lr if isinstance(params.warmup_max_lr, float) else rate
    peaks = {"its peak (scheduler.params.warmup_max_lr, else optimizer.params.lr)": peak}
    if blocks.learned:
        peaks["robust_compression.score_lr"] = root.robust_compression.score_lr
    for name, value in peaks.items():
        if params.warmup_min_lr > value:
            yield "scheduler.params.warmup_min_lr", f"is above {name}, {value}"
