"""The live part: two synthetic tenants, and every way from one to the other tried for real.

Each table has a transaction of its own, which is always rolled back. Rows are written with every
value named, so that no sequence moves, and tables on which something could act outside the
transaction are not written to. An UPDATE or DELETE reaches no row but a planted one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from secrets import randbelow, token_hex
from typing import Any, Final
from uuid import uuid4

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from tenantry.errors import (
    ConfigurationError,
    ConflictError,
    DatabaseUnavailableError,
    PrivilegeError,
    TransactionUndoneError,
)
from tenantry.ops.audit.attempts.answers import Asker, rolled_back
from tenantry.ops.audit.attempts.cells import Tenants
from tenantry.ops.audit.attempts.crossings import Trial
from tenantry.ops.audit.attempts.planting import Planter, Planting
from tenantry.ops.audit.attempts.shapes import Relation, read_relations
from tenantry.ops.audit.attempts.verdicts import Surroundings, judge, nothing_tried
from tenantry.ops.audit.report import Attempt, Finding
from tenantry.ops.audit.scope import Scope
from tenantry.schema.row_security import OPERATOR_ROLE
from tenantry.tenancy.catalog import quote

__all__ = ["try_crossings"]

_ROLES = text("""
    SELECT current_user::text AS admin, r.rolsuper OR r.rolbypassrls AS sees_all,
           coalesce(pg_has_role(session_user, o.oid, 'SET'), false) AS may_operate,
           a.oid IS NOT NULL AS app_exists,
           coalesce(a.rolsuper OR a.rolbypassrls, false) AS app_bypasses,
           coalesce(pg_has_role(session_user, a.oid, 'SET'), false) AS may_become_app,
           coalesce(pg_has_role(a.oid, 'MEMBER WITH ADMIN OPTION'), false) AS may_grant_app,
           current_setting(:setting, true) IS NULL AS never_bound
      FROM pg_roles r
      LEFT JOIN pg_roles o ON o.rolname = :operator
      LEFT JOIN pg_roles a ON a.rolname = :app
     WHERE r.rolname = current_user
