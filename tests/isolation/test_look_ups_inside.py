"""What the look-ups before the tenant is known are made of: rights, and whose code they run."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tenantry.schema.row_security import APP_ROLE
from tenantry.tenancy.functions import SqlFunction
from tests.conftest import Server, bind
from tests.isolation.house import (
    FIND,
    KEY,
    KEYS,
    LOOK_UPS,
    MANY,
    ONE,
    PROVING,
    SEARCHES,
    House,
    digest,
    house_on,
)


@pytest.fixture(scope="module")
async def built(server: Server, template: str) -> AsyncIterator[House]:
    async with house_on(server, template) as house:
        yield house


@pytest.fixture(params=["unbound", "bound to another"])
async def house(request: pytest.FixtureRequest, built: House) -> AsyncIterator[House]:
    """In a transaction of the application's; what it did is rolled back."""
    transaction = built.app.transaction()
    await transaction.start()
    if request.param != "unbound":
        await bind(built.app, built.b)
    yield built
    await transaction.rollback()


# What they are made of


@pytest.mark.parametrize("function", [*LOOK_UPS, *SEARCHES], ids=lambda each: each.file)
async def test_the_application_cannot_take_their_rights(
    built: House, function: SqlFunction
) -> None:
    """It may call them, and neither change, replace, drop nor pass them on."""
    name = function.signature
    for statement in (
        f"ALTER FUNCTION {name} SET search_path = public",
        f"ALTER FUNCTION {name} SECURITY INVOKER",
        f"ALTER FUNCTION {name} OWNER TO tenantry_app",
        f"DROP FUNCTION {name}",
        function.sql,
        "SET ROLE tenantry_auth",
        "SET SESSION AUTHORIZATION tenantry_auth",
        "GRANT tenantry_auth TO tenantry_app",
        "CREATE FUNCTION tenantry.spy() RETURNS int LANGUAGE sql RETURN 1",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await built.app.execute(statement)
    # Of what it may not call this is an error, of the others a warning; granted is nothing.
    with contextlib.suppress(asyncpg.InsufficientPrivilegeError):
        await built.app.execute(f"GRANT EXECUTE ON FUNCTION {name} TO tenantry_operator")
    held = "SELECT has_function_privilege($1, $2, 'EXECUTE')"
    assert await built.admin.fetchval(held, "tenantry_operator", function.call) is False
    is_called = " SECURITY DEFINER" in function.sql
    assert await built.admin.fetchval(held, APP_ROLE, function.call) is is_called


@pytest.mark.parametrize("function", PROVING, ids=lambda each: each.file)
def test_the_stored_digest_is_never_compared_directly(function: SqlFunction) -> None:
    """Every comparison hashes both sides with random bytes: its time says nothing of either."""
    body = function.sql.split("$$")[1]
    secrets = r"\b\w+\.(?:secret_hash|api_key|previous_api_key)\b"
    compared = re.sub(rf"sha256\(salt \|\| {secrets}\)", "", body)
    lists = re.sub(r"SELECT (?:[\w.]+,\s*)+[\w.]+\s+FROM", "", compared)
    assert re.findall(secrets, body)
    assert re.findall(secrets, lists) == []
    assert "salt bytea := float8send(random())" in body
    assert re.findall(r"[=<>]\s*(?:hash|asked\.hash)\b", body) == []


async def test_what_they_give_back_is_never_a_digest(built: House) -> None:
    """No column of any result is one, and no error quotes one."""
    for query, arguments in (
        (ONE, (built.a, "s", built.secret(built.a, "s"))),
        (MANY, ([built.a], ["s"], [built.secret(built.a, "s")])),
        (KEY, (built.a, built.secret(built.a, "old key"))),
        (KEYS, ([built.a], [built.secret(built.a, "old key")])),
    ):
        (row,) = await built.app.fetch(query, *arguments)
        assert not [value for value in row.values() if isinstance(value, bytes)]


# The caller's own code


TEMPORARY = "GRANT TEMPORARY ON DATABASE {database} TO tenantry_app"
OPEN = "CREATE SCHEMA mine AUTHORIZATION tenantry_app; GRANT USAGE ON SCHEMA mine TO PUBLIC"
SHADOWS = {
    "temporary tables": (
        "CREATE TEMP TABLE sessions AS SELECT $1::uuid AS tenant_id; CREATE TEMP TABLE users ();"
        " CREATE TEMP TABLE tenants AS SELECT $1::uuid AS id, 'spy'::text AS slug;"
        " GRANT SELECT ON tenants TO PUBLIC"
    ),
    "a schema on the path": (
        "CREATE FUNCTION mine.sha256(bytea) RETURNS bytea LANGUAGE sql RETURN 'x'::bytea;"
        " CREATE FUNCTION mine.now() RETURNS timestamptz LANGUAGE sql RETURN 'epoch'::timestamptz;"
        " CREATE TABLE mine.sessions ();"
        " CREATE TABLE mine.tenants AS SELECT $1::uuid AS id, 'spy'::text AS slug;"
        " GRANT SELECT ON mine.tenants TO PUBLIC; SET search_path = mine, pg_catalog, public"
    ),
    "an operator": (
        "CREATE FUNCTION mine.same(bytea, bytea) RETURNS boolean LANGUAGE sql RETURN true;"
        " CREATE OPERATOR mine.= (LEFTARG = bytea, RIGHTARG = bytea, FUNCTION = mine.same);"
        " CREATE FUNCTION mine.same(text, text) RETURNS boolean LANGUAGE sql RETURN true;"
        " CREATE OPERATOR mine.= (LEFTARG = text, RIGHTARG = text, FUNCTION = mine.same);"
        " SET search_path = mine, pg_catalog"
    ),
    "temporary functions": (
        "CREATE FUNCTION pg_temp.sha256(bytea) RETURNS bytea LANGUAGE sql RETURN 'x'::bytea;"
        " CREATE FUNCTION pg_temp.random() RETURNS float8 LANGUAGE sql RETURN 0;"
        " CREATE FUNCTION pg_temp.gen_random_uuid() RETURNS uuid LANGUAGE sql"
        " RETURN '00000000-0000-0000-0000-000000000000'::uuid;"
        " SET search_path = pg_temp, pg_catalog"
    ),
}


@pytest.mark.parametrize("name", SHADOWS)
async def test_they_do_not_run_the_callers_code(built: House, name: str) -> None:
    """Even where somebody let the application create: the functions find what they mean."""
    app = built.app
    await built.admin.execute(TEMPORARY.format(database=built.database))
    await built.admin.execute(OPEN)
    transaction = app.transaction()
    await transaction.start()
    try:
        for statement in SHADOWS[name].replace("$1", f"'{built.a}'").split(";"):
            await app.execute(statement)
        assert len(await built.validated(built.a, "s", built.secret(built.a, "s"))) == 1
        assert await built.validated(built.a, "s", digest("guess")) == []
        assert len(await built.opened(built.a, built.secret(built.a, "key"))) == 1
        assert await built.opened(built.a, digest("guess")) == []
        assert await app.fetchval(FIND, "b") == built.b
        assert await app.fetchval(FIND, "spy") is None
    finally:
        await transaction.rollback()
        await built.admin.execute("DROP SCHEMA mine CASCADE")
        await built.admin.execute(
            f"REVOKE TEMPORARY ON DATABASE {built.database} FROM tenantry_app"
        )


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT secret_hash FROM sessions",
        "SELECT api_key, previous_api_key FROM tenants",
        "SELECT * FROM sessions s, tenantry.validate_session(s.tenant_id, s.id, s.secret_hash)",
        "SELECT * FROM sessions s"
        " WHERE EXISTS (SELECT FROM tenantry.validate_session(tenant_id, id, secret_hash))",
        "SELECT tenant_id, secret_hash FROM sessions FOR UPDATE",
    ],
)
async def test_calling_them_opens_no_rows_around_them(house: House, statement: str) -> None:
    """Their rights end with the call: the caller's own query sees its own tenant alone."""
    found = await house.app.fetch(statement)
    seen = {value for row in found for value in row.values()}
    assert house.secret(house.a, "s") not in seen
    assert house.secret(house.a, "key") not in seen
    assert house.a not in seen


