"""Layer-wise distillation: the student's hidden states and attention are pulled to the teacher's.

What: an additional term beside the loss hook, total = hook + hidden * L_hidden + attention *
L_attention, one value per sample; each L is the mean over the layer pairs of `layer_map`.
Source: TinyBERT (Jiao et al. 2020, Eq. 7 and 8), with probabilities instead of scores for attention.
Where the widths differ, one matrix without bias, shared by all layers, projects the student's states
(Eq. 8's W_h).

How the projection trains under every ZeRO stage: it is a submodule of the student, added before the
engine is built, and a forward hook of the student calls it, inside the engine's forward. So the
optimiser has its weights, and ZeRO 3 gathers them as for any other module; called from outside they
would be empty there. It comes after the masks, so that no module keyword matches it, and the export
takes the plain model's tensors only.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from compress.configuration.robust_schema import LayerwiseBlock, RobustCompression
from compress.distillation import attention, layer_map
from compress.models import encoders

PROJECTION = "layerwise_projection"
FIELDS = {"hidden": "hidden_states", "attention": "attentions"}


def hidden_distance(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference of hidden states over real tokens and width (Jiao et al. 2020, Eq. 8).

    student, teacher: [B, L, H]; mask: [B, L], 1 on real tokens. Returns [B] in float32.
    """
    squares = (student.float() - teacher.float()).square().mean(dim=2)
    return torch.where(mask.bool(), squares, 0.0).sum(dim=1) / mask.sum(dim=1)


def attention_distance(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference of attention over heads and pairs of real tokens (after Eq. 7).

    student: probabilities [B, A, L, L]; teacher: [B, A', L, L]; mask: [B, L], 1 on real tokens. Where A
    differs from A', both are averaged over their heads first. Returns [B] in float32.
    """
    ours, theirs = student.float(), teacher.float()
    if ours.shape[1] != theirs.shape[1]:
        ours, theirs = ours.mean(dim=1, keepdim=True), theirs.mean(dim=1, keepdim=True)
    squares = (ours - theirs).square().mean(dim=1)
    real = mask.bool()
    pairs = real.unsqueeze(2) & real.unsqueeze(1)
    return torch.where(pairs, squares, 0.0).sum(dim=(1, 2)) / pairs.sum(dim=(1, 2))


Distance = Callable[[Tensor, Tensor, Tensor], Tensor]
DISTANCES: dict[str, Distance] = {"hidden": hidden_distance, "attention": attention_distance}


class Layerwise:
    """The additional term of one training.

    arguments: what the student's forward call needs beside its inputs.
    """

    def __init__(
        self, student: PreTrainedModel, teacher: PreTrainedModel, block: LayerwiseBlock, seed: int
    ) -> None:
        """Prepare both models in place: call it after the masks and before the engine is built.

        teacher: on the device of the training; frozen here. seed: of the projection. Raises UserError
        for models that cannot be compared.
        """
        layer_map.check(student.config, teacher.config, block)
        depths = student.config.num_hidden_layers, teacher.config.num_hidden_layers
        self.pairs = layer_map.pairs(*depths, block)
        self.weights = layer_map.weights_of(block)
        self.arguments = {f"output_{FIELDS[name]}": True for name in self.weights}
        self.teacher = teacher.eval().requires_grad_(False)
        if "attention" in self.weights:
            attention.expose(student)
            attention.expose(teacher)
        widths = student.config.hidden_size, teacher.config.hidden_size
        if "hidden" in self.weights and widths[0] != widths[1]:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                student.add_module(PROJECTION, nn.Linear(*widths, bias=False))
        student.register_forward_hook(self._keep_mapped)

    def _keep_mapped(
        self, student: nn.Module, _: object, outputs: SequenceClassifierOutput
    ) -> SequenceClassifierOutput:
        """Leave the mapped layers in the student's outputs, hidden states in the teacher's width."""
        if outputs.hidden_states is not None:
            states = [outputs.hidden_states[ours + 1] for ours, _ in self.pairs]
            if hasattr(student, PROJECTION):
                states = list(getattr(student, PROJECTION)(torch.stack(states)))
            outputs.hidden_states = tuple(states)
        if outputs.attentions is not None:
            outputs.attentions = tuple(outputs.attentions[ours] for ours, _ in self.pairs)
        return outputs

    def per_sample(
        self, inputs: Mapping[str, Tensor], outputs: SequenceClassifierOutput
    ) -> dict[str, Tensor]:
        """L_hidden and L_attention, those of weight above 0: [B] each, float32, without their weights.

        inputs: of the student, [B, L]; outputs: of the student, called with `arguments`.
        """
        with torch.no_grad():
            told = self.teacher(**inputs, **self.arguments)
        theirs = {"hidden": (told.hidden_states or ())[1:], "attention": told.attentions}
        terms = {}
        for name in self.weights:
            layers = zip(getattr(outputs, FIELDS[name]), self.pairs, strict=True)
            values = [
                DISTANCES[name](state, theirs[name][layer], inputs["attention_mask"])
                for state, (_, layer) in layers
            ]
            terms[name] = torch.stack(values).mean(dim=0)
        return terms

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """What the terms of `per_sample` add to the loss, [B]."""
        weighted = [self.weights[name] * term for name, term in terms.items()]
        return torch.stack(weighted).sum(dim=0)


def build(
    robust: RobustCompression,
    student: PreTrainedModel,
    teacher: Path,
    labels: tuple[str, ...],
    device: torch.device,
) -> Layerwise | None:
    """The term of a run, None if it is off; see `Layerwise`. teacher: its model directory."""
    if not layer_map.weights_of(robust.layerwise):
        return None
    told = encoders.load_classifier(teacher, labels, trained=True)
    nn.Module.to(told, device)
    return Layerwise(student, told, robust.layerwise, robust.seed)
