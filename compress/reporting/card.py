"""The model card: what the compressed model is, how to load it, what was measured, what is not known.

Names (of labels, columns, tasks, models) are untrusted text: the front matter is written by YAML's own
writer, Markdown is escaped. It holds nothing of the user's data and no path of this machine.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedConfig

from compress.models import architectures, compressed, directories, encoders, remote_code
from compress.models.blocks import queries
from compress.reporting import markdown, notes, page, summary
from compress.runtime import provenance

SNAPSHOT = re.compile(r"models--([^/]+?)--([^/]+)$|models--([^/]+)$")
"""How the hub's cache names the directory of a model."""
UNKNOWN_TEACHER = "not known as a model: its class probabilities were given in files"
LICENCE_KEYS = ("license", "license_name", "license_link")


@dataclass(frozen=True)
class About:
    """What the card says that is not in the model's directory.

    base, teacher: a hub id or a directory that the student and the teacher come from; source: the local
    directory of the base; trained: whether the teacher was fine-tuned by this program; texts: the
    columns of text; compression, mitigation: as in the tables; scored: whether only probabilities of
    the teacher were given.
    """

    task: str
    base: str
    source: Path
    teacher: str
    trained: bool
    texts: Sequence[str]
    compression: str
    mitigation: str
    seed: int
    max_length: int
    scored: bool = False


def write(folder: Path, about: About, metrics: Mapping[str, Any] | None = None) -> None:
    """Write README.md of a model directory; metrics: the run's, once it has been evaluated."""
    config = encoders.load_config(folder)
    names = [name for _, name in sorted((config.id2label or {}).items())]
    licence = licence_of(about.source)
    rows = [["id", "label"], *([str(number), name] for number, name in enumerate(names))]
    origin = "fine-tuned on the task by the same program" if about.trained else "fine-tuned before"
    text = page.render(
        "card.md.j2",
        about=about,
        front=_front_matter(about, names, licence, metrics),
        base=public_name(about.base),
        base_described=_described(about.base),
        teacher_described=UNKNOWN_TEACHER if about.scored else f"{_described(about.teacher)}, {origin}",
        kept=markdown.text(_dimensions(config)),
        labels=markdown.table(rows),
        obstacle=_obstacle(config),
        code=remote_code.FILE if remote_code.needed(config) else "",
        licensed=bool(licence),
        measured=None if metrics is None else _measured(metrics),
    )
    page.write(folder / "README.md", text)


def _measured(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What the card says of an evaluated model."""
    student = metrics["student"]
    ood = ", ".join(f"{summary.percent(value)} % on {name}" for name, value in student["ood"].items())
    dev = f"{summary.percent(student['dev'])} % on dev"
    return {
        "table": markdown.table(summary.cells(metrics)),
        "measure": summary.measure_name(metrics) or "accuracy",
        "reason": summary.f_bias_reason(metrics),
        "notes": [*notes.against(metrics), *metrics.get("remarks", [])],
        "size": summary.size(metrics),
        "flips": summary.flips(metrics),
        "int8": summary.int8(metrics),
        "made": provenance.sentence(metrics["artefacts"]["student"]),
        "ood": f"{ood}, against {dev}" if ood else f"not measured; it has {dev}",
    }


def public_name(name: str) -> str:
    """A hub id without revision; of a directory its own name, or the id that the hub's cache keeps."""
    if not is_directory(name):
        return name.partition("@")[0]
    path = Path(name).resolve()
    for part in (path, *path.parents):
        if found := SNAPSHOT.match(part.name):
            owner, model, alone = found.groups()
            return alone or f"{owner}/{model}"
    return path.name


def is_directory(name: str) -> bool:
    """Whether a model's name is a directory, there or not, rather than a hub id."""
    return Path(name).is_dir() or directories.is_path(name)


def licence_of(source: Path) -> dict[str, Any]:
    """The licence in a model's own card or config.json; empty where they name none."""
    found, file = {}, source / "README.md"
    try:
        if file.is_file():
            found = ModelCard.load(file, ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError):
        found = {}
    if not found.get("license"):
        found = {"license": getattr(encoders.load_config(source), "license", None)}
    if not isinstance(found.get("license"), str | list):
        return {}
    return {key: found[key] for key in LICENCE_KEYS if found.get(key)}


def _front_matter(
    about: About, labels: list[str], licence: Mapping[str, Any], metrics: Mapping[str, Any] | None
) -> str:
    """The YAML between the dashes: base model, licence, labels, and the results as a model index."""
    base = public_name(about.base)
    try:
        validate_repo_id(base)
    except HFValidationError:
        base = ""
    values = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["robust-compression"],
        **({"base_model": base} if base else {}),
        **licence,
        "labels": labels,
        "text_columns": list(about.texts),
    }
    if metrics is not None:
        values["model_name"] = f"{about.task} {about.compression} {about.mitigation}"
        values["eval_results"] = _results(about.task, metrics)
    return ModelCardData(**values).to_yaml()


