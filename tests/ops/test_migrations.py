from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import URL, text

from tenantry import Database
from tenantry.errors import (
    DatabaseUnavailableError,
    MigrationError,
    PrivilegeError,
    SchemaMissingError,
    SchemaTooNewError,
    UnsupportedServerError,
)
from tenantry.ops import drift, embedded
from tenantry.ops.connections import migration_connection
from tenantry.ops.migrations import downgrade, migrate, reset
from tenantry.ops.project import Project
from tenantry.ops.revisions import revision
from tenantry.ops.seed import SeedPlan, seed
from tenantry.schema.base import SCHEMA_REVISION
from tenantry.settings import ADMIN_URL, DATABASE_URL, url_text
from tenantry.tenancy.inspection import Server as ServerVersions
from tenantry.tenancy.inspection import require_supported
from tests.conftest import Connect, Server, Urls
from tests.forked import Forked
from tests.ops.projects import NOTES, declare


async def dump(url: URL) -> str:
    """What `pg_dump --schema-only` prints, but for the two lines that hold a random word."""
    program = str(embedded.binary("pg_dump"))
    process = await asyncio.create_subprocess_exec(
        program, "--schema-only", url_text(url), stdout=subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    lines = output.decode().splitlines()
    return "\n".join(line for line in lines if not line.startswith(("\\restrict", "\\unrestrict")))


def environment(url: URL) -> dict[str, str]:
    return {**os.environ, DATABASE_URL: url_text(url), ADMIN_URL: url_text(url)}


async def command(url: URL, *arguments: str, folder: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tenantry", *arguments),
        env=environment(url),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


async def versions(url: URL) -> list[str]:
    connection = await asyncpg.connect(url_text(url))
    try:
        query = "SELECT version_num FROM tenantry.alembic_version ORDER BY 1 DESC"
        rows = await connection.fetch(query)
        return [row[0] for row in rows]
    finally:
        await connection.close()


async def test_migrated_equals_pushed_equals_up_down_up(
    server: Server, empty_database: URL
) -> None:
    """The three ways to a schema end in the same one, row security and grants included."""
    pushed = server.at(await server.create_database())
    try:
        await migrate(empty_database)
        await drift.push(pushed)
        migrated = await dump(empty_database)
        assert "FORCE ROW LEVEL SECURITY" in migrated
        assert "CREATE POLICY" in migrated
        assert await dump(pushed) == migrated
        await downgrade(empty_database)
        assert "widgets" not in await dump(empty_database)
        await migrate(empty_database)
        assert await dump(empty_database) == migrated
    finally:
        await server.drop_database(str(pushed.database))


async def test_migrations_go_up_down_and_up_again_on_data(db: Database, urls: Urls) -> None:
    """Rows do not stand in the way of a downgrade, nor of the upgrade after it."""
    await seed(db, SeedPlan(users=6, chunks=12))
    revisions = await downgrade(urls.admin)
    assert revisions[0] == SCHEMA_REVISION
    assert await migrate(urls.admin) == revisions[::-1]
    await seed(db, SeedPlan(users=6, chunks=12))


async def test_the_newest_revision_is_the_one_that_the_models_name(urls: Urls) -> None:
    """`SCHEMA_REVISION`, with which an older library knows a newer database, is the head."""
    assert await versions(urls.admin) == [SCHEMA_REVISION]


async def test_a_migrated_database_has_nothing_to_do(urls: Urls) -> None:
    """A second run applies nothing."""
    assert await migrate(urls.admin) == []


async def test_ten_migrators_at_once(empty_database: URL, tmp_path: Path) -> None:
    """One works, nine wait, all end well."""
    given = environment(empty_database)
    processes = [
        Forked("-m", "tenantry", "db", "migrate", environment=given, folder=tmp_path)
        for _ in range(10)
    ]
    results = [await asyncio.to_thread(process.result) for process in processes]
    assert [each.code for each in results] == [0] * 10, results
    applied = [each for each in results if f"applied {SCHEMA_REVISION}" in each.out]
    assert len(applied) == 1
    assert await versions(empty_database) == [SCHEMA_REVISION]


SLOW = """
from alembic import op
revision = "slow"
down_revision = None
branch_labels = ("app",)
depends_on = "tenantry_0001"

def upgrade() -> None:
    op.execute("CREATE TABLE half (id int)")
    op.execute("SELECT pg_sleep(600) WHERE current_setting('test.slow', true) = 'on'")

def downgrade() -> None:
    op.execute("DROP TABLE half")
"""


async def test_a_killed_migrator_leaves_the_old_version(
    urls: Urls, connect: Connect, tmp_path: Path
) -> None:
    """kill -9 in the middle: nothing of the migration stays, and the next run succeeds."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "slow.py").write_text(SLOW)
    admin = await connect(urls.admin)
    await admin.execute(f"ALTER DATABASE {urls.admin.database} SET test.slow = 'on'")
    process = await command(urls.admin, "db", "migrate", folder=tmp_path)
    sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(600)%'"
    async with asyncio.timeout(30):
        while not await admin.fetchval(f"{sleeping} AND datname = current_database()"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
    await admin.execute(f"ALTER DATABASE {urls.admin.database} RESET test.slow")
    assert await versions(urls.admin) == [SCHEMA_REVISION]
    assert await migrate(urls.admin, project=Project(migrations=folder), wait_seconds=30) == [
        "slow"
    ]
    assert await versions(urls.admin) == [SCHEMA_REVISION, "slow"]


async def test_sessions_from_before_signing_in_keep_their_time(
    urls: Urls, admin: asyncpg.Connection, tmp_path: Path
) -> None:
    """What was stored before 0002 passes the checks that it brings; own migrations stay beside."""
    (tmp_path / "slow.py").write_text(SLOW)
    project = Project(migrations=tmp_path)
    assert await migrate(urls.admin, project=project) == ["slow"]
    newer = await downgrade(urls.admin, target="tenantry_0001", project=project)
    assert await versions(urls.admin) == ["slow"]
    await admin.execute(
        "INSERT INTO tenants (id, name, slug, api_key) VALUES"
        " ('00000000-0000-0000-0000-00000000000a', 'Acme', 'acme', sha256('key'));"
        " INSERT INTO users (tenant_id, email, name) SELECT id, 'a@acme.example', 'A' FROM tenants;"
        " INSERT INTO sessions (tenant_id, id, user_id, secret_hash, expires_at)"
        " SELECT tenant_id, days::text, id, sha256('x'), now() + days * interval '1 day'"
        " FROM users, unnest(ARRAY[1, 300]) AS days"
    )
    assert await migrate(urls.admin, project=project) == newer[::-1]
    lasting = "SELECT round(extract(epoch FROM absolute_expires_at - now()) / 86400) FROM sessions"
    assert [row[0] for row in await admin.fetch(f"{lasting} ORDER BY 1")] == [30, 300]
    found = "SELECT * FROM tenantry.validate_session((SELECT id FROM tenants), '300', sha256('x'))"
    assert len(await admin.fetch(found)) == 1
    assert await admin.fetch("SELECT FROM pg_constraint WHERE NOT convalidated") == []
    assert await drift.check(urls.admin) == ["table half is not declared"]


async def test_tenants_from_before_are_found(urls: Urls, admin: asyncpg.Connection) -> None:
    """The look-up by slug comes with its migration, right and all, and goes with it."""
    held = "SELECT has_column_privilege('tenantry_auth', 'tenants', 'slug', 'SELECT')"
    assert (await downgrade(urls.admin, target="tenantry_0004"))[-1] == "tenantry_0005"
    assert await admin.fetchval("SELECT to_regproc('tenantry.find_tenant')") is None
    assert await admin.fetchval(held) is False
    await admin.execute(
        "INSERT INTO tenants (id, name, slug)"
        " VALUES ('00000000-0000-0000-0000-00000000000a', 'Acme', 'acme')"
    )
    await migrate(urls.admin)
    found = await admin.fetchval("SELECT id FROM tenants WHERE id = tenantry.find_tenant('acme')")
    assert str(found) == "00000000-0000-0000-0000-00000000000a"
    assert await drift.check(urls.admin) == []


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ('op.execute("SELECT 1/0")', "division by zero"),
        ("undefined_name", "NameError"),
        ('op.create_table("widgets")', "already exists.*db push"),
    ],
)
async def test_a_migration_that_fails_is_rolled_back(
    urls: Urls, tmp_path: Path, statement: str, message: str
) -> None:
    """A failing migration leaves nothing, and the error says what PostgreSQL or Python said."""
    slow = SLOW.replace(
        "op.execute(\"SELECT pg_sleep(600) WHERE current_setting('test.slow', true) = 'on'\")",
        statement,
    )
    assert slow != SLOW
    (tmp_path / "bad.py").write_text(slow)
    with pytest.raises(MigrationError, match=f"rolled back.*{message}"):
        await migrate(urls.admin, project=Project(migrations=tmp_path))
    assert await versions(urls.admin) == [SCHEMA_REVISION]
    assert "public.half" not in await dump(urls.admin)


async def test_a_data_migration_runs_as_the_operator(
    db: Database, urls: Urls, tenants: object, tmp_path: Path
) -> None:
    """FORCE hides every row from the owner; `execute_as_operator` reaches all tenants' rows."""
    as_owner = SLOW.partition('    op.execute("SELECT pg_sleep')[0].replace(
        'op.execute("CREATE TABLE half (id int)")',
        "op.execute(\"UPDATE tenants SET name = 'owner'\")\n"
        "    op.execute_as_operator(\"UPDATE tenants SET name = name || '!';\")\n"
        '    op.execute("CREATE TABLE half (id int)")',
    )
    (tmp_path / "data.py").write_text(as_owner + "\ndef downgrade() -> None: ...\n")
    await migrate(urls.admin, project=Project(migrations=tmp_path))
    async with db.operator() as tx:
        names = set(await tx.scalars(text("SELECT name FROM tenants")))
        owner = await tx.scalar(text("SELECT tableowner FROM pg_tables WHERE tablename = 'half'"))
    assert names == {"Acme!", "Globex!"}
    assert owner == "tenantry_owner"


async def test_a_newer_database_is_refused(urls: Urls, connect: Connect) -> None:
    """A database of a newer tenantry is neither migrated nor used."""
    admin = await connect(urls.admin)
    await admin.execute("UPDATE tenantry.alembic_version SET version_num = 'tenantry_9999'")
    with pytest.raises(SchemaTooNewError, match="tenantry_9999.*Install the newer"):
        await migrate(urls.admin)
    with pytest.raises(SchemaTooNewError, match="tenantry_9999"):
        async with Database.connect(settings=urls.settings):
            pass


async def test_a_revision_of_another_project_is_refused(urls: Urls, connect: Connect) -> None:
    """A database at a revision that this project does not have is left alone."""
    admin = await connect(urls.admin)
    await admin.execute("INSERT INTO tenantry.alembic_version VALUES ('elsewhere')")
    with pytest.raises(MigrationError, match="elsewhere.*Nothing was changed"):
        await migrate(urls.admin)


async def test_the_wait_for_another_migrator_ends(urls: Urls) -> None:
    """Whoever waits too long is told so, and changes nothing."""
    steps: list[str] = []
    async with migration_connection(urls.admin):
        with pytest.raises(MigrationError, match="did not end within 0.2 s"):
            await migrate(urls.admin, wait_seconds=0.2, on_step=steps.append)
    assert steps == ["another migration is running, waiting for it"]


async def test_a_table_in_use_is_not_waited_for_without_end(
    urls: Urls, connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lock_timeout ends a migration before the queries behind it pile up."""
    from tenantry.ops import connections, migrations

    for module in (connections, migrations):
        monkeypatch.setattr(module, "LOCK_TIMEOUT_SECONDS", 1)
    (tmp_path / "alter.py").write_text(
        SLOW.replace("CREATE TABLE half (id int)", "ALTER TABLE widgets ADD x int")
    )
    reader = await connect(urls.admin)
    async with reader.transaction():
        await reader.execute("SELECT * FROM widgets")
        with pytest.raises(MigrationError, match="in use for more than 1 s"):
            await migrate(urls.admin, project=Project(migrations=tmp_path))
    assert await drift.check(urls.admin) == []


async def test_reset_makes_an_empty_database_again(db: Database, urls: Urls) -> None:
    """After a reset the schema is whole and the rows are gone."""
    await seed(db, SeedPlan(users=6, chunks=12))
    before = await dump(urls.admin)
    await reset(urls.admin)
    assert await dump(urls.admin) == before
    async with db.operator() as tx:
        assert await tx.scalar(text("SELECT count(*) FROM tenants")) == 0


async def test_reset_leaves_other_databases_alone(
    server: Server, urls: Urls, template: str, connect: Connect
) -> None:
    """The roles are the server's: what they own and may do in another database stays."""
    rights = "SELECT datacl::text FROM pg_database WHERE datname = current_database()"
    other = server.at(await server.create_database(template=template))
    try:
        admin = await connect(other)
        await admin.execute(f"GRANT CONNECT ON DATABASE {other.database} TO tenantry_auth")
        before = (await admin.fetchval(rights), await dump(other))
        assert "tenantry.validate_session(" in before[1]
        await reset(urls.admin)
        assert (await admin.fetchval(rights), await dump(other)) == before
    finally:
        await server.drop_database(str(other.database))


# Who may migrate


@pytest.fixture
async def managed(server: Server, template: str) -> AsyncIterator[URL]:
    """What a managed service gives: a CREATEROLE role that owns its database, no superuser."""
    role, database = f"managed_{uuid4().hex[:8]}", f"tenantry_test_{uuid4().hex[:8]}"
    await server.run(
        f"CREATE ROLE {role} LOGIN CREATEROLE PASSWORD 'x'",
        f"CREATE DATABASE {database} OWNER {role} TEMPLATE template0",
    )
    # The provider lets it create the extension; here the superuser stands in for that.
    await server.run("CREATE EXTENSION vector", database=database)
    # As on a service of one's own, the roles are not there yet or were made by this role.
    granted = ", ".join(("tenantry_owner", "tenantry_auth", "tenantry_operator"))
    await server.run(f"GRANT {granted} TO {role} WITH SET TRUE, INHERIT FALSE")
    url = server.at(database).set(username=role, password="x")
    yield url
    await server.drop_database(database)
    await server.run(f"REVOKE {granted} FROM {role}", f"DROP ROLE {role}")


async def test_a_createrole_user_of_a_managed_service_migrates(
    server: Server, template: str, managed: URL
) -> None:
    """No superuser is needed: the result is the same schema, and the application is kept apart."""
    await migrate(managed)
    assert await drift.check(managed) == []
    assert await dump(server.at(str(managed.database))) == await dump(server.at(template))
    app = server.at(str(managed.database), user="tenantry_app")
    async with Database.connect(app, admin_url=managed) as db, db.operator() as tx:
        assert await tx.scalar(text("SELECT current_user::text")) == "tenantry_operator"


async def test_roles_are_made_by_a_createrole_user(server: Server, connect: Connect) -> None:
    """`roles.sql` needs CREATEROLE and no more, where the roles do not exist yet."""
    from tenantry.tenancy.functions import sql_file

    prefix, role = f"r{uuid4().hex[:6]}_", f"maker_{uuid4().hex[:8]}"
    await server.run(f"CREATE ROLE {role} LOGIN CREATEROLE PASSWORD 'x'")
    connection = await connect(server.at("postgres").set(username=role, password="x"))
    script = sql_file("roles.sql").replace("tenantry_", prefix)
    for _ in range(2):
        await connection.execute(script)
    made = await connection.fetch(
        "SELECT rolname, rolcanlogin,"
        " rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb AS more"
        " FROM pg_roles WHERE starts_with(rolname, $1) ORDER BY 1",
        prefix,
    )
    await connection.execute(f"SET ROLE {prefix}owner")
    await connection.execute("RESET ROLE")
    for row in made:
        await connection.execute(f"DROP ROLE {row['rolname']}")
    await connection.close()
    await server.run(f"DROP ROLE {role}")
    assert [(row[0].removeprefix(prefix), row[1], row[2]) for row in made] == [
        ("app", True, False),
        ("auth", False, False),
        ("operator", False, False),
        ("owner", False, False),
    ]


@pytest.mark.parametrize(
    ("rights", "message"),
    [
        (None, "may not create roles"),
        ("tenantry_owner, tenantry_auth, tenantry_operator", "may not set up the database"),
    ],
)
async def test_a_role_without_rights_is_told_which(
    server: Server, rights: str | None, message: str
) -> None:
    """A role that may not make roles or extensions is told so, and nothing is half-made."""
    role = f"poor_{uuid4().hex[:8]}"
    await server.run(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    database = await server.create_database()
    if rights:
        await server.run(f"GRANT {rights} TO {role} WITH SET TRUE, INHERIT FALSE")
    url = server.at(database).set(username=role, password="x")
    try:
        with pytest.raises(PrivilegeError, match=message):
            await migrate(url)
        assert "tenantry" not in await dump(server.at(database))
    finally:
        await server.drop_database(database)
        if rights:
            await server.run(f"REVOKE {rights} FROM {role}")
        await server.run(f"DROP ROLE {role}")


@pytest.mark.parametrize(
    ("server_says", "message"),
    [
        (ServerVersions(150018, "15.18", "0.8.0", [], None), "PostgreSQL 15.18; 16 or newer"),
        (ServerVersions(160004, "16.4", None, [], None), "pgvector is not installed"),
        (ServerVersions(160004, "16.4", "0.7.4", [], None), "pgvector here is 0.7.4; 0.8"),
        (ServerVersions(160004, "16.4", "0.7.4", [], "0.7.4"), "ALTER EXTENSION vector UPDATE"),
        (ServerVersions(160004, "16.4", "0.8.0", ["pg_trgm"], None), "pg_trgm is not installed"),
        (
            ServerVersions(160004, "16.4", "0.8.0", ["btree_gin", "pg_trgm"], None),
            "btree_gin and pg_trgm are not installed.*contrib",
        ),
    ],
)
def test_servers_that_are_too_old_are_refused(server_says: ServerVersions, message: str) -> None:
    """Each missing or old part is named, with what to do."""
    with pytest.raises(UnsupportedServerError, match=message):
        require_supported(server_says)


def test_servers_that_will_do_are_accepted() -> None:
    """The oldest that is supported, and one of the future."""
    require_supported(ServerVersions(160000, "16.0", "0.8.0", [], None))
    require_supported(ServerVersions(190000, "19.0", "0.10.1", [], "0.10.1"))


async def test_a_server_that_is_down_is_one_clear_error(tmp_path: Path) -> None:
    """No server: the message says where it was looked for."""
    url = URL.create(
        "postgresql", "someone", "hunter2", database="x", query={"host": str(tmp_path)}
    )
    with pytest.raises(DatabaseUnavailableError, match="Cannot reach PostgreSQL at") as caught:
        await migrate(url)
    assert "hunter2" not in str(caught.value)


# A user's own tables


async def test_own_tables_pass_through_revision_and_migrate(
    db: Database, urls: Urls, tmp_path: Path
) -> None:
    """A model of a few lines is written as a migration, applied, and no drift is left."""
    project = declare(tmp_path, NOTES)
    written = await revision(urls.admin, message="add notes", project=project)
    assert written is not None
    source = written.read_text()
    assert "op.create_policy(" in source
    assert "op.grant_privileges(" in source
    assert "tenantry.schema" not in source
    assert await migrate(urls.admin, project=project) == [written.name.partition("_")[0]]
    assert await drift.check(urls.admin, project=project) == []
    assert await revision(urls.admin, message="again", project=project) is None
    before = await dump(urls.admin)
    await downgrade(urls.admin, target="app@base", project=project)
    assert await drift.check(urls.admin) == []
    await migrate(urls.admin, project=project)
    assert await dump(urls.admin) == before


async def test_a_second_revision_follows_the_first(urls: Urls, tmp_path: Path) -> None:
    """Later revisions continue the project's own line, and change only what changed."""
    first = await revision(urls.admin, message="one", project=declare(tmp_path, NOTES))
    project = declare(tmp_path, NOTES + "        color: Mapped[str | None]\n")
    with pytest.raises(MigrationError, match="db migrate"):
        await revision(urls.admin, message="two", project=project)
    await migrate(urls.admin, project=project)
    second = await revision(urls.admin, message="two", project=project)
    assert first is not None
    assert second is not None
    assert f"down_revision = '{first.name.partition('_')[0]}'" in second.read_text()
    assert (
        "op.add_column('notes', sa.Column('color', sa.Text(), nullable=True))" in second.read_text()
    )
    assert "policy" not in second.read_text()
    await migrate(urls.admin, project=project)
    assert await drift.check(urls.admin, project=project) == []


async def test_a_refused_revision_leaves_nothing_behind(
    empty_database: URL, tmp_path: Path
) -> None:
    """On a database that was not migrated: no folder, no schema, one message."""
    with pytest.raises(SchemaMissingError, match="tenantry db migrate"):
        await revision(empty_database, message="x", project=declare(tmp_path, NOTES))
    assert list(tmp_path.iterdir()) == []
    assert "tenantry" not in await dump(empty_database)


async def test_a_migration_that_is_no_python_is_named(urls: Urls, tmp_path: Path) -> None:
    """A file that cannot be read is one message with its line, and nothing runs."""
    (tmp_path / "bad.py").write_text("revision = 'bad'\ndef upgrade(:\n")
    with pytest.raises(MigrationError, match="bad.py, line 2.*Nothing was changed"):
        await migrate(urls.admin, project=Project(migrations=tmp_path))


async def test_a_folder_that_cannot_be_written_is_named(urls: Urls, tmp_path: Path) -> None:
    """A file where the folder should be: the message names it."""
    project = declare(tmp_path, NOTES)
    with contextlib.suppress(FileExistsError):
        (tmp_path / "migrations").write_text("")
    with pytest.raises(MigrationError, match="migrations"):
        await revision(urls.admin, message="x", project=project)
