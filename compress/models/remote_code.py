"""What plain transformers needs to load a student of its own dimensions: a list of sizes, and a file.

transformers derives the width of every layer from one configuration. Where a model differs from that,
config.json lists each difference under `compressed_modules`, and `modeling_compressed.py` beside it
builds the model; `auto_map` names the class. Whether that code runs is decided by who loads the model
(`trust_remote_code`); this program never runs it and reads `compressed_layers` instead.
"""

import copy
import shutil
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

from compress.models import modeling_compressed

FILE = "modeling_compressed.py"
AUTO_MAP = "auto_map"
AUTO_CLASS = AutoModelForSequenceClassification.__name__

Sizes = dict[str, dict[str, int]]


def differences(model: PreTrainedModel) -> Sizes:
    """By module name what differs from the plain model of the same configuration.

    Both sizes of a linear layer or an embedding, integer attributes of another module. The plain model
    is built on the meta device.
    """
    with torch.device("meta"):
        config = copy.deepcopy(model.config)
        plain = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    theirs = dict(plain.named_modules())
    found = {name: _sizes(module, theirs[name]) for name, module in model.named_modules()}
    return {name: sizes for name, sizes in found.items() if sizes}


def _sizes(module: nn.Module, plain: nn.Module) -> dict[str, int]:
    """The sizes of a module if they differ from the plain one's: both of a layer with weights."""
    keys = {
        nn.Linear: ("in_features", "out_features"),
        nn.Embedding: ("num_embeddings", "embedding_dim"),
    }
    if type(module) in keys:
        own = {key: getattr(module, key) for key in keys[type(module)]}
        return {} if all(getattr(plain, key) == value for key, value in own.items()) else own
    return {
        key: value
        for key, value in vars(module).items()
        if type(value) is int and value != getattr(plain, key, value)
    }


def save(model: PreTrainedModel, folder: Path, weights: Path | None = None) -> None:
    """Write configuration and weights, and the code where plain transformers needs it.

    weights: a directory whose files are moved instead of the model's own weights, which may be missing
    (meta device).
    """
    forget(model.config)
    if found := differences(model):
        setattr(model.config, modeling_compressed.KEY, found)
        name = f"{modeling_compressed.PREFIX}{type(model).__name__}"
        setattr(model.config, AUTO_MAP, {AUTO_CLASS: f"{Path(FILE).stem}.{name}"})
    if weights is None:
        model.save_pretrained(folder)
    else:
        write_config(model, folder)
        for file in sorted(weights.iterdir()):
            file.rename(folder / file.name)
    if found:
        shutil.copyfile(Path(modeling_compressed.__file__), folder / FILE)


def write_config(model: PreTrainedModel, folder: Path) -> None:
    """Write the configuration as it is saved with a model of float32."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.architectures, model.config.dtype = [type(model).__name__], torch.float32
    model.config.save_pretrained(folder)


def forget(config: PreTrainedConfig) -> None:
    """Take the names of code and sizes out of a configuration, in place: they are of another model."""
    for key in (AUTO_MAP, modeling_compressed.KEY):
        vars(config).pop(key, None)


def needed(config: PreTrainedConfig) -> bool:
    """Whether plain transformers loads the directory of this configuration with its code only."""
    return bool(getattr(config, modeling_compressed.KEY, None))
