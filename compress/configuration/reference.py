"""The reference of all configuration keys, made from the blocks: docs/configuration.md.

    python -m compress.configuration.reference > docs/configuration.md

Meanings are the docstrings of fields; types, ranges and defaults come from pydantic's JSON schema.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core.core_schema import TaggedUnionSchema

from compress.configuration import engine_table
from compress.configuration.robust_schema import Root
from compress.study.plan import StudyBlock

Schema = dict[str, Any]
HEAD = """# Configuration

<!-- Made by `python -m compress.configuration.reference > docs/configuration.md`; do not edit. -->

`--deepspeed_config` takes one or more JSON files. Precedence: defaults, then the files from left to
right, then `--set a.b.c=value`; the value is JSON, or else taken as a text. Objects are merged key by
key; lists and single values replace earlier ones; `null` returns a key to its default. The top level
is DeepSpeed's own configuration, `compression_training` is DeepSpeed's compression schema, and
`robust_compression` is this program's. An unknown key, a wrong type, or a setting that cannot take
effect is an error that names the file, the key, and the nearest valid key.

In the column "default", `required` means that the key must be given wherever its block is. An empty
cell means that the key is absent by default; the description says what that does. "block" means an
object whose keys are in a section of their own. `<name>` stands for a name of your choice.
"""
REFUSALS = """## Where DeepSpeed's keys take effect, and where they are refused

Each key takes effect or is an error. The column "in" names the file of the installed DeepSpeed that
reads it, or this program where it does so itself. Cases on the CPU, and what a machine lacks, are
found when a run starts; the others when the configuration is read.

| key | in | refused |
|---|---|---|
"""
RANGES = {
    "minimum": "from {}",
    "exclusiveMinimum": "above {}",
    "maximum": "up to {}",
    "exclusiveMaximum": "below {}",
}
LARGE = 10**15
"""Bounds from this on exist only so that the number can be stored; they are not listed."""


@dataclass
class Section:
    """A block, and the keys that may hold it, each with the choice that it belongs to (or "")."""

    block: Schema
    places: list[tuple[str, str]] = field(default_factory=list)


class _WithChoices(GenerateJsonSchema):
    """The JSON schema, with the value that chooses each block of a union (`x-choices`)."""

    def tagged_union_schema(self, schema: TaggedUnionSchema) -> Schema:
        choices = {str(name): self.generate_inner(block) for name, block in schema["choices"].items()}
        return {**super().tagged_union_schema(schema), "x-choices": choices}


def page() -> str:
    """The whole page, in Markdown."""
    parts = [HEAD, *sections_of(Root), _study()]
    return "\n".join(parts) + "\n" + REFUSALS + "".join(_refusals())


def sections_of(root: type[BaseModel]) -> list[str]:
    """A section for each block of a configuration, in Markdown."""
    schema = root.model_json_schema(schema_generator=_WithChoices)
    blocks = {**schema["$defs"], "": schema}
    sections: dict[str, Section] = {}
    _collect(("", "", ""), "", blocks, sections)
    return [_section(section, blocks) for section in sections.values()]


def _study() -> str:
    """The section on study files, which are no part of the configuration of a run."""
    block = StudyBlock.model_json_schema()
    return "\n".join(["## Study files", "", block["description"], "", *_table(block, {})]) + "\n"


def _collect(
    found: tuple[str, str, str], path: str, blocks: Mapping[str, Schema], sections: dict[str, Section]
) -> None:
    """Put a block and the blocks in it into `sections`, in order.

    found: name of the block, what its key adds to `path`, and the choice that it belongs to.
    """
    name, suffix, choice = found
    path = f"{path}{suffix}".lstrip(".")
    sections.setdefault(name, Section(blocks[name])).places.append((path, choice))
    for key, value in blocks[name]["properties"].items():
        for inner in dict.fromkeys(_references(value, f".{key}", choice)):
            _collect(inner, path, blocks, sections)


def _references(value: Schema, suffix: str, choice: str) -> Iterator[tuple[str, str, str]]:
    """(name, suffix of the key, choice) of each block in a schema; see `_collect`."""
    if "$ref" in value:
        yield value["$ref"].rsplit("/", 1)[1], suffix, choice
    for name, inner in value.get("x-choices", {}).items():
        yield from _references(inner, suffix, name)
    for inner in value.get("anyOf", ()):
        yield from _references(inner, suffix, choice)
    if isinstance(value.get("additionalProperties"), dict):
        yield from _references(value["additionalProperties"], f"{suffix}.<name>", choice)
    if isinstance(value.get("items"), dict):
        yield from _references(value["items"], f"{suffix}[]", choice)


def _section(section: Section, blocks: Mapping[str, Schema]) -> str:
    """A heading, what the block is, and a row for each of its keys."""
    block, places = section.block, sorted(section.places, key=lambda place: place[0].count("."))
    place, *others = places
    lines = [f"## {_place(*place) if place[0] else 'Top level'}", "", block["description"], ""]
    if others:
        lines += [f"Also at {'; '.join(_place(*other) for other in others)}.", ""]
    return "\n".join([*lines, *_table(block, blocks)]) + "\n"


def _table(block: Schema, blocks: Mapping[str, Schema]) -> list[str]:
    """The lines of a table with a row for each key of a block."""
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for key, value in block["properties"].items():
        default = "required" if key in block.get("required", []) else _default(value)
        cells = (f"`{key}`", _type(value), default, _meaning(value, blocks))
        lines.append(f"| {' | '.join(' '.join(cell.split()) for cell in cells)} |")
    return lines


def _place(path: str, choice: str) -> str:
    return f"`{path}`" + (f", for `{choice}`" if choice else "")


def _meaning(value: Schema, blocks: Mapping[str, Schema]) -> str:
    """The description of a key; of one that holds a block, the first paragraph of the block's."""
    inner = (blocks[name]["description"].split("\n\n")[0] for name, *_ in _references(value, "", ""))
    return value.get("description") or next(inner, "")


