"""Checks of keys, indexes and tenant columns: each leads with the tenant, which is always there."""

from __future__ import annotations

from collections.abc import Iterator

from tenantry.ops.audit.report import Finding
from tenantry.ops.audit.static import mending
from tenantry.ops.audit.static.expressions import parse
from tenantry.ops.audit.static.ground import Ground
from tenantry.ops.audit.static.policies import is_bound_tenant
from tenantry.ops.audit.static.snapshot import Constraint, Index, Relation
from tenantry.tenancy.catalog import quote

__all__ = ["exclusions", "indexes", "missing_columns", "primary_keys", "tenant_columns"]


def missing_columns(ground: Ground) -> Iterator[Finding]:
    """Every table that declares a tenant has the column that says which."""
    column = quote(ground.scope.tenant_column)
    for table in ground.snapshot.tables:
        if not ground.lacks_tenant(table):
            continue
        renamed = _renamed(ground, table)
        if renamed:
            known = {each.name for each in table.constraints}
            mend = mending.lines(
                [
                    f"ALTER TABLE {table.name} RENAME COLUMN {quote(renamed)} TO {column};",
                    *mending.declared_foreign_keys(ground, table, besides=known),
                ]
            )
        else:
            mend = mending.lines(
                [
                    "-- Rows no longer say whose they are. This is for a table without any.",
                    mending.alter(
                        table, f"ADD COLUMN IF NOT EXISTS {column} {ground.tenant_type} NOT NULL"
                    ),
                    *mending.declared_keys(ground, table),
                    mending.wall(ground, table),
                ]
            )
        yield Finding(
            f"table {table.name}",
            "tenant-column-missing",
            f"{table.name} has no column {ground.scope.tenant_column}, which it declares.",
            "Nothing says whose its rows are, so nothing can keep them apart.",
            mend,
            table.name,
        )


def _renamed(ground: Ground, table: Relation) -> str | None:
    """Return the column that says whose row it is by another name, if there is one."""
    for key in table.constraints:
        target = ground.snapshot.relations.get(key.target)
        if target is not None and target is ground.tenants and len(key.columns) == 1:
            return key.columns[0]
    # Without that key: the only column of the tenants' type that nobody declared.
    known = ground.declared[table.key].columns
    strange = [
        each.name
        for each in table.columns.values()
        if each.name not in known and each.type == ground.tenant_type
    ]
    return strange[0] if len(strange) == 1 else None


def primary_keys(ground: Ground) -> Iterator[Finding]:
    """Every primary key leads with the tenant, and is as it is declared."""
    for table in ground.tenant_tables:
        tenant = ground.tenant_column(table)
        declared = ground.declared.get(table.key)
        key = next((each for each in table.constraints if each.kind == "p"), None)
        if tenant is None or (key is None and declared is None) or (key and key.inherited):
            continue
        columns = list(key.columns) if key else []
        wanted = [tenant, *(each for each in columns if each != tenant)]
        if columns[:1] != [tenant]:
            check = "primary-key-without-tenant"
        elif declared and columns != list(declared.primary_key):
            check = "primary-key-differs"
        else:
            continue
        if declared:
            wanted = list(declared.primary_key)
        has = f"The primary key of {table.name} is ({mending.names(columns)})"
        yield Finding(
            f"table {table.name}",
            check,
            f"{has}, not ({mending.names(wanted)})." if key else f"{table.name} has no key.",
            "Keys are checked past row security: an insert of another tenant's id is refused, and "
            "tells that it exists. Foreign keys to it cannot pair the tenants either.",
            _new_primary_key(ground, table, key, wanted),
            table.name,
        )


def _new_primary_key(
    ground: Ground, table: Relation, key: Constraint | None, columns: list[str]
) -> str:
    name = quote(key.name if key else f"{table.relname}_pkey")
    dropped, added = _dependents(ground, table, key.index if key else 0)
    return mending.lines(
        [
            *dropped,
            mending.alter(table, f"DROP CONSTRAINT IF EXISTS {name}"),
            mending.alter(table, f"ADD CONSTRAINT {name} PRIMARY KEY ({mending.names(columns)})"),
            *added,
        ]
    )


