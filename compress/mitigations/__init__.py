"""The mitigations: one file each; `loss.hook` names the file.

The folder is searched, so a new file is a new mitigation. Files whose name begins with an underscore
are shared; `user` is for a hook of the form `module:function`. Importing the package does not load
torch.
"""

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Discriminator, Tag

from compress import method_files
from compress.errors import nearest
from compress.mitigations._shared import Mitigation, NoLoss

MITIGATIONS: dict[str, type[Mitigation]] = method_files.only(sys.modules[__name__], Mitigation)
"""Name of a hook -> its settings and arithmetic."""
for _kind in MITIGATIONS.values():
    if _kind.loss is Mitigation.loss:
        raise method_files.wrong(_kind, "does not define 'loss'")
    if "mistakes" in _kind.needs and (
        _kind.difficulty_of_mistakes is Mitigation.difficulty_of_mistakes
        or _kind.first_model_epochs is Mitigation.first_model_epochs
    ):
        raise method_files.wrong(
            _kind,
            "needs 'mistakes', so it must define 'first_model_epochs' and 'difficulty_of_mistakes'",
        )
USER = MITIGATIONS.pop("user")
USERS_OWN = "module:function"


def _tag(values: Any) -> str:  # noqa: ANN401  any JSON value, or a block
    hook = values.get("hook", "") if isinstance(values, Mapping) else getattr(values, "hook", "")
    if not isinstance(hook, str) or hook not in MITIGATIONS:
        return USERS_OWN if isinstance(hook, str) and ":" in hook else ""
    return hook


def _teachers(values: Any) -> str:  # noqa: ANN401  any JSON value, or a block
    named = "hook" in values if isinstance(values, Mapping) else True
    return _tag(values) if named else "vanilla"


OF_STUDENTS = frozenset({"teacher", "difficulty", "mistakes"})
"""Needs of a loss that only a student's can have."""
OF_TEACHERS = {name: kind for name, kind in MITIGATIONS.items() if not kind.needs & OF_STUDENTS}
"""What a teacher can be trained with."""
PLAIN = MITIGATIONS["vanilla"](hook="vanilla")

if TYPE_CHECKING:
    Loss = Mitigation
    TeacherLoss = Mitigation
else:
    _BY_TAG = {"": NoLoss, USERS_OWN: USER, **MITIGATIONS}
    _MEMBERS = tuple(Annotated[block, Tag(tag)] for tag, block in _BY_TAG.items())
    Loss = Annotated[Union[_MEMBERS], Discriminator(_tag)]  # noqa: UP007  a union of a tuple
    _OF_TEACHERS = tuple(Annotated[block, Tag(tag)] for tag, block in OF_TEACHERS.items())
    TeacherLoss = Annotated[Union[_OF_TEACHERS], Discriminator(_teachers)]  # noqa: UP007  a union of a tuple


def _keys(block: type[Mitigation]) -> list[str]:
    return [info.alias or name for name, info in block.model_fields.items()]


def mistake(values: object, key: str, teachers: bool) -> tuple[str, str | None]:
    """(key at fault, what is wrong with it) of a `loss` block that was refused at `key`.

    The hook is unknown, or does not use a key that others use; None for any other error. teachers:
    whether it is the loss of the teacher.
    """
    block = "teacher.loss" if teachers else "loss"
    known = OF_TEACHERS if teachers else MITIGATIONS
    hook = values.get("hook", "") if isinstance(values, Mapping) else ""
    if not isinstance(hook, str):
        return "hook", f"is {json.dumps(hook)}, but: input should be a valid string"
    if teachers and isinstance(values, Mapping) and "hook" in values and hook not in known:
        named = "a function of your own" if ":" in hook else f"'{hook}'"
        return "hook", f"cannot be {named}; a teacher is trained with {', '.join(known)}"
    if hook and ":" not in hook and hook not in MITIGATIONS:
        hint = nearest(hook, MITIGATIONS).rstrip(".")
        return (
            "hook",
            f"is unknown: no loss is called '{hook}'{hint} (or give 'package.module:function')",
        )
    users = [name for name, block in known.items() if key in _keys(block)]
    if not users or key in _keys(MITIGATIONS.get(hook, USER if hook else NoLoss)):
        return key, None
    if not hook:
        return key, f"has no effect without {block}.hook; choose a loss, such as {users[0]}"
    return key, f"has no effect with the hook '{hook}'; it has one with {', '.join(users)}"
