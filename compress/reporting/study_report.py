"""The report of a study, report.html (one file) and report.md, from the rows of results alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from compress.reporting import markdown, page, published_tables, study_figures, study_tables
from compress.reporting.tables import Table
from compress.study import analysis
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
    left_out: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write report.html, and report.md with its pictures, into the folder; the paths of the two.

    published: the table whose numbers are shown beside the measured ones; failed: messages by run;
    command: as typed; left_out: why finished runs are not in the tables, by run.
    """
    found = analysis.tasks(rows)
    sections = [
        (
            task,
            study_tables.all_of(task) + published_tables.all_of(task, published),
            study_figures.all_of(task),
        )
        for task in found
    ]
    costs, average = study_tables.costs(found), published_tables.averages(found, published)
    lines, pictures = [f"# {title}", "", f"`{command}`", ""], {}
    for task, some, drawn in sections:
        lines += [f"## {task.name}", ""]
        for table in some:
            lines += _text(table)
        for name, picture in drawn.items():
            pictures[f"{task.name}-{name}.svg"] = picture.replace("<svg ", f"<svg {SVG} ", 1)
            lines += [f"![{CAPTIONS[name]}](<{task.name}-{name}.svg>)", "", CAPTIONS[name], ""]
    if average is not None:
        lines += ["## All tasks", "", *_text(average)]
    lines += ["## Sizes and seconds", "", *_text(costs)]
    if failed:
        lines += ["## Failed runs", "", *(f"* {name}: {why}" for name, why in failed.items()), ""]
    if left_out:
        lines += ["## Runs left out", "", *(f"* {name}: {why}" for name, why in left_out.items()), ""]
    html = page.render(
        "study.html.j2",
        title=title,
        command=command,
        sections=sections,
        captions=CAPTIONS,
        average=average,
        costs=costs,
        failed=failed,
        left_out=left_out or {},
    )
    texts = {folder / "report.html": html, folder / "report.md": "\n".join(lines)}
    for path, text in (texts | {folder / name: svg for name, svg in pictures.items()}).items():
        page.write(path, text)
    return list(texts)


def _text(table: Table) -> list[str]:
    """Caption and table as lines of Markdown."""
    return [markdown.without_html(table.caption), "", table.markdown(), ""]
