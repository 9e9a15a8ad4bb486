"""Checks of grants: who holds what on tables, sequences, views and on what will be made."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from tenantry.ops.audit.report import Finding
from tenantry.ops.audit.static import mending
from tenantry.ops.audit.static.ground import Ground
from tenantry.ops.audit.static.snapshot import (
    DefaultPrivilege,
    Privilege,
    Relation,
)
from tenantry.schema.row_security import APP_ROLE, OPERATOR_ROLE, OWNER_ROLE
from tenantry.tenancy.catalog import Held, held, quote

__all__ = [
    "defaults",
    "materialized_views",
    "on_tables",
    "owners",
    "sequences",
    "system_catalog",
]

_BEYOND_ROWS: Final = {
    "TRUNCATE": "TRUNCATE empties the table for all tenants, and no policy is asked",
    "REFERENCES": "with REFERENCES a foreign key can be made that finds out which ids exist",
    "TRIGGER": "with TRIGGER code can be put on the table that runs for every tenant",
    "MAINTAIN": "with MAINTAIN the table can be locked against all tenants",
}


def on_tables(ground: Ground) -> Iterator[Finding]:
    """Nobody holds more on a table than it declares; elsewhere, nothing that goes past rows."""
    for table in ground.snapshot.relations.values():
        if not (table.is_table or table.kind == "f") or ground.is_expected(table):
            if table.relname == "alembic_version":
                yield from _versions(ground, table)
            continue
        declared = ground.declared.get(table.key)
        if declared is not None:
            if ground.is_shared(table) and declared.row_security is None:
                allowed = {Held(each.role, "SELECT") for each in table.privileges}
            else:
                allowed = held(declared.row_security.grants if declared.row_security else ())
            excess = [each for each in table.privileges if _held(each) not in allowed]
            yield from _excess(ground, table, excess)
        elif table.kind == "f":
            excess = [each for each in table.privileges if each.role in ground.everyone]
            yield from _foreign(ground, table, excess)
        elif table in ground.tenant_tables or not ground.is_shared(table):
            excess = [each for each in table.privileges if _is_too_wide(ground, table, each)]
            yield from _excess(ground, table, excess)


def _held(privilege: Privilege) -> Held:
    suffix = " WITH GRANT OPTION" if privilege.grantable else ""
    return Held(privilege.role, privilege.privilege + suffix, privilege.column)


def _is_too_wide(ground: Ground, table: Relation, each: Privilege) -> bool:
    if each.role not in ground.everyone:
        return False
    public = each.role == "public" and table in ground.tenant_tables
    return public or each.grantable or each.privilege in _BEYOND_ROWS


def _excess(ground: Ground, table: Relation, excess: Iterable[Privilege]) -> Iterator[Finding]:
    grouped: defaultdict[tuple[str, str, bool], list[Privilege]] = defaultdict(list)
    for each in excess:
        grouped[each.role, each.column, each.grantable].append(each)
    for (role, column, grantable), privileges in sorted(grouped.items()):
        listed = sorted({each.privilege for each in privileges})
        of = f" ({quote(column)})" if column else ""
        beyond = [_BEYOND_ROWS[each] for each in listed if each in _BEYOND_ROWS]
        why = f"{'; '.join(beyond)}." if beyond else _why(ground, role, grantable=grantable)
        yield Finding(
            f"table {table.name}",
            "grant-too-wide",
            f"{_who(role)} holds {', '.join(listed)}{of} on {table.name}"
            f"{' WITH GRANT OPTION' if grantable else ''}.",
            why[0].upper() + why[1:],
            _narrow(ground, table, role, [each + of for each in listed], grantable=grantable),
            table.name,
        )


def _narrow(
    ground: Ground, table: Relation, role: str, listed: list[str], *, grantable: bool
) -> str:
    statement = mending.revoke(", ".join(listed), table.name, [role], grantable=grantable)
    declared = ground.walls(table)
    plain = {each.partition(" ")[0] for each in listed}
    if not grantable or plain & _BEYOND_ROWS.keys() or role == "public":
        return statement
    allowed = held(declared.row_security.grants) if declared and declared.row_security else None
    if allowed is not None and not all(Held(role, each) in allowed for each in plain):
        return statement
    # What it may do itself stays.
    return (
        f"REVOKE GRANT OPTION FOR {', '.join(listed)} ON {table.name} FROM {quote(role)} CASCADE;"
    )


def _why(ground: Ground, role: str, *, grantable: bool) -> str:
    if role == "public":
        return "Every role there is and will be may use the table, whatever its policies were for."
    if grantable:
        return "The role can pass it on to roles whose rows no policy limits."
    if role in ground.reach:
        return "It is more than the table declares, so nothing has been thought of to limit it."
    return "The table does not declare that this role may use it."


def _who(role: str) -> str:
    return "PUBLIC" if role == "public" else role


def _foreign(ground: Ground, table: Relation, excess: list[Privilege]) -> Iterator[Finding]:
    if excess:
        yield Finding(
            f"table {table.name}",
            "foreign-table-open",
            f"{ground.scope.app_role} may use the foreign table {table.name}.",
            "Foreign tables have no row security: it reads what the other server gives, for "
            "every tenant.",
            mending.revoke("ALL", table.name, sorted({each.role for each in excess})),
            table.name,
        )


def _versions(ground: Ground, table: Relation) -> Iterator[Finding]:
    allowed = {Held(APP_ROLE, "SELECT"), Held(OPERATOR_ROLE, "SELECT")}
    ours = ground.scope.is_ours and table.schema == "tenantry"
    excess = [
        each
        for each in table.privileges
        if (ours and _held(each) not in allowed)
        or (not ours and each.role in ground.everyone and each.privilege != "SELECT")
    ]
    yield from _excess(ground, table, excess)


def owners(ground: Ground) -> Iterator[Finding]:
    """Nothing belongs to the application, and our tables belong to their owner."""
    wanted = OWNER_ROLE if ground.scope.is_ours else "CURRENT_USER"
    kinds = {"v": "VIEW", "m": "MATERIALIZED VIEW", "f": "FOREIGN TABLE", "S": "SEQUENCE"}
    numbering = {
        column.sequence for table in ground.snapshot.tables for column in table.columns.values()
    }
    for relation in ground.snapshot.relations.values():
        ours = relation.key in ground.declared or relation.schema == "tenantry"
        differs = ground.scope.is_ours and (
            relation.owner != OWNER_ROLE if ours else _is_strange(ground, relation)
        )
        if relation.owner not in ground.everyone and not differs:
            continue
        kind = kinds.get(relation.kind, "TABLE")
        if relation.name in numbering:
            continue  # it goes with its table
        yield Finding(
            f"{kind.lower()} {relation.name}",
            "owner-is-application" if relation.owner in ground.everyone else "owner-differs",
            f"{relation.owner} owns {relation.name}.",
            "An owner may switch row security off, drop policies and grant anything."
            if relation.owner in ground.everyone
            else f"FORCE binds {OWNER_ROLE}; another owner may be one that it does not bind.",
            f"ALTER {kind} {relation.name} OWNER TO {wanted};",
            relation.name if kind == "TABLE" else None,
        )
    yield from _owners_around(ground, wanted)


def _is_strange(ground: Ground, relation: Relation) -> bool:
    """Return whether a table with tenants' rows is owned by somebody who is no administrator."""
    owner = ground.snapshot.roles.get(relation.owner)
    if owner is None or owner.superuser or owner.creates_roles:
        return False
    known = {OWNER_ROLE, ground.snapshot.database.session_role, ground.snapshot.database.owner}
    return owner.name not in known and relation in ground.tenant_tables


