"""Which migrations of tenantry and of the project the database has not seen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from tenantry.ops.diagnosis.report import Diagnosis
from tenantry.ops.environment import load_scripts
from tenantry.ops.project import Project
from tenantry.ops.revisions import applied_revisions, refuse_unknown_revisions
from tenantry.schema.row_security import OPERATOR_ROLE
from tenantry.tenancy.catalog import quote

__all__ = ["diagnose_migrations", "pending_revisions"]

# An administrator who is no superuser cannot look into the schema; the operator can.
_MAY_OPERATE: Final = text("""
    SELECT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = :role AND pg_has_role(r.oid, 'SET'))
""")


async def diagnose_migrations(connection: AsyncConnection, *, project: Project) -> list[Diagnosis]:
    """Compare the database's versions with the files.

    Raises:
        SchemaTooNewError: A newer tenantry has migrated it.
        MigrationError: The project's migrations cannot be read, or are not this database's.
    """
    if await connection.scalar(_MAY_OPERATE, {"role": OPERATOR_ROLE}):
        await connection.execute(text(f"SET LOCAL ROLE {quote(OPERATOR_ROLE)}"))
    return [await connection.run_sync(_diagnose, project)]


def _diagnose(connection: Connection, project: Project) -> Diagnosis:
    scripts = load_scripts(project)
    refuse_unknown_revisions(connection, scripts, project)
    applied = applied_revisions(connection)
    pending = pending_revisions(scripts, applied)
    if not applied:
        return Diagnosis(
            "migrations",
            "problem",
            "this database was never migrated",
            "Run `tenantry db migrate`. One that `tenantry db push` has made has no history.",
        )
    if pending:
        return Diagnosis(
            "migrations",
            "problem",
            f"{len(pending)} pending: {', '.join(pending)}",
            "Run `tenantry db migrate`.",
        )
    return Diagnosis("migrations", "ok", f"at {', '.join(sorted(applied))}, none pending")


def pending_revisions(scripts: ScriptDirectory, applied: Iterable[str]) -> list[str]:
    """Return the revisions that are not in ``applied`` and not before any of them, oldest first."""
    done: set[str] = set()
    waiting = list(applied)
    while waiting:
        name = waiting.pop()
        script = scripts.get_revision(name)
        if script.revision not in done:
            done.add(script.revision)
            waiting.extend(_before(script))
    return [
        each.revision
        for each in reversed(list(scripts.walk_revisions()))
        if each.revision not in done
    ]


def _before(script: Script) -> list[str]:
    named: list[str] = []
    for given in (script.down_revision, script.dependencies):
        if isinstance(given, str):
            named.append(given)
        elif given is not None:
            named.extend(given)
    return named
