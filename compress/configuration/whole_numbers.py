"""Whole numbers that JSON writes as floats: 5e8 stands for 500000000 where a key takes an integer.

DeepSpeed's own examples write bucket sizes so, and `json` reads them as floats.
"""

from typing import Any, get_args, get_origin

from pydantic import BaseModel

from compress.configuration.field_types import options


def settle(value: Any, annotation: Any) -> Any:  # noqa: ANN401  any JSON value, any annotation
    """The JSON value with every float without fraction as an int, where the annotation asks for ints.

    Floats stay where a float is allowed too; what has a fraction or another type is left to the
    validation. annotation: a pydantic model or the type of one of its fields.
    """
    allowed = options(annotation)
    for option in allowed:
        if isinstance(value, dict) and isinstance(option, type) and issubclass(option, BaseModel):
            names = {info.alias or name: info.annotation for name, info in option.model_fields.items()}
            value = {k: settle(v, names[k]) if k in names else v for k, v in value.items()}
        elif isinstance(value, dict) and get_origin(option) is dict:
            value = {k: settle(v, get_args(option)[1]) for k, v in value.items()}
        elif isinstance(value, list) and get_origin(option) is list:
            value = [settle(v, get_args(option)[0]) for v in value]
    if isinstance(value, float) and value.is_integer() and int in allowed and float not in allowed:
        return int(value)
    return value
