"""Which output of a classifier is which label of the task, by the names in its config.json.

A user's model may have its labels by another name or in another order, and outputs taken by their place
would be the wrong classes: `find` maps them, `arrange` puts the outputs in the task's order.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from compress.data.tasks import Task, spelling
from compress.errors import UserError
from compress.models import deferred

NUMBERED = re.compile(r"(?:label_)?(\d+)")
PROBED = 8
NOT_RUN = (RuntimeError, ValueError, IndexError, TypeError, AttributeError, KeyError)


@dataclass(frozen=True)
class Order:
    """Where the task's labels are among a model's outputs.

    outputs: for each label of the task the output that means it [C], None if none does and the head is
    initialised at random; size: outputs that the model has; note: what a user should know of it.
    """

    outputs: tuple[int, ...] | None
    size: int
    note: str | None = None

    @property
    def plain(self) -> bool:
        """Whether the model's outputs are the task's labels in its order."""
        return self.outputs == tuple(range(self.size))


def names(path: Path, config: PreTrainedConfig) -> list[str]:
    """The labels of a directory's model in the order of its outputs, `LABEL_<id>` without a name.

    As config.json has them: transformers drops a `label2id` without an `id2label`. Raises UserError if
    `label2id` contradicts `id2label`, or names some outputs only that have no name there.
    """
    id2label, label2id = _written(path)
    size = len(id2label or label2id) or config.num_labels or 0
    given = id2label or {int(number): str(name) for number, name in (config.id2label or {}).items()}
    found = [given.get(number, f"LABEL_{number}") for number in range(size)]
    named = {number: name for number, name in label2id.items() if not _number_of(name)}
    places = {spelling(name): number for number, name in id2label.items()}
    if any(places.get(spelling(name), number) != number for number, name in label2id.items()):
        one, other = (", ".join(f"{k} {v}" for k, v in m.items()) for m in (id2label, label2id))
        raise UserError(
            f"{path}: id2label and label2id of its config.json contradict each other ({one} and "
            f"{other}); correct the wrong one."
        )
    if not named or not all(map(_number_of, found)):
        return found
    if set(named) != set(range(size)):
        raise UserError(
            f"{path}: label2id of its config.json names some of the {size} outputs only "
            f"({', '.join(named.values())}); name them all in id2label."
        )
    return [named[number] for number in range(size)]


def _written(path: Path) -> tuple[dict[int, str], dict[int, str]]:
    """Output -> name, as `id2label` and as `label2id` of config.json have it; ids may be strings."""
    try:
        raw = json.loads((path / "config.json").read_text(encoding="utf-8"))
        id2label = {int(number): str(name) for number, name in (raw.get("id2label") or {}).items()}
        label2id = {int(number): str(name) for name, number in (raw.get("label2id") or {}).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: the labels of its config.json cannot be read ({error}).") from None
    return id2label, label2id


def _number_of(name: str) -> re.Match[str] | None:
    """The match of a name that is only a number, such as LABEL_0."""
    return NUMBERED.fullmatch(spelling(name))


def is_classifier(config: PreTrainedConfig) -> bool:
    """Whether a directory's configuration is that of a classifier with its head."""
    return (config.architectures or [""])[0].endswith("ForSequenceClassification")


def find(
    path: Path,
    config: PreTrainedConfig,
    labels: tuple[str, ...],
    task: Task | None = None,
    trained: bool = False,
) -> Order:
    """Map the outputs of a directory's classifier to the labels [C] of a run.

    task: its spellings are known too, and a label that train lacks may be among the model's. trained:
    the head must be one of these labels; without it a head of as many others is initialised at random,
    and so is that of a directory without one. Raises UserError for what cannot be mapped.
    """
    classifier = is_classifier(config)
    if trained and not classifier:
        architecture = (config.architectures or ["no architecture"])[0]
        raise UserError(
            f"{path}: holds no classifier ({architecture}); train one, or name an encoder as "
            "robust_compression.model and leave out what asks for a finished one."
        )
    given = names(path, config) if classifier else list(labels)
    if trained:
        _check_classes(path, config, given)
    if given == list(labels):
        return Order(tuple(range(len(labels))), len(labels))
    found, note = _labels(given, labels, task)
    if len(given) != len(labels) and (None in found or not set(labels) <= set(found)):
        raise UserError(
            f"{path}: is a classifier of {len(given)} labels, "
            f"but the task has {len(labels)} ({', '.join(labels)})."
        )
    if (wrong := _unmapped(given, found, labels)) is not None:
        if trained:
            raise UserError(f"{path}: {wrong}; name them as the task does in id2label of config.json.")
        return Order(None, len(given), f"{wrong}, so its classification head is drawn afresh")
    outputs = tuple(found.index(label) for label in labels)
    return Order(outputs, len(given), note or _change(given, found, labels))


def _check_classes(path: Path, config: PreTrainedConfig, given: Sequence[str]) -> None:
    """Raise UserError for outputs that are no logits of classes of which a text has one."""
    kind = getattr(config, "problem_type", None)
    if len(given) == 1 or kind == "regression":
        what = "gives scores, not classes (one output, or problem_type regression in its config.json)"
    elif kind == "multi_label_classification":
        what = "gives several labels to a text (problem_type multi_label_classification in config.json)"
    else:
        return
    raise UserError(f"{path}: {what}; take a classifier that gives each text one of its labels.")


