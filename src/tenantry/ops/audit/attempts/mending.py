"""The SQL that puts up a wall which an attempt went through."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from tenantry.ops.audit.attempts.shapes import ForeignKey, Key, Relation, identifier
from tenantry.ops.audit.scope import Scope
from tenantry.schema.row_security import row_security_of
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
        relation: The table.
        scope: Whose role, and how the tenant is told.
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
    declared = _declared(relation, scope)
    for policy in relation.policies:
        if policy.name == _POLICY:
            continue
        drop = f"DROP POLICY {identifier(policy.name)} ON {table};"
        too_wide = not policy.looks_at(column) or (declared and policy.name not in declared)
        lines.append(drop if too_wide else f"-- Read it, and if it is too wide: {drop}")
    own = f"({identifier(column)} = {scope.tenant_expression})"
    lines += [
        f"DROP POLICY IF EXISTS {_POLICY} ON {table};",
        f"CREATE POLICY {_POLICY} ON {table} FOR ALL TO {role}",
        f"    USING {own} WITH CHECK {own};",
    ]
    return "\n".join(lines)


def _declared(relation: Relation, scope: Scope) -> set[str]:
    """Return the names of the policies that the table declares, if it is a declared one."""
    table = scope.metadata.tables.get(relation.name) if relation.schema == "public" else None
    security = row_security_of(table) if table is not None else None
    return {policy.name for policy in security.policies} if security else set()


def mend_key(
    relation: Relation,
    key: Key,
    scope: Scope,
    relations: Mapping[int, Relation],
    tenant_columns: Mapping[int, str],
) -> str:
    """Return the SQL that makes a unique key one of each tenant, and what refers to it with it."""
    if scope.tenant_table in {relation.sql, f"{relation.schema}.{relation.name}"}:
        return _keep_off(relation, key.columns, scope)
    referring = [
        (child, reference)
        for child in relations.values()
        for reference in child.foreign_keys
        if reference.target == relation.oid and set(reference.referred) == set(key.columns)
    ]
    return "\n".join(
        [
            "-- Values are then unique within each tenant. It locks the table: mind the hour.",
            *(_drop(child, reference.name) for child, reference in referring),
            *_remake(relation, key, identifier(tenant_columns[relation.oid])),
            *(
                _add_reference(child, reference, relation, tenant_columns)
                for child, reference in referring
            ),
        ]
    )


def _remake(relation: Relation, key: Key, tenant: str) -> list[str]:
    name, lead = identifier(key.name), _escaped(tenant)
    if key.kind == "i":
        made = _INDEX.sub(rf"\1{lead}, ", key.definition, count=1)
        return [f"DROP INDEX IF EXISTS {identifier(relation.schema)}.{name};", f"{made};"]
    lines = []
    if key.kind == "x":
        lead = f"{lead} WITH ="
        if " USING gist " in key.definition:
            lines.append("CREATE EXTENSION IF NOT EXISTS btree_gist;")
    definition = _CONSTRAINT.sub(rf"\1{lead}, ", key.definition, count=1)
    lines += [
        _drop(relation, key.name),
        f"ALTER TABLE {relation.sql} ADD CONSTRAINT {name} {definition};",
    ]
    return lines


def _keep_off(relation: Relation, columns: Sequence[str], scope: Scope) -> str:
    """Return the SQL that takes from the application the right to write ``columns``."""
    role = quote(scope.app_role)
    rest = [
        identifier(column.name)
        for column in relation.columns
        if relation.allows("UPDATE", column.name) and column.name not in columns
    ]
    lines = [
        "-- Tenants share this key by nature: who may choose a value learns which are taken.",
        f"REVOKE INSERT, UPDATE ON {relation.sql} FROM {role};",
    ]
    if rest:
        lines.append(f"GRANT UPDATE ({', '.join(rest)}) ON {relation.sql} TO {role};")
    return "\n".join(lines)


def mend_reference(
    relation: Relation,
    reference: ForeignKey,
    scope: Scope,
    relations: Mapping[int, Relation],
    tenant_columns: Mapping[int, str],
) -> str:
    """Return the SQL that makes a foreign key refer to rows of the same tenant only."""
    parent = relations[reference.target]
    tenant = tenant_columns[parent.oid]
    if tenant in reference.referred:
        return _keep_off(
            relation, [each for each in reference.columns if each != scope.tenant_column], scope
        )
    wanted = {tenant, *reference.referred}
    lines = ["-- Rows that cross already are refused: find and mend them first."]
    if not any(set(key.columns) == wanted and key.kind in {"p", "u"} for key in parent.keys):
        columns = ", ".join(identifier(name) for name in (tenant, *reference.referred))
        index = identifier("_".join((parent.name, tenant, *reference.referred, "key"))[:63])
        lines.append(f"CREATE UNIQUE INDEX IF NOT EXISTS {index} ON {parent.sql} ({columns});")
    lines += [
        _drop(relation, reference.name),
        _add_reference(relation, reference, parent, tenant_columns),
    ]
    return "\n".join(lines)


def _drop(relation: Relation, constraint: str) -> str:
    return f"ALTER TABLE {relation.sql} DROP CONSTRAINT IF EXISTS {identifier(constraint)};"


def _add_reference(
    child: Relation, reference: ForeignKey, parent: Relation, tenant_columns: Mapping[int, str]
) -> str:
    own = tenant_columns.get(child.oid)
    if own is None or own in reference.columns:
        return f"-- {child.sql} needs a tenant column of its own for {identifier(reference.name)}."
    names = ", ".join(identifier(name) for name in reference.columns)
    referred = ", ".join(identifier(name) for name in reference.referred)
    tail = reference.definition[reference.definition.index(" REFERENCES ") :]
    actions = tail[tail.index(")") + 1 :].replace(" NOT VALID", "")
    # Without the list it would empty the tenant, too.
    actions = _ONLY_COLUMNS.sub(rf"ON DELETE SET \1 ({_escaped(names)})", actions)
    return (
        f"ALTER TABLE {child.sql} ADD CONSTRAINT {identifier(reference.name)}\n"
        f"    FOREIGN KEY ({identifier(own)}, {names}) REFERENCES {parent.sql}"
        f" ({identifier(tenant_columns[parent.oid])}, {referred}){actions};"
    )


def _escaped(replacement: str) -> str:
    return replacement.replace("\\", "\\\\")
