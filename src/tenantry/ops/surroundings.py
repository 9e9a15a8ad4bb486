"""What stands around the declared tables, against what `tenantry.ops.preparing` leaves there.

Nothing here has a counterpart in the models that Alembic could compare: roles, schemas, the
database, and what somebody may have put on a table that changes what its policies mean.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, MetaData, text

from tenantry.schema.row_security import (
    APP_ROLE,
    AUTH_ROLE,
    OPERATOR_ROLE,
    OWNER_ROLE,
    row_security_of,
)
from tenantry.tenancy.catalog import Held, read_schema_grants, read_table_security

__all__ = ["surrounding_differences"]

_USERS: Final = (APP_ROLE, AUTH_ROLE, OPERATOR_ROLE)
_ROLES: Final = (*_USERS, OWNER_ROLE)

_ATTRIBUTES = text("""
    SELECT format('role %s has %s, which is not declared', rolname, concat_ws(', ',
               CASE WHEN rolsuper THEN 'SUPERUSER' END, CASE WHEN rolbypassrls THEN 'BYPASSRLS' END,
               CASE WHEN rolcreaterole THEN 'CREATEROLE' END,
               CASE WHEN rolcreatedb THEN 'CREATEDB' END,
               CASE WHEN rolreplication THEN 'REPLICATION' END,
               CASE WHEN rolcanlogin AND rolname <> :app THEN 'LOGIN' END))
      FROM pg_roles
     WHERE rolname = ANY (:roles)
       AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication
            OR (rolcanlogin AND rolname <> :app))
     ORDER BY 1
""")

_MEMBERSHIPS = text("""
    SELECT format('role %s is a member of %s, which is not declared',
                  member::regrole, roleid::regrole)
      FROM pg_auth_members WHERE member::regrole::text = ANY (:roles) ORDER BY 1
""")

# Settings that change whom a statement is for, or whether policies and keys are looked at.
_SETTINGS = text("""
    SELECT format('%s sets %s, which is not declared',
                  CASE WHEN setrole = 0 THEN 'database' ELSE 'role ' || setrole::regrole END,
                  split_part(setting, '=', 1))
      FROM pg_db_role_setting, unnest(setconfig) AS setting
     WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
       AND (split_part(setting, '=', 1) IN
            ('role', 'row_security', 'search_path', 'session_replication_role')
            OR setting LIKE 'tenantry.%')
     ORDER BY 1
""")

_VECTOR_SCAN = text("""
    SELECT NOT EXISTS (
        SELECT FROM pg_db_role_setting, unnest(setconfig) AS setting
         WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND setrole = 0 AND setting = 'hnsw.iterative_scan=strict_order')
""")

_DATABASE = text("""
    SELECT format('database: %s holds %s, which is not declared',
                  CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END,
                  a.privilege_type)
      FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
     WHERE d.datname = current_database() AND a.privilege_type IN ('CREATE', 'TEMPORARY')
       AND a.grantee::regrole::text IN ('-', :app, :auth)
     ORDER BY 1
""")

# Without a row, the built-in default holds, and it lets PUBLIC execute every new function.
_DEFAULT_EXECUTE = text("""
    SELECT NOT EXISTS (SELECT FROM pg_default_acl
                        WHERE defaclrole = to_regrole(:owner) AND defaclobjtype = 'f'
                          AND defaclnamespace = 0)
""")

_DEFAULTS = text("""
    SELECT format('default privileges of %s: %s may %s new %s', d.defaclrole::regrole,
                  CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END,
                  lower(a.privilege_type),
                  CASE d.defaclobjtype WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences'
                       WHEN 'f' THEN 'functions' WHEN 'T' THEN 'types' ELSE 'schemas' END)
      FROM pg_default_acl d, aclexplode(d.defaclacl) a
     WHERE d.defaclrole = to_regrole(:owner) AND a.grantee <> d.defaclrole ORDER BY 1