def _dependents(ground: Ground, table: Relation, index: int) -> tuple[list[str], list[str]]:
    """Return what drops the foreign keys that need ``index``, and what makes them anew."""
    dropped: list[str] = []
    added: list[str] = []
    for relation in ground.snapshot.tables:
        for key in relation.constraints:
            if key.kind == "f" and index and key.index == index and key.target == table.oid:
                dropped.append(
                    mending.alter(relation, f"DROP CONSTRAINT IF EXISTS {quote(key.name)}")
                )
                added += mending.foreign_key(ground, relation, key)
    return dropped, added


def indexes(ground: Ground) -> Iterator[Finding]:
    """Every unique constraint and every index that can leads with the tenant."""
    for table in ground.tenant_tables:
        tenant = ground.tenant_column(table)
        if tenant is None or ground.is_sheltered(table):
            continue
        for index in table.indexes:
            if index.inherited or index.columns[0] == tenant or _is_primary(table, index):
                continue
            if index.is_unique:
                if _can_be_probed(ground, table, index):
                    yield _unique(ground, table, index, tenant)
            elif index.method in {"btree", "hash"} and table.name != ground.scope.tenant_table:
                yield Finding(
                    f"table {table.name}",
                    "index-without-tenant",
                    f"Index {index.name} of {table.name} does not lead with the tenant.",
                    "It mixes the rows of all tenants: how long a search takes depends on the "
                    "values of others, and a distributed database cannot place it.",
                    mending.lines(
                        [f"DROP INDEX IF EXISTS {index.qualified};", _leading(index, tenant)]
                    ),
                    table.name,
                )


def _is_primary(table: Relation, index: Index) -> bool:
    return any(each.kind == "p" and each.index == index.oid for each in table.constraints)


def _can_be_probed(ground: Ground, table: Relation, index: Index) -> bool:
    # The table of the tenants themselves has unique names by design. They are no oracle where the
    # application cannot write them.
    if table.name != ground.scope.tenant_table:
        return True
    written = {
        each.column
        for each in table.privileges
        if each.role in ground.everyone and each.privilege in {"INSERT", "UPDATE"}
    }
    columns = set(index.columns) - {""}
    return bool(written) and ("" in written or "" in index.columns or bool(columns & written))


def _unique(ground: Ground, table: Relation, index: Index, tenant: str) -> Finding:
    uniques = [each for each in table.constraints if each.kind == "u"]
    constraint = next((each for each in uniques if each.index == index.oid), None)
    others = [each for each in index.columns if each and each != tenant]
    wanted = [tenant, *others]
    # Unique within the tenant already: by the primary key, or because another index says so.
    known = not index.partial and any(
        each.is_unique and not each.partial and list(each.columns) == wanted
        for each in table.indexes
    )
    known = known or table.name == ground.scope.tenant_table
    dropped, added = _dependents(ground, table, index.oid)
    if constraint is not None:
        # Behind the last column may stand WITHOUT OVERLAPS.
        old = f"({mending.names(constraint.columns)}"
        new = constraint.definition.replace(old, f"({mending.names(wanted)}", 1)
        again = mending.alter(table, f"ADD CONSTRAINT {quote(constraint.name)} {new}")
        drop = mending.alter(table, f"DROP CONSTRAINT IF EXISTS {quote(constraint.name)}")
        what = f"Unique constraint {constraint.name}"
    else:
        again = _leading(index, tenant)
        drop = f"DROP INDEX IF EXISTS {index.qualified};"
        what = f"Unique index {index.name}"
    return Finding(
        f"table {table.name}",
        "unique-without-tenant",
        f"{what} of {table.name} does not lead with the tenant.",
        "Uniqueness is checked past row security: a tenant that writes a value another one has is "
        "refused, and learns that somebody has it.",
        mending.lines([*dropped, drop, "" if known else again, *added]),
        table.name,
    )


