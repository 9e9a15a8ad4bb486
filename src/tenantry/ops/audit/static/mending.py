"""SQL that mends, composed; every script can be run again, and after that of another finding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from tenantry.ops.audit.static.ground import Ground
from tenantry.ops.audit.static.snapshot import Constraint, Relation
from tenantry.schema.row_security import OPERATOR_ROLE, Policy
from tenantry.tenancy.catalog import quote

__all__ = [
    "alter",
    "create_policy",
    "declared_foreign_keys",
    "declared_keys",
    "drop_policy",
    "exactly",
    "foreign_key",
    "lines",
    "literal",
    "names",
    "policies",
    "revoke",
    "schema_name",
    "wall",
]


def schema_name(name: str) -> str:
    """Return the name of a schema in SQL; `quote` would take ``public`` for the role."""
    return name if name == "public" else quote(name)


def names(identifiers: Iterable[str]) -> str:
    """Return identifiers as a list in SQL."""
    return ", ".join(quote(each) for each in identifiers)


def literal(value: str) -> str:
    """Return ``value`` as an SQL string."""
    escaped = value.replace("'", "''")
    return f"'{escaped}'" if "\\" not in value else "E'" + escaped.replace("\\", "\\\\") + "'"


def lines(statements: Iterable[str]) -> str:
    """Return ``statements`` one after the other, each once."""
    return "\n".join(dict.fromkeys(each for each in statements if each))


def alter(relation: Relation, *actions: str) -> str:
    """Return ``ALTER TABLE``."""
    return f"ALTER TABLE {relation.name} {', '.join(actions)};"


def revoke(privileges: str, on: str, roles: Iterable[str], *, grantable: bool = False) -> str:
    """Return ``REVOKE``; where the privilege could be passed on, from those who got it so too."""
    cascade = " CASCADE" if grantable else ""
    return f"REVOKE {privileges} ON {on} FROM {names(roles)}{cascade};"


def drop_policy(relation: Relation, name: str) -> str:
    """Return ``DROP POLICY``."""
    return f"DROP POLICY IF EXISTS {quote(name)} ON {relation.name};"


def create_policy(relation: Relation, policy: Policy) -> str:
    """Return the statements that make ``policy`` what it should be."""
    clauses = "".join(
        f" {keyword} ({expression})"
        for keyword, expression in (("USING", policy.using), ("WITH CHECK", policy.check))
        if expression is not None
    )
    kind = "" if policy.permissive else " AS RESTRICTIVE"
    return (
        f"{drop_policy(relation, policy.name)}\n"
        f"CREATE POLICY {quote(policy.name)} ON {relation.name}{kind} FOR {policy.command}"
        f" TO {names(policy.roles)}{clauses};"
    )


def policies(ground: Ground, relation: Relation) -> tuple[Policy, ...]:
    """Return the policies that ``relation`` should have: those it declares, or the usual ones."""
    declared = ground.walls(relation)
    if declared is not None and declared.row_security is not None:
        return declared.row_security.policies
    column = ground.tenant_column(relation)
    if column is None:
        return ()
    own = f"{quote(column)} = {ground.scope.tenant_expression}"
    usual = Policy("tenant_isolation", (ground.scope.app_role,), using=own, check=own)
    if not ground.scope.is_ours:
        return (usual,)
    return (usual, Policy("operator_access", (OPERATOR_ROLE,), using="true", check="true"))


def wall(ground: Ground, relation: Relation) -> str:
    """Return what gives ``relation`` its walls, whatever of them is there already."""
    statements = [*_retype(ground, relation)]
    statements.append(alter(relation, "ENABLE ROW LEVEL SECURITY", "FORCE ROW LEVEL SECURITY"))
    statements += [create_policy(relation, each) for each in policies(ground, relation)]
    return lines(statements)


def _retype(ground: Ground, relation: Relation) -> Iterator[str]:
    """Return what gives the tenant column the type of the tenants' key; it takes the policies."""
    name, type_ = ground.tenant_column(relation), ground.tenant_type
    if name is None or type_ is None or relation.columns[name].type == type_:
        return
    column = quote(name)
    found = [each.name for each in relation.policies]
    found += [each.name for each in policies(ground, relation)]
    yield from (drop_policy(relation, each) for each in found)
    yield alter(relation, f"ALTER COLUMN {column} DROP DEFAULT")
    yield alter(relation, f"ALTER COLUMN {column} TYPE {type_} USING {column}::text::{type_}")


def exactly(ground: Ground, relations: Sequence[Relation], statements: Iterable[str]) -> str:
    """Return statements that check rows, framed so that they see every row.

    PostgreSQL checks a new foreign key with a query of whoever adds it. Under FORCE the owner sees
    no row, and the key would count as valid whatever the rows are.
    """
    walled = [each for each in relations if each in ground.tenant_tables]
    before = [alter(each, "NO FORCE ROW LEVEL SECURITY") for each in walled]
    after = [alter(each, "FORCE ROW LEVEL SECURITY") for each in walled]
    return lines([*before, *statements, *after])


