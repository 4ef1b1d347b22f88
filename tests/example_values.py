"""Every key of a schema with a value that it may have, and another one, made from its annotation."""

import types
from typing import Annotated, Literal, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from compress.mitigations import MITIGATIONS, USER

MINIMAL = {
    **{block: {"hook": name} for name, block in MITIGATIONS.items()},
    USER: {"hook": "stage_runs:own_loss"},
}
"""The least that a block can hold, where that does not follow from its required keys."""
CHOOSERS = ("robust_compression.loss.hook", "robust_compression.teacher.loss.hook")
"""Keys that choose one of several blocks, beside those that allow one word only."""
SIMPLE = {bool: (True, False), int: (9, 10, 1, 2), float: (0.375, 0.5, 1.5), str: ("x", "y")}
ALONE = ("target_heads",)
"""Keys that take the place of all others in their block."""


def options(annotation):
    """The members of a union, without what `Annotated` adds."""
    if get_origin(annotation) is Annotated:
        return options(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [option for member in get_args(annotation) for option in options(member)]
    return [annotation]


def is_block(option):
    return isinstance(option, type) and issubclass(option, BaseModel)


def inner(annotation):
    """(suffix of the key, block) for each block that a field may hold, itself or by name."""
    found = []
    for option in options(annotation):
        if is_block(option):
            found.append(("", option))
        elif get_origin(option) is dict:
            found += [(".x", one) for one in options(get_args(option)[1]) if is_block(one)]
    return found


def valid(annotation, value):
    try:
        TypeAdapter(annotation).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def other(annotation, value=None):
    """A valid value of this type that differs from `value`; None if there is none."""
    return next((one for one in examples(annotation) if one != value and valid(annotation, one)), None)


def examples(annotation):
    for option in options(annotation):
        arguments = get_args(option)
        if get_origin(option) is Literal:
            yield from arguments
        elif get_origin(option) is list:
            for one in examples(arguments[0]):
                yield from ([one], [one, one])
        elif get_origin(option) is dict:
            yield {"x": least(arguments[1])} if inner(option) else {"x": other(arguments[1])}
        elif is_block(option):
            yield least(option)
        else:
            yield from SIMPLE.get(option, ())


def least(block):
    """The least that a block can hold: its required keys, and one more if they do not suffice."""
    fields = {info.alias or name: info for name, info in block.model_fields.items()}
    needed = {key: other(typed(info)) for key, info in fields.items() if info.is_required()}
    more = ({key: other(typed(info))} for key, info in fields.items() if key not in needed)
    tries = (needed, *({**needed, **one} for one in more))
    return MINIMAL.get(block) or next(values for values in tries if valid(block, values))


def typed(info):
    """The whole annotation of a field, with its range."""
    return Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation


def leaves(block, path="", needed=()):
    """(dotted key, its field, the blocks around it with what each must hold) below a block.

    Without the names that choose one of several blocks.
    """
    for name, info in block.model_fields.items():
        key, blocks = f"{path}{info.alias or name}", inner(info.annotation)
        for suffix, one in blocks:
            around = (f"{key}{suffix}", least(one), len(blocks) > 1)
            yield from leaves(one, f"{key}{suffix}.", (*needed, around))
        if (
            not blocks
            and key not in CHOOSERS
            and (get_origin(info.annotation) is not Literal or len(get_args(info.annotation)) > 1)
        ):
            yield key, info, needed
