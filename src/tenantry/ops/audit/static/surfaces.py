"""Checks of what stands on tables and around them: views, rules, triggers, publications."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Final

from sqlalchemy import Table

from tenantry.ops.audit.report import Finding
from tenantry.ops.audit.static import mending
from tenantry.ops.audit.static.ground import Ground
from tenantry.ops.audit.static.snapshot import Relation, Stranger
from tenantry.schema import Base
from tenantry.schema.row_security import APP_ROLE, AUTH_ROLE, OPERATOR_ROLE
from tenantry.tenancy.catalog import quote

__all__ = [
    "children",
    "large_objects",
    "on_tables",
    "publications",
    "schemas",
    "strangers",
    "views",
]


def views(ground: Ground) -> Iterator[Finding]:
    """Every view over tenants' tables asks the policies of whoever looks."""
    for view in ground.snapshot.relations.values():
        if view.kind != "v" or view.invoker:
            continue
        tables = sorted(each.name for each in ground.underneath(view))
        if not view.extension and ground.granted(view):
            tables += view.shows
        if tables:
            yield Finding(
                f"view {view.name}",
                "view-without-invoker",
                f"View {view.name} reads {', '.join(tables)} as {view.owner}, its owner.",
                "The policies of the owner hold for it and not those of whoever looks: an owner "
                "whom none binds shows the rows of all tenants.",
                f"ALTER VIEW {view.name} SET (security_invoker = true);",
            )


def on_tables(ground: Ground) -> Iterator[Finding]:
    """Nothing on a tenants' table carries rows past its policies, or switches its keys off."""
    for table in ground.tenant_tables:
        yield from _rules(table)
        yield from _triggers(ground, table)
        if table.unlogged:
            yield Finding(
                f"table {table.name}",
                "table-unlogged",
                f"{table.name} is not logged.",
                "A crash empties it for all tenants, and replicas and backups do not have it.",
                mending.alter(table, "SET LOGGED"),
                table.name,
            )
    for view in ground.snapshot.relations.values():
        if view.kind == "v" and not view.extension and any(ground.underneath(view)):
            yield from _rules(view)


def _rules(relation: Relation) -> Iterator[Finding]:
    for name in relation.rules:
        yield Finding(
            f"{'view' if relation.kind == 'v' else 'table'} {relation.name}",
            "rule",
            f"Rule {name} rewrites statements on {relation.name}.",
            "What it writes elsewhere is done with the rights of the table's owner, for the rows "
            "of whichever tenant.",
            f"DROP RULE IF EXISTS {quote(name)} ON {relation.name};",
            relation.name if relation.is_table else None,
        )


@cache
def _our_tables() -> frozenset[str]:
    """Return the keys of the tables that tenantry comes with; theirs declare no trigger."""
    mapped = (
        each.local_table
        for each in Base.registry.mappers
        if each.class_.__module__.startswith("tenantry.schema")
    )
    tables = (each for each in mapped if isinstance(each, Table))
    return frozenset(f"{each.schema or 'public'}.{each.name}" for each in tables)


def _triggers(ground: Ground, table: Relation) -> Iterator[Finding]:
    disabled = [each.name for each in table.triggers if each.internal and each.disabled]
    if disabled:
        yield Finding(
            f"table {table.name}",
            "triggers-disabled",
            f"Triggers of {table.name} are disabled, and with them its foreign keys.",
            "Rows can refer to rows of other tenants, and to tenants that do not exist.",
            mending.lines(
                mending.alter(table, f"ENABLE TRIGGER {quote(each)}") for each in disabled
            ),
            table.name,
        )
    for each in table.triggers:
        if each.internal or each.inherited or each.extension or not ground.scope.is_ours:
            continue
        # A user's own table may note when a row was changed.
        if each.stamps and table.key not in _our_tables():
            continue
        yield Finding(
            f"table {table.name}",
            "trigger",
            f"Trigger {each.name} is on {table.name}, which declares none.",
            "It runs with every tenant's statements and can copy their rows anywhere; a "
            "distributed PostgreSQL refuses it.",
            f"DROP TRIGGER IF EXISTS {quote(each.name)} ON {table.name};",
            table.name,
        )


def children(ground: Ground) -> Iterator[Finding]:
    """No declared table has parts, or is a part, outside of its walls."""
    if not ground.scope.is_ours:
        return
    tenants = {each.name for each in ground.tenant_tables}
    for table in ground.snapshot.relations.values():
        if table.is_partition or table.kind == "S" or not table.parents:
            continue
        if table.name not in tenants and not tenants & set(table.parents):
            continue
        yield Finding(
            f"table {table.name}",
            "table-inherits",
            f"{table.name} inherits from {', '.join(table.parents)}.",
            "A query of the parent reads the rows of both, and only asks the parent's policies; "
            "no key of the parent holds for the other's rows.",
            mending.lines(mending.alter(table, f"NO INHERIT {each}") for each in table.parents),
            table.name,
        )