def _owners_around(ground: Ground, wanted: str) -> Iterator[Finding]:
    why = "An owner may put anything there, change it, and grant it to anyone."
    for schema in ground.snapshot.schemas.values():
        differs = ground.scope.is_ours and schema.name == "tenantry" and schema.owner != OWNER_ROLE
        if schema.owner in ground.everyone or differs:
            yield Finding(
                f"schema {mending.schema_name(schema.name)}",
                "owner-is-application" if schema.owner in ground.everyone else "owner-differs",
                f"{schema.owner} owns schema {schema.name}.",
                why,
                f"ALTER SCHEMA {mending.schema_name(schema.name)} OWNER TO {wanted};",
            )
    for function in ground.snapshot.functions:
        # Ours are compared with their files, owner included.
        ours = ground.scope.is_ours and function.schema == "tenantry"
        if function.owner in ground.everyone and not ours and not function.extension:
            yield Finding(
                f"{function.kind.lower()} {function.signature}",
                "owner-is-application",
                f"{function.owner} owns {function.signature}.",
                "An owner may change what it does for everybody who calls it.",
                f"ALTER {function.kind} {function.signature} OWNER TO {wanted};",
            )
    database = ground.snapshot.database
    if database.owner in ground.everyone:
        yield Finding(
            f"database {quote(database.name)}",
            "owner-is-application",
            f"{database.owner} owns the database.",
            why,
            f"ALTER DATABASE {quote(database.name)} OWNER TO CURRENT_USER;",
        )


def sequences(ground: Ground) -> Iterator[Finding]:
    """No sequence can be read by all tenants: its numbers count the rows of all."""
    for sequence in ground.snapshot.relations.values():
        if sequence.kind != "S" or sequence.extension or ground.is_shared(sequence):
            continue
        excess = [each for each in sequence.privileges if each.role in ground.everyone]
        if not excess:
            continue
        roles = sorted({each.role for each in excess})
        yield Finding(
            f"sequence {sequence.name}",
            "sequence-open",
            f"{', '.join(map(_who, roles))} holds "
            f"{', '.join(sorted({each.privilege for each in excess}))} on {sequence.name}.",
            "One sequence serves all tenants: its numbers tell how many rows the others make.",
            mending.lines(
                [
                    *_identity(ground, sequence),
                    mending.revoke("ALL", f"SEQUENCE {sequence.name}", roles, grantable=True),
                ]
            ),
        )


