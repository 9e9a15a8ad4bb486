"""The SQL that puts up a wall which an attempt went through."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from tenantry.ops.audit.attempts.shapes import ForeignKey, Key, Relation, identifier
from tenantry.ops.audit.scope import Scope
from tenantry.tenancy.catalog import quote

__all__ = ["mend_key", "mend_reference", "mend_wall"]

_POLICY: Final = "tenant_isolation"
_INDEX: Final = re.compile(r"( USING \w+ \()")
_CONSTRAINT: Final = re.compile(r"^([^(]*\()")
_ONLY_COLUMNS: Final = re.compile(r"ON DELETE SET (NULL|DEFAULT)(?! \()")


def mend_wall(relation: Relation, scope: Scope, *, column: str, bypasses: bool) -> str:
    """Return the SQL that makes row security hold on a table.

    Permissive policies add up, so those that do not look at the tenant are dropped; those that do
    are named for somebody to read.

    Args:
        column: Holds the tenant.
        bypasses: The application's role is a superuser or has BYPASSRLS.
    """
    table, role = relation.sql, quote(scope.app_role)
    lines = []
    if bypasses:
        lines.append(f"ALTER ROLE {role} NOSUPERUSER NOBYPASSRLS;")
    lines += [
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;",
        f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY;",
    ]
    for policy in relation.policies:
        if policy.name == _POLICY:
            continue
        drop = f"DROP POLICY {identifier(policy.name)} ON {table};"
        lines.append(
            drop if column not in policy.text else f"-- Read it, and if it is too wide: {drop}"
        )
    own = f"({identifier(column)} = {scope.tenant_expression})"
    lines += [
        f"DROP POLICY IF EXISTS {_POLICY} ON {table};",
        f"CREATE POLICY {_POLICY} ON {table} FOR ALL TO {role}",
        f"    USING {own} WITH CHECK {own};",
    ]
    return "\n".join(lines)


def mend_key(
    relation: Relation,
    key: Key,
    relations: Mapping[int, Relation],
    tenant_columns: Mapping[int, str],
) -> str:
    """Return the SQL that makes a unique key one of each tenant, and what refers to it with it."""
    tenant = identifier(tenant_columns[relation.oid])
    name, table = identifier(key.name), relation.sql
    head = (
        "-- Each tenant's values are then unique by themselves. It takes a lock: mind the hour.\n"
    )
    if key.kind == "i":
        made = _INDEX.sub(rf"\1{_escaped(tenant)}, ", key.definition, count=1)
        return f"{head}DROP INDEX {identifier(relation.schema)}.{name};\n{made};"
    referring = [
        (child, reference)
        for child in relations.values()
        for reference in child.foreign_keys
        if reference.target == relation.oid and set(reference.referred) == set(key.columns)
    ]
    lines = [
        f"ALTER TABLE {child.sql} DROP CONSTRAINT {identifier(reference.name)};"
        for child, reference in referring
    ]
    first = f"{tenant} WITH =" if key.kind == "x" else tenant
    if key.kind == "x":
        lines.append("CREATE EXTENSION IF NOT EXISTS btree_gist;")
    definition = _CONSTRAINT.sub(rf"\1{_escaped(first)}, ", key.definition, count=1)
    lines += [
        f"ALTER TABLE {table} DROP CONSTRAINT {name};",
        f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition};",
    ]
    for child, reference in referring:
        if child.oid in tenant_columns:
            lines.append(_add_reference(child, reference, relation, tenant_columns))
        else:
            lines.append(
                f"-- {child.sql} has no tenant column; {reference.name} must wait for one."
            )
    return head + "\n".join(lines)


def mend_reference(
    relation: Relation,
    reference: ForeignKey,
    relations: Mapping[int, Relation],
    tenant_columns: Mapping[int, str],
) -> str:
    """Return the SQL that makes a foreign key refer to rows of the same tenant only."""
    parent = relations[reference.target]
    tenant = tenant_columns[parent.oid]
    if tenant in reference.referred:
        return (
            f"-- {identifier(reference.name)} refers to any tenant. If that is meant, let the\n"
            f"-- application write the column only through a function that decides who may:\n"
            f"REVOKE INSERT, UPDATE ON {relation.sql} FROM PUBLIC;"
        )
    wanted = {tenant, *reference.referred}
    lines = ["-- Rows that cross already are refused: find and mend them first."]
    if not any(set(key.columns) == wanted and key.kind in {"p", "u"} for key in parent.keys):
        columns = ", ".join(identifier(name) for name in (tenant, *reference.referred))
        lines.append(f"ALTER TABLE {parent.sql} ADD UNIQUE ({columns});")
    lines += [
        f"ALTER TABLE {relation.sql} DROP CONSTRAINT {identifier(reference.name)};",
        _add_reference(relation, reference, parent, tenant_columns),
    ]
    return "\n".join(lines)


def _add_reference(
    child: Relation, reference: ForeignKey, parent: Relation, tenant_columns: Mapping[int, str]
) -> str:
    own = identifier(tenant_columns[child.oid])
    names = ", ".join(identifier(name) for name in reference.columns)
    referred = ", ".join(identifier(name) for name in reference.referred)
    tail = reference.definition[reference.definition.index(" REFERENCES ") :]
    actions = tail[tail.index(")") + 1 :].replace(" NOT VALID", "")
    # Without the list it would empty the tenant, too.
    actions = _ONLY_COLUMNS.sub(rf"ON DELETE SET \1 ({_escaped(names)})", actions)
    return (
        f"ALTER TABLE {child.sql} ADD CONSTRAINT {identifier(reference.name)}\n"
        f"    FOREIGN KEY ({own}, {names}) REFERENCES {parent.sql}"
        f" ({identifier(tenant_columns[parent.oid])}, {referred}){actions};"
    )


def _escaped(replacement: str) -> str:
    return replacement.replace("\\", "\\\\")