def publications(ground: Ground) -> Iterator[Finding]:
    """No publication sends the rows of all tenants elsewhere."""
    for publication in ground.snapshot.publications:
        name = quote(publication.name)
        tables = [
            each
            for each in ground.tenant_tables
            if publication.everything
            or each.schema in publication.schemas
            or each.oid in publication.relations
        ]
        if not tables:
            continue
        if publication.everything:
            # PostgreSQL cannot narrow one that was made for all tables.
            mend = f"DROP PUBLICATION IF EXISTS {name};"
        else:
            schemas = sorted({each.schema for each in tables} & set(publication.schemas))
            spaces = ", ".join(map(mending.schema_name, schemas))
            named = [each.name for each in tables if each.oid in publication.relations]
            mend = mending.lines(
                [
                    f"ALTER PUBLICATION {name} DROP TABLE {', '.join(named)};" if named else "",
                    f"ALTER PUBLICATION {name} DROP TABLES IN SCHEMA {spaces};" if schemas else "",
                ]
            )
        shown = ", ".join(each.name for each in tables[:3])
        yield Finding(
            f"publication {name}",
            "publication",
            f"Publication {publication.name} sends {shown}{' and more' if tables[3:] else ''}.",
            "Subscribers get the rows of all tenants; no policy is asked for them.",
            f"-- If a replica is meant, it must be guarded as this server is.\n{mend}",
        )


def strangers(ground: Ground) -> Iterator[Finding]:
    """The application may make nothing, and reach nothing outside of the tables."""
    ours = {APP_ROLE, AUTH_ROLE} if ground.scope.is_ours else set()
    known = ground.everyone | ours
    for each in ground.snapshot.strangers:
        if each.kind == "schema":
            yield from _on_schema(ground, each)
        elif each.kind == "event trigger":
            if ground.scope.is_ours or each.role in known:
                yield _event_trigger(each)
        elif each.kind == "subscription":
            yield _subscription(each)
        elif each.role in known:
            yield from _STRANGERS[each.kind](each)


def _who(each: Stranger) -> str:
    return "PUBLIC" if each.role == "public" else each.role


_MAKING: Final = {
    "CREATE": "A schema of one's own can be put before ours, and hold anything.",
    "TEMPORARY": "A temporary table is found before a real one of its name: whoever can make one "
    "can shadow ours for all statements of a pooled connection.",
}


def _on_database(each: Stranger) -> Iterator[Finding]:
    if each.privilege not in _MAKING and not each.grantable:
        return
    option = " WITH GRANT OPTION" if each.grantable else ""
    what = each.privilege if each.privilege in _MAKING else f"GRANT OPTION FOR {each.privilege}"
    name = quote(each.name)
    yield Finding(
        f"database {name}",
        "database-grant",
        f"{_who(each)} holds {each.privilege}{option} on the database.",
        _MAKING.get(each.privilege, "It can be passed on to others."),
        mending.revoke(what, f"DATABASE {name}", [each.role], grantable=each.grantable),
    )


def _on_server(each: Stranger) -> Iterator[Finding]:
    kind = "FOREIGN SERVER" if each.kind == "server" else "FOREIGN DATA WRAPPER"
    name = quote(each.name)
    yield Finding(
        f"{kind.lower()} {name}",
        "foreign-server-open",
        f"{_who(each)} may use the {kind.lower()} {each.name}.",
        "It reaches another server, where no policy of this one holds.",
        mending.revoke("ALL", f"{kind} {name}", [each.role], grantable=each.grantable),
    )


def _server_owner(each: Stranger) -> Iterator[Finding]:
    name = quote(each.name)
    yield Finding(
        f"foreign server {name}",
        "owner-is-application",
        f"{each.role} owns the foreign server {each.name}.",
        "An owner may have it reach any other server, for everybody who uses it.",
        f"ALTER SERVER {name} OWNER TO CURRENT_USER;",
    )


def _subscription(each: Stranger) -> Finding:
    name = quote(each.name)
    return Finding(
        f"subscription {name}",
        "subscription",
        f"The subscription {each.name} writes rows that another server sends.",
        "Whoever writes there writes here, for any tenant; no policy asks which.",
        f"-- If a replica is meant, the other server must be guarded as this one is.\n"
        f"ALTER SUBSCRIPTION {name} DISABLE;",
    )


