"""Walls taken down around the functions that look up before the tenant is known."""

from __future__ import annotations

import re
from collections.abc import Callable

from tenantry.tenancy.functions import SqlFunction
from tests.isolation import house
from tests.isolation.mutation import Mutation, on

__all__ = ["LOOK_UPS"]


def leaking(function: SqlFunction) -> str:
    """The same function, for which every wrong hash, or slug, is the right one."""
    sql = re.sub(r"(\|\| \w\.\w+\)|t\.slug) =", r"\1 <>", function.sql)
    assert sql != function.sql
    return sql


def telling(function: SqlFunction) -> str:
    """A function of the same name and arguments that gives rows as they are."""
    table = "sessions" if "session" in function.file else "tenants"
    return (
        f"DROP FUNCTION {function.signature};"
        f" CREATE FUNCTION {function.signature} RETURNS SETOF public.{table}"
        f" LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp"
        f" AS 'SELECT * FROM public.{table}';"
        f" ALTER FUNCTION {function.signature} OWNER TO tenantry_auth;"
        f" REVOKE ALL ON FUNCTION {function.signature} FROM PUBLIC;"
        f" GRANT EXECUTE ON FUNCTION {function.signature} TO tenantry_app"
    )


def with_other_names(function: SqlFunction) -> str:
    """The same function, but for the name of its first argument."""
    name, argument = re.match(r"(.+\()(\w+)", function.signature).groups()  # type: ignore[union-attr]
    declared = re.sub(rf"({re.escape(name)}\s*){argument} ", r"\1spy ", function.sql, count=1)
    return f"DROP FUNCTION {function.signature}; {declared}"


CHANGES: dict[str, str | Callable[[SqlFunction], str]] = {
    "leaks": leaking,
    "tells": telling,
    "owner": "ALTER FUNCTION {f} OWNER TO tenantry_owner",
    "owner-app": "ALTER FUNCTION {f} OWNER TO tenantry_app",
    "public": "GRANT EXECUTE ON FUNCTION {f} TO PUBLIC",
    "for-operator": "GRANT EXECUTE ON FUNCTION {f} TO tenantry_operator",
    "path": "ALTER FUNCTION {f} SET search_path = public",
    "no-path": "ALTER FUNCTION {f} RESET search_path",
    "plan": "ALTER FUNCTION {f} SET plan_cache_mode = force_custom_plan",
}
# One function stands for all: what is compared does not depend on which it is.
MORE: dict[str, str | Callable[[SqlFunction], str]] = {
    "names": with_other_names,
    "owner-operator": "ALTER FUNCTION {f} OWNER TO tenantry_operator",
    "owner-superuser": "ALTER FUNCTION {f} OWNER TO {admin}",
    "for-a-stranger": "CREATE ROLE audit_nosy; GRANT EXECUTE ON FUNCTION {f} TO audit_nosy",
    "passed-on": "GRANT EXECUTE ON FUNCTION {f} TO tenantry_app WITH GRANT OPTION",
    "not-for-app": "REVOKE EXECUTE ON FUNCTION {f} FROM tenantry_app",
    "no-settings": "ALTER FUNCTION {f} RESET ALL",
    "row-security": "ALTER FUNCTION {f} SET row_security = off",
    "invoker": "ALTER FUNCTION {f} SECURITY INVOKER",
    "immutable": "ALTER FUNCTION {f} IMMUTABLE",
    "parallel": "ALTER FUNCTION {f} PARALLEL SAFE",
}


def _of(function: SqlFunction) -> list[Mutation]:
    short = function.file.removesuffix(".sql")
    subject = f"function {function.signature}"
    return [
        *(
            Mutation(
                f"{short}-{name}",
                change(function) if callable(change) else change.replace("{f}", function.signature),
                subject,
                "function-differs",
            )
            for name, change in (CHANGES | (MORE if short == "validate_session" else {})).items()
        ),
        Mutation(
            f"{short}-leakproof",
            f"ALTER FUNCTION {function.signature} LEAKPROOF",
            subject,
            "function-leakproof",
        ),
        Mutation(
            f"{short}-dropped",
            f"DROP FUNCTION {function.signature}",
            subject,
            "function-missing",
        ),
        Mutation(
            f"{short}-renamed",
            f"ALTER FUNCTION {function.signature} RENAME TO somebody",
            subject,
            "function-missing",
        ),
    ]


_WIDER = {
    "sessions": (
        "SELECT",
        "SELECT (user_agent)",
        "UPDATE",
        "UPDATE (secret_hash)",
        "UPDATE (absolute_expires_at)",
        "INSERT",
        "DELETE",
        "TRUNCATE",
    ),
    "users": ("SELECT", "SELECT (hashed_password)", "UPDATE (disabled_at)"),
    "tenants": ("SELECT", "SELECT (settings)", "SELECT (name)", "UPDATE (api_key)", "DELETE"),
    "messages": ("SELECT", "SELECT (content)"),
    "security_events": ("SELECT",),
}

_NEAR = ("t.slug ~~ find_tenant.slug", "lower(t.slug) = lower(find_tenant.slug)")


