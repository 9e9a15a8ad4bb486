"""What an audit found, as data: the doors print it as a table, JSON or a page."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

__all__ = ["OPERATIONS", "Attempt", "AuditReport", "Finding", "Operation", "Outcome"]

Operation = Literal["catalog", "read", "insert", "update", "delete", "move", "probe", "no tenant"]
OPERATIONS: Final[tuple[Operation, ...]] = (
    "catalog",
    "read",
    "insert",
    "update",
    "delete",
    "move",
    "probe",
    "no tenant",
)
"""The columns of the matrix.

``catalog`` is the static part. The others are tried: to read another tenant's row; to insert one
for it; to update and to delete its row; to move a row of one's own to it; to find out, by a unique
key or a foreign key, whether it has a row; and each of these without any tenant.
"""

Outcome = Literal["kept apart", "crossed", "not tried"]


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing that is wrong.

    Args:
        subject: What it is about, as in ``table public.widgets`` or ``role tenantry_app``.
        check: Name of the check, as in ``policy-missing``. Names are stable.
        what: What is wrong, one sentence.
        why: Why it matters: what another tenant could do with it.
        mend: SQL that mends it, for an administrator; complete statements, each ended by ``;``.
            Where a decision is needed first, it is in an SQL comment.
        table: The qualified table whose row of the matrix it belongs to, or None.
    """

    subject: str
    check: str
    what: str
    why: str
    mend: str
    table: str | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One cell of the matrix.

    Args:
        table: Qualified name, ``public.widgets``.
        operation: What was tried.
        outcome: How it ended.
        detail: What happened, or why it was not tried; never a row's content.
    """

    table: str
    operation: Operation
    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True, slots=True)
class AuditReport:
    """The result of an audit.

    Args:
        database: ``host:port/name``, without a password.
        server_version: As people write it.
        app_role: The role whose walls were tried.
        tables: Every table that was looked at, qualified, in order.
        attempts: The cells of the matrix.
        findings: What is wrong, in order; empty means that the walls stand.
        seconds: How long it took.
        live: Whether crossings were tried, or only the catalog was read.
    """

    database: str
    server_version: str
    app_role: str
    tables: tuple[str, ...]
    attempts: tuple[Attempt, ...]
    findings: tuple[Finding, ...]
    seconds: float
    live: bool
    notes: tuple[str, ...] = field(default=())
