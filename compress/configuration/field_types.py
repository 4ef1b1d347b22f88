"""The types that a field of a settings block may have, and what may lie below a key."""

from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel


def options(annotation: Any) -> list[Any]:  # noqa: ANN401  any annotation
    """The members of a union, without what `Annotated` adds."""
    if get_origin(annotation) is Annotated:
        return options(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [option for member in get_args(annotation) for option in options(member)]
    return [annotation]


def below(annotations: Iterable[Any], key: str) -> list[Any]:
    """The annotations that a key may have in an object of one of these types; empty: it is no field."""
    found: list[Any] = []
    for option in (option for annotation in annotations for option in options(annotation)):
        if option is Any:
            found.append(Any)
        elif get_origin(option) in (dict, Mapping):
            found.append(get_args(option)[1])
        elif isinstance(option, type) and issubclass(option, BaseModel):
            fields = option.model_fields.items()
            found += [info.annotation for name, info in fields if (info.alias or name) == key]
    return found