def foreign_key(ground: Ground, relation: Relation, key: Constraint) -> list[str]:
    """Return statements that make ``key`` anew with the tenant on both sides.

    Where the key is declared it becomes what is declared; where another one does its work, or
    there is no tenant to pair, it only goes.
    """
    drop = alter(relation, f"DROP CONSTRAINT IF EXISTS {quote(key.name)}")
    declared = ground.declared.get(relation.key)
    for each in declared.foreign_keys if declared else ():
        if each.name == key.name and each.target in ground.by_key:
            target = ground.by_key[each.target]
            return [
                drop,
                *_add(ground, relation, target, (key.name, each.columns, each.target_columns),
                      each.clauses),
            ]  # fmt: skip
    target = ground.snapshot.relations[key.target]
    mine, theirs = ground.tenant_column(relation), ground.tenant_column(target)
    if mine is None or theirs is None:
        return [drop]
    if target.name == ground.scope.tenant_table:
        if mine not in key.columns:
            return [drop]
        named = (key.name, key.columns, key.target_columns)
        return [drop, *_add(ground, relation, target, named, _clauses(key, mine, key.columns))]
    if _has_composite(ground, relation, key, mine):
        return [drop]
    return [drop, *_composite(ground, relation, key, mine, theirs)]


def declared_keys(ground: Ground, relation: Relation) -> Iterator[str]:
    """Return what gives ``relation`` the default, primary key and foreign keys it declares."""
    declared = ground.declared[relation.key]
    for column, default in declared.defaults.items():
        if column == ground.scope.tenant_column:
            yield alter(relation, f"ALTER COLUMN {quote(column)} SET DEFAULT {default}")
    name = quote(f"{relation.relname}_pkey"[:63])
    yield alter(relation, f"DROP CONSTRAINT IF EXISTS {name}")
    yield alter(relation, f"ADD CONSTRAINT {name} PRIMARY KEY ({names(declared.primary_key)})")
    yield from declared_foreign_keys(ground, relation)


def declared_foreign_keys(
    ground: Ground, relation: Relation, *, besides: Iterable[str] = ()
) -> Iterator[str]:
    """Return what gives ``relation`` the foreign keys it declares, but for those in ``besides``."""
    for key in ground.declared[relation.key].foreign_keys:
        target = ground.by_key.get(key.target)
        if target is not None and key.name not in besides:
            yield alter(relation, f"DROP CONSTRAINT IF EXISTS {quote(key.name)}")
            yield from _add(
                ground, relation, target, (key.name, key.columns, key.target_columns), key.clauses
            )


def _add(
    ground: Ground,
    relation: Relation,
    target: Relation,
    named: tuple[str, Sequence[str], Sequence[str]],
    clauses: str,
) -> list[str]:
    name, columns, referred = named
    add = (
        f"ADD CONSTRAINT {quote(name)} FOREIGN KEY ({names(columns)})"
        f" REFERENCES {target.name} ({names(referred)}){clauses}"
    )
    return [
        *_referable(target, referred),
        exactly(ground, (relation, target), [alter(relation, add)]),
    ]


def _referable(target: Relation, columns: Sequence[str]) -> list[str]:
    """Return what makes ``columns`` unique, so that a foreign key can refer to them."""
    keys = [each.columns for each in target.constraints if each.kind in "pu"]
    if any(sorted(each) == sorted(columns) for each in keys):
        return []
    name = quote(f"{target.relname}_{'_'.join(columns)}_key"[:63])
    # In a block, so that it can be run again.
    return [
        f"""DO $$ BEGIN
    ALTER TABLE {target.name} ADD CONSTRAINT {name} UNIQUE ({names(columns)});
EXCEPTION WHEN duplicate_table THEN NULL;
END $$;"""
    ]


def _has_composite(ground: Ground, relation: Relation, key: Constraint, tenant: str) -> bool:
    wanted = {tenant, *key.columns}
    others = [
        set(each.columns)
        for each in relation.constraints
        if each.kind == "f" and each.name != key.name and each.target == key.target
    ]
    declared = ground.declared.get(relation.key)
    others += [set(each.columns) for each in (declared.foreign_keys if declared else ())]
    return wanted in others


def _composite(
    ground: Ground, relation: Relation, key: Constraint, mine: str, theirs: str
) -> list[str]:
    target = ground.snapshot.relations[key.target]
    pairs = [
        (a, b)
        for a, b in zip(key.columns, key.target_columns, strict=True)
        if a != mine and b != theirs
    ]
    columns = [mine, *(a for a, _ in pairs)]
    referred = [theirs, *(b for _, b in pairs)]
    return _add(
        ground, relation, target, (key.name, columns, referred), _clauses(key, mine, columns)
    )


_ACTIONS: Final = {"r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}


def _clauses(key: Constraint, tenant: str, columns: Sequence[str]) -> str:
    clauses = ""
    # On an update there is no list of columns: SET NULL would empty the tenant.
    if key.on_update in "rc":
        clauses += f" ON UPDATE {_ACTIONS[key.on_update]}"
    if key.on_delete in "rc":
        clauses += f" ON DELETE {_ACTIONS[key.on_delete]}"
    elif key.on_delete in _ACTIONS:
        emptied = names(each for each in (key.emptied or columns) if each != tenant)
        clauses += f" ON DELETE {_ACTIONS[key.on_delete]} ({emptied})" if emptied else ""
    if key.deferrable:
        clauses += " DEFERRABLE" + (" INITIALLY DEFERRED" if key.deferred else "")
    return clauses