def _identity(ground: Ground, sequence: Relation) -> Iterator[str]:
    """An identity column needs no right on its sequence; a default that calls nextval does."""
    for table in ground.snapshot.tables:
        for column in table.columns.values():
            if column.sequence != sequence.name or column.identity or not column.value:
                continue
            name = quote(column.name)
            argument = f"{mending.literal(table.name)}, {mending.literal(column.name)}"
            # In one block: until it has run, the column has no numbers.
            yield (
                f"DO $$ BEGIN\n"
                f"    ALTER SEQUENCE {sequence.name} OWNED BY NONE;\n"
                f"    ALTER TABLE {table.name} ALTER COLUMN {name} DROP DEFAULT,\n"
                f"        ALTER COLUMN {name} ADD GENERATED BY DEFAULT AS IDENTITY;\n"
                f"    PERFORM setval(pg_get_serial_sequence({argument}), last_value, is_called)\n"
                f"       FROM {sequence.name};\n"
                f"END $$;"
            )


def materialized_views(ground: Ground) -> Iterator[Finding]:
    """No materialized view is open to the application: it holds the rows of all tenants."""
    for view in ground.snapshot.relations.values():
        # An extension's own holds nothing of a tenant's, and ALTER EXTENSION ADD takes any.
        foreign = view.extension is not None and not any(ground.underneath(view))
        if view.kind != "m" or foreign or ground.is_shared(view):
            continue
        excess = sorted({each.role for each in view.privileges if each.role in ground.everyone})
        if excess:
            yield Finding(
                f"materialized view {view.name}",
                "materialized-view-open",
                f"{', '.join(map(_who, excess))} may read the materialized view {view.name}.",
                "It holds the rows that whoever refreshed it could see, and has no row security.",
                mending.revoke("ALL", view.name, excess, grantable=True),
            )


_KINDS: Final = {
    "r": "TABLES",
    "S": "SEQUENCES",
    "f": "FUNCTIONS",
    "T": "TYPES",
    "n": "SCHEMAS",
    "L": "LARGE OBJECTS",
}


def defaults(ground: Ground) -> Iterator[Finding]:
    """What is made tomorrow is open to nobody until it is granted."""
    grouped: defaultdict[tuple[str, str, str, str], set[str]] = defaultdict(set)
    for each in ground.snapshot.default_privileges:
        open_to = each.role in ground.everyone or (
            ground.scope.is_ours and each.maker == OWNER_ROLE
        )
        if open_to and each.kind != "T" and each.maker != each.role:
            grouped[each.maker, each.schema or "", each.kind, each.role].add(each.privilege)
    for (maker, schema, kind, role), privileges in sorted(grouped.items()):
        where = f" IN SCHEMA {mending.schema_name(schema)}" if schema else ""
        yield _default_finding(
            maker,
            f"{_who(role)} gets {', '.join(sorted(privileges))} on {_KINDS[kind].lower()} that "
            f"{maker} makes.",
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {quote(maker)}{where} REVOKE ALL ON {_KINDS[kind]} "
            f"FROM {quote(role)};",
        )
    known = ground.scope.is_ours and OWNER_ROLE in ground.snapshot.roles
    if known and not any(_covers_functions(each) for each in ground.snapshot.default_privileges):
        yield _default_finding(
            OWNER_ROLE,
            f"PUBLIC may execute functions that {OWNER_ROLE} makes.",
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER_ROLE} REVOKE EXECUTE ON FUNCTIONS "
            "FROM PUBLIC;",
        )


def _covers_functions(each: DefaultPrivilege) -> bool:
    # Without a row the built-in default holds, and it lets PUBLIC execute every new function.
    return each.maker == OWNER_ROLE and each.kind == "f" and each.schema is None


def _default_finding(maker: str, what: str, mend: str) -> Finding:
    return Finding(
        f"role {maker}",
        "default-privileges",
        what,
        "A new table or function is open before anybody has thought of its walls.",
        mend,
    )


def system_catalog(ground: Ground) -> Iterator[Finding]:
    """Nothing of PostgreSQL's own is open that it comes without: samples of rows, files, keys."""
    for each in ground.snapshot.system_privileges:
        if each.role not in ground.everyone:
            continue
        of = f" ({quote(each.column)})" if each.column else ""
        yield Finding(
            f"{each.kind.lower()} {each.name}",
            "system-catalog-open",
            f"{_who(each.role)} holds {each.privilege}{of} on {each.name}.",
            "PostgreSQL keeps it from ordinary roles: statistics hold samples of every tenant's "
            "rows, and some functions read files or reach other servers.",
            mending.revoke(each.privilege + of, f"{each.kind} {each.name}", [each.role]),
        )
