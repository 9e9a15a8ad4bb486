"""The functions in schema ``tenantry``, from their ``.sql`` files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from sqlalchemy import Connection, text

__all__ = ["FUNCTIONS", "FunctionState", "SqlFunction", "read_functions", "sql_file"]


@dataclass(frozen=True, slots=True)
class SqlFunction:
    """A function of ours.

    Args:
        signature: Its qualified name and argument types, as in ``tenantry.f(uuid)``.
        file: The file in ``tenancy/sql`` that creates or replaces it and grants its use.
    """

    signature: str
    file: str

    @property
    def sql(self) -> str:
        """The statements that create it."""
        return sql_file(self.file)


FUNCTIONS: Final = (SqlFunction("tenantry.current_tenant()", "current_tenant.sql"),)


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
