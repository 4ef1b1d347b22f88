"""Pages from the templates beside this module: one file each that needs nothing else.

Names, sentences and data are untrusted text: autoescaping is on in HTML, Markdown has the filter md.
"""

import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from compress.files import artefacts
from compress.reporting import markdown, numbers

FORMATS = ("percent", "number", "interval", "count", "signed", "megabytes", "significant", "measure")
"""Functions of `numbers` that templates use as filters."""


def render(template: str, **values: object) -> str:
    """The page; raises jinja2.UndefinedError if the template uses a value that is not given."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: getattr(numbers, name) for name in FORMATS}
    environment.filters |= {"shorten": numbers.shorten, "cell": cell, "md": markdown.text}
    return environment.get_template(template).render(values)


def write(path: Path, text: str) -> None:
    """Write a text, whole or not at all; characters that UTF-8 does not know become "?"."""
    with artefacts.replacing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", errors="replace"))


def cell(text: str) -> Markup:
    """A cell as HTML: escaped, bold where Markdown says so, broken only before its interval."""
    bold = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", str(escape(text)))
    return Markup(re.sub(r"^(.+?) (\[.+)$", r"<span>\1</span> <span>\2</span>", bold))
