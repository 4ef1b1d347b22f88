"""The report of a study, report.html (one file) and report.md, from the rows of results alone."""

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

from compress import artefacts
from compress.study import analysis, beside, study_figures, study_tables
from compress.study.result_rows import Row

SVG = 'xmlns="http://www.w3.org/2000/svg"'
"""What a picture needs in a file of its own."""
CAPTIONS = {
    "figure1": "Accuracy on easy and hard dev samples against sparsity, and the gap between them "
    "(after Figure 1 of Du et al. 2023). The teacher stands at 0.",
    "figure3": "OOD accuracy and F_bias against sparsity by loss (after Figure 3 of Du et al. "
    "2023). The teacher stands at 0; hollow: marked ‡ in the tables.",
}


def write(
    folder: Path,
    rows: Sequence[Row],
    title: str,
    published: str | None,
    failed: Mapping[str, str],
    command: str,
) -> list[Path]:
    """Write report.html, and report.md with its pictures, into the folder; the paths of the two.

    published: the table whose numbers stand beside ours; failed: what runs said that failed, by name;
    command: as typed.
    """
    found = analysis.tasks(rows)
    sections = [
        (task, study_tables.all_of(task) + beside.all_of(task, published), study_figures.all_of(task))
        for task in found
    ]
    costs, average = study_tables.costs(found), beside.averages(found, published)
    lines, pictures = [f"# {title}", "", f"`{command}`", ""], {}
    for task, some, drawn in sections:
        lines += [f"## {task.name}", ""]
        for table in some:
            lines += [study_tables.inert(table.caption), "", table.markdown(), ""]
        for name, picture in drawn.items():
            pictures[f"{task.name}-{name}.svg"] = picture.replace("<svg ", f"<svg {SVG} ", 1)
            lines += [f"![{CAPTIONS[name]}](<{task.name}-{name}.svg>)", "", CAPTIONS[name], ""]
    if average is not None:
        lines += ["## All tasks", "", average.caption, "", average.markdown(), ""]
    lines += ["## Sizes and seconds", "", costs.caption, "", costs.markdown(), ""]
    if failed:
        lines += ["## Failed runs", "", *(f"* {name}: {why}" for name, why in failed.items()), ""]
    page = _template().render(
        title=title,
        command=command,
        sections=sections,
        captions=CAPTIONS,
        average=average,
        costs=costs,
        failed=failed,
    )
    texts = {folder / "report.html": page, folder / "report.md": "\n".join(lines)}
    for path, text in (texts | {folder / name: svg for name, svg in pictures.items()}).items():
        with artefacts.replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="replace")
    return list(texts)


def _template() -> Template:
    source = resources.files("compress.study").joinpath("study.html.j2").read_text(encoding="utf-8")
    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {"cell": _cell, "safe_svg": Markup}
    return made.from_string(source)


def _cell(text: str) -> Markup:
    """A cell's text as HTML: escaped, bold where Markdown says so, broken only before its interval."""
    bold = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", str(escape(text)))
    return Markup(re.sub(r"^(.+?) (\[.+)$", r"<span>\1</span> <span>\2</span>", bold))
