"""Which output of a classifier is which label of the task, told by the names in its config.json.

What: `find` maps the model's labels to the task's, through the spellings that the task knows; `arrange`
puts its outputs in the task's order. Why: a model that a user brings may have its labels by another
name or in another order, and outputs that are taken by their place would be the wrong classes.
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

NUMBERED = re.compile(r"(?:label_)?(\d+)")
PROBED = 8
NOT_RUN = (RuntimeError, ValueError, IndexError, TypeError, AttributeError, KeyError)


@dataclass(frozen=True)
class Order:
    """Where the task's labels are among a model's outputs.

    outputs: for each label of the task the output that stands for it [C], None if none does and the
    head is drawn afresh; size: outputs that the model has; note: what a user should know of it.
    """

    outputs: tuple[int, ...] | None
    size: int
    note: str | None = None

    @property
    def plain(self) -> bool:
        """Whether the model's outputs are the task's labels as they stand."""
        return self.outputs == tuple(range(self.size))


def names(path: Path, config: PreTrainedConfig) -> list[str]:
    """The labels of a directory's model in the order of its outputs, `LABEL_<id>` without a name.

    As config.json itself has them: transformers drops a `label2id` that stands alone. Raises UserError
    if `label2id` contradicts `id2label`, or names some outputs only that have no name there.
    """
    forwards, backwards = _written(path)
    size = len(forwards or backwards) or config.num_labels or 0
    given = forwards or {int(number): str(name) for number, name in (config.id2label or {}).items()}
    out = [given.get(number, f"LABEL_{number}") for number in range(size)]
    words = {number: name for number, name in backwards.items() if not _number_of(name)}
    places = {spelling(name): number for number, name in forwards.items()}
    turned = [name for n, name in backwards.items() if places.get(spelling(name), n) != n]
    if turned:
        theirs, other = (", ".join(f"{k} {v}" for k, v in m.items()) for m in (forwards, backwards))
        raise UserError(
            f"{path}: id2label and label2id of its config.json contradict each other ({theirs} and "
            f"{other}); correct the wrong one."
        )
    if not words or not all(map(_number_of, out)):
        return out
    if set(words) != set(range(size)):
        raise UserError(
            f"{path}: label2id of its config.json names some of the {size} outputs only "
            f"({', '.join(words.values())}); name them all in id2label."
        )
    return [words[number] for number in range(size)]


def _written(path: Path) -> tuple[dict[int, str], dict[int, str]]:
    """Output -> name, as `id2label` and as `label2id` of config.json have it; ids may be strings."""
    try:
        raw = json.loads((path / "config.json").read_text(encoding="utf-8"))
        forwards = {int(number): str(name) for number, name in (raw.get("id2label") or {}).items()}
        backwards = {int(number): str(name) for name, number in (raw.get("label2id") or {}).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: the labels of its config.json cannot be read ({error}).") from None
    return forwards, backwards


def _number_of(name: str) -> re.Match[str] | None:
    """The match of a name that is only a number, such as LABEL_0."""
    return NUMBERED.fullmatch(spelling(name))


def find(
    path: Path,
    config: PreTrainedConfig,
    labels: tuple[str, ...],
    task: Task | None = None,
    trained: bool = False,
) -> Order:
    """Map the outputs of a directory's classifier to the labels [C] of a run.

    task: its spellings are known too, and a label that train lacks may be among the model's. trained:
    the head must be one of these labels; without it a head of as many others is drawn afresh, and so
    is that of a directory without one. Raises UserError for what cannot be mapped.
    """
    architecture = (config.architectures or [""])[0]
    if not architecture.endswith("ForSequenceClassification"):
        if trained:
            raise UserError(f"{path}: holds no classifier ({architecture or 'no architecture'}).")
        return Order(tuple(range(len(labels))), len(labels))
    theirs = names(path, config)
    if list(theirs) == list(labels):
        return Order(tuple(range(len(labels))), len(labels))
    found, note = _labels(theirs, labels, task)
    if len(theirs) != len(labels) and (None in found or not set(labels) <= set(found)):
        raise UserError(
            f"{path}: is a classifier of {len(theirs)} labels, "
            f"but the task has {len(labels)} ({', '.join(labels)})."
        )
    if (wrong := _unmapped(theirs, found, labels)) is not None:
        if trained:
            raise UserError(f"{path}: {wrong}; name them as the task does in id2label of config.json.")
        return Order(None, len(theirs), f"{wrong}, so its classification head is drawn afresh")
    outputs = tuple(found.index(label) for label in labels)
    return Order(outputs, len(theirs), note or _change(theirs, found, labels))


def _labels(
    theirs: Sequence[str], labels: tuple[str, ...], task: Task | None
) -> tuple[list[str | None], str | None]:
    """For each output the label of the task, None for an unknown name; and what is to be said of it."""
    known: Sequence[str] = task.labels if task else labels
    words = {
        spelling(word): label
        for label in known
        for word in (label, *(task.spellings.get(label, ()) if task else ()))
    }
    found = [words.get(spelling(name)) for name in theirs]
    numbers = [int(match[1]) for match in map(_number_of, theirs) if match]
    counted = next((some for some in (labels, known) if len(some) == len(theirs)), None)
    if None not in found or counted is None or sorted(numbers) != list(range(len(theirs))):
        return found, None
    pairs = ", ".join(f"{name} is {counted[n]}" for name, n in zip(theirs, numbers, strict=True))
    return [counted[number] for number in numbers], (
        f"its labels have numbers for names, so they are taken in the task's order ({pairs}); "
        "if that is wrong, name them in id2label of its config.json"
    )


def _unmapped(
    theirs: Sequence[str], found: Sequence[str | None], labels: tuple[str, ...]
) -> str | None:
    """Why the outputs are not the labels; None if each label has just one."""
    told = f"has the labels {', '.join(theirs)}, the task {', '.join(labels)}"
    for name, label in zip(theirs, found, strict=True):
        if label is None:
            return f"{told}: '{name}' is none of them by any spelling that the task knows"
        if found.count(label) > 1:
            twice = " and ".join(f"'{n}'" for n, f in zip(theirs, found, strict=True) if f == label)
            return f"{told}: {twice} both mean '{label}'"
    for label in labels:
        if label not in found:
            return f"{told}: none of them means '{label}'"
    return None


def _change(theirs: Sequence[str], found: Sequence[str | None], labels: tuple[str, ...]) -> str | None:
    """What is done to the outputs, None if nothing."""
    left = [name for name, label in zip(theirs, found, strict=True) if label not in labels]
    if left:
        return (
            f"its label '{left[0]}' is in no training sample, so that output is left out and the "
            "probabilities of the others make 1"
        )
    if list(found) == list(labels):
        return None
    return f"its labels ({', '.join(theirs)}) are put in the task's order ({', '.join(labels)})"


def inputs_of(order: Order) -> dict[str, Any]:
    """What a result depends on; nothing for outputs that are left as they stand."""
    return {} if order.plain else {"outputs": order.outputs}


def arrange(model: PreTrainedModel, order: Order, path: Path) -> None:
    """Give the model the task's outputs, in place: rows of its head are chosen, or drawn afresh.

    Raises UserError if the head cannot be found.
    """
    if order.plain:
        return
    head = find_head(model, order.size)
    if head is None:
        raise UserError(
            f"{path}: the classification head of {type(model).__name__} cannot be found, so its labels "
            "cannot be put in the task's order."
        )
    with torch.no_grad():
        if order.outputs is None:
            head.weight.normal_(0.0, getattr(model.config, "initializer_range", None) or 0.02)
            if head.bias is not None:
                head.bias.zero_()
            return
        _choose(head, order.outputs)
    setattr(model, "num_labels", len(order.outputs))  # noqa: B010  a module's attribute for mypy


def _choose(head: nn.Linear, outputs: Sequence[int]) -> None:
    rows = torch.tensor(outputs)
    head.out_features = len(outputs)
    head.weight = nn.Parameter(head.weight[rows].clone())
    if head.bias is not None:
        head.bias = nn.Parameter(head.bias[rows].clone())


def find_head(model: PreTrainedModel, size: int) -> nn.Linear | None:
    """The layer whose `size` outputs are the logits, told by what a change of its rows does to them."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == size]
    training = model.training
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
