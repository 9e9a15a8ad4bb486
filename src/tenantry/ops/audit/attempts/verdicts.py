"""From what happened in the attempts to the cells of the matrix and the findings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tenantry.ops.audit.attempts.cells import Cell, Crossing
from tenantry.ops.audit.attempts.crossings import Trial
from tenantry.ops.audit.attempts.mending import mend_key, mend_reference, mend_wall
from tenantry.ops.audit.attempts.shapes import Key, Relation
from tenantry.ops.audit.report import OPERATIONS, Attempt, Finding, Operation
from tenantry.ops.audit.scope import Scope

__all__ = ["Surroundings", "judge", "nothing_tried"]

_TRIED: Final[tuple[Operation, ...]] = tuple(each for each in OPERATIONS if each != "catalog")
_NOT_TRIED: Final = "not-tried"

_WHY: Final[dict[Operation, str]] = {
    "catalog": "",
    "read": "Any tenant can read the rows of every other.",
    "insert": "Any tenant can put rows among those of another.",
    "update": "Any tenant can change the rows of every other.",
    "delete": "Any tenant can delete the rows of every other.",
    "move": "Any tenant can push rows of its own among those of another.",
    "probe": "From the answer, any tenant learns which values another has.",
    "no tenant": "A request that forgot to bind its tenant works on the rows of all tenants.",
}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is the same for all tables."""

    scope: Scope
    relations: Mapping[int, Relation]
    tenant_columns: Mapping[int, str]
    app_bypasses: bool


def _advice(comment: str) -> str:
    # Some drivers refuse a script without a statement in it.
    return f"{comment}\nSELECT 1;"


def nothing_tried(tables: Sequence[str]) -> tuple[list[Attempt], list[Finding]]:
    """Return what is to be said where nobody knows how a transaction is told its tenant."""
    reason = "it is not known which setting binds the tenant"
    attempts = [Attempt(table, each, "not tried", reason) for table in tables for each in _TRIED]
    finding = Finding(
        subject="database",
        check=_NOT_TRIED,
        what="No crossing was tried: it is not known which setting binds a transaction's tenant.",
        why="Without an attempt, nobody knows whether the walls hold.",
        mend=_advice(
            "-- Let the policies compare with current_setting('…') directly, or name the setting."
        ),
    )
    return attempts, [finding] if tables else []


def judge(
    surroundings: Surroundings, tables: Mapping[str, Relation], trials: Mapping[str, Trial]
) -> tuple[list[Attempt], list[Finding]]:
    """Return the cells of the matrix, and a finding for each that is not as it should be."""
    attempts: list[Attempt] = []
    findings: list[Finding] = []
    for name, relation in tables.items():
        trial = trials.get(name)
        if trial is None:
            attempts += _without_trial(name, relation)
            continue
        cells = {each: trial.cells.get(each, Cell()) for each in _TRIED}
        attempts += [_attempt(name, each, cell, trial) for each, cell in cells.items()]
        for operation, cell in cells.items():
            findings += _crossed(surroundings, name, relation, operation, cell)
        findings += _untried(name, trial, cells)
    return attempts, [*findings, *_controls(surroundings, trials)]


def _without_trial(name: str, relation: Relation) -> Iterator[Attempt]:
    for operation in _TRIED:
        if relation.allows_anything:
            yield Attempt(name, operation, "not tried", "no tenant column")
        else:
            yield Attempt(name, operation, "kept apart", "no privilege")


def _attempt(name: str, operation: Operation, cell: Cell, trial: Trial) -> Attempt:
    if cell.crossings:
        return Attempt(
            name, operation, "crossed", "; ".join(_unique(c.what for c in cell.crossings))
        )
    if cell.untried:
        return Attempt(name, operation, "not tried", "; ".join(_unique(cell.untried)))
    if trial.stopped:
        return Attempt(name, operation, "not tried", trial.stopped)
    if cell.waiting:
        return Attempt(name, operation, "not tried", cell.waiting)
    if cell.kept:
        return Attempt(name, operation, "kept apart", ", ".join(_unique(cell.kept)))
    return Attempt(name, operation, "not tried", trial.not_planted or "nothing to try")


def _unique(texts: Iterator[str] | Sequence[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _crossed(
    surroundings: Surroundings, name: str, relation: Relation, operation: Operation, cell: Cell
) -> Iterator[Finding]:
    """Yield one finding for each wall that is down: row security, and each key by itself."""
    walls: dict[str, list[Crossing]] = {}
    for crossing in cell.crossings:
        walls.setdefault(crossing.through.name if crossing.through else "", []).append(crossing)
    for crossings in walls.values():
        what = "; ".join(_unique(crossing.what for crossing in crossings))
        yield Finding(
            subject=f"table {name}",
            check=f"live-{operation.replace(' ', '-')}",
            what=f"{what[0].upper()}{what[1:]}." if crossings[0].through is None else f"{what}.",
            why=_WHY[operation],
            mend=_mend(surroundings, relation, crossings[0]),
            table=name,
        )


def _mend(surroundings: Surroundings, relation: Relation, crossing: Crossing) -> str:
    relations, columns = surroundings.relations, surroundings.tenant_columns
    if crossing.through is None:
        return mend_wall(
            relation,
            surroundings.scope,
            column=columns[relation.oid],
            bypasses=surroundings.app_bypasses,
        )
    if isinstance(crossing.through, Key):
        return mend_key(relation, crossing.through, surroundings.scope, relations, columns)
    return mend_reference(relation, crossing.through, surroundings.scope, relations, columns)


def _untried(name: str, trial: Trial, cells: Mapping[Operation, Cell]) -> Iterator[Finding]:
    reasons = [each for each in (trial.stopped, trial.not_planted) if each]
    reasons += [reason for cell in cells.values() for reason in cell.untried]
    if not reasons:
        return
    yield Finding(
        subject=f"table {name}",
        check=_NOT_TRIED,
        what=f"Not everything was tried: {'; '.join(_unique(reasons))}.",
        why="A wall that was not tried may be down.",
        mend=_advice(_how_to_try(trial)),
        table=name,
    )


def _how_to_try(trial: Trial) -> str:
    if trial.stopped:
        return (
            "-- Somebody locked the table, or it is searched without an index that leads with the\n"
            "-- tenant. See pg_stat_activity and the table's indexes, then run the audit again."
        )
    if trial.relation.unsafe or "could leave a trace" in trial.not_planted:
        return (
            "-- Run the audit on a copy of the schema without what is named above (pg_dump\n"
            "-- --schema-only into an empty database, then DROP TRIGGER … there), and review by\n"
            "-- hand what it does with rows of other tenants."
        )
    return (
        "-- No row could be made that the named constraint allows. Run the audit on a copy of the\n"
        "-- schema without that constraint: pg_dump --schema-only into an empty database, then\n"
        "-- ALTER TABLE … DROP CONSTRAINT … there."
    )


def _controls(surroundings: Surroundings, trials: Mapping[str, Trial]) -> Iterator[Finding]:
    """Yield a finding if no tenant ever saw a row of its own: then the attempts prove nothing."""
    seen = [each.own_row_visible for each in trials.values() if each.own_row_visible is not None]
    if not seen or any(seen):
        return
    yield Finding(
        subject="database",
        check=_NOT_TRIED,
        what=(
            f"With {surroundings.scope.tenant_setting} set to a tenant's id, "
            f"{surroundings.scope.app_role} saw no row of that tenant in any table."
        ),
        why="Then the attempts to see another's prove nothing: the setting may be the wrong one.",
        mend=_advice("-- Compare the policies with the setting, and name the one that they read."),
    )
