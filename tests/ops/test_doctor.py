"""The doctor: what it says of a server, its settings and roles, and that it changes nothing."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import URL, text

from tenantry.ops import doctor
from tenantry.ops.application_role import audited_role
from tenantry.ops.diagnosis import capacity, configuration, connection, versions
from tenantry.ops.diagnosis.report import Diagnosis
from tenantry.ops.doctor import examine
from tenantry.ops.knowledge_indexes import Mended, mend_indexes
from tenantry.ops.migrations import downgrade, migrate
from tenantry.ops.project import Project
from tenantry.ops.revisions import revision
from tenantry.settings import Settings
from tenantry.tenancy.connecting import create_engine
from tests.conftest import Connect, Server, Urls
from tests.ops.projects import NOTES, declare
from tests.pgbouncer import pgbouncer

TODAY = date(2026, 11, 22)


def by_name(found: list[Diagnosis]) -> dict[str, Diagnosis]:
    """The diagnoses by name, each of which is there once."""
    names = [each.name for each in found]
    assert len(names) == len(set(names)), names
    return {each.name: each for each in found}


async def look(settings: Settings, *, processes: int = 1) -> dict[str, Diagnosis]:
    return by_name(await examine(settings, processes=processes))


# Versions


@pytest.mark.parametrize(
    ("number", "state", "named"),
    [
        (160_004, "problem", "CVE-2024-10976"),
        (170_000, "problem", "CVE-2024-10978"),
        (160_009, "problem", "CVE-2025-8713"),
        (170_009, "problem", "CVE-2026-6473"),
        (180_000, "problem", "CVE-2025-12817"),
        (180_005, "warning", "CVE-2026-16239"),
        (160_015, "warning", "CVE-2026-120141"),
        (160_016, "ok", ""),
        (170_012, "ok", ""),
        (180_007, "ok", ""),
        (190_000, "ok", ""),
    ],
)
def test_unsafe_minor_releases_are_known(number: int, state: str, named: str) -> None:
    """A release is judged by the defects that it has, each with its source."""
    found = by_name(versions.diagnose_postgresql(number, "x", today=TODAY))
    assert found["postgresql-security"].state == state
    assert named in found["postgresql-security"].found
    if named:
        assert f"https://www.postgresql.org/support/security/{named}/" in (
            found["postgresql-security"].found
        )


def test_the_release_after_the_newest_fix_is_named() -> None:
    """The advice leads to a release without any of them."""
    (*_, found) = versions.diagnose_postgresql(160_000, "16.0", today=TODAY)
    assert "Update to 16.16 or newer" in found.advice


def test_the_two_releases_that_forget_the_role_are_known() -> None:
    """16.5 and 17.1 do not take a role with the login, and no release before or after them."""
    for number, has in ((160_004, False), (160_005, True), (160_006, False), (170_001, True)):
        (*_, found) = versions.diagnose_postgresql(number, "x", today=TODAY)
        assert ("a role given at login" in found.found) is has


def test_old_major_versions_are_a_problem() -> None:
    """PostgreSQL 15 is refused; 16 is fine until it is not maintained any more."""
    (old,) = versions.diagnose_postgresql(150_019, "15.19", today=TODAY)
    assert (old.state, "16 or newer is required" in old.found) == ("problem", True)
    for today, state in (
        (date(2028, 1, 1), "ok"),
        (date(2028, 10, 1), "warning"),
        (date(2028, 11, 10), "problem"),
    ):
        _, support, _ = versions.diagnose_postgresql(160_016, "16.16", today=today)
        assert support.state == state


@pytest.mark.parametrize(
    ("installed", "available", "states"),
    [
        (None, None, ["problem"]),
        (None, "0.8.6", ["problem"]),
        ("0.7.4", "0.8.6", ["problem"]),
        ("0.8.0", "0.8.1", ["ok", "warning"]),
        ("0.8.0", "0.8.6", ["ok", "ok"]),  # the code that runs is the package's
        ("0.8.6", None, ["ok", "ok"]),
        ("0.10.0", "0.10.0", ["ok", "ok"]),
    ],
)
def test_pgvector_is_judged_by_the_code_that_runs(
    installed: str | None, available: str | None, states: list[str]
) -> None:
    """0.8 is required; CVE-2026-3172 is in the library, so the package's version counts."""
    found = versions.diagnose_pgvector(installed, available)
    assert [each.state for each in found] == states
    assert ("CVE-2026-3172" in found[-1].found) is ("warning" in states)


