"""What an audit is about: whose walls, around which tables, and how the tenant is told."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Connection, MetaData, text

from tenantry.errors import ConfigurationError
from tenantry.schema import Base
from tenantry.schema.row_security import APP_ROLE
from tenantry.tenancy.catalog import quote

__all__ = ["OUR_SETTING", "Scope", "read_scope"]

OUR_SETTING: Final = "tenantry.tenant_id"
OUR_EXPRESSION: Final = "tenantry.current_tenant()"


@dataclass(frozen=True, slots=True)
class Scope:
    """What an audit is about.

    Args:
        app_role: The role that the application connects as.
        is_ours: Whether the database was made by tenantry.
        tenant_column: The column that says whose row it is, in every tenant table.
        tenant_table: The qualified table whose rows are the tenants, or None if there is none.
        tenant_setting: The setting that a transaction tells its tenant by, or None where it could
            not be found out. Then nothing can be tried live.
        tenant_expression: SQL for the bound tenant, as a policy should compare with it.
        metadata: What is declared.
        shared: Tables that all tenants may read, qualified or in schema ``public``.
    """

    app_role: str = APP_ROLE
    is_ours: bool = True
    tenant_column: str = "tenant_id"
    tenant_table: str | None = "public.tenants"
    tenant_setting: str | None = OUR_SETTING
    tenant_expression: str = OUR_EXPRESSION
    metadata: MetaData = field(default=Base.metadata)
    shared: frozenset[str] = frozenset()


# By the catalog and not by to_regclass(), which asks for USAGE of the schema.
_IS_OURS = text("""
    SELECT EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                    WHERE n.nspname = 'tenantry' AND p.proname = 'current_tenant')
        OR (SELECT count(*) = 2 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE (n.nspname, c.relname) IN (('tenantry', 'alembic_version'),
                                              ('public', 'tenants')))
""")

_ROLES = text("SELECT rolname::text FROM pg_roles WHERE rolname = ANY (:names)")

# Where the tenant column of most tables points to, if it points there alone.
_TENANT_TABLE = text("""
    SELECT format('%I.%I', n.nspname, c.relname)
      FROM pg_constraint k JOIN pg_class c ON c.oid = k.confrelid
      JOIN pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
     WHERE k.contype = 'f' AND cardinality(k.conkey) = 1 AND a.attname = :column
     GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1
""")

_POLICIES = text("""
    SELECT concat_ws(' ', pg_get_expr(p.polqual, p.polrelid),
                          pg_get_expr(p.polwithcheck, p.polrelid)) AS expression,
           ARRAY(SELECT f.oid FROM pg_depend d JOIN pg_proc f ON f.oid = d.refobjid
                  WHERE d.classid = 'pg_policy'::regclass AND d.objid = p.oid
                    AND d.refclassid = 'pg_proc'::regclass) AS functions
      FROM pg_policy p
""")

_BODIES = text("""
    SELECT p.oid, format('%I.%I', n.nspname, p.proname) AS name,
           concat_ws(' ', coalesce(pg_get_function_sqlbody(p.oid), p.prosrc)) AS body
      FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
     WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND p.pronargs = 0
       AND coalesce(pg_get_function_sqlbody(p.oid), p.prosrc) LIKE '%current_setting%'
""")

_TENANT_TYPE = text("""
    SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
      JOIN pg_class c ON c.oid = a.attrelid
     WHERE a.attname = :column AND c.relkind IN ('r', 'p') AND NOT a.attisdropped
     GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1
""")

_SETTING: Final = re.compile(r"current_setting\(\s*'([^']+\.[^']+)'", re.IGNORECASE)


def read_scope(
    connection: Connection,
    *,
    metadata: MetaData | None = None,
    app_role: str | None = None,
    tenant_column: str = "tenant_id",
    shared: Collection[str] = (),
) -> Scope:
    """Find out what an audit of this database is about.

    Args:
        connection: With ``search_path`` set to ``pg_catalog``.
        metadata: What is declared; by default tenantry's own tables.
        app_role: The role that the application connects as.
        tenant_column: The column that says whose row it is.
        shared: Tables that all tenants may read.

    Raises:
        ConfigurationError: The role does not exist, or none was named where there is no
            ``tenantry_app``.
    """
    role = _app_role(connection, app_role)
    metadata = Base.metadata if metadata is None else metadata
    if connection.execute(_IS_OURS).scalar_one():
        return Scope(role, tenant_column=tenant_column, metadata=metadata, shared=frozenset(shared))
    setting, expression = _tenant(connection, tenant_column)
    return Scope(
        role,
        is_ours=False,
        tenant_column=tenant_column,
        tenant_table=connection.execute(_TENANT_TABLE, {"column": tenant_column}).scalar(),
        tenant_setting=setting,
        tenant_expression=expression,
        metadata=metadata,
        shared=frozenset(shared),
    )


def _app_role(connection: Connection, name: str | None) -> str:
    wanted = name or APP_ROLE
    if connection.execute(_ROLES, {"names": [wanted]}).scalar() is not None:
        return wanted
    if name is None:
        raise ConfigurationError(
            f"There is no role {APP_ROLE} on this server. Name the role that the application "
            "connects as with --role."
        )
    raise ConfigurationError(
        f"There is no role {name} on this server. Name the one that the application connects as."
    )


def _tenant(connection: Connection, column: str) -> tuple[str | None, str]:
    """Return the setting that most policies read, and the expression that they compare with."""
    bodies = {row.oid: row for row in connection.execute(_BODIES)}
    settings: Counter[str] = Counter()
    expressions: Counter[tuple[str, str]] = Counter()
    for row in connection.execute(_POLICIES):
        for setting in set(_SETTING.findall(row.expression)):
            settings[setting] += 1
        for function in (bodies[oid] for oid in row.functions if oid in bodies):
            for setting in set(_SETTING.findall(function.body)):
                settings[setting] += 1
                expressions[setting, f"{function.name}()"] += 1
    type_ = connection.execute(_TENANT_TYPE, {"column": column}).scalar() or "uuid"
    if not settings:
        return None, f"nullif(current_setting('app.{column}', true), '')::{type_}"
    setting = settings.most_common(1)[0][0]
    called = [name for (of, name), _ in expressions.most_common() if of == setting]
    if called:
        return setting, called[0]
    return setting, f"nullif(current_setting('{setting}', true), '')::{type_}"


def is_shared(scope: Scope, *, schema: str, name: str) -> bool:
    """Return whether a table was named as one that all tenants may read."""
    names = {name, quote(name)} if schema == "public" else set()
    return bool(scope.shared & {*names, f"{schema}.{name}", f"{quote(schema)}.{quote(name)}"})
