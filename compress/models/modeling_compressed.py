"""A compressed classifier for transformers alone: a model whose layers have sizes of their own.

`compressed_modules` in config.json lists modules by name. For a linear layer it gives `in_features`
and `out_features`, for an embedding `num_embeddings` and `embedding_dim`, for another module integer
attributes, such as its number of heads. A class
`CompressedX` of this module is transformers' class `X` in these sizes. Nothing else is needed:

    AutoModelForSequenceClassification.from_pretrained(directory, trust_remote_code=True)
"""

from collections.abc import Mapping
from typing import Any

import transformers
from torch import nn

KEY = "compressed_modules"
PREFIX = "Compressed"


class Resized:
    """What a compressed class adds to transformers' one: the sizes, before weights are loaded."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  those of the other class
        """Build the plain model, then give the modules of the configuration their sizes."""
        super().__init__(*args, **kwargs)
        assert isinstance(self, transformers.PreTrainedModel)
        for name, sizes in (getattr(self.config, KEY, None) or {}).items():
            resize(self, name, sizes)


def resize(model: nn.Module, name: str, sizes: Mapping[str, int]) -> None:
    """Replace a linear layer or embedding by one of these sizes, or set attributes of another module.

    Raises ValueError for a module or attribute that the model does not have.
    """
    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise ValueError(f"config.json: '{KEY}' names '{name}', which the model lacks.") from None
    if isinstance(module, nn.Linear | nn.Embedding):
        kind: dict[str, Any] = {"device": module.weight.device, "dtype": module.weight.dtype, **sizes}
        if isinstance(module, nn.Linear):
            kind["bias"] = module.bias is not None
        new = type(module)(**kind)
        model.set_submodule(name, new)
        return
    for attribute, value in sizes.items():
        if type(getattr(module, attribute, None)) is not int or type(value) is not int:
            raise ValueError(f"config.json: '{KEY}' sets '{name}.{attribute}', which is no size.")
        setattr(module, attribute, value)


def __getattr__(name: str) -> type:
    """The class `CompressedX`, made when it is asked for; X: a model class of transformers."""
    plain = getattr(transformers, name.removeprefix(PREFIX), None) if name.startswith(PREFIX) else None
    if not isinstance(plain, type) or not issubclass(plain, transformers.PreTrainedModel):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = type(name, (Resized, plain), {"__module__": __name__, "__doc__": Resized.__doc__})
    globals()[name] = made
    return made
