"""The two models in metrics.json, beside accuracy: names, dimensions, bytes, latency."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from compress.configuration.robust_schema import RobustCompression
from compress.data import hub
from compress.models import architectures, encoders
from compress.models.blocks import find_blocks, queries
from compress.reporting import card
from compress.stages import latency
from compress.stages.context import Context
from compress.stages.workspace import Artefact


def add(metrics: dict[str, Any], context: Context, made: Mapping[str, Artefact]) -> None:
    """Add names and sizes to the models of metrics.json, and `latency` of teacher and student.

    made: `teacher`, `plain` if there is one, `student`. Their weights are in memory only if they are
    timed (`latency.obstacle`). A teacher of given probabilities has neither size nor latency.
    """
    places = {"teacher": context.for_teacher(), "student": context.for_student()}
    if context.config.robust.teacher.probabilities is not None:
        made = {role: artefact for role, artefact in made.items() if role != "teacher"}
        metrics["teacher"] |= {"params": None, "nonzero_params": None}
        metrics["teacher"] |= teacher_name(context.config.robust)
        del places["teacher"]
    tokens = {name: int(np.median(one.columns["dev"].lengths)) for name, one in places.items()}
    models: dict[str, PreTrainedModel] = {}
    for role, artefact in made.items():
        folder = artefact.path / "model"
        model = encoders.load_classifier(folder, context.data.labels, trained=True, whole=False).eval()
        metrics[role] |= {
            "params": encoders.parameters(model),
            "nonzero_params": encoders.nonzero_parameters(model),
            "weights_bytes": sum(file.stat().st_size for file in folder.glob("*.safetensors")),
            "shape": shape(model),
        }
        if role != "plain":
            models[role] = model
    for role in made:
        named = (teacher_name if role == "teacher" else student_name)(context.config.robust)
        if role == "plain" and context.config.robust.plain_teacher:
            named["origin"] = "started from a teacher with the plain loss"
        commit = hub.commit(encoders.directory(named["model"]))
        metrics[role] |= named | ({"commit": commit} if commit else {})
    metrics["latency"] = latency.measure(models, tokens, context.device)


def about(context: Context) -> card.About:
    """What the model card contains beside the figures."""
    robust = context.config.robust
    source = context.for_student().encoder.model
    if robust.student.init_from == "teacher" and robust.teacher.model is not None:
        source = encoders.directory(robust.teacher.model, "robust_compression.teacher.model")
    return card.About(
        task=robust.task.name,
        base=student_name(robust)["model"],
        source=source,
        teacher=teacher_name(robust)["model"],
        trained=robust.teacher_trained,
        scored=robust.teacher.probabilities is not None,
        texts=context.data.task.texts,
        compression=context.config.compression_label,
        mitigation=context.config.mitigation_label,
        seed=robust.seed,
        max_length=robust.task.max_length,
    )


def teacher_name(robust: RobustCompression) -> dict[str, str]:
    """`model` and `origin` of the teacher: the given one, or the encoder that was fine-tuned.

    Of given probabilities the name of their folder.
    """
    if robust.teacher.probabilities is not None:
        return {"model": robust.teacher.probabilities, "origin": "given as teacher.probabilities"}
    if robust.teacher.model is not None:
        return {"model": robust.teacher.model, "origin": "given as teacher.model"}
    return {"model": robust.model, "origin": "fine-tuned here"}


def student_name(robust: RobustCompression) -> dict[str, str]:
    """`model` and `origin` of the student: where its weights come from."""
    if robust.student.init_from == "teacher":
        return {"model": teacher_name(robust)["model"], "origin": "started from the teacher"}
    return {"model": robust.student.model or robust.model, "origin": "started from its weights"}


def shape(model: PreTrainedModel) -> dict[str, int]:
    """Layers, hidden size, and heads and ffn neurons of all layers where the architecture is known."""
    sizes = {"layers": "num_hidden_layers", "hidden_size": "hidden_size"}
    given = {key: getattr(model.config, name, None) for key, name in sizes.items()}
    known = {key: int(value) for key, value in given.items() if value is not None}
    if model.config.model_type not in architectures.ARCHITECTURES:
        return known
    blocks = find_blocks(model)
    return known | {
        "heads": sum(block.heads for block in blocks) * queries(model.config),
        "ffn_neurons": sum(block.neurons for block in blocks),
    }