# A database as the migrations leave it


async def test_a_migrated_database_has_no_problem(urls: Urls) -> None:
    """Nothing that tenantry itself sets up is complained about."""
    found = await look(urls.settings)
    assert {each.name: each.found for each in found.values() if each.state == "problem"} == {}
    assert found["application-role"].found == "tenantry_app is bound by row security"
    assert found["migrations"].state == "ok"
    assert found["vector-scan"].found == "hnsw.iterative_scan is strict_order"
    assert found["administrator-role"].state == "ok"


async def test_without_the_admin_url_the_rest_is_looked_at(urls: Urls) -> None:
    """What a web process has is enough for all but the administrator's role and others' rows."""
    everything = await look(urls.settings)
    found = await look(replace(urls.settings, admin_url=None))
    assert everything.keys() - found.keys() == {"administrator-role", "expired-rows"}
    assert found["administrator-connection"].state == "ok"
    assert not [each for each in found.values() if each.state == "problem"]


async def test_a_server_that_is_away_is_one_diagnosis_and_no_secret(urls: Urls) -> None:
    """The rest is said with the other connection, and no password is shown."""
    away = URL.create("postgresql", "a", "hunter2", "127.0.0.1", 1, "d")
    found = await look(replace(urls.settings, database_url=away))
    assert found["application-connection"].state == "problem"
    assert "Cannot reach PostgreSQL at a@127.0.0.1:1/d" in found["application-connection"].found
    assert found["postgresql-version"].state == "ok"
    found = await look(Settings(database_url=away, admin_url=away))
    assert [each.name for each in found.values()] == [
        "tenantry",
        "application-connection",
        "administrator-connection",
    ]
    assert "hunter2" not in repr(found)


async def test_a_database_that_is_not_ours_is_said_to_be_so(
    server: Server, template: str, empty_database: URL
) -> None:
    """An empty database: never migrated, no extensions, and no traceback."""
    del template  # its migration has made the roles
    app = empty_database.set(username="tenantry_app")
    found = await look(Settings(database_url=app, admin_url=empty_database))
    assert found["migrations"].found == "this database was never migrated"
    assert found["extensions"].found == "missing: vector, pg_trgm, btree_gin"
    assert found["application-role"].state == "problem"
    assert found["audit"].state == "problem"


async def test_the_doctor_changes_nothing(urls: Urls, connect: Connect) -> None:
    """Its connections are read-only, and it leaves no row, object or setting behind."""
    admin = await connect(urls.admin)
    state = """
        SELECT (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_proc),
               (SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_database d,
                   pg_stat_user_tables t WHERE d.datname = current_database()),
               (SELECT array_agg(t.setconfig ORDER BY t::text) FROM pg_db_role_setting t
                  JOIN pg_database d ON d.oid = t.setdatabase
                   AND d.datname = current_database()),
               (SELECT xmax FROM tenantry.alembic_version)
    """
    before = await admin.fetchrow(state)
    await examine(urls.settings)
    assert await admin.fetchrow(state) == before
    found: list[Diagnosis] = []
    async with doctor._connected("application", urls.app, found) as app:
        assert app is not None
        with pytest.raises(Exception, match="read-only transaction"):
            await app.execute(text("DELETE FROM widgets"))


# What goes wrong


async def test_a_role_above_the_walls_is_a_problem(urls: Urls) -> None:
    """A superuser as the application is what the library would refuse."""
    found = await look(replace(urls.settings, database_url=urls.admin))
    assert found["application-role"].state == "problem"
    assert "superuser" in found["application-role"].found
    assert "role-bypasses" in found["audit"].found


@pytest.fixture
async def login(server: Server, urls: Urls) -> AsyncIterator[URL]:
    """A login role of this test's own, with the rights of the application."""
    name = f"login_{uuid4().hex[:8]}"
    await server.run(f"CREATE ROLE {name} LOGIN; GRANT tenantry_app TO {name}")
    if urls.app.password:
        await server.run(f"ALTER ROLE {name} PASSWORD '{urls.app.password}'")
    yield urls.app.set(username=name)
    await server.run(f"DROP ROLE {name}")