def _mapping(each: Stranger) -> Iterator[Finding]:
    name = quote(each.name)
    yield Finding(
        f"foreign server {name}",
        "foreign-server-open",
        f"The foreign server {each.name} has a user mapping for {_who(each)}.",
        "The application logs in to another server with it, and reads there for every tenant.",
        f"DROP USER MAPPING IF EXISTS FOR {quote(each.role)} SERVER {name};",
    )


def _on_parameter(each: Stranger) -> Iterator[Finding]:
    on = f"PARAMETER {each.name}"
    yield Finding(
        f"parameter {each.name}",
        "parameter-open",
        f"{_who(each)} may {each.privilege} {each.name}.",
        "It was kept for administrators because it changes what others get, or whether keys and "
        "policies are looked at.",
        mending.revoke(each.privilege, on, [each.role], grantable=each.grantable),
    )


_STRANGERS: Final[dict[str, Callable[[Stranger], Iterator[Finding]]]] = {
    "database": _on_database,
    "server": _on_server,
    "server owner": _server_owner,
    "wrapper": _on_server,
    "mapping": _mapping,
    "parameter": _on_parameter,
}


def _event_trigger(each: Stranger) -> Finding:
    name = quote(each.name)
    return Finding(
        f"event trigger {name}",
        "event-trigger",
        f"The event trigger {each.name} runs with every change of a table, as whoever makes it.",
        "Migrations run as the owner of the tables: it can do anything that the owner may.",
        f"ALTER EVENT TRIGGER {name} DISABLE;",
    )


def _on_schema(ground: Ground, each: Stranger) -> Iterator[Finding]:
    ours = ground.scope.is_ours
    allowed = {APP_ROLE, AUTH_ROLE, OPERATOR_ROLE}
    if ours and each.name == "tenantry":
        excess = each.role not in allowed or each.privilege != "USAGE" or each.grantable
    else:
        known = ground.everyone | ({AUTH_ROLE, OPERATOR_ROLE} if ours else set())
        excess = each.role in known and (each.privilege == "CREATE" or each.grantable)
    if not excess:
        return
    passing_on = each.grantable and each.privilege == "USAGE" and each.role in allowed
    what = f"GRANT OPTION FOR {each.privilege}" if passing_on else each.privilege
    name = mending.schema_name(each.name)
    yield Finding(
        f"schema {name}",
        "schema-grant",
        f"{_who(each)} holds {each.privilege}{' WITH GRANT OPTION' if each.grantable else ''} on "
        f"schema {each.name}.",
        "A table, function or operator of one's own in it is found by the queries of others, "
        "with their rights."
        if each.privilege == "CREATE"
        else "It is not declared: the schema holds what the walls are made of.",
        mending.revoke(what, f"SCHEMA {name}", [each.role], grantable=each.grantable),
    )


def schemas(ground: Ground) -> Iterator[Finding]:
    """No schema has the name of a role that looks there first."""
    for role in sorted({ground.scope.app_role, *ground.connecting}):
        if role in ground.snapshot.schemas and role != "tenantry":
            yield Finding(
                f"schema {quote(role)}",
                "schema-shadows",
                f"Schema {role} has the name of the role {role}.",
                'The search_path begins with "$user": its tables and functions are found before '
                "those in public.",
                f"ALTER SCHEMA {quote(role)} RENAME TO {quote(f'{role}_aside'[:63])};",
            )


_CLOSE_LARGE_OBJECTS: Final = """\
DO $$ DECLARE one oid; BEGIN
    FOR one IN SELECT oid FROM pg_largeobject_metadata LOOP
        EXECUTE format('ALTER LARGE OBJECT %s OWNER TO CURRENT_USER', one);
        EXECUTE format('REVOKE ALL ON LARGE OBJECT %s FROM %ROLES%', one);
    END LOOP;
END $$;"""


def large_objects(ground: Ground) -> Iterator[Finding]:
    """No large object is the application's: one for whom it is readable, it is so for all."""
    if ground.snapshot.database.open_large_objects:
        yield Finding(
            "server",
            "large-objects-open",
            "lo_compat_privileges is on.",
            "Every role reads and writes every large object.",
            "ALTER SYSTEM RESET lo_compat_privileges;\nSELECT pg_reload_conf();",
        )
    number = sum(
        each.number
        for each in ground.snapshot.large_objects
        if each.owner in ground.reach or not ground.everyone.isdisjoint(each.roles)
    )
    if number:
        roles = mending.names(sorted(ground.everyone))
        yield Finding(
            "large objects",
            "large-objects-open",
            f"{ground.scope.app_role} may use {number} large objects.",
            "Large objects have no row security: every tenant's requests can read them.",
            _CLOSE_LARGE_OBJECTS.replace("%ROLES%", roles),
        )