def _labels(
    given: Sequence[str], labels: tuple[str, ...], task: Task | None
) -> tuple[list[str | None], str | None]:
    """For each output the label of the task, None for an unknown name; and a note for the user."""
    known: Sequence[str] = task.labels if task else labels
    spellings = task.spellings if task else {}
    by_spelling = {
        spelling(word): label for label in known for word in (label, *spellings.get(label, ()))
    }
    found = [by_spelling.get(spelling(name)) for name in given]
    numbers = [int(match[1]) for match in map(_number_of, given) if match]
    counted = next((some for some in (labels, known) if len(some) == len(given)), None)
    if None not in found or counted is None or sorted(numbers) != list(range(len(given))):
        return found, None
    pairs = ", ".join(f"{name} is {counted[n]}" for name, n in zip(given, numbers, strict=True))
    return [counted[number] for number in numbers], (
        f"its labels have numbers for names, so they are taken in the task's order ({pairs}); "
        "if that is wrong, name them in id2label of its config.json"
    )


def _unmapped(given: Sequence[str], found: Sequence[str | None], labels: tuple[str, ...]) -> str | None:
    """Why the outputs are not the labels; None if each label has just one."""
    labels_of_both = f"has the labels {', '.join(given)}, the task {', '.join(labels)}"
    for name, label in zip(given, found, strict=True):
        if label is None:
            return f"{labels_of_both}: '{name}' is none of them by any spelling that the task knows"
        if found.count(label) > 1:
            twice = " and ".join(f"'{n}'" for n, f in zip(given, found, strict=True) if f == label)
            return f"{labels_of_both}: {twice} both mean '{label}'"
    for label in labels:
        if label not in found:
            return f"{labels_of_both}: none of them means '{label}'"
    return None


def _change(given: Sequence[str], found: Sequence[str | None], labels: tuple[str, ...]) -> str | None:
    """What is done to the outputs, None if nothing."""
    left = [name for name, label in zip(given, found, strict=True) if label not in labels]
    if left:
        return (
            f"its label '{left[0]}' is in no training sample, so that output is left out and the "
            "probabilities of the others make 1"
        )
    if list(found) == list(labels):
        return None
    return f"its labels ({', '.join(given)}) are put in the task's order ({', '.join(labels)})"


def inputs_of(order: Order) -> dict[str, Any]:
    """What a result depends on; nothing for outputs that stay unchanged."""
    return {} if order.plain else {"outputs": order.outputs}


def arrange(model: PreTrainedModel, order: Order, path: Path) -> None:
    """Give the model the task's outputs, in place: rows of its head are chosen, or drawn afresh.

    The head of a deferred model is there already, and the only layer of its size. Raises UserError if
    the head cannot be found.
    """
    if order.plain:
        return
    heads = of_size(model, order.size)
    head = heads[0] if deferred.deferred(model) else find_head(model, order.size)
    if head is None:
        raise UserError(
            f"{path}: the classification head of {type(model).__name__} cannot be found, so its labels "
            "cannot be put in the task's order."
        )
    if order.outputs is None:
        nn.init.normal_(head.weight, 0.0, getattr(model.config, "initializer_range", None) or 0.02)
        if head.bias is not None:
            nn.init.zeros_(head.bias)
        return
    rows = torch.tensor(order.outputs)
    head.out_features = len(rows)
    for name, value in list(head.named_parameters()):
        setattr(head, name, nn.Parameter(value.detach()[rows]))
    setattr(model, "num_labels", len(rows))  # noqa: B010  a module's attribute for mypy


def of_size(model: PreTrainedModel, size: int) -> list[nn.Linear]:
    """The layers of so many outputs."""
    return [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == size]


def find_head(model: PreTrainedModel, size: int) -> nn.Linear | None:
    """The layer whose `size` outputs are the logits: changes of its rows change the logits likewise."""
    layers, training = of_size(model, size), model.training
    model.eval()
    try:
        return next((layer for layer in reversed(layers) if _is_head(model, layer)), None)
    finally:
        model.train(training)


def _is_head(model: PreTrainedModel, layer: nn.Linear) -> bool:
    """Whether rows of other values, rolled by one, roll the logits likewise."""
    kept = {name: value.detach().clone() for name, value in layer.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    drawn = {name: torch.randn(value.shape, generator=generator) for name, value in kept.items()}
    try:
        before = _probe(model, layer, drawn)
        after = _probe(model, layer, {name: value.roll(1, 0) for name, value in drawn.items()})
    except NOT_RUN:
        return False
    finally:
        with torch.no_grad():
            for name, value in layer.named_parameters():
                value.copy_(kept[name])
    apart = float((before - before.roll(1, 1)).abs().max())
    return apart > 1e-3 and torch.allclose(after, before.roll(1, 1), atol=1e-4 * apart, rtol=1e-4)


@torch.no_grad()
def _probe(model: PreTrainedModel, layer: nn.Linear, values: dict[str, Tensor]) -> Tensor:
    """Logits [1, C] of a row of token ids while the layer holds these values."""
    for name, value in layer.named_parameters():
        value.copy_(values[name])
    table = model.get_input_embeddings().weight
    assert isinstance(table, Tensor)
    vocabulary = len(table)
    ids = torch.arange(1, PROBED + 1)[None] * (vocabulary - 1) // PROBED
    last = getattr(model.config, "eos_token_id", None)
    if isinstance(last, int) and 0 <= last < vocabulary:
        ids[0, -1] = last
    return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
