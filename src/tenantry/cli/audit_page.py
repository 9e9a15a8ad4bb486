"""An audit's report as one page of HTML that asks the network for nothing and runs no script."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Final

from tenantry.cli.audit_matrix import MARKS, Row, matrix, mended_with, passed, summary, untried
from tenantry.cli.escaping import printable
from tenantry.ops.audit.report import OPERATIONS, Attempt, AuditReport, Finding, Outcome

__all__ = ["page"]

_CLASSES: Final[Mapping[Outcome, str]] = {
    "kept apart": "kept",
    "crossed": "crossed",
    "not tried": "untried",
}

# Nothing is loaded or run even if a name got past the escaping.
_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)


def page(report: AuditReport) -> str:
    """Return the whole page. Every text in it is escaped, whoever chose it."""
    verdict = "The walls stand" if passed(report) else "A wall is open"
    tried = any(
        each.outcome == "kept apart" and each.operation != "catalog" for each in report.attempts
    )
    if passed(report) and not tried:
        verdict = "Nothing found in the catalog"
    style = files("tenantry.cli").joinpath("audit_page.css").read_text(encoding="utf-8")
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{_text(f'{verdict}: audit of {report.database}')}</title>",
        f"<style>\n{style}</style>",
        "</head>",
        "<body>",
        "<main>",
        f'<h1 class="{"kept" if passed(report) else "crossed"}">{verdict}</h1>',
        f"<p>{_text(summary(report))}</p>",
        *_matrix(report),
        *_remarks(report),
        *_findings(report),
        "</main>",
        "</body>",
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def _text(value: str, *, lines: bool = False) -> str:
    return html.escape(printable(value, lines=lines))


def _matrix(report: AuditReport) -> Iterator[str]:
    if not report.tables and not report.attempts:
        return
    first = {
        finding.table: number
        for number, finding in reversed(list(enumerate(report.findings, 1)))
        if finding.table is not None
    }
    yield "<h2>Tables and operations</h2>"
    yield '<div class="wide"><table>'
    headings = "".join(f'<th scope="col">{each}</th>' for each in OPERATIONS)
    yield f'<thead><tr><th scope="col">table</th>{headings}</tr></thead>'
    yield "<tbody>"
    for row in matrix(report):
        yield _row(row, first.get(row.table))
    yield "</tbody></table></div>"
    legend = ", ".join(f"{mark} {outcome}" for outcome, mark in MARKS.items())
    yield f'<p class="quiet">{legend}. Hold the pointer over a mark to see what happened.</p>'


def _row(row: Row, finding: int | None) -> str:
    name = _text(row.table)
    if finding is not None:
        name = f'<a href="#finding-{finding}">{name}</a>'
    return f'<tr><th scope="row">{name}</th>{"".join(map(_cell, row.cells))}</tr>'


def _cell(cell: Attempt) -> str:
    outcome = cell.outcome
    title = f"{outcome}: {cell.detail}" if cell.detail else outcome
    return (
        f'<td class="{_CLASSES[outcome]}" title="{_text(title)}">'
        f'<span aria-hidden="true">{MARKS[outcome]}</span>'
        f'<span class="spoken">{outcome}</span></td>'
    )


def _remarks(report: AuditReport) -> Iterator[str]:
    reasons = untried(report)
    if not reasons and not report.notes:
        return
    yield "<h2>Notes</h2>"
    yield "<ul>"
    for note in report.notes:
        yield f"<li>{_text(note)}</li>"
    for reason, places in reasons.items():
        yield f"<li>Not tried: {_text(reason)}: {_text(', '.join(places))}</li>"
    yield "</ul>"


def _findings(report: AuditReport) -> Iterator[str]:
    if report.findings:
        yield "<h2>Findings</h2>"
    for number, (finding, same) in enumerate(mended_with(report), 1):
        yield _finding(number, finding, same)


def _finding(number: int, finding: Finding, same: int | None) -> str:
    # A newline after the tag is dropped by the reader, one of the SQL's own would be too.
    mend = (
        f"<pre><code>{_text(finding.mend.strip(chr(10)), lines=True)}</code></pre>"
        if same is None
        else f'<p>The SQL of <a href="#finding-{same}">finding {same}</a> mends it.</p>'
    )
    return "\n".join(
        (
            f'<section id="finding-{number}">',
            f"<h3>{number}. {_text(finding.subject)} <code>{_text(finding.check)}</code></h3>",
            f"<p>{_text(finding.what)}</p>",
            f"<p>{_text(finding.why)}</p>",
            mend,
            "</section>",
        )
    )
