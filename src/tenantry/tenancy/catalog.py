"""What the database's catalog says of row security, in the terms in which tables declare it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from sqlalchemy import Connection, text
from sqlalchemy.dialects import postgresql

from tenantry.schema.row_security import Command, Grant, Policy

__all__ = [
    "Held",
    "TableSecurity",
    "canonical_policy",
    "held",
    "quote",
    "read_table_security",
]

_preparer: Final = postgresql.dialect().identifier_preparer  # type: ignore[no-untyped-call]


def quote(name: str) -> str:
    """Return ``name`` as an SQL identifier; ``public`` as a role stays the keyword."""
    return "PUBLIC" if name == "public" else str(_preparer.quote(name))


class Held(NamedTuple):
    """One privilege of one role, on a table or on a column of it."""

    role: str
    privilege: str
    column: str = ""


@dataclass(slots=True)
class TableSecurity:
    """The row security that one table has."""

    owner: str
    enabled: bool
    forced: bool
    policies: dict[str, Policy] = field(default_factory=dict)
    privileges: set[Held] = field(default_factory=set)


_TABLES = text("""
    SELECT c.relname AS name, pg_get_userbyid(c.relowner) AS owner,
           c.relrowsecurity AS enabled, c.relforcerowsecurity AS forced
      FROM pg_class c
     WHERE c.relnamespace = to_regnamespace(:schema) AND c.relkind IN ('r', 'p')
""")

_POLICIES = text("""
    SELECT c.relname AS table_name, p.polname AS name, p.polpermissive AS permissive,
           CASE p.polcmd WHEN '*' THEN 'ALL' WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT'
                         WHEN 'w' THEN 'UPDATE' ELSE 'DELETE' END AS command,
           ARRAY(SELECT CASE WHEN r = 0 THEN 'public' ELSE pg_get_userbyid(r)::text END
                   FROM unnest(p.polroles) AS r ORDER BY 1) AS roles,
           pg_get_expr(p.polqual, p.polrelid) AS using_expression,
           pg_get_expr(p.polwithcheck, p.polrelid) AS check_expression
      FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
     WHERE c.relnamespace = to_regnamespace(:schema)
""")

# The owner's own privileges are implied. A privilege that may be passed on is named as such.
_PRIVILEGES = text("""
    SELECT c.relname AS table_name, '' AS column_name, a.grantee, a.privilege_type, a.is_grantable
      FROM pg_class c, aclexplode(c.relacl) a
     WHERE c.relnamespace = to_regnamespace(:schema) AND c.relkind IN ('r', 'p')
       AND a.grantee <> c.relowner
     UNION ALL
    SELECT c.relname, t.attname, a.grantee, a.privilege_type, a.is_grantable
      FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid, aclexplode(t.attacl) a
     WHERE c.relnamespace = to_regnamespace(:schema) AND c.relkind IN ('r', 'p')
       AND NOT t.attisdropped AND a.grantee <> c.relowner
""")
_PRIVILEGE_ROWS = text(f"""
    SELECT table_name, column_name, privilege_type, is_grantable,
           CASE WHEN grantee = 0 THEN 'public' ELSE pg_get_userbyid(grantee)::text END AS role
      FROM ({_PRIVILEGES.text}) AS held
""")  # noqa: S608 - composed of constants


def held(grants: Iterable[Grant]) -> set[Held]:
    """Return the single privileges that ``grants`` are made of."""
    return {
        Held(grant.role, privilege, column)
        for grant in grants
        for privilege in grant.privileges
        for column in (grant.columns or ("",))
    }


def read_table_security(connection: Connection, *, schema: str) -> dict[str, TableSecurity]:
    """Return the row security of every table in ``schema``, by table name."""
    arguments = {"schema": schema}
    tables = {
        row.name: TableSecurity(row.owner, row.enabled, row.forced)
        for row in connection.execute(_TABLES, arguments)
    }
    for row in connection.execute(_POLICIES, arguments):
        command: Command = row.command
        tables[row.table_name].policies[row.name] = Policy(
            name=row.name,
            roles=tuple(row.roles),
            using=row.using_expression,
            check=row.check_expression,
            command=command,
            permissive=row.permissive,
        )
    for row in connection.execute(_PRIVILEGE_ROWS, arguments):
        suffix = " WITH GRANT OPTION" if row.is_grantable else ""
        tables[row.table_name].privileges.add(
            Held(row.role, row.privilege_type + suffix, row.column_name)
        )
    return tables


def canonical_policy(connection: Connection, policy: Policy, *, table: str) -> Policy:
    """Return ``policy`` with its expressions as PostgreSQL writes them.

    Policies are stored parsed and printed anew, so ``tenant_id=1`` reads back as
    ``(tenant_id = 1)``. To compare, the declared text takes the same way, on an empty temporary
    copy of the table in a savepoint that is rolled back.

    Args:
        connection: In a transaction of a role with TEMPORARY on the database.
        policy: What is declared.
        table: The qualified, quoted name of a table that exists.
    """
    savepoint = connection.begin_nested()
    try:
        connection.exec_driver_sql(f"CREATE TEMP TABLE tenantry_canonical (LIKE {table})")
        clauses = "".join(
            f" {keyword} ({expression})"
            for keyword, expression in (("USING", policy.using), ("WITH CHECK", policy.check))
            if expression is not None
        )
        connection.exec_driver_sql(
            f"CREATE POLICY p ON tenantry_canonical FOR {policy.command}{clauses}"
        )
        row = connection.exec_driver_sql(
            "SELECT pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)"
            " FROM pg_policy WHERE polrelid = 'tenantry_canonical'::regclass"
        ).one()
    finally:
        savepoint.rollback()
    return Policy(
        name=policy.name,
        roles=tuple(sorted(policy.roles)),
        using=row[0],
        check=row[1],
        command=policy.command,
        permissive=policy.permissive,
    )
