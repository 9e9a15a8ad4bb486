"""Walls taken down around the functions that search for the bound tenant."""

from __future__ import annotations

import re

from tenantry.schema.row_security import OWNER_ROLE
from tenantry.tenancy.functions import FUNCTIONS, SqlFunction
from tests.isolation import house
from tests.isolation.mutation import Mutation, on

__all__ = ["FILTER", "SEARCHES"]

# Each of these gives rows, or says something of them, so each has to ask whose they are.
FILTER = re.compile(r"\b[a-z]\.tenant_id = (?:tenant|\$1)\b")
_BOUND = "tenant uuid := tenantry.current_tenant();"


def _unfiltered(function: SqlFunction) -> list[tuple[str, str]]:
    """The same function without one of its conditions on the tenant, for each that it has."""
    return [
        (
            f"unfiltered-{number}",
            function.sql[: each.start()] + "true" + function.sql[each.end() :],
        )
        for number, each in enumerate(FILTER.finditer(function.sql), 1)
    ]


def _of_another(function: SqlFunction) -> list[tuple[str, str]]:
    """The same function for a tenant that the caller names in a setting of its own."""
    if _BOUND not in function.sql:
        return []
    other = "tenant uuid := current_setting('search.tenant')::uuid;"
    return [("of-another", function.sql.replace(_BOUND, other))]


def _changes(function: SqlFunction) -> list[tuple[str, str]]:
    is_definer = " SECURITY DEFINER" in function.sql
    f = function.signature
    return [
        *_unfiltered(function),
        *_of_another(function),
        ("turned", f"ALTER FUNCTION {f} SECURITY {'INVOKER' if is_definer else 'DEFINER'}"),
        ("public", f"GRANT EXECUTE ON FUNCTION {f} TO PUBLIC"),
        ("for-operator", f"GRANT EXECUTE ON FUNCTION {f} TO tenantry_operator"),
        ("path", f"ALTER FUNCTION {f} SET search_path = public"),
        ("owner", f"ALTER FUNCTION {f} OWNER TO tenantry_owner"),
    ]


def _differing(function: SqlFunction, changes: list[tuple[str, str]]) -> list[Mutation]:
    short = function.file.removesuffix(".sql")
    subject = f"function {function.signature}"
    return [Mutation(f"{short}-{name}", sql, subject, "function-differs") for name, sql in changes]


def _of(function: SqlFunction) -> list[Mutation]:
    short = function.file.removesuffix(".sql")
    return [
        *_differing(function, _changes(function)),
        Mutation(
            f"{short}-dropped",
            f"DROP FUNCTION {function.call}",
            f"function {function.signature}",
            "function-missing",
        ),
    ]


_EMPTY = {
    "lexemes.sql": "RETURN NULL::tsvector;",
    "word_forms.sql": "RETURN 'pg_catalog.simple'::regconfig;",
    "search_part.sql": "RETURN 1;",
}


def _plain(function: SqlFunction) -> list[Mutation]:
    """Of those that only compute, and that columns and indexes are made of."""
    f = function.signature
    empty = re.sub(r"\bRETURN\b[^;]+;", _EMPTY[function.file], function.sql, count=1)
    return _differing(
        function,
        [
            ("empty", empty),
            ("public", f"GRANT EXECUTE ON FUNCTION {f} TO PUBLIC"),
            ("owner-app", f"ALTER FUNCTION {f} OWNER TO tenantry_app"),
            ("volatile", f"ALTER FUNCTION {f} VOLATILE"),
        ],
    )


_COMPUTING = [
    each
    for each in FUNCTIONS
    if each.owner == OWNER_ROLE and each.signature != "tenantry.current_tenant()"
]

SEARCHES = [
    *(mutation for function in house.SEARCHES for mutation in _of(function)),
    *(mutation for function in _COMPUTING for mutation in _plain(function)),
    *(
        mutation
        for table, privileges in {
            "knowledge_documents": ("SELECT", "SELECT (source)", "UPDATE (content)", "DELETE"),
            "knowledge_chunks": ("SELECT", "SELECT (position)", "INSERT (content)", "TRUNCATE"),
        }.items()
        for privilege in privileges
        for mutation in on(
            table,
            (
                f"search-{table}-{privilege.lower()}",
                f"GRANT {privilege} ON {table} TO tenantry_auth",
                "grant-too-wide",
            ),
        )
    ),
    *on(
        "knowledge_chunks",
        (
            "search-for-app",
            "ALTER POLICY auth_look_up ON knowledge_chunks TO tenantry_app",
            "policy-for-others",
        ),
        (
            "search-writes",
            "DROP POLICY auth_look_up ON knowledge_chunks; CREATE POLICY auth_look_up"
            " ON knowledge_chunks TO tenantry_auth USING (true)",
            "policy-differs",
        ),
    ),
    *on(
        "knowledge_documents",
        (
            "search-of-documents-for-public",
            "ALTER POLICY auth_look_up ON knowledge_documents TO PUBLIC",
            "policy-for-others",
        ),
        (
            "search-of-documents-dropped",
            "DROP POLICY auth_look_up ON knowledge_documents",
            "policy-missing",
        ),
    ),
]