@pytest.mark.parametrize(
    ("setting", "name", "state", "said"),
    [
        ("row_security = off", "row-security", "problem", "row_security is off"),
        ("default_transaction_read_only = on", "transactions", "problem", "cannot write"),
        ("default_transaction_isolation = serializable", "transactions", "warning", "40001"),
        ("hnsw.iterative_scan = off", "vector-scan", "problem", "is off"),
        ("statement_timeout = '30s'", "statement-timeout", "ok", "is 30s"),
        ("idle_in_transaction_session_timeout = '1min'", "idle-transaction-timeout", "ok", "1min"),
        ("log_min_duration_statement = 0", "statement-log", "warning", "holds bound values"),
        ("log_statement = 'all'", "statement-log", "warning", "log_statement = all"),
        ("log_parameter_max_length_on_error = 9", "statement-log", "warning", "on_error = 9"),
    ],
)
async def test_settings_that_stand_out_are_named(
    server: Server, urls: Urls, login: URL, setting: str, name: str, state: str, said: str
) -> None:
    """What holds for the application's sessions is judged, wherever it was set."""
    before = (await look(replace(urls.settings, database_url=login)))[name]
    assert said not in f"{before.found} {before.advice}"
    await server.run(f"ALTER ROLE {login.username} SET {setting}")
    found = (await look(replace(urls.settings, database_url=login)))[name]
    assert found.state == state
    assert said in f"{found.found} {found.advice}"


async def test_logged_statements_without_values_are_fine(
    server: Server, urls: Urls, login: URL
) -> None:
    """It is the values that are secret."""
    await server.run(
        f"ALTER ROLE {login.username} SET log_statement = 'all'",
        f"ALTER ROLE {login.username} SET log_parameter_max_length = 0",
    )
    found = (await look(replace(urls.settings, database_url=login)))["statement-log"]
    assert found.state == "ok"


async def test_the_advice_on_timeouts_can_be_run(server: Server, urls: Urls, login: URL) -> None:
    """The SQL that is shown does what it says."""
    settings = replace(urls.settings, database_url=login)
    names = ("statement-timeout", "idle-transaction-timeout")
    found = await look(settings)
    assert [found[name].state for name in names] == ["warning"] * 2
    await server.run(*(found[name].advice for name in names))
    found = await look(settings)
    assert [found[name].state for name in names] == ["ok"] * 2


async def test_pools_are_compared_with_every_limit(server: Server, urls: Urls, login: URL) -> None:
    """max_connections, and the limit of the role; more processes need more."""
    settings = Settings(database_url=login, admin_url=urls.admin, pool_size=2, max_overflow=1)
    assert (await look(settings))["pools"].state == "ok"
    found = (await look(settings, processes=10_000))["pools"]
    assert found.state == "problem"
    assert "30000 connections at most (10000 times 2 + 1)" in found.found
    await server.run(f"ALTER ROLE {login.username} CONNECTION LIMIT 2")
    found = (await look(settings))["pools"]
    assert found.state == "problem"
    assert f"CONNECTION LIMIT 2 of the role {login.username}" in found.found


async def test_pools_that_fit_only_while_others_are_away_are_a_warning(
    urls: Urls, connect: Connect
) -> None:
    """The connections of other roles take from the same room."""
    others = [await connect(urls.admin) for _ in range(3)]
    room = await others[0].fetchval(
        "SELECT current_setting('max_connections')::int -"
        " current_setting('superuser_reserved_connections')::int -"
        " current_setting('reserved_connections')::int"
    )
    settings = replace(urls.settings, pool_size=room, max_overflow=0)
    assert (await look(settings))["pools"].state == "warning"


async def test_migrations_that_are_pending_are_named(urls: Urls, tmp_path: Path) -> None:
    """The project's and tenantry's; reading them runs none."""
    project = declare(tmp_path, NOTES)
    written = await revision(urls.admin, message="notes", project=project)
    assert written is not None
    found = by_name(await examine(urls.settings, project=project))["migrations"]
    name = written.name.split("_")[0]
    assert (found.state, found.found) == ("problem", f"1 pending: {name}")
    assert [name] == await migrate(urls.admin, project=project)
    assert by_name(await examine(urls.settings, project=project))["migrations"].state == "ok"
    # Another checkout, without the project's file:
    found = by_name(await examine(urls.settings))["migrations"]
    assert (found.state, name in found.found) == ("problem", True)
    await downgrade(urls.admin, target="app@base", project=project)
    await downgrade(urls.admin)
    found = by_name(await examine(urls.settings, project=project))["migrations"]
    assert found.found == "this database was never migrated"


