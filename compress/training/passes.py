"""Passes over a model in training, between two steps, that leave nothing behind in its engine.

They call the engine's module: under ZeRO 3 its hooks fetch and release the weights of a layer at a
time. The forward call of the engine itself would scale gradients as those of a step.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import deepspeed
import torch
from deepspeed.runtime.torch_autocast import autocast_if_enabled
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from compress.training.engine import release_weights


class Passes:
    """Forward passes in evaluation mode, and gradients of what hooks add to the model."""

    def __init__(self, model: PreTrainedModel, engine: deepspeed.DeepSpeedEngine | None = None) -> None:
        """engine: whose module the model is; None: a model without one."""
        self.model, self._engine = model, engine

    @contextmanager
    def running(self) -> Iterator[None]:
        """Context: evaluation mode, and no parameter has a gradient; collective under ZeRO 3.

        Blocks that compute their activations again in training do so here too.
        """
        training = self.model.training
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.model.eval()
        for module in self.model.modules():
            if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing:
                module.training = training  # of this module alone, which has no dropout of its own
        for parameter in trained:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)
            self.model.train(training)
        if self._engine is not None:
            release_weights(self._engine)

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits [B, C] of model inputs, in the precision of the training."""
        if self._engine is None:
            return self.model(**inputs).logits
        with autocast_if_enabled(self._engine):
            return self.model(**inputs).logits

    def gradients(self, value: Tensor, wanted: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Gradients of a value [] in these tensors, which the forward pass has used."""
        found = torch.autograd.grad(value, wanted)
        if self._engine is not None:  # the backward pass ends before the input
            release_weights(self._engine, everything=False)
        return found
