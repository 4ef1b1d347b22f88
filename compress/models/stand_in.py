"""A model of a directory's shape with few blocks and cheap weights, to try inputs on.

Which ids, segments, positions and padding a model takes depends on its classes and table sizes only.
One block of BERT-base takes a seventh of a second, one of 4,096 hidden units with 128,000 tokens three
seconds and 3 GB; loading the weights of such a model would take 30 GB.
"""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from compress.models import compressed, directories, encoders

WHOLE = 100 * 2**20
LARGEST = 4 * 2**30
DEPTHS = ("num_hidden_layers", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers")
STEP = 65537
SCALE = 0.02


def builders(path: Path, config: PreTrainedConfig) -> list[Callable[[], PreTrainedModel]]:
    """Functions that make a model, best first: with one block if the files exceed `WHOLE` bytes, whole.

    The whole model is left out where they exceed `LARGEST` bytes. The functions raise UserError where
    the configuration makes no model.
    """
    size = sum(file.stat().st_size for pattern in directories.WEIGHTS for file in path.glob(pattern))
    shapes = [shallow(config)] if size > WHOLE else []
    shapes += [copy.deepcopy(config)] if size <= LARGEST else []
    return [partial(_filled, path, shape) for shape in shapes]


def shallow(config: PreTrainedConfig) -> PreTrainedConfig:
    """A copy with one Transformer block."""
    shape = copy.deepcopy(config)
    setattr(shape, compressed.KEY, None)
    depths = {name: getattr(shape, name, None) for name in DEPTHS}
    for name, depth in depths.items():
        if isinstance(depth, int) and depth > 1:
            setattr(shape, name, 1)
    for name, value in vars(config).items():
        if isinstance(value, list) and len(value) > 1 and len(value) in depths.values():
            setattr(shape, name, value[:1])
    return shape


def _filled(path: Path, config: PreTrainedConfig) -> PreTrainedModel:
    """The model of a configuration in evaluation mode, float32, with weights that are cheap to make."""
    config.dtype = torch.float32
    with no_init_weights():
        model = encoders.fresh_from(path, config)
    values = torch.randn(STEP, generator=torch.Generator().manual_seed(0)) * SCALE
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and name.endswith(".weight"):
                parameter.fill_(1.0)
                continue
            for part in parameter.view(-1).split(STEP):
                part.copy_(values[: len(part)])
    return model.eval()