async def test_an_administrator_who_may_not_become_the_owner_is_named(
    server: Server, urls: Urls, login: URL
) -> None:
    """The advice names the roles, and without them there is no migration."""
    found = (await look(Settings(database_url=urls.app, admin_url=login)))["administrator-role"]
    assert found.state == "problem"
    assert f"{login.username} may not become tenantry_owner" in found.found
    assert "GRANT tenantry_owner" in found.advice


async def test_extensions_older_than_their_packages_are_named(urls: Urls, connect: Connect) -> None:
    """The SQL is the one that brings them up to date."""
    admin = await connect(urls.admin)
    await admin.execute("CREATE EXTENSION pg_stat_statements VERSION '1.8'")
    found = (await look(urls.settings))["extensions"]
    assert (found.state, found.advice) == ("warning", "ALTER EXTENSION pg_stat_statements UPDATE;")
    await admin.execute(found.advice)
    assert (await look(urls.settings))["extensions"].state == "ok"


async def test_faults_of_the_catalog_are_counted_by_the_audit(urls: Urls, connect: Connect) -> None:
    """The doctor says that there are some; the audit says which."""
    admin = await connect(urls.admin)
    assert (await look(urls.settings))["audit"].state == "ok"
    await admin.execute("ALTER TABLE widgets NO FORCE ROW LEVEL SECURITY")
    found = (await look(urls.settings))["audit"]
    assert found.state == "problem"
    assert "tenantry audit" in found.advice


async def test_a_look_that_fails_is_a_problem_and_the_rest_goes_on(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that cannot run must not look like one that passed."""
    monkeypatch.setattr(capacity, "_LIMITS", text("SELECT 1 / 0"))
    monkeypatch.setattr(configuration, "_EXTENSIONS", text("SELECT pg_sleep(5)"))
    monkeypatch.setattr(doctor, "_LIMIT_SECONDS", 1)
    found = await look(urls.settings)
    assert found["pools"].state == "problem"
    assert "DivisionByZeroError, SQLSTATE 22012" in found["pools"].found
    assert found["extensions"].found == "could not be looked at: no answer within 1 s"
    assert found["durability"].state in {"ok", "warning"}


# The way to the server


@pytest.mark.parametrize(
    ("difference", "uncertainty", "state"),
    [
        (0.9, 0.0, "ok"),
        (-1.2, 0.1, "warning"),
        (1.2, 0.3, "ok"),  # a slow network must not look like a wrong clock
        (-31.0, 0.5, "problem"),
        (30.2, 0.5, "warning"),
    ],
)
def test_clocks_are_judged_by_what_is_certain(
    difference: float, uncertainty: float, state: str
) -> None:
    """More than a second is a warning, more than half a minute a problem."""
    found = connection.judge_clock(difference, uncertainty=uncertainty)
    assert found.state == state
    assert bool(found.advice) is (state != "ok")


async def test_a_clock_that_is_wrong_is_measured(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The difference is that between this machine and the server, and its sign is right."""
    assert (await look(urls.settings))["clock"].state == "ok"
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 100)
    found = (await look(urls.settings))["clock"]
    assert found.state == "problem"
    assert "100.0" in found.found or "99.9" in found.found
    assert "behind this machine" in found.found


async def test_a_pooler_in_between_is_noticed(urls: Urls) -> None:
    """The process that answered the login is not the one that runs the query."""
    assert (await look(urls.settings))["pooler"].found == "none in between"
    async with pgbouncer(urls.admin, connections=2) as bounced:
        through = bounced.set(username=urls.app.username, database=urls.app.database)
        found = await look(replace(urls.settings, database_url=through))
    assert (found["pooler"].state, "PgBouncer" in found["pooler"].found) == ("ok", True)
    # Database.connect has noticed it as well, so there is nothing that the reader has to do.
    assert found["pooler"].advice == ""
    assert {each.name for each in found.values() if each.state == "problem"} == set()


@pytest.mark.parametrize(
    ("answer", "query", "state", "said"),
    [
        ("true, NULL::bool, NULL::text", {}, "ok", "Unix socket"),
        ("false, true, NULL::text", {}, "ok", "this machine only"),
        ("false, false, NULL::text", {}, "warning", "not encrypted"),
        ("false, false, 'TLSv1.3'", {"sslmode": "require"}, "ok", "any certificate is taken"),
        ("false, false, 'TLSv1.3'", {"sslmode": "verify-full"}, "ok", "certificate verified"),
    ],
)
async def test_what_can_be_read_on_the_network_is_said(
    urls: Urls,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    query: dict[str, str],
    state: str,
    said: str,
) -> None:
    """Rows that cross a network in clear text are a warning."""
    columns = "AS t (is_socket, is_local, tls)"
    monkeypatch.setattr(
        connection, "_ENCRYPTION", text(f"SELECT * FROM (VALUES ({answer})) {columns}")
    )
    engine = create_engine(urls.app)
    async with engine.connect() as opened:
        (found,) = await connection.diagnose_encryption(
            opened, url=urls.app.update_query_dict(query)
        )
    await engine.dispose()
    assert found.state == state
    assert said in found.found


