"""The term `hidden`: the student's hidden states are pulled to the teacher's (Jiao et al. 2020, Eq. 8).

Where the widths differ, one matrix without bias, shared by all layers, projects the student's states
(Eq. 8's W_h). It is a submodule of the student, added before the engine is built, and is called by a
forward hook inside the engine's forward, so that every ZeRO stage trains and gathers it. It is added
after the masks, so that no module keyword matches it; the export takes the plain model's tensors only.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.layerwise.terms import Term

PROJECTION = "layerwise_projection"


class Hidden(Term):
    """Distance of hidden states."""

    name = "hidden"
    field = "hidden_states"
    first = 1  # behind the embeddings

    def prepare(self, student: PreTrainedModel, teacher: PreTrainedModel) -> None:
        """Add the projection, if the widths differ."""
        widths = student.config.hidden_size, teacher.config.hidden_size
        if widths[0] != widths[1]:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.teacher.seed)
                student.add_module(PROJECTION, nn.Linear(*widths, bias=False))

    def comparable(self, student: nn.Module, layers: list[Tensor]) -> list[Tensor]:
        """States after the layers [B, L, H] in the teacher's width."""
        if hasattr(student, PROJECTION):
            return list(getattr(student, PROJECTION)(torch.stack(layers)))
        return layers

    def distance(self, student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        """Mean squared difference over real tokens and width: [B, L, H] both; mask [B, L] -> [B]."""
        squares = (student.float() - teacher.float()).square().mean(dim=2)
        return torch.where(mask.bool(), squares, 0.0).sum(dim=1) / mask.sum(dim=1)
