"""The base of layer-wise terms: total = loss + hidden * L_hidden + attention * L_attention.

Each L is the mean over the layer pairs of `layer_map`, one value per sample. Source: TinyBERT (Jiao et
al. 2020, Eq. 7 and 8), with probabilities instead of scores for attention.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from compress import method_files
from compress.errors import UserError
from compress.layerwise import layer_map, states
from compress.layerwise.block import LayerwiseBlock
from compress.layerwise.states import States
from compress.methods import Method, Run, Shapes
from compress.microbatch import Batch
from compress.models import encoders
from compress.training import frozen
from compress.training.engine import release


class FrozenTeacher:
    """The teacher's model, loaded once for all terms, and its outputs for the current batch.

    arguments: of its forward call; pairs: (student layer, teacher layer); states: its hidden states of
    train, where they are kept: then the model has no weights (meta device) and does not run.
    """

    def __init__(self, block: LayerwiseBlock) -> None:
        """Nothing is loaded yet."""
        self.block = block
        self.arguments: dict[str, Any] = {}
        self.pairs: layer_map.Pairs = []
        self.model: PreTrainedModel | None = None
        self.states: States | None = None
        self.seed = 0
        self._checked: Shapes | None = None
        self._engine: Any = None

    def check(self, shapes: Shapes) -> None:
        """Raise UserError now if this run's student cannot be compared with it; once for all terms."""
        if self._checked is not shapes:
            layer_map.check_run(shapes, self.block)
            self._checked = shapes

    def attach(self, student: PreTrainedModel, run: Run) -> PreTrainedModel:
        """The frozen teacher, see `frozen.place`; UserError if the two cannot be compared."""
        if self.model is None:
            if run.states is not None:
                self.states = States.open(run.states)
                with torch.device("meta"):
                    teacher = encoders.fresh_from(run.teacher)
            else:
                teacher = encoders.load_classifier(run.teacher, run.labels, trained=True, whole=False)
                self._engine = frozen.place(teacher, run.config, run.device)
            self.settle(student, teacher, run.config.robust.seed)
        assert self.model is not None
        return self.model

    def settle(self, student: PreTrainedModel, teacher: PreTrainedModel, seed: int) -> None:
        """Pair the layers of these models, and freeze the teacher."""
        layer_map.check(student.config, teacher.config, self.block)
        depths = student.config.num_hidden_layers, teacher.config.num_hidden_layers
        self.pairs = layer_map.pairs(*depths, self.block)
        self.model, self.seed = teacher.eval().requires_grad_(False), seed

    def close(self) -> None:
        """Release the model."""
        if self._engine is not None:
            release(self._engine)
        self.model = self._engine = None

    def outputs(self, batch: Batch) -> SequenceClassifierOutput:
        """Its outputs for the inputs of the batch, computed once for all terms."""
        if "teacher_outputs" not in batch.shared:
            assert self.model is not None
            with torch.no_grad():
                batch.shared["teacher_outputs"] = self.model(**batch.inputs, **self.arguments)
        return batch.shared["teacher_outputs"]

    def mapped(self, batch: Batch, field: str, first: int) -> list[Tensor]:
        """Its layer of each pair in a field of the outputs, in which layer 0 stands at `first`."""
        if self.states is not None:
            padded = batch.tokens[states.NAME]
            return [self.states.of(layer, padded) for _, layer in self.pairs]
        layers = getattr(self.outputs(batch), field)
        return [layers[layer + first] for _, layer in self.pairs]


class Term(Method, ABC):
    """A layer-wise term.

    field: of the model outputs that it compares, a tuple; first: where layer 0 stands in it.
    """

    field: ClassVar[str]
    first: ClassVar[int] = 0

    def __init__(self, teacher: FrozenTeacher) -> None:
        """teacher: shared by the terms of a training."""
        self.teacher, self.weight = teacher, teacher.block.weights[self.name]
        teacher.arguments |= self.arguments

    @property
    def arguments(self) -> dict[str, Any]:
        """Both models return all layers."""
        return {f"output_{self.field}": True}

    def close(self) -> None:
        """See `Method.close`."""
        self.teacher.close()

    def inputs(self) -> dict[str, Any]:
        """Its weight and the pairs of layers."""
        return {"weight": self.weight, "layer_map": self.teacher.block.layer_map}

    def check(self, shapes: Shapes) -> None:
        """Raise UserError now if this run's student cannot be compared with its teacher."""
        self.teacher.check(shapes)

    def attach(self, model: PreTrainedModel, run: Run) -> None:
        """Prepare both models in place, and leave the mapped layers in the student's outputs."""
        self.prepare(model, self.teacher.attach(model, run))
        model.register_forward_hook(self._keep_mapped)

    def prepare(self, student: PreTrainedModel, teacher: PreTrainedModel) -> None:
        """Change the models in place so that their outputs can be compared.

        teacher: without weights where its states are kept.
        """

    def comparable(self, student: nn.Module, layers: list[Tensor]) -> list[Tensor]:
        """The student's mapped layers in the teacher's shape."""
        return layers

    @abstractmethod
    def distance(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        """Distance of one pair of layers, float32 [B]; mask: [B, L], 1 on real tokens."""

    def token_values(self) -> dict[str, NDArray[np.float32]]:
        """The teacher's states, where they are kept."""
        kept = self.teacher.states
        return {} if kept is None else {states.NAME: kept.rows}

    def _keep_mapped(
        self, student: nn.Module, _: object, outputs: SequenceClassifierOutput
    ) -> SequenceClassifierOutput:
        if (layers := getattr(outputs, self.field)) is not None:
            mapped = [layers[layer + self.first] for layer, _ in self.teacher.pairs]
            setattr(outputs, self.field, tuple(self.comparable(student, mapped)))
        return outputs

    def loss(self, batch: Batch) -> Tensor:
        """weight * mean distance over the pairs of layers, [B]; the distance itself is logged."""
        mask, ours = batch.inputs["attention_mask"], getattr(batch.outputs, self.field)
        pairs = zip(ours, self.teacher.mapped(batch, self.field, self.first), strict=True)
        values = [self.distance(state, target, mask) for state, target in pairs]
        term = torch.stack(values).mean(dim=0)
        batch.watch(self.name, term)
        return self.weight * term


def classes_of(block: LayerwiseBlock) -> dict[str, type[Term]]:
    """The classes of the terms of weight above 0, by name: `Hidden` of `hidden.py` and so on."""
    return {name: _class_of(name) for name in block.weights}


def _class_of(name: str) -> type[Term]:
    """The class of a term; UserError, naming its file, if there is none that can be used."""
    file = Path(__file__).with_name(f"{name}.py")
    if not file.is_file():
        raise UserError(f"{file}: is missing; LayerwiseBlock has a weight '{name}', its term is there.")
    module = method_files.load(f"compress.layerwise.{name}", file.parent)
    kind = getattr(module, name.capitalize(), None)
    if not isinstance(kind, type) or not issubclass(kind, Term):
        raise UserError(f"{file}: defines no class {name.capitalize()} derived from Term.")
    method_files.check(kind)
    for attribute in ("name", "field"):
        if not isinstance(getattr(kind, attribute, None), str):
            raise method_files.wrong(kind, f"must have a value of '{attribute}', str")
    if kind.name != name:
        raise method_files.wrong(
            kind, f"has the name '{kind.name}'; it is that of the weight, '{name}'"
        )
    return kind


def terms_of(block: LayerwiseBlock) -> tuple[Term, ...]:
    """The terms of weight above 0."""
    teacher = FrozenTeacher(block)
    return tuple(kind(teacher) for kind in classes_of(block).values())