async def test_the_query_on_encryption_works_on_a_real_connection(urls: Urls) -> None:
    """The one that the cases above replace."""
    found = (await look(urls.settings))["encryption"]
    assert found.state == "ok"
    assert "Unix socket" in found.found or "this machine only" in found.found


async def test_examining_is_quick(urls: Urls) -> None:
    """It is run before a deployment: a few seconds at most."""
    began = asyncio.get_running_loop().time()
    await examine(urls.settings, project=Project())
    assert asyncio.get_running_loop().time() - began < 10


async def test_a_server_that_takes_connections_and_says_nothing_is_named(
    urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for ever, and what the other connection can tell is told."""
    monkeypatch.setattr(doctor, "_LIMIT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel takes the connection
        port = silent.getsockname()[1]
        mute = URL.create("postgresql", "a", "hunter2", "127.0.0.1", port, "d")
        found = await look(replace(urls.settings, admin_url=mute))
    assert found["administrator-connection"].state == "problem"
    assert "does not answer within 1 s" in found["administrator-connection"].found
    assert found["application-role"].state == "ok"
    assert "hunter2" not in repr(found)


# Indexes


async def test_invalid_indexes_are_named_with_what_mends_them(
    urls: Urls, admin: asyncpg.Connection
) -> None:
    """Searches go slower without a word, so the doctor says it, and the advice leads out."""
    assert (await look(urls.settings))["indexes"].state == "ok"
    await admin.execute(
        'CREATE INDEX "By name" ON widgets (name);'
        "CREATE INDEX widgets_name_ccnew ON widgets (name);"
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid IN ('\"By name\"'::regclass,"
        " 'widgets_name_ccnew'::regclass, 'knowledge_chunks_embedding_idx'::regclass)"
    )
    found = (await look(urls.settings))["indexes"]
    assert found.state == "warning"
    assert "knowledge_chunks_embedding_idx" in found.found
    assert await mend_indexes(urls.admin) == [Mended("knowledge_chunks_embedding_idx", "rebuilt")]
    found = (await look(urls.settings))["indexes"]
    assert "tenantry knowledge mend" not in found.advice
    statements = re.findall("`(.+?)`", found.advice)
    assert statements == [
        'REINDEX INDEX CONCURRENTLY public."By name"',
        "DROP INDEX CONCURRENTLY public.widgets_name_ccnew",
    ]
    for statement in statements:
        await admin.execute(statement)
    assert (await look(urls.settings))["indexes"].state == "ok"


async def test_an_invalid_unique_index_is_a_problem(urls: Urls, admin: asyncpg.Connection) -> None:
    """The build that found a value twice leaves its index, and the values stay twice."""
    await admin.execute("CREATE TABLE pairs AS SELECT 1 AS value FROM generate_series(1, 2)")
    with pytest.raises(asyncpg.UniqueViolationError):
        await admin.execute("CREATE UNIQUE INDEX CONCURRENTLY pairs_value ON pairs (value)")
    found = (await look(urls.settings))["indexes"]
    assert (found.state, "public.pairs_value" in found.found) == ("problem", True)


# Whose walls are looked at


async def test_the_application_is_the_role_that_connects(
    server: Server, urls: Urls, login: URL
) -> None:
    """A login with `tenantry_app` stands behind its walls; any other role is looked at itself."""
    assert await audited_role(urls.admin, application_url=urls.app) is None
    assert await audited_role(urls.admin, application_url=login) is None
    superuser = urls.admin.username
    assert await audited_role(urls.app, application_url=urls.admin) == superuser
    assert await audited_role(urls.app, application_url=None) is None
    nobody = urls.app.set(username="tenantry_app.project")  # as a provider's pooler wants it
    assert await audited_role(urls.admin, application_url=nobody) is None
    await server.run(f"REVOKE tenantry_app FROM {login.username}")
    assert await audited_role(urls.admin, application_url=login) == login.username