async def test_explain_does_not_look_into_them(house: House) -> None:
    """The plan of a call is one line: no condition, no count of rows, no table."""
    for analyze in ("", "ANALYZE, BUFFERS OFF, TIMING OFF, SUMMARY OFF, "):
        for name, call in (
            ("validate_session", f"validate_session('{house.a}', 's', '\\x00')"),
            ("find_tenant", "find_tenant('a')"),
        ):
            rows = await house.app.fetch(
                f"EXPLAIN ({analyze}VERBOSE) SELECT * FROM tenantry.{call}"
            )
            plan = "\n".join(row[0] for row in rows)
            assert f"Function Scan on tenantry.{name}" in plan
            assert not re.search(r"sessions\b|tenants\b|secret_hash|Index|Filter", plan), plan


async def test_statistics_of_their_statements_are_not_seen(built: House) -> None:
    """What they run belongs to another role: neither activity nor statistics show its text."""
    await built.admin.execute("ANALYZE sessions, users, tenants")
    await built.app.fetch(ONE, built.a, "s", built.secret(built.a, "s"))
    own = await built.app.fetch("SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid()")
    assert "secret_hash" not in str(own)
    for view in ("pg_stats", "pg_stats_ext"):
        query = f"SELECT count(*) FROM {view} WHERE tablename IN ('sessions', 'users', 'tenants')"
        assert await built.app.fetchval(query) == 0
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await built.app.execute("LOAD 'auto_explain'")


