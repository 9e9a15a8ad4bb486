"""What stands around the declared tables, against what `tenantry.ops.preparing` leaves there.

Nothing here has a counterpart in the models that Alembic could compare: roles, schemas, the
database, and what somebody may have put on a table that changes what its policies mean. The
catalog is read as the audit reads it. The audit asks whether the walls stand, and how to mend
them; this asks whether all is as it was made, a line for each difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from sqlalchemy import Connection, MetaData

from tenantry.ops.audit.static.declared import DeclaredTable, declared_tables
from tenantry.ops.audit.static.snapshot import Relation, Snapshot, read_snapshot
from tenantry.ops.vector_tuning import VECTOR_SEARCH
from tenantry.schema.row_security import APP_ROLE, AUTH_ROLE, OPERATOR_ROLE, OWNER_ROLE
from tenantry.tenancy.catalog import Held

__all__ = ["surrounding_differences"]

_USERS: Final = (APP_ROLE, AUTH_ROLE, OPERATOR_ROLE)
_ROLES: Final = (*_USERS, OWNER_ROLE)
_VERSIONS: Final = "tenantry.alembic_version"

# Settings that change whom a statement is for, or whether policies and keys are looked at.
_SETTINGS: Final = {"role", "row_security", "search_path", "session_replication_role"}

_KINDS: Final = {"r": "tables", "S": "sequences", "f": "functions", "T": "types", "n": "schemas"}


def surrounding_differences(connection: Connection, metadata: MetaData) -> list[str]:
    """Return what differs around the tables of ``metadata``, a line each.

    Args:
        connection: As the owner of the tables.
        metadata: The declared tables.
    """
    snapshot = read_snapshot(connection)
    declared = declared_tables(metadata)
    walled = [
        (table, declared[table.key])
        for table in snapshot.tables
        if table.key in declared and declared[table.key].row_security is not None
    ]
    return [
        *_schemas(snapshot),
        *sorted(_attributes(snapshot)),
        *sorted(_memberships(snapshot)),
        *sorted(_settings(snapshot)),
        *sorted(_database(snapshot)),
        *sorted(_defaults(snapshot)),
        *sorted({line for table, _ in walled for line in _on_table(snapshot, table)}),
        *_primary_keys(walled),
        *_own_schema(snapshot),
    ]


def _who(role: str) -> str:
    return "PUBLIC" if role == "public" else role


def _held(privileges: Iterable[tuple[str, str, bool]]) -> set[Held]:
    return {
        Held(role, f"{privilege} WITH GRANT OPTION" if grantable else privilege)
        for role, privilege, grantable in privileges
    }


def _schemas(snapshot: Snapshot) -> Iterator[str]:
    declared = {("tenantry", Held(role, "USAGE")) for role in _USERS}
    declared |= {("public", Held(role, "USAGE")) for role in (*_ROLES, "public")}
    declared.add(("public", Held(OWNER_ROLE, "CREATE")))
    found = {
        (name, held)
        for name in ("public", "tenantry")
        for held in _held(
            (each.role, each.privilege, each.grantable)
            for each in snapshot.strangers
            if (each.kind, each.name) == ("schema", name)
        )
    }
    for schema, held in sorted(declared - found):
        yield f"schema {schema}: {held.role} lacks {held.privilege}"
    for schema, held in sorted(found - declared):
        yield f"schema {schema}: {held.role} holds {held.privilege}, which is not declared"


def _attributes(snapshot: Snapshot) -> Iterator[str]:
    for name in _ROLES:
        role = snapshot.roles.get(name)
        if role is None:
            continue
        excess = list(role.powers)
        if role.logs_in and name != APP_ROLE:
            excess.append("LOGIN")
        if excess:
            yield f"role {name} has {', '.join(excess)}, which is not declared"


def _memberships(snapshot: Snapshot) -> Iterator[str]:
    for each in snapshot.memberships:
        if each.member in _ROLES:
            yield f"role {each.member} is a member of {each.role}, which is not declared"


def _settings(snapshot: Snapshot) -> Iterator[str]:
    for each in snapshot.settings:
        ours = each.name.startswith("tenantry.") and each.name != VECTOR_SEARCH
        if each.name in _SETTINGS or ours:
            whose = f"role {each.role}" if each.role else "database"
            yield f"{whose} sets {each.name}, which is not declared"


def _database(snapshot: Snapshot) -> Iterator[str]:
    for each in snapshot.strangers:
        makes = each.kind == "database" and each.privilege in {"CREATE", "TEMPORARY"}
        if makes and each.role in {"public", APP_ROLE, AUTH_ROLE}:
            yield f"database: {_who(each.role)} holds {each.privilege}, which is not declared"
    if not any(
        not each.role and (each.name, each.value) == ("hnsw.iterative_scan", "strict_order")
        for each in snapshot.settings
    ):
        yield "database: hnsw.iterative_scan is not set to strict_order"


def _defaults(snapshot: Snapshot) -> Iterator[str]:
    own = [each for each in snapshot.default_privileges if each.maker == OWNER_ROLE]
    # Without a row, the built-in default holds, and it lets PUBLIC execute every new function.
    if not any(each.kind == "f" and each.schema is None for each in own):
        yield f"default privileges of {OWNER_ROLE}: PUBLIC may execute new functions"
    for each in own:
        if each.role != OWNER_ROLE:
            yield (
                f"default privileges of {OWNER_ROLE}: {_who(each.role)} may "
                f"{each.privilege.lower()} new {_KINDS.get(each.kind, 'objects')}"
            )


def _on_table(snapshot: Snapshot, table: Relation) -> Iterator[str]:
    """Each of these can carry rows past the table's policies."""
    subject = f"table {table.relname}"
    for trigger in table.triggers:
        if not trigger.internal:
            yield f"{subject}: trigger {trigger.name} is not declared"
        elif trigger.disabled:
            yield f"{subject}: triggers are disabled, and with them its foreign keys"
    for rule in table.rules:
        yield f"{subject}: rule {rule} is not declared"
    for other in snapshot.relations.values():
        if table.name in other.parents:
            yield f"{subject}: table {other.relname} inherits from it"
    if table.unlogged:
        yield f"{subject}: it is not logged"
    yield from (f"{subject}: {what}" for what in _on_constraints(table))