def _leading(index: Index, tenant: str) -> str:
    head, _, rest = index.definition.partition(f"USING {index.method} (")
    if rest.startswith(f"{quote(tenant)},"):
        return f"{index.definition};"
    columns = rest.replace(f", {quote(tenant)}", "", 1) if tenant in index.columns else rest
    # A hash index cannot have two columns.
    method = "btree" if index.method == "hash" else index.method
    return f"{head}USING {method} ({quote(tenant)}, {columns};"


def exclusions(ground: Ground) -> Iterator[Finding]:
    """Every exclusion constraint only compares rows of one tenant."""
    for table in ground.tenant_tables:
        tenant = ground.tenant_column(table)
        for key in table.constraints:
            if key.kind != "x" or tenant is None or key.inherited:
                continue
            # Expressions are not among the columns, operators are there for each.
            if tenant in key.columns and f"{quote(tenant)} WITH =" in key.definition:
                continue
            head, _, rest = key.definition.partition("(")
            name = quote(key.name)
            yield Finding(
                f"table {table.name}",
                "exclusion-without-tenant",
                f"Exclusion constraint {key.name} of {table.name} does not compare the tenant.",
                "It is checked past row security: a tenant is refused for another's row, and "
                "learns of it.",
                mending.lines(
                    [
                        "CREATE EXTENSION IF NOT EXISTS btree_gist WITH SCHEMA public;",
                        mending.alter(table, f"DROP CONSTRAINT IF EXISTS {name}"),
                        mending.alter(
                            table,
                            f"ADD CONSTRAINT {name} {head}({quote(tenant)} WITH =, {rest}",
                        ),
                    ]
                ),
                table.name,
            )


def tenant_columns(ground: Ground) -> Iterator[Finding]:
    """Every row says whose it is, in the tenants' own type, and by default the bound tenant's."""
    tenants = ground.tenants
    type_ = ground.tenant_type
    for table in ground.tenant_tables:
        name = ground.tenant_column(table)
        if name is None or ground.is_sheltered(table):
            continue
        column = table.columns[name]
        subject = f"table {table.name}"
        if not column.required:
            yield Finding(
                subject,
                "tenant-nullable",
                f"Column {name} of {table.name} may be NULL.",
                "A row without a tenant is nobody's: policies that compare hide it from everyone, "
                "and the next one that allows for NULL shows it to all.",
                mending.alter(table, f"ALTER COLUMN {quote(name)} SET NOT NULL"),
                table.name,
            )
        if type_ and column.type != type_:
            yield Finding(
                subject,
                "tenant-type",
                f"Column {name} of {table.name} is {column.type}; the tenants' key is {type_}.",
                "It cannot be compared with the bound tenant as it is, nor refer to the tenants.",
                mending.wall(ground, table),
                table.name,
            )
        if table is not tenants:
            yield from _default(ground, table, name)


def _default(ground: Ground, table: Relation, name: str) -> Iterator[Finding]:
    column = table.columns[name]
    actual = column.value
    declared = ground.declared.get(table.key)
    wanted = declared.defaults.get(name) if declared else None
    tree = parse(actual)
    if tree is None:
        good = wanted is None
    else:
        good = is_bound_tenant(ground, tree) or (wanted is not None and tree == parse(wanted))
    if good and not column.identity:
        return
    if column.identity or column.generated:
        what = "IDENTITY" if column.identity else "EXPRESSION"
        actions = [f"ALTER COLUMN {quote(name)} DROP {what} IF EXISTS"]
        actions += [f"ALTER COLUMN {quote(name)} SET DEFAULT {wanted}"] if wanted else []
        actual = "a number of its own" if column.identity else actual
    else:
        value = f"SET DEFAULT {wanted}" if wanted else "DROP DEFAULT"
        actions = [f"ALTER COLUMN {quote(name)} {value}"]
    yield Finding(
        f"table {table.name}",
        "tenant-default",
        f"Column {name} of {table.name} has the default {actual or 'NULL'}, which is not the "
        "bound tenant.",
        "A row that is inserted without a tenant goes to whoever the default names, as soon as "
        "that role may write it.",
        mending.lines(mending.alter(table, each) for each in actions),
        table.name,
    )