def _default(value: Schema) -> str:
    """A default as it is written in JSON; none for an absent key or a block of defaults."""
    default = value.get("default")
    if default is None or default == "" or default == [] or isinstance(default, dict):
        return ""
    return f"`{json.dumps(default)}`"


def _type(value: Schema) -> str:
    """A description of the values that a key may have."""
    if "const" in value or "enum" in value:
        allowed = value.get("enum", [value.get("const")])
        return _alternatives([f"`{json.dumps(each)}`" for each in allowed])
    if "$ref" in value:
        return "block"
    if choices := value.get("anyOf") or value.get("oneOf"):
        kinds = {_type(choice): None for choice in choices if choice.get("type") != "null"}
        return _alternatives(list(kinds))
    kind = value.get("type")
    if kind == "array":
        least, most = value.get("minItems"), value.get("maxItems")
        count = f" of {'' if least == most else 'at least '}{least}" if least else ""
        return f"list{count}: {_type(value['items'])}"
    if kind == "object":
        inner = value.get("additionalProperties")
        return f"object: name -> {_type(inner)}" if isinstance(inner, dict) else "object"
    word = {"integer": "whole number", "number": "number", "boolean": "`true` or `false`"}
    return " ".join(filter(None, (word.get(str(kind), "text"), _range(value))))


def _alternatives(values: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(values[:-1]), values[-1])))


def _range(value: Schema) -> str:
    bounds = [(text, value[key]) for key, text in RANGES.items() if key in value]
    return " ".join(text.format(f"{bound:,}") for text, bound in bounds if bound < LARGE)


def _refusals() -> Iterator[str]:
    """A row for each of DeepSpeed's keys: where it takes effect, and the cases that are errors."""
    for key, row in engine_table.rows().items():
        source = "this program" if row.source == "compress" else f"`{row.source.replace(', ', '`, `')}`"
        why = [
            case.why.format(stage=_alternatives([*map(str, case.stages)]), lacking="it")
            for case in row.refused
        ]
        yield f"| `{key}` | {source} | {'<br>'.join(why)} |\n"


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201  a command