def _results(task: str, metrics: Mapping[str, Any]) -> list[EvalResult]:
    """Accuracy on dev and on each OOD set as a fraction, and F_bias where there is one.

    What F_bias is taken of too, if that is not the accuracy.
    """
    student, what = metrics["student"], summary.measure_name(metrics)
    found = [("dev", "accuracy", "Accuracy", student["dev"])]
    found += [(name, "accuracy", "Accuracy", value) for name, value in student["ood"].items()]
    if what:
        own, kind = student["measure"], str(metrics["metric"])
        found.append(("dev", kind, what, own["dev"]))
        found += [(name, kind, what, value) for name, value in own["ood"].items()]
    name = f"F_bias{summary.of_measure(metrics)} (Du et al. 2023)"
    found.append(("ood", "f_bias", name, metrics.get("f_bias")))
    return [
        EvalResult(
            task_type="text-classification",
            dataset_type=task,
            dataset_name=task,
            dataset_split=split,
            metric_type=kind,
            metric_name=name,
            metric_value=value,
        )
        for split, kind, name, value in found
        if value is not None
    ]


def _described(name: str) -> str:
    """A model in a sentence, as Markdown: whether it is on the hub or was a directory."""
    text = markdown.text(public_name(name))
    if name == directories.SYNTHETIC_ENCODER:
        return f"{text} (it comes with the program)"
    return f"{text} (a local directory)" if is_directory(name) else f"{text} (on the model hub)"


def _dimensions(config: PreTrainedConfig) -> str:
    """Layers, heads and ffn neurons, from config.json."""
    hidden = f"hidden size {config.hidden_size}"
    if config.model_type not in architectures.ARCHITECTURES:
        return f"It has {config.num_hidden_layers} layers, {hidden}."
    layers, plain = compressed.sizes(config), compressed.plain(config)
    depth = f"{config.num_hidden_layers} layers"
    if architectures.find(config).repeated:
        depth = f"{depth} that share their weights,"
    heads = "heads" if queries(config) == 1 else "key/value groups"
    if layers is None:
        sizes = f"{plain.heads} {heads} and {plain.neurons:,} ffn neurons"
        return f"It has {depth} of {sizes} each, {hidden}."
    each = "; ".join(f"{layer.heads} and {layer.neurons:,}" for layer in layers)
    return f"It has {depth}, {hidden}; {heads} and ffn neurons by layer: {each}."


def _obstacle(config: PreTrainedConfig) -> str:
    """Why transformers' own classes cannot build the model; empty where they can."""
    layers = compressed.sizes(config)
    if layers is None:
        return ""
    if all(layer.heads == compressed.plain(config).heads for layer in layers):
        return "its layers differ in the number of ffn neurons"
    if architectures.find(config).groups is not None:
        if len({layer.heads for layer in layers}) == 1:
            return "its class does not take a number of heads that does not divide the hidden size"
        return "its layers differ in the number of key/value groups"
    return "its layers have lost heads, and it derives the size of a head from their number"
