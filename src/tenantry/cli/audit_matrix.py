"""A report as a matrix, tables by operations: what the terminal and the page both show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tenantry.cli.console import counted
from tenantry.ops.audit.report import OPERATIONS, Attempt, AuditReport, Finding, Operation, Outcome

__all__ = [
    "ASCII_MARKS",
    "MARKS",
    "Row",
    "crossings",
    "matrix",
    "mended_with",
    "passed",
    "summary",
    "untried",
]

MARKS: Final[Mapping[Outcome, str]] = {"kept apart": "✓", "crossed": "✗", "not tried": "-"}
"""How the outcomes are told apart without colour."""

ASCII_MARKS: Final[Mapping[Outcome, str]] = {"kept apart": "ok", "crossed": "NO", "not tried": "-"}

# Where one cell has several attempts, the worst is shown: what was not tried is not known to hold.
_WORST: Final[Mapping[Outcome, int]] = {"crossed": 0, "not tried": 1, "kept apart": 2}


@dataclass(frozen=True, slots=True)
class Row:
    """One table's line of the matrix.

    Args:
        table: Its qualified name.
        cells: What became of each of the operations, in their order.
    """

    table: str
    cells: tuple[Attempt, ...]

    @property
    def crossed(self) -> bool:
        """Whether something is wrong with the table."""
        return any(cell.outcome == "crossed" for cell in self.cells)

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """The outcomes alone, by which equal lines are told."""
        return tuple(cell.outcome for cell in self.cells)


def mended_with(report: AuditReport) -> Iterator[tuple[Finding, int | None]]:
    """Yield each finding, and the number from 1 of an earlier one with the same SQL, or None.

    One cause is often found several times: in the catalog, and by every crossing that it allows.
    """
    numbers: dict[str, int] = {}
    for number, finding in enumerate(report.findings, 1):
        first = numbers.setdefault(finding.mend, number)
        yield finding, first if first < number else None


def matrix(report: AuditReport) -> list[Row]:
    """Return a row for every table, those with something wrong first."""
    tried: dict[tuple[str, Operation], Attempt] = {}
    for attempt in report.attempts:
        at = (attempt.table, attempt.operation)
        known = tried.get(at)
        if known is None or _WORST[attempt.outcome] < _WORST[known.outcome]:
            tried[at] = attempt
    faulty = {finding.table for finding in report.findings}
    tables = dict.fromkeys((*report.tables, *(attempt.table for attempt in report.attempts)))
    rows = [
        Row(table, tuple(_cell(report, tried, faulty, table, each) for each in OPERATIONS))
        for table in tables
    ]
    return sorted(rows, key=lambda row: not row.crossed)


def _cell(
    report: AuditReport,
    tried: Mapping[tuple[str, Operation], Attempt],
    faulty: set[str | None],
    table: str,
    operation: Operation,
) -> Attempt:
    found = tried.get((table, operation))
    if operation == "catalog" and table in faulty:
        return Attempt(table, operation, "crossed", "see the findings")
    if found is not None:
        return found
    if operation == "catalog":
        return Attempt(table, operation, "kept apart")
    reason = "" if report.live else "only the catalog was read"
    return Attempt(table, operation, "not tried", reason)


def crossings(report: AuditReport) -> list[Attempt]:
    """Return the attempts that got through."""
    return [attempt for attempt in report.attempts if attempt.outcome == "crossed"]


def passed(report: AuditReport) -> bool:
    """Return whether the walls stand: nothing was found, and nothing got through."""
    return not report.findings and not crossings(report)


def untried(report: AuditReport) -> dict[str, list[str]]:
    """Return what was not tried although it was asked for: where, by the reason."""
    reasons: dict[str, list[str]] = {}
    for attempt in report.attempts:
        if report.live and attempt.outcome == "not tried":
            place = f"{attempt.table} {attempt.operation}"
            reasons.setdefault(attempt.detail or "no reason given", []).append(place)
    return reasons


def summary(report: AuditReport) -> str:
    """Return the one line that says how it ended."""
    tables = counted(len(report.tables), "table")
    where = (
        f"{tables} of {report.database} as {report.app_role}, PostgreSQL {report.server_version}, "
        f"{report.seconds:.1f} s"
    )
    found = len(report.findings)
    if not passed(report):
        verdict = counted(found, "finding") if found else "crossed"
        return f"{verdict}: {where}"
    tried = [each.outcome for each in report.attempts if each.operation != "catalog"]
    kept, left = tried.count("kept apart"), tried.count("not tried")
    if not kept:
        return f"no finding in the catalog; nothing was tried live: {where}"
    untold = f", {left:,} not tried" if left else ""
    return f"no finding, {counted(kept, 'attempt')} kept apart{untold}: {where}"
