"""The functions in schema ``tenantry``, from their ``.sql`` files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from sqlalchemy import Connection, text

from tenantry.schema.row_security import AUTH_ROLE, OWNER_ROLE

__all__ = ["FUNCTIONS", "FunctionState", "SqlFunction", "read_functions", "sql_file"]


_CREATED: Final = re.compile(
    r"^CREATE OR REPLACE FUNCTION (?P<name>tenantry\.\w+)\((?P<arguments>.*?)\)"
    r"\s+(?:RETURNS|LANGUAGE)\b",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class SqlFunction:
    """A function of ours.

    Args:
        file: The file in ``tenancy/sql`` that creates or replaces it and grants its use.
        owner: Whom it belongs to, and whose rights it has where it is SECURITY DEFINER.
    """

    file: str
    owner: str = OWNER_ROLE

    @property
    def signature(self) -> str:
        """Its qualified name and its arguments, as in ``tenantry.f(tenant uuid)``.

        As ``pg_get_function_identity_arguments()`` prints them where ``public`` is not searched.
        """
        created = _CREATED.search(self.sql)
        assert created is not None, f"{self.file} creates no function of ours"  # noqa: S101
        arguments = " ".join(created["arguments"].split())
        return f"{created['name']}({re.sub(r' vector(?=,|$)', ' public.vector', arguments)})"

    @property
    def sql(self) -> str:
        """The statements that create it, to be run as its owner."""
        return sql_file(self.file)

    @property
    def call(self) -> str:
        """Its name and the types that it is called with, as in ``tenantry.f(uuid)``.

        By these PostgreSQL tells functions apart; names of arguments and results do not matter.
        """
        name, _, arguments = self.signature.rstrip(")").partition("(")
        types = [
            each.partition(" ")[2]
            for each in arguments.split(", ")
            if each and not each.startswith("OUT ")
        ]
        return f"{name}({', '.join(types)})"

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
    SqlFunction("current_tenant.sql"),
    SqlFunction("validate_session.sql", AUTH_ROLE),
    SqlFunction("validate_sessions.sql", AUTH_ROLE),
    SqlFunction("authenticate_api_key.sql", AUTH_ROLE),
    SqlFunction("authenticate_api_keys.sql", AUTH_ROLE),
    SqlFunction("find_tenant.sql", AUTH_ROLE),
    SqlFunction("word_forms.sql"),
    SqlFunction("lexemes.sql"),
    SqlFunction("search_part.sql"),
    SqlFunction("plan_vector_search.sql", AUTH_ROLE),
    SqlFunction("filtered_documents.sql", AUTH_ROLE),
    SqlFunction("weigh_terms.sql", AUTH_ROLE),
    SqlFunction("demands.sql", AUTH_ROLE),
    SqlFunction("excerpt.sql", AUTH_ROLE),
    SqlFunction("nearest_chunks.sql", AUTH_ROLE),
    SqlFunction("nearest_documents.sql", AUTH_ROLE),
    SqlFunction("matching_chunks.sql", AUTH_ROLE),
    SqlFunction("search_vectors.sql", AUTH_ROLE),
    SqlFunction("search_documents.sql", AUTH_ROLE),
    SqlFunction("search_keywords.sql", AUTH_ROLE),
    SqlFunction("search_hybrid.sql", AUTH_ROLE),
    SqlFunction("similar_words.sql", AUTH_ROLE),
    SqlFunction("search_substrings.sql", AUTH_ROLE),
    SqlFunction("explain_vector_search.sql", AUTH_ROLE),
)
"""In the order in which they can be created: each after those that it calls when it is made."""


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
    # Types print qualified where the path does not find them: it is the same for every caller.
    savepoint = connection.begin_nested()
    try:
        connection.exec_driver_sql("SET LOCAL search_path = pg_catalog")
        rows = connection.execute(_FUNCTIONS).all()
    finally:
        savepoint.rollback()
    return {
        row.signature: FunctionState(
            definition=row.definition,
            owner=row.owner,
            privileges=frozenset(row.privileges),
            leakproof=row.leakproof,
        )
        for row in rows
    }
