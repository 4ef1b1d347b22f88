"""docs/configuration.md is what the blocks say now, and every key in it is described."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from compress.configuration import reference
from compress.configuration.blocks import Block

PAGE = Path(__file__).parents[1] / "docs/configuration.md"


def rows(section):
    """Cells of each key's row."""
    return [line[2:-2].split(" | ") for line in section.splitlines() if line.startswith("| `")]


def test_the_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == reference.page()


def test_every_key_is_described():
    sections = re.split(r"^## ", reference.page(), flags=re.MULTILINE)[1:]
    assert len(sections) > 30
    for section in sections[:-1]:
        assert not [row for row in rows(section) if not row[3].strip()], section.splitlines()[0]


class Leaf(Block):
    """A leaf."""

    size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """How large."""


class Red(Block):
    """Red."""

    kind: Literal["red"]
    """Name."""
    leaf: Leaf = Leaf()


class Blue(Block):
    """Blue."""

    kind: Literal["blue"]
    """Name."""


class Tree(Block):
    """The whole."""

    colour: Annotated[Red | Blue, Field(discriminator="kind")] | None = None
    """Which colour."""
    leaves: dict[str, list[Leaf]] = Field(default={})
    """Named lists of leaves."""


def test_unions_lists_and_objects_of_blocks():
    sections = [section.removeprefix("## ") for section in reference.sections_of(Tree)]
    named = {section.splitlines()[0]: section for section in sections}
    leaf = named["`colour.leaf`, for `red`"]
    assert set(named) == {
        "Top level",
        "`colour`, for `red`",
        "`colour`, for `blue`",
        leaf.splitlines()[0],
    }
    assert "Also at `leaves.<name>[]`." in leaf
    assert rows(leaf) == [["`size`", 'whole number from 1 or `"auto"`', '`"auto"`', "How large."]]
    assert rows(named["`colour`, for `red`"])[1] == ["`leaf`", "block", "", "A leaf."]