async def test_messages_do_not_tell_of_rows(built: House) -> None:
    """However talkative the client asks the server to be: no notice with a row in it."""
    heard: list[str] = []
    built.app.add_log_listener(lambda _, message: heard.append(str(message)))
    async with built.app.transaction():
        await built.app.execute("SET LOCAL client_min_messages = debug5")
        for setting in ("debug_print_plan", "debug_print_parse", "debug_print_rewritten"):
            await built.app.execute(f"SET LOCAL {setting} = on")
        await built.app.fetch(ONE, built.a, "s", digest("guess"))
    told = "\n".join(heard)
    assert built.secret(built.a, "s").hex() not in told
    assert str(built.user) not in told


# What is only added to


async def test_the_audit_trail_is_added_to_and_never_changed(built: House) -> None:
    """The application adds events and reads them; their time is the database's, for good."""
    async with built.app.transaction():
        await bind(built.app, built.a)
        now = await built.app.fetchval(
            "INSERT INTO security_events (kind, details) VALUES ('sign_in', '{}')"
            " RETURNING created_at"
        )
        assert now == await built.app.fetchval("SELECT now()")
        assert await built.app.fetchval("SELECT count(*) FROM security_events") == 1
        for statement in (
            "UPDATE security_events SET details = '{}'",
            "UPDATE security_events SET created_at = now() - interval '1 day'",
            "DELETE FROM security_events",
            "TRUNCATE security_events",
            "SELECT FROM security_events FOR UPDATE",
            "INSERT INTO security_events (kind, created_at) VALUES ('sign_in', now())",
            "INSERT INTO security_events (kind, id) SELECT kind, id FROM security_events"
            " ON CONFLICT (tenant_id, id) DO UPDATE SET kind = 'x'",
            "MERGE INTO security_events e USING (SELECT 1) s ON true WHEN MATCHED THEN DELETE",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with built.app.transaction():
                    await built.app.execute(statement)
