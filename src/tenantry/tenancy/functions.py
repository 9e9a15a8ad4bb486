"""The functions in schema ``tenantry``, from their ``.sql`` files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from sqlalchemy import Connection, text

from tenantry.schema.row_security import AUTH_ROLE, OWNER_ROLE

__all__ = ["FUNCTIONS", "FunctionState", "SqlFunction", "read_functions", "sql_file"]


@dataclass(frozen=True, slots=True)
class SqlFunction:
    """A function of ours.

    Args:
        signature: Its qualified name and argument types, as in ``tenantry.f(uuid)``.
        file: The file in ``tenancy/sql`` that creates or replaces it and grants its use.
        owner: Whom it belongs to, and whose rights it has where it is SECURITY DEFINER.
    """

    signature: str
    file: str
    owner: str = OWNER_ROLE

    @property
    def sql(self) -> str:
        """The statements that create it, to be run as its owner."""
        return sql_file(self.file)

    @property
    def script(self) -> str:
        """The statements that create it, to be run as `OWNER_ROLE`."""
        return self.as_owner(self.sql)

    def as_owner(self, sql: str) -> str:
        """Return ``sql`` for a transaction of `OWNER_ROLE`'s, so that the owner runs it.

        The owner may create in the schema for as long as that takes, and not otherwise.
        """
        if self.owner == OWNER_ROLE:
            return sql
        return (
            f"GRANT CREATE ON SCHEMA tenantry TO {self.owner};\n"
            f"SET LOCAL ROLE {self.owner};\n"
            f"{sql}\n"
            f"SET LOCAL ROLE {OWNER_ROLE};\n"
            f"REVOKE CREATE ON SCHEMA tenantry FROM {self.owner};\n"
        )


FUNCTIONS: Final = (
    SqlFunction("tenantry.current_tenant()", "current_tenant.sql"),
    SqlFunction(
        "tenantry.validate_session(tenant uuid, session text, hash bytea)",
        "validate_session.sql",
        AUTH_ROLE,
    ),
    SqlFunction(
        "tenantry.validate_sessions(tenants uuid[], sessions text[], hashes bytea[])",
        "validate_sessions.sql",
        AUTH_ROLE,
    ),
    SqlFunction(
        "tenantry.authenticate_api_key(tenant uuid, hash bytea)",
        "authenticate_api_key.sql",
        AUTH_ROLE,
    ),
    SqlFunction(
        "tenantry.authenticate_api_keys(tenants uuid[], hashes bytea[])",
        "authenticate_api_keys.sql",
        AUTH_ROLE,
    ),
)


@cache
def sql_file(name: str) -> str:
    """Return the text of ``tenancy/sql/<name>``."""
    return files("tenantry.tenancy").joinpath("sql", name).read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class FunctionState:
    """What the catalog says of a function: all that, changed, would change what it does."""

    definition: str
    owner: str
    privileges: frozenset[str]
    leakproof: bool


_FUNCTIONS = text("""
    SELECT format('tenantry.%I(%s)', p.proname, pg_get_function_identity_arguments(p.oid))
               AS signature,
           pg_get_functiondef(p.oid) AS definition, pg_get_userbyid(p.proowner) AS owner,
           p.proleakproof AS leakproof,
           ARRAY(SELECT CASE WHEN a.grantee = 0 THEN 'public'
                             ELSE pg_get_userbyid(a.grantee)::text END || ':' || a.privilege_type
                   FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
                  ORDER BY 1) AS privileges
      FROM pg_proc p
     WHERE p.pronamespace = to_regnamespace('tenantry') AND p.prokind IN ('f', 'p')
""")


def read_functions(connection: Connection) -> dict[str, FunctionState]:
    """Return every function in schema ``tenantry``, by signature."""
    return {
        row.signature: FunctionState(
            definition=row.definition,
            owner=row.owner,
            privileges=frozenset(row.privileges),
            leakproof=row.leakproof,
        )
        for row in connection.execute(_FUNCTIONS)
    }