""")

_PATIENCE: Final = "SET LOCAL lock_timeout = '5s'"
_NUMBERS: Final = (("int2", 2**15 - 1), ("int4", 2**31 - 1), ("int8", 2**62), ("numeric", 10**8))


async def try_crossings(
    connection: AsyncConnection, scope: Scope, tables: Sequence[str]
) -> tuple[list[Attempt], list[Finding]]:
    """Try every way from one tenant to another, on each of ``tables``; nothing stays.

    Args:
        connection: Of the administrator, not in a transaction.
        scope: Whose walls, and how the tenant is told.
        tables: Qualified names, quoted where SQL asks for it: ``public.widgets``.

    Returns:
        An attempt for each table and operation, ``catalog`` aside, in the order of ``tables``;
        and a finding for each cell that was crossed and each table that could not be tried.

    Raises:
        PrivilegeError: The administrator may not become the application's role.
        ConfigurationError: There is no such role or table.
        ConflictError: A table is locked, so that not even its definition can be read.
        DatabaseUnavailableError: The connection was lost, or the server is a standby.
    """
    if scope.tenant_setting is None:
        return nothing_tried(tables)
    try:
        return await (await _prepare(connection, scope, tables)).run()
    except (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError) as error:
        raise DatabaseUnavailableError(
            f"The connection was lost while crossings were tried ({type(error).__name__}). "
            "PostgreSQL has rolled back what was open. Run the audit again."
        ) from error


async def _prepare(connection: AsyncConnection, scope: Scope, tables: Sequence[str]) -> _Trials:
    arguments = {
        "operator": OPERATOR_ROLE,
        "app": scope.app_role,
        "setting": scope.tenant_setting,
    }
    try:
        roles = (await connection.execute(_ROLES, arguments)).one()
        grant = _grant(roles, scope)
        # With an empty search_path, the catalog prints names that are complete. To print what a
        # table computes, PostgreSQL locks it for a moment.
        await connection.exec_driver_sql("SET LOCAL search_path = ''")
        await connection.exec_driver_sql(_PATIENCE)
        relations = await read_relations(connection, app_role=scope.app_role)
    except TransactionUndoneError as error:
        raise ConflictError(
            "A table is locked by another session, so its definition cannot be read. See "
            "pg_locks for a granted AccessExclusiveLock, and run the audit when it is gone."
        ) from error
    finally:
        await connection.rollback()
    driver = (await connection.get_raw_connection()).driver_connection
    if not isinstance(driver, asyncpg.Connection):
        raise ConfigurationError("The audit needs a connection of asyncpg.")
    columns = _tenant_columns(scope, relations)
    return _Trials(
        connection,
        driver,
        Surroundings(scope, relations, columns, roles.app_bypasses),
        planters=_planters(roles, scope),
        grant=grant,
        tables=_find(tables, relations),
        never_bound=roles.never_bound,
    )


def _grant(roles: Any, scope: Scope) -> str:
    """Return what has to be granted, and rolled back, to become the application; mostly nothing."""
    if not roles.app_exists:
        raise ConfigurationError(
            f"There is no role {scope.app_role}, so nothing can be tried as the application. "
            "Name the role that it connects as."
        )
    grant = f"GRANT {quote(scope.app_role)} TO {quote(roles.admin)} WITH SET TRUE, INHERIT FALSE;"
    if not roles.may_become_app and not roles.may_grant_app:
        raise PrivilegeError(
            f"{roles.admin} may not become {scope.app_role}, so nothing can be tried as the "
            f"application. Run, as a role that may: {grant}"
        )
    return "" if roles.may_become_app else grant


def _planters(roles: Any, scope: Scope) -> list[Planter]:
    """Return who may plant rows of any tenant, the least powerful first."""
    planters = []
    if scope.is_ours and roles.may_operate:
        planters.append(Planter(OPERATOR_ROLE, bound=False))
    if roles.sees_all:
        planters.append(Planter(roles.admin, bound=False))
    planters.append(Planter(scope.app_role, bound=True))
    return planters


class _Trials:
    """All tables, one after the other, on one connection."""

    def __init__(
        self,
        connection: AsyncConnection,
        driver: asyncpg.Connection,
        surroundings: Surroundings,
        *,
        planters: list[Planter],
        grant: str,
        tables: Mapping[str, Relation],
        never_bound: bool,
    ) -> None:
        scope = surroundings.scope
        self._connection = connection
        self._driver = driver
        self._surroundings = surroundings
        self._grant = grant
        self._tables = tables
        self._never_bound = never_bound
        self._tenants = _new_tenants(surroundings)
        self._asker = Asker(driver, setting=scope.tenant_setting or "", role=scope.app_role)
        self._planting = Planting(
            self._asker,
            surroundings.relations,
            planters=planters,
            tenant_columns=surroundings.tenant_columns,
        )

    async def run(self) -> tuple[list[Attempt], list[Finding]]:
        columns = self._surroundings.tenant_columns
        trials = {
            name: Trial(
                relation,
                asker=self._asker,
                planting=self._planting,
                tenants=self._tenants,
                tenant_columns=columns,
            )
            for name, relation in self._tables.items()
            if relation.oid in columns and relation.allows_anything
        }
        # Once a session has made a setting, it is '' ever after and never unset again: all that
        # is tried without it comes first.
        if self._never_bound:
            self._planting.may_bind = False
            for trial in trials.values():
                async with self._transaction(bind=False):
                    await trial.without_binding()
            self._planting.may_bind = True
        for trial in trials.values():
            async with self._transaction(bind=True):
                await trial.with_binding()
        return judge(self._surroundings, self._tables, trials)

    @asynccontextmanager
    async def _transaction(self, *, bind: bool) -> AsyncIterator[None]:
        async with rolled_back(self._connection, self._driver):
            await self._asker.begin(tenant=self._tenants.a if bind else None, first=self._grant)
            try:
                yield
            finally:
                self._planting.forget_rows()


def _find(tables: Sequence[str], relations: Mapping[int, Relation]) -> dict[str, Relation]:
    """Return the relation that each name means: quoted as SQL asks for, or as it is."""
    known = {f"{each.schema}.{each.name}": each for each in relations.values()}
    known |= {each.sql: each for each in relations.values()}
    missing = [name for name in tables if name not in known]
    if missing:
        raise ConfigurationError(f"There is no table {missing[0]} to try. Name it with its schema.")
    return {name: known[name] for name in tables}


def _tenant_columns(scope: Scope, relations: Mapping[int, Relation]) -> dict[int, str]:
    """Return the column of each table that says whose row it is."""
    columns = {
        oid: scope.tenant_column
        for oid, relation in relations.items()
        if scope.tenant_column in relation.by_name
    }
    tenant_table = [scope.tenant_table] if scope.tenant_table else []
    for relation in _find(tenant_table, relations).values():
        referred = Counter(
            of
            for each in relations.values()
            for reference in each.foreign_keys
            if reference.target == relation.oid
            for name, of in zip(reference.columns, reference.referred, strict=True)
            if name == scope.tenant_column
        )
        primary = [key.columns for key in relation.keys if key.kind == "p"]
        if referred:
            columns[relation.oid] = referred.most_common(1)[0][0]
        elif primary and len(primary[0]) == 1:
            columns[relation.oid] = primary[0][0]
    return columns


def _new_tenants(surroundings: Surroundings) -> Tenants:
    """Return ids that the narrowest of the tenant columns has room for."""
    columns = [
        surroundings.relations[oid].by_name[name]
        for oid, name in surroundings.tenant_columns.items()
    ]
    for base, bound in _NUMBERS:
        if any(column.base == base for column in columns):
            first = bound // 2 + randbelow(bound // 2 - 2)
            return Tenants(str(first), str(first + 1), str(first + 2))
    if any(column.base == "uuid" for column in columns):
        return Tenants(str(uuid4()), str(uuid4()), str(uuid4()))
    # Four more than the length: that is how the catalog counts.
    room = min((column.modifier - 4 for column in columns if column.modifier > 0), default=32)
    a, b, nobody = (f"a{token_hex(16)}"[:room] for _ in range(3))
    return Tenants(a, b, nobody)