def _of_slugs(function: SqlFunction) -> list[Mutation]:
    """The same function, which finds what is only near."""
    exact = "t.slug = find_tenant.slug"
    assert exact in function.sql
    subject = f"function {function.signature}"
    return [
        Mutation(
            f"find-near-{number}", function.sql.replace(exact, near), subject, "function-differs"
        )
        for number, near in enumerate(_NEAR)
    ]


LOOK_UPS = [
    *(each for function in house.LOOK_UPS for each in _of(function)),
    *_of_slugs(house.LOOK_UPS[-1]),
    *(
        mutation
        for table, privileges in _WIDER.items()
        for privilege in privileges
        for mutation in on(
            table,
            (
                f"auth-{table}-{privilege.lower()}",
                f"GRANT {privilege} ON {table} TO tenantry_auth",
                "grant-too-wide",
            ),
        )
    ),
    *on(
        "sessions",
        (
            "auth-may-pass-on",
            "GRANT SELECT (secret_hash) ON sessions TO tenantry_auth WITH GRANT OPTION",
            "grant-too-wide",
        ),
        (
            "look-up-for-app",
            "ALTER POLICY auth_look_up ON sessions TO tenantry_app",
            "policy-for-others",
        ),
        (
            "look-up-for-owner-too",
            "ALTER POLICY auth_look_up ON sessions TO tenantry_auth, tenantry_owner",
            "policy-for-others",
        ),
        ("look-up-dropped", "DROP POLICY auth_look_up ON sessions", "policy-missing"),
        (
            "look-up-of-every-command",
            "DROP POLICY auth_look_up ON sessions; CREATE POLICY auth_look_up ON sessions"
            " TO tenantry_auth USING (true)",
            "policy-differs",
        ),
        (
            "renewal-for-app",
            "ALTER POLICY auth_renewal ON sessions TO tenantry_app",
            "policy-for-others",
        ),
        (
            "auth-deletes",
            "CREATE POLICY extra ON sessions FOR DELETE TO tenantry_auth USING (true)",
            "policy-undeclared",
        ),
    ),
    *on(
        "tenants",
        (
            "look-up-of-tenants-for-operator",
            "ALTER POLICY auth_look_up ON tenants TO tenantry_operator",
            "policy-for-others",
        ),
    ),
    *on(
        "users",
        (
            "look-up-of-users-for-public",
            "ALTER POLICY auth_look_up ON users TO PUBLIC",
            "policy-for-others",
        ),
        (
            "auth-renews-users",
            "CREATE POLICY auth_renewal ON users FOR UPDATE TO tenantry_auth USING (true)",
            "policy-undeclared",
        ),
    ),
    *on(
        "messages",
        (
            "auth-sees-messages",
            "CREATE POLICY auth_look_up ON messages FOR SELECT TO tenantry_auth USING (true)",
            "policy-undeclared",
        ),
    ),
    *(
        Mutation(f"auth-create-{schema}", sql, f"schema {schema}", "schema-grant")
        for schema in ("tenantry", "public")
        for sql in [f"GRANT CREATE ON SCHEMA {schema} TO tenantry_auth"]
    ),
    *(
        Mutation(
            f"auth-member-{name}",
            f"CREATE ROLE audit_nosy {attribute}; GRANT tenantry_auth TO audit_nosy {options}",
            "role audit_nosy",
            "role-membership",
        )
        for name, attribute, options in (
            ("login", "LOGIN", ""),
            ("set-only", "LOGIN", "WITH INHERIT FALSE"),
            ("admin-only", "LOGIN", "WITH INHERIT FALSE, SET FALSE, ADMIN TRUE"),
            ("group", "NOLOGIN", ""),
        )
    ),
    Mutation("auth-login", "ALTER ROLE tenantry_auth LOGIN", "role tenantry_auth", "role-logs-in"),
    Mutation(
        "auth-bypasses",
        "ALTER ROLE tenantry_auth BYPASSRLS",
        "role tenantry_auth",
        "role-bypasses",
    ),
    Mutation(
        "auth-member-of-operator",
        "GRANT tenantry_operator TO tenantry_auth",
        "role tenantry_auth",
        "role-membership",
    ),
    Mutation(
        "auth-owns-another-function",
        "CREATE FUNCTION spy() RETURNS int SECURITY DEFINER LANGUAGE sql"
        " SET search_path = pg_catalog, pg_temp AS 'SELECT 1';"
        " ALTER FUNCTION spy() OWNER TO tenantry_auth;"
        " REVOKE EXECUTE ON FUNCTION spy() FROM PUBLIC;"
        " GRANT EXECUTE ON FUNCTION spy() TO tenantry_app",
        "function public.spy()",
        "definer-open",
    ),
    *(
        mutation
        for privilege in (
            "UPDATE",
            "UPDATE (details)",
            "DELETE",
            "TRUNCATE",
            "INSERT",
            "INSERT (created_at)",
        )
        for mutation in on(
            "security_events",
            (
                f"events-{privilege.lower()}",
                f"GRANT {privilege} ON security_events TO tenantry_app",
                "grant-too-wide",
            ),
        )
    ),
]