""")

# On a table whose rows are walled in, each of these can carry rows past the policy.
_ON_TABLES = text("""
    WITH walled AS (SELECT c.oid, c.relname FROM pg_class c
                     WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY (:tables))
    SELECT format('table %s: %s', relname, what) FROM walled, LATERAL (
        SELECT format('trigger %s is not declared', tgname) FROM pg_trigger
         WHERE tgrelid = walled.oid AND NOT tgisinternal
        UNION ALL
        SELECT 'triggers are disabled, and with them its foreign keys' FROM pg_trigger
         WHERE tgrelid = walled.oid AND tgisinternal AND tgenabled <> 'O'
        UNION ALL
        SELECT format('rule %s is not declared', rulename) FROM pg_rewrite
         WHERE ev_class = walled.oid AND rulename <> '_RETURN'
        UNION ALL
        SELECT format('constraint %s is not validated', conname) FROM pg_constraint
         WHERE conrelid = walled.oid AND NOT convalidated
        UNION ALL
        SELECT format('exclusion constraint %s is not declared', conname) FROM pg_constraint
         WHERE conrelid = walled.oid AND contype = 'x'
        UNION ALL
        SELECT format('table %s inherits from it', inhrelid::regclass) FROM pg_inherits
         WHERE inhparent = walled.oid
        UNION ALL
        SELECT 'it is not logged' FROM pg_class WHERE oid = walled.oid AND relpersistence = 'u'
    ) AS found (what)
     GROUP BY relname, what ORDER BY 1
""")

_PRIMARY_KEYS = text("""
    SELECT c.relname AS name,
           ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS key (n, place)
                   JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = n ORDER BY place)
               AS columns
      FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
     WHERE k.contype = 'p' AND c.relnamespace = 'public'::regnamespace
""")


def surrounding_differences(connection: Connection, metadata: MetaData) -> list[str]:
    """Return what differs around the tables of ``metadata``, a line each.

    Args:
        connection: As the owner of the tables.
        metadata: The declared tables.
    """
    roles = {"roles": list(_ROLES), "app": APP_ROLE}
    owner = {"owner": OWNER_ROLE}
    lines = _schemas(connection)
    lines += connection.execute(_ATTRIBUTES, roles).scalars()
    lines += connection.execute(_MEMBERSHIPS, roles).scalars()
    lines += connection.execute(_SETTINGS).scalars()
    lines += connection.execute(_DATABASE, {"app": APP_ROLE, "auth": AUTH_ROLE}).scalars()
    if connection.execute(_VECTOR_SCAN).scalar_one():
        lines.append("database: hnsw.iterative_scan is not set to strict_order")
    if connection.execute(_DEFAULT_EXECUTE, owner).scalar_one():
        lines.append(f"default privileges of {OWNER_ROLE}: PUBLIC may execute new functions")
    lines += connection.execute(_DEFAULTS, owner).scalars()
    walled = [table.name for table in metadata.sorted_tables if row_security_of(table)]
    lines += connection.execute(_ON_TABLES, {"tables": walled}).scalars()
    return lines + _primary_keys(connection, metadata) + _own_schema(connection)


def _schemas(connection: Connection) -> list[str]:
    declared = {("tenantry", Held(role, "USAGE")) for role in _USERS}
    declared |= {("public", Held(role, "USAGE")) for role in (*_ROLES, "public")}
    declared.add(("public", Held(OWNER_ROLE, "CREATE")))
    found = read_schema_grants(connection, schemas=("public", "tenantry"))
    lines = [
        f"schema {schema}: {each.role} lacks {each.privilege}"
        for schema, each in sorted(declared - found)
    ]
    return lines + [
        f"schema {schema}: {each.role} holds {each.privilege}, which is not declared"
        for schema, each in sorted(found - declared)
    ]


def _primary_keys(connection: Connection, metadata: MetaData) -> list[str]:
    # Alembic does not compare primary keys. One that does not lead with the tenant tells whether
    # another tenant has a row of the same id.
    found = {row.name: row.columns for row in connection.execute(_PRIMARY_KEYS)}
    lines = []
    for table in metadata.sorted_tables:
        declared = [column.name for column in table.primary_key]
        actual = found.get(table.name, declared)
        if row_security_of(table) and actual != declared:
            lines.append(
                f"table {table.name}: its primary key is ({', '.join(actual)}), declared is "
                f"({', '.join(declared)})"
            )
    return lines


def _own_schema(connection: Connection) -> list[str]:
    tables = read_table_security(connection, schema="tenantry")
    lines = [
        f"table tenantry.{name} is not declared" for name in tables if name != "alembic_version"
    ]
    versions = tables.get("alembic_version")
    if versions is None:
        return lines
    if versions.owner != OWNER_ROLE:
        lines.append(f"table tenantry.alembic_version: its owner is {versions.owner}")
    readers = {Held(APP_ROLE, "SELECT"), Held(OPERATOR_ROLE, "SELECT")}
    return lines + [
        f"table tenantry.alembic_version: {each.role} "
        f"{'holds' if each in versions.privileges else 'lacks'} {each.privilege}"
        for each in sorted(versions.privileges ^ readers)
    ]
