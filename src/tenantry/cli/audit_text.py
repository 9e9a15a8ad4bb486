"""An audit's report for a terminal: the matrix, then each finding with the SQL that mends it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tenantry.cli.audit_matrix import (
    ASCII_MARKS,
    MARKS,
    Row,
    matrix,
    mended_with,
    passed,
    summary,
    untried,
)
from tenantry.cli.escaping import UNSAFE, printable
from tenantry.ops.audit.report import OPERATIONS, AuditReport, Finding, Operation, Outcome

__all__ = ["print_report"]

_STYLES: Final[Mapping[Outcome, str]] = {"kept apart": "ok", "crossed": "wall", "not tried": ""}

# With less room, the columns are headed by letters, which the legend explains.
_LETTERS: Final[Mapping[Operation, str]] = {
    "catalog": "C",
    "read": "R",
    "insert": "I",
    "update": "U",
    "delete": "D",
    "move": "M",
    "probe": "P",
    "no tenant": "N",
}
_WIDE: Final = 80
_FOLD: Final = 30
"""With more tables, those in order are counted and not listed."""

_PLACES: Final = 3
"""So many places are named where something was not tried, and the rest counted."""


def print_report(report: AuditReport, console: Console, *, unicode: bool = True) -> None:
    """Print the matrix, the findings and the summary.

    Args:
        report: What was found.
        console: Where to.
        unicode: False where the terminal cannot show the marks.
    """
    marks = MARKS if unicode else ASCII_MARKS
    if report.tables or report.attempts:
        _print_matrix(report, console, marks)
    for line in _remarks(report):
        console.print(Text(printable(line)))
    for number, (finding, same) in enumerate(mended_with(report), 1):
        _print_finding(number, finding, same, console)
    style = "ok" if passed(report) else "wall"
    console.print()
    console.print(Text(printable(summary(report)), style))


def _print_matrix(report: AuditReport, console: Console, marks: Mapping[Outcome, str]) -> None:
    wide = console.width >= _WIDE
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=0, show_edge=False)
    table.add_column("table", style="name", overflow="fold")
    for operation in OPERATIONS:
        heading = operation.replace(" ", "\n") if wide else _LETTERS[operation]
        table.add_column(heading, justify="center", no_wrap=True)
    for name, outcomes in _lines(matrix(report)):
        cells = (Text(marks[outcome], _STYLES[outcome]) for outcome in outcomes)
        table.add_row(Text(printable(name)), *cells)
    console.print(table)
    legend = ", ".join(f"{marks[outcome]} {outcome}" for outcome in marks)
    if not wide:
        legend += "; " + ", ".join(f"{_LETTERS[each]} {each}" for each in OPERATIONS)
    console.print(Text(legend, "quiet"))


def _lines(rows: list[Row]) -> Iterator[tuple[str, tuple[Outcome, ...]]]:
    listed = rows if len(rows) <= _FOLD else [row for row in rows if row.crossed]
    for row in listed:
        yield row.table, row.outcomes
    alike: dict[tuple[Outcome, ...], int] = {}
    for row in rows[len(listed) :]:
        alike[row.outcomes] = alike.get(row.outcomes, 0) + 1
    for outcomes, number in alike.items():
        more = "more " if listed else ""
        yield f"({number} {more}table{'' if number == 1 else 's'})", outcomes


def _remarks(report: AuditReport) -> Iterator[str]:
    for reason, places in untried(report).items():
        named = ", ".join(places[:_PLACES])
        rest = len(places) - _PLACES
        yield f"not tried: {named}{f' and {rest} more' if rest > 0 else ''}: {reason}"
    for note in report.notes:
        yield f"note: {note}"


def _print_finding(number: int, finding: Finding, same: int | None, console: Console) -> None:
    console.print()
    head = Text.assemble(
        f"{number}. ", (printable(finding.subject), "name"), f"  {printable(finding.check)}"
    )
    console.print(head)
    console.print(Text(printable(finding.what)))
    console.print(Text(printable(finding.why)))
    console.print()
    if same is not None:
        console.print(f"The SQL of finding {same} mends it.")
        return
    if UNSAFE.search(finding.mend):
        # Run as shown, it would name something else.
        console.print("-- A name in it has control characters. Take the SQL from --json.")
    # Past Rich, which would turn tabs into spaces: it is to be copied as it is.
    console.file.write(printable(finding.mend.rstrip(), lines=True) + "\n")
