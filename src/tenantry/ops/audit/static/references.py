"""Checks of foreign keys: between tenants' tables each pairs the tenant with the tenant."""

from __future__ import annotations

from collections.abc import Iterator

from tenantry.ops.audit.report import Finding
from tenantry.ops.audit.static import mending
from tenantry.ops.audit.static.ground import Ground
from tenantry.ops.audit.static.snapshot import Constraint, Relation
from tenantry.tenancy.catalog import quote

__all__ = ["foreign_keys", "missing_foreign_keys"]


def foreign_keys(ground: Ground) -> Iterator[Finding]:
    """No foreign key leads to another tenant's row, and each is checked for every row."""
    for table in ground.tenant_tables:
        tenant = ground.tenant_column(table)
        for key in table.constraints:
            if key.kind != "f" or key.inherited or tenant is None:
                continue
            yield from _paired(ground, table, key, tenant)
            yield from _emptied(ground, table, key, tenant)
            yield from _checked(ground, table, key)


def _paired(ground: Ground, table: Relation, key: Constraint, tenant: str) -> Iterator[Finding]:
    target = ground.snapshot.relations.get(key.target)
    if target is None or target not in ground.tenant_tables:
        return
    theirs = ground.tenant_column(target)
    if theirs is None or (tenant, theirs) in zip(key.columns, key.target_columns, strict=True):
        return
    yield Finding(
        f"table {table.name}",
        "foreign-key-without-tenant",
        f"Foreign key {key.name} of {table.name} refers to {target.name} by "
        f"({mending.names(key.columns)}), without the tenant.",
        "Foreign keys are checked past row security: a row can refer to another tenant's, the "
        "answer tells whether it exists, and deleting that one reaches into this tenant.",
        mending.lines(mending.foreign_key(ground, table, key)),
        table.name,
    )


def _emptied(ground: Ground, table: Relation, key: Constraint, tenant: str) -> Iterator[Finding]:
    if tenant not in key.columns:
        return
    deleting = key.on_delete in "nd" and (not key.emptied or tenant in key.emptied)
    updating = key.on_update in "nd"
    if not deleting and not updating:
        return
    action = "DELETE" if deleting else "UPDATE"
    yield Finding(
        f"table {table.name}",
        "foreign-key-empties-tenant",
        f"Foreign key {key.name} of {table.name} sets the tenant itself ON {action}.",
        "Without a list of columns SET NULL and SET DEFAULT change every column of the key: the "
        "row loses its tenant, or the statement fails.",
        mending.lines(mending.foreign_key(ground, table, key)),
        table.name,
    )


def _checked(ground: Ground, table: Relation, key: Constraint) -> Iterator[Finding]:
    target = ground.snapshot.relations.get(key.target)
    name = quote(key.name)
    if not key.enforced:
        check, what = "foreign-key-not-enforced", "is not enforced"
        action = f"ALTER CONSTRAINT {name} ENFORCED"
    elif not key.validated:
        check, what = "foreign-key-not-valid", "was not checked for the rows that were there"
        action = f"VALIDATE CONSTRAINT {name}"
    else:
        return
    involved = [table] if target is None else [table, target]
    yield Finding(
        f"table {table.name}",
        check,
        f"Foreign key {key.name} of {table.name} {what}.",
        "Rows may refer to rows of other tenants, or to tenants that do not exist.",
        mending.exactly(ground, involved, [mending.alter(table, action)]),
        table.name,
    )


def missing_foreign_keys(ground: Ground) -> Iterator[Finding]:
    """Every tenant table refers to the tenants, and has the foreign keys that it declares."""
    for table in ground.tenant_tables:
        tenant = ground.tenant_column(table)
        if tenant is None or ground.is_sheltered(table):
            continue
        found = {
            (tuple(key.columns), ground.snapshot.relations[key.target].key)
            for key in table.constraints
            if key.kind == "f" and key.target in ground.snapshot.relations
        }
        declared = ground.declared.get(table.key)
        named = False
        for key in declared.foreign_keys if declared else ():
            target = ground.by_key.get(key.target)
            named = named or key.columns == (tenant,)
            if target is None or (key.columns, key.target) in found or tenant not in key.columns:
                continue
            add = (
                f"ADD CONSTRAINT {quote(key.name)} FOREIGN KEY ({mending.names(key.columns)})"
                f" REFERENCES {target.name} ({mending.names(key.target_columns)}){key.clauses}"
            )
            yield _missing(ground, table, target, key.name, add)
        if not named:
            yield from _tenants(ground, table, tenant, found)


def _tenants(
    ground: Ground, table: Relation, tenant: str, found: set[tuple[tuple[str, ...], str]]
) -> Iterator[Finding]:
    tenants = ground.tenants
    key = ground.tenant_column(tenants) if tenants else None
    if tenants is None or table is tenants or key is None or ((tenant,), tenants.key) in found:
        return
    name = f"{table.relname}_{tenant}_fkey"[:63]
    add = (
        f"ADD CONSTRAINT {quote(name)} FOREIGN KEY ({quote(tenant)})"
        f" REFERENCES {tenants.name} ({quote(key)}) ON DELETE CASCADE"
    )
    yield _missing(ground, table, tenants, name, add)


def _missing(ground: Ground, table: Relation, target: Relation, name: str, add: str) -> Finding:
    to_tenants = target.name == ground.scope.tenant_table
    drop = mending.alter(table, f"DROP CONSTRAINT IF EXISTS {quote(name)}")
    return Finding(
        f"table {table.name}",
        "tenant-without-foreign-key" if to_tenants else "foreign-key-missing",
        f"{table.name} has no foreign key {name} to {target.name}.",
        "Rows can belong to a tenant that does not exist, and stay when it is deleted: the next "
        "one with this id inherits them."
        if to_tenants
        else "Rows can refer to rows that do not exist in their tenant.",
        mending.exactly(ground, (table, target), [drop, mending.alter(table, add)]),
        table.name,
    )
