"""The Alembic plugin: row security, grants, functions and storage compared like columns.

A project with an Alembic environment of its own registers it in ``env.py``, and declares
`tenantry.schema.RowSecurity` on any of its tables:

    from tenantry.ops.autogenerate import PLUGIN, register

    register()
    context.configure(..., autogenerate_plugins=["alembic.autogenerate.*", PLUGIN])

It is no entry point: Alembic loads those while it is being imported itself, and before 1.20.1
fails on every one, so installing tenantry would break the Alembic of whoever shares its
environment.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from typing import Final

from alembic.autogenerate.api import AutogenContext
from alembic.operations import MigrateOperation
from alembic.operations.ops import CreateForeignKeyOp, CreateTableOp, OpContainer, UpgradeOps
from alembic.runtime.plugins import Plugin
from alembic.util import DispatchPriority, PriorityDispatchResult
from sqlalchemy import Connection, MetaData, Table

from tenantry.ops.operations import (
    CreatePolicyOp,
    DropPolicyOp,
    GrantOp,
    ReplaceFunctionOp,
    RestoreForceOp,
    RevokeOp,
    SecurityOp,
    SetOwnerOp,
    SetRowSecurityOp,
    SuspendForceOp,
)
from tenantry.ops.stored import leave_generated_columns, stored_differences
from tenantry.schema.row_security import (
    INFO_KEY,
    OWNER_ROLE,
    Policy,
    RowSecurity,
    row_security_of,
)
from tenantry.schema.types import STORAGE_PARAMETERS
from tenantry.tenancy.catalog import (
    Held,
    TableSecurity,
    canonical_policy,
    held,
    quote,
    read_table_security,
)
from tenantry.tenancy.connecting import run_script
from tenantry.tenancy.functions import FUNCTIONS, FunctionState, SqlFunction, read_functions

__all__ = ["PLUGIN", "register", "setup"]

PLUGIN: Final = "tenantry.row_security"
_DEFAULT_SCHEMA: Final = "public"
_NOTHING: Final = RowSecurity(policies=(), grants=(), enabled=False, forced=False)


@cache
def register() -> None:
    """Make the plugin known to Alembic; calling it again does nothing."""
    Plugin.setup_plugin_from_module(sys.modules[__name__], PLUGIN)


def setup(plugin: Plugin) -> None:
    """Register the comparators with ``plugin``; Alembic calls it."""
    # Functions first: tables' defaults and policies call them. Row security last: it needs the
    # tables and columns that the comparators in between bring.
    plugin.add_autogenerate_comparator(
        _compare_functions,
        "autogenerate",
        "tenantry_functions",
        qualifier="postgresql",
        priority=DispatchPriority.FIRST,
    )
    plugin.add_autogenerate_comparator(
        leave_generated_columns,
        "column",
        "server_default",
        qualifier="postgresql",
        priority=DispatchPriority.FIRST,
    )
    plugin.add_autogenerate_comparator(
        _compare_row_security,
        "autogenerate",
        "tenantry_row_security",
        qualifier="postgresql",
        priority=DispatchPriority.LAST,
    )


def _compare_functions(context: AutogenContext, upgrade: UpgradeOps) -> PriorityDispatchResult:
    connection = context.connection
    if connection is None or "tenants" not in _tables(context.metadata):
        return PriorityDispatchResult.CONTINUE
    actual = read_functions(connection)
    declared = _declared_functions(connection, actual)
    # First, because one may differ from a declared one in the names of its arguments alone.
    for signature in sorted(actual.keys() - declared.keys()):
        was = actual[signature].definition
        upgrade.ops.append(ReplaceFunctionOp(signature, "", was, "is not declared"))
    for function in FUNCTIONS:
        found = actual.get(function.signature)
        if found != declared[function.signature]:
            was = found.definition if found else ""
            upgrade.ops.append(ReplaceFunctionOp.of(function, was=was))
    return PriorityDispatchResult.CONTINUE


def _declared_functions(
    connection: Connection, actual: dict[str, FunctionState]
) -> dict[str, FunctionState]:
    # PostgreSQL prints a function anew from what it has parsed, so what is declared is compared
    # in print too: created under another name in a savepoint, read, and rolled back. One that is
    # missing is created as itself before, for those that call it.
    names = {signature.partition("(")[0] for signature in actual}
    scripts = []
    for function in FUNCTIONS:
        name = function.signature.partition("(")[0]
        if name not in names:
            scripts.append(function.script)
        scripts.append(function.script.replace(f"{name}(", f"{name}_declared("))
    savepoint = connection.begin_nested()
    try:
        run_script(connection, "\n".join(scripts))
        made = read_functions(connection)
    finally:
        savepoint.rollback()
    return {each.signature: _as_declared(each, made) for each in FUNCTIONS}


def _as_declared(function: SqlFunction, made: dict[str, FunctionState]) -> FunctionState:
    name, _, arguments = function.signature.partition("(")
    scratch = made[f"{name}_declared({arguments}"]
    return replace(scratch, definition=scratch.definition.replace(f"{name}_declared(", f"{name}("))


def _compare_row_security(context: AutogenContext, upgrade: UpgradeOps) -> PriorityDispatchResult:
    if context.connection is None:
        return PriorityDispatchResult.CONTINUE
    actual: dict[str, dict[str, TableSecurity]] = {}
    tables = _tables(context.metadata)
    # Beside tenants, a table that declares nothing is the owner's alone: without row security,
    # every grant on it would be for all tenants. Elsewhere it is none of our business.
    undeclared = _NOTHING if "tenants" in tables else None
    for table in tables.values():
        declared = row_security_of(table) or undeclared
        if declared is None:
            continue
        schema = table.schema or _DEFAULT_SCHEMA
        if schema not in actual:
            actual[schema] = read_table_security(context.connection, schema=schema)
        found = actual[schema].get(table.name)
        upgrade.ops.extend(_differences(context.connection, table, declared, found))
    forced = {
        f"{quote(schema)}.{quote(name)}" if schema != _DEFAULT_SCHEMA else quote(name)
        for schema, found_tables in actual.items()
        for name, security in found_tables.items()
        if security.forced
    }
    upgrade.ops.extend(stored_differences(context.connection, tables.values()))
    _verify_foreign_keys(upgrade, forced)
    for operation in upgrade.ops:
        if isinstance(operation, CreateTableOp):
            # Written as operations; as `info` it would be live objects in a frozen migration.
            operation.info = {
                key: value
                for key, value in operation.info.items()
                if key not in {INFO_KEY, STORAGE_PARAMETERS}
            }
    return PriorityDispatchResult.CONTINUE


def _verify_foreign_keys(container: OpContainer, forced: set[str]) -> None:
    operations: list[MigrateOperation] = []
    for operation in container.ops:
        if isinstance(operation, OpContainer):
            _verify_foreign_keys(operation, forced)
        tables = []
        if isinstance(operation, CreateForeignKeyOp):
            source = (operation.source_table, operation.kw.get("source_schema"))
            referent = (operation.referent_table, operation.kw.get("referent_schema"))
            names = dict.fromkeys(
                f"{quote(schema)}.{quote(name)}" if schema else quote(name)
                for name, schema in (source, referent)
            )
            tables = [name for name in names if name in forced]
        if tables:
            operations += [SuspendForceOp(tables), operation, RestoreForceOp(tables)]
        else:
            operations.append(operation)
    container.ops = operations


def _tables(metadata: MetaData | Iterable[MetaData] | None) -> dict[str, Table]:
    several = [metadata] if isinstance(metadata, MetaData) else list(metadata or ())
    return {table.key: table for each in several for table in each.sorted_tables}


def _differences(
    connection: Connection, table: Table, declared: RowSecurity, found: TableSecurity | None
) -> Iterator[SecurityOp]:
    if found is None:
        found = TableSecurity(owner=OWNER_ROLE, enabled=False, forced=False)
        exists = False
    else:
        exists = True
    if found.owner != OWNER_ROLE:
        yield SetOwnerOp(table.name, OWNER_ROLE, found.owner, table.schema)
    if (found.enabled, found.forced) != (declared.enabled, declared.forced):
        yield SetRowSecurityOp(
            table.name,
            declared.enabled,
            declared.forced,
            found.enabled,
            found.forced,
            table.schema,
        )
    yield from _policies(connection, table, declared.policies, found.policies, exists=exists)
    wanted = held(declared.grants)
    yield from _privileges(table, RevokeOp, found.privileges - wanted)
    yield from _privileges(table, GrantOp, wanted - found.privileges)


def _policies(
    connection: Connection,
    table: Table,
    declared: Iterable[Policy],
    found: dict[str, Policy],
    *,
    exists: bool,
) -> Iterator[SecurityOp]:
    wanted = {policy.name: policy for policy in declared}
    for name, policy in wanted.items():
        present = found.get(name)
        if present is not None:
            if exists and _same(connection, table, policy, present):
                continue
            yield DropPolicyOp.of(present, table=table.name, schema=table.schema)
        yield CreatePolicyOp.of(policy, table=table.name, schema=table.schema)
    for name in sorted(found.keys() - wanted.keys()):
        yield DropPolicyOp.of(found[name], table=table.name, schema=table.schema)


def _same(connection: Connection, table: Table, declared: Policy, found: Policy) -> bool:
    if replace(declared, roles=tuple(sorted(declared.roles))) == found:
        return True
    qualified = f"{quote(table.schema or _DEFAULT_SCHEMA)}.{quote(table.name)}"
    return canonical_policy(connection, declared, table=qualified) == found


def _privileges(
    table: Table, operation: type[GrantOp] | type[RevokeOp], privileges: Iterable[Held]
) -> Iterator[SecurityOp]:
    grouped: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for role, privilege, column in privileges:
        grouped[role, privilege if column else ""].add(column or privilege)
    for (role, privilege), names in sorted(grouped.items()):
        if privilege:  # one privilege on several columns
            yield operation(table.name, role, [privilege], sorted(names), table.schema)
        else:
            yield operation(table.name, role, sorted(names), (), table.schema)
