"""A model that is not trained; under ZeRO 3 each rank has a part of its weights."""

import deepspeed
from torch import device, nn
from transformers import PreTrainedModel

from compress.configuration.config import Config
from compress.configuration.deepspeed_schema import engine_keys
from compress.models import deferred
from compress.training import partitioned
from compress.training.engine import NEVER, divided


def place(model: PreTrainedModel, config: Config, where: device) -> deepspeed.DeepSpeedEngine | None:
    """Put a float32 model, deferred or not, on the device, in place, without gradients.

    With `zero_optimization.stage` 3 by an engine of its own without optimiser, which is returned: hooks
    fetch and release the weights of a layer at a time, so that forward calls are collective; outputs
    are those of the whole model, in float32 in a training of any precision.
    """
    model.eval().requires_grad_(False)
    if config.deepspeed.zero_optimization.stage < 3:
        deferred.fill(model)
        nn.Module.to(model, where)
        return None
    zero = divided(engine_keys(dict(config.merged))["zero_optimization"])
    zero.pop("offload_optimizer", None)
    settings = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": zero}
    if deferred.deferred(model):
        partitioned.fill(model, settings)
    return deepspeed.initialize(model=model, config=settings | {"steps_per_print": NEVER})[0]
