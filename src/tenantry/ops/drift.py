"""What the database has against what the models declare: `check` names it, `push` mends it."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
from alembic.autogenerate import produce_migrations
from alembic.operations import MigrateOperation, Operations, ops
from alembic.runtime.migration import MigrationContext
from sqlalchemy import URL, Connection, text

from tenantry.errors import DataLossError, MigrationError
from tenantry.ops.connections import Step, inspection_connection, migration_connection
from tenantry.ops.environment import context_options
from tenantry.ops.operations import SecurityOp
from tenantry.ops.project import Project
from tenantry.ops.revisions import applied_revisions
from tenantry.ops.stored import ReplaceGeneratedColumnOp
from tenantry.ops.surroundings import surrounding_differences
from tenantry.schema.base import SCHEMA_REVISION
from tenantry.schema.row_security import OPERATOR_ROLE
from tenantry.tenancy.catalog import quote
from tenantry.tenancy.connecting import run_script

__all__ = ["check", "push"]

_log = logging.getLogger("tenantry.migrations")

_DESTRUCTIVE: Final = "It would destroy data: {found}. Nothing was changed. {mend}"


async def check(admin_url: URL, *, project: Project | None = None) -> list[str]:
    """Return how the database differs from what the models declare, a line each.

    Compared are tables, columns, types, defaults, constraints, indexes and comments, and row
    security, policies, grants, owners, functions, roles and schemas. Nothing is changed.

    Raises:
        SchemaMissingError: The database was not migrated.
        PrivilegeError, UnsupportedServerError, DatabaseUnavailableError: see
            `tenantry.ops.connections.inspection_connection`.
    """
    async with inspection_connection(admin_url) as connection:
        return await connection.run_sync(_check, project or Project())


def _check(connection: Connection, project: Project) -> list[str]:
    lines = surrounding_differences(connection, project.metadata)
    described = map(describe, _compare(connection, project))
    return lines + [line for line in described if line]


def _compare(connection: Connection, project: Project) -> list[MigrateOperation]:
    options = context_options(connection, project)
    metadata = options.pop("target_metadata")
    del options["connection"]
    context = MigrationContext.configure(connection, opts={**options, "target_metadata": metadata})
    script = produce_migrations(context, metadata)
    upgrade = script.upgrade_ops
    return list(_flatten(upgrade)) if upgrade is not None else []


def _flatten(container: ops.OpContainer) -> Iterator[MigrateOperation]:
    for operation in container.ops:
        if isinstance(operation, ops.OpContainer):
            yield from _flatten(operation)
        else:
            yield operation


@dataclass(frozen=True, slots=True)
class _Plan:
    sql: str
    operations: list[MigrateOperation]


async def push(
    admin_url: URL,
    *,
    project: Project | None = None,
    accept_data_loss: bool = False,
    on_sql: Callable[[str], None] = _log.info,
    on_step: Step = _log.info,
) -> int:
    """Bring a development database to the declared models, without migration files.

    All of it is one transaction.

    Args:
        admin_url: A superuser, or a CREATEROLE role that owns the database.
        project: The user's models, beside tenantry's.
        accept_data_loss: Run statements that destroy rows.
        on_sql: Called with the SQL before it runs; exactly this runs.
        on_step: Called with one line for each step.

    Returns:
        The number of changes; 0 where the database was as declared.

    Raises:
        DataLossError: A table, or a column with rows, would be destroyed, and
            ``accept_data_loss`` is False.
        MigrationError: PostgreSQL refused a statement; nothing was changed.
    """
    project = project or Project()
    async with migration_connection(admin_url, on_step=on_step) as connection:
        plan = await connection.run_sync(_plan, project)
        if plan.operations:
            if not accept_data_loss:
                await connection.run_sync(_refuse_data_loss, plan.operations)
            on_sql(plan.sql)
            await connection.run_sync(_apply, plan.sql)
        await connection.run_sync(_stamp)
        await connection.commit()
        return len(plan.operations)


def _plan(connection: Connection, project: Project) -> _Plan:
    operations = _compare(connection, project)
    buffer = io.StringIO()
    offline = MigrationContext.configure(
        dialect_name="postgresql", opts={"as_sql": True, "output_buffer": buffer}
    )
    runner = Operations(offline)
    for operation in operations:
        runner.invoke(operation)
    return _Plan(buffer.getvalue().strip(), operations)


def _apply(connection: Connection, sql: str) -> None:
    try:
        run_script(connection, sql)
    except asyncpg.PostgresError as error:
        raise MigrationError(
            f"PostgreSQL refused the change, and nothing was changed: {error}."
        ) from error


def _stamp(connection: Connection) -> None:
    # The tables are tenantry's newest, so its migrations have nothing left to do.
    if not applied_revisions(connection):
        connection.execute(
            text("INSERT INTO tenantry.alembic_version VALUES (:revision)"),
            {"revision": SCHEMA_REVISION},
        )


def _refuse_data_loss(connection: Connection, operations: list[MigrateOperation]) -> None:
    found = [
        describe(operation, imperative=True)
        for operation in operations
        if isinstance(operation, ops.DropTableOp)
        or (_is_destructive(operation) and _has_rows(connection, operation))
    ]
    if found:
        raise DataLossError(
            _DESTRUCTIVE.format(
                found="; ".join(found),
                mend="Declare what is missing (is --models right?), or repeat with "
                "--accept-data-loss.",
            )
        )


def _is_destructive(operation: MigrateOperation) -> bool:
    if isinstance(operation, ops.AlterColumnOp):
        return operation.modify_type is not None
    if isinstance(operation, ReplaceGeneratedColumnOp):
        return operation.destroys_data
    return isinstance(operation, ops.DropColumnOp)


def _has_rows(connection: Connection, operation: Any) -> bool:
    schema = operation.schema or "public"
    generated = isinstance(operation, ReplaceGeneratedColumnOp)
    name = operation.table if generated else operation.table_name
    table = f"{quote(schema)}.{quote(name)}"
    # Row security is forced on the owner, to whom every table looks empty: the operator looks,
    # and where even the operator may not, there may be rows.
    savepoint = connection.begin_nested()
    try:
        connection.exec_driver_sql(f"SET LOCAL ROLE {OPERATOR_ROLE}")
        found = connection.exec_driver_sql(f"SELECT EXISTS (SELECT FROM {table})")  # noqa: S608 - quoted
        return bool(found.scalar())
    except Exception:  # noqa: BLE001 - unknown counts as yes
        return True
    finally:
        savepoint.rollback()


def _constraint(operation: ops.AddConstraintOp) -> str:
    constraint: Any = operation.to_constraint()
    return f"constraint {constraint.name} of {constraint.table.name}"


# What each operation adds, or what it takes away, by name.
_ADDS: Final[dict[type, Callable[[Any], str]]] = {
    ops.CreateTableOp: lambda it: f"table {it.table_name}",
    ops.AddColumnOp: lambda it: f"column {it.table_name}.{it.column.name}",
    ops.CreateIndexOp: lambda it: f"index {it.index_name}",
    ops.AddConstraintOp: _constraint,
}
_TAKES: Final[dict[type, Callable[[Any], str]]] = {
    ops.DropTableOp: lambda it: f"table {it.table_name}",
    ops.DropColumnOp: lambda it: f"column {it.table_name}.{it.column_name}",
    ops.DropIndexOp: lambda it: f"index {it.index_name}",
    ops.DropConstraintOp: lambda it: f"constraint {it.constraint_name} of {it.table_name}",
}


def describe(operation: MigrateOperation, *, imperative: bool = False) -> str:
    """Return in one line what the database lacks, has too much, or has otherwise.

    Args:
        operation: What would mend it.
        imperative: Say what would be done instead.
    """
    for names, wanting, doing in (
        (_ADDS, "{} is missing", "add {}"),
        (_TAKES, "{} is not declared", "drop {}"),
    ):
        for kind, name in names.items():
            if isinstance(operation, kind):
                return (doing if imperative else wanting).format(name(operation))
    if isinstance(operation, SecurityOp):
        return operation.describe()
    if isinstance(operation, ops.AlterColumnOp):
        return f"column {operation.table_name}.{operation.column_name}: {_altered(operation)}"
    if isinstance(operation, ops.CreateTableCommentOp | ops.DropTableCommentOp):
        return f"table {operation.table_name}: its comment differs from what is declared"
    return type(operation).__name__


def _altered(operation: ops.AlterColumnOp) -> str:
    parts = []
    if operation.modify_type is not None:
        parts.append(f"its type is {operation.existing_type}, declared is {operation.modify_type}")
    if operation.modify_nullable is not None:
        parts.append("it may be NULL" if not operation.modify_nullable else "it may not be NULL")
    if operation.modify_server_default is not False:
        parts.append("its default differs from what is declared")
    if operation.modify_comment is not False:
        parts.append("its comment differs from what is declared")
    return ", ".join(parts)