def _on_constraints(table: Relation) -> Iterator[str]:
    for constraint in table.constraints:
        if not constraint.validated:
            yield f"constraint {constraint.name} is not validated"
        if constraint.kind == "x":
            yield f"exclusion constraint {constraint.name} is not declared"


def _primary_keys(walled: Iterable[tuple[Relation, DeclaredTable]]) -> Iterator[str]:
    # Alembic does not compare primary keys. One that does not lead with the tenant tells whether
    # another tenant has a row of the same id.
    for table, declared in walled:
        for key in table.constraints:
            if key.kind == "p" and tuple(key.columns) != declared.primary_key:
                yield (
                    f"table {table.relname}: its primary key is ({', '.join(key.columns)}), "
                    f"declared is ({', '.join(declared.primary_key)})"
                )


def _own_schema(snapshot: Snapshot) -> Iterator[str]:
    tables = [table for table in snapshot.tables if table.schema == "tenantry"]
    for table in tables:
        if table.key != _VERSIONS:
            yield f"table {table.key} is not declared"
    for table in tables:
        if table.key == _VERSIONS:
            yield from _versions(table)


def _versions(table: Relation) -> Iterator[str]:
    if table.owner != OWNER_ROLE:
        yield f"table {_VERSIONS}: its owner is {table.owner}"
    readers = {Held(APP_ROLE, "SELECT"), Held(OPERATOR_ROLE, "SELECT")}
    found = _held((each.role, each.privilege, each.grantable) for each in table.privileges)
    for each in sorted(found ^ readers):
        verb = "holds" if each in found else "lacks"
        yield f"table {_VERSIONS}: {each.role} {verb} {each.privilege}"
