"""What a login of the application may not do to the roles, the server and the structure.

Each statement runs as a role of its own, made for the test, that has been granted `tenantry_app`
and nothing else; and again when it was given the power in question, where it has to work.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import URL

from tenantry.schema.row_security import APP_ROLE
from tests.conftest import Connect, Server, bind, open_connection
from tests.isolation.attack import answer
from tests.isolation.rows import World

SUPERUSER = ("ALTER ROLE {role} SUPERUSER",)
OWNER = ("GRANT tenantry_owner TO {role}",)
CREATE = ("GRANT CREATE ON SCHEMA public TO {role}",)
DATABASE = ("GRANT CREATE ON DATABASE {database} TO {role}",)
TEMPORARY = ("GRANT TEMPORARY ON DATABASE {database} TO {role}",)
CREATEROLE = ("ALTER ROLE {role} CREATEROLE",)
FUNCTION = "RETURNS uuid LANGUAGE sql RETURN '{b}'::uuid"

POWERS: dict[str, tuple[str, tuple[str, ...]]] = {
    # to be somebody else
    "become the operator": (
        "SET ROLE tenantry_operator",
        ("GRANT tenantry_operator TO {role}",),
    ),
    "become the owner": ("SET LOCAL ROLE tenantry_owner", OWNER),
    "become tenantry_auth": ("SET ROLE tenantry_auth", ("GRANT tenantry_auth TO {role}",)),
    "become the superuser": ("SET ROLE {superuser}", SUPERUSER),
    "log in anew as the superuser": ("SET SESSION AUTHORIZATION {superuser}", SUPERUSER),
    "log in anew as the operator": ("SET SESSION AUTHORIZATION tenantry_operator", SUPERUSER),
    "set the role by function": ("SELECT set_config('role', 'tenantry_operator', true)", SUPERUSER),
    "set the login by function": (
        "SELECT set_config('session_authorization', '{superuser}', true)",
        SUPERUSER,
    ),
    # to make roles stronger
    "bypass row security": ("ALTER ROLE {role} BYPASSRLS", SUPERUSER),
    "be a superuser": ("ALTER ROLE {role} SUPERUSER", SUPERUSER),
    "let all of the application bypass": ("ALTER ROLE tenantry_app BYPASSRLS", SUPERUSER),
    "change the application's settings": (
        "ALTER ROLE tenantry_app SET tenantry.tenant_id = '{b}'",
        SUPERUSER,
    ),
    "begin every session as another tenant": (
        "ALTER ROLE {role} SET tenantry.tenant_id = '{b}'",
        ("GRANT SET ON PARAMETER tenantry.tenant_id TO {role}",),
    ),
    "change everybody's settings": ("ALTER ROLE ALL SET row_security = off", SUPERUSER),
    "change the database's settings": (
        "ALTER DATABASE {database} SET row_security = off",
        ("ALTER DATABASE {database} OWNER TO {role}",),
    ),
    "make a role": ("CREATE ROLE {role}_2", CREATEROLE),
    "join the operator": (
        "GRANT tenantry_operator TO {role}",
        ("GRANT tenantry_operator TO {role} WITH ADMIN OPTION",),
    ),
    "join those who read everything": ("GRANT pg_read_all_data TO {role}", SUPERUSER),
    "take what the owner has": ("REASSIGN OWNED BY tenantry_owner TO {role}", SUPERUSER),
    # to change the server
    "configure the server": (
        "ALTER SYSTEM RESET log_min_messages",
        ("GRANT ALTER SYSTEM ON PARAMETER log_min_messages TO {role}",),
    ),
    "log every statement": (
        "SET LOCAL log_min_duration_statement = 0",
        ("GRANT SET ON PARAMETER log_min_duration_statement TO {role}",),
    ),
    "switch triggers and keys off": (
        "SET LOCAL session_replication_role = replica",
        ("GRANT SET ON PARAMETER session_replication_role TO {role}",),
    ),
    "preload a library": (
        "SET LOCAL session_preload_libraries = 'auto_explain'",
        ("GRANT SET ON PARAMETER session_preload_libraries TO {role}",),
    ),
    "load a library": ("LOAD 'auto_explain'", SUPERUSER),
    "reload the configuration": ("SELECT pg_reload_conf()", SUPERUSER),
    "add a language": ("CREATE LANGUAGE evil HANDLER plpgsql_call_handler", SUPERUSER),
    "add dblink": ("CREATE EXTENSION dblink", SUPERUSER),
    "add a reader of files": ("CREATE EXTENSION file_fdw", SUPERUSER),
    "add a reader of pages": ("CREATE EXTENSION pageinspect", SUPERUSER),
    "add a trusted extension": ("CREATE EXTENSION hstore", DATABASE),
    "add a foreign server": ("CREATE FOREIGN DATA WRAPPER evil", SUPERUSER),
    "publish the tables": ("CREATE PUBLICATION evil FOR TABLE widgets", (*OWNER, *DATABASE)),
    "publish everything": ("CREATE PUBLICATION evil FOR ALL TABLES", SUPERUSER),
    "subscribe": (
        "CREATE SUBSCRIPTION evil CONNECTION 'dbname=x' PUBLICATION p WITH (connect = false)",
        SUPERUSER,
    ),
    "replicate": (
        "SELECT pg_create_physical_replication_slot('{role}', false, true)",
        ("ALTER ROLE {role} REPLICATION",),
    ),
    "listen to every event": (
        "CREATE EVENT TRIGGER evil ON ddl_command_end EXECUTE FUNCTION no_such()",
        SUPERUSER,
    ),
    # files and programs
    "run a program": (
        "COPY (SELECT 1) TO PROGRAM 'cat > /dev/null'",
        ("GRANT pg_execute_server_program TO {role}",),
    ),
    "write a file": (
        "COPY (SELECT 1) TO '/dev/null'",
        ("GRANT pg_write_server_files TO {role}",),
    ),
    "copy from a file": (
        "COPY scratch FROM '/etc/hostname'",
        ("GRANT pg_read_server_files TO {role}",),
    ),
    "copy from a program": (
        "COPY scratch FROM PROGRAM 'true'",
        ("GRANT pg_execute_server_program TO {role}",),
    ),
    "read a file": ("SELECT pg_read_file('PG_VERSION')", SUPERUSER),
    "read a binary file": ("SELECT pg_read_binary_file('PG_VERSION')", SUPERUSER),
    "list files": ("SELECT pg_ls_dir('.')", SUPERUSER),
    "look at a file": ("SELECT pg_stat_file('PG_VERSION')", SUPERUSER),
    "list the log": ("SELECT pg_ls_waldir()", ("GRANT pg_monitor TO {role}",)),
    "import a file": ("SELECT lo_import('/etc/hostname')", SUPERUSER),
    "export a file": (
        "DO $$ BEGIN PERFORM lo_from_bytea(4711, 'x');"
        " PERFORM lo_export(4711, '/dev/null'); END $$",
        SUPERUSER,
    ),
    # what holds rows, or secrets, below the tables
    "read statistics": ("SELECT FROM pg_statistic", SUPERUSER),
    "read extended statistics": ("SELECT FROM pg_statistic_ext_data", SUPERUSER),
    "read passwords": ("SELECT FROM pg_authid", SUPERUSER),
    "read all large objects": ("SELECT FROM pg_largeobject", SUPERUSER),
    "read user mappings": ("SELECT FROM pg_user_mapping", SUPERUSER),
    "read subscriptions": ("SELECT subconninfo FROM pg_subscription", SUPERUSER),
    "read who may log in": ("SELECT FROM pg_hba_file_rules", SUPERUSER),
    # to make something
    "make a schema": ("CREATE SCHEMA evil", DATABASE),
    "make a schema of one's own": ("CREATE SCHEMA AUTHORIZATION {role}", DATABASE),
    "make a table": ("CREATE TABLE evil ()", CREATE),
    "make a function": ("CREATE FUNCTION public.evil() " + FUNCTION, CREATE),
    "make a function with its maker's rights": (
        "CREATE FUNCTION public.evil() RETURNS uuid SECURITY DEFINER LANGUAGE sql"
        " RETURN '{b}'::uuid",
        CREATE,
    ),
    "make a type": ("CREATE TYPE evil AS (x int)", CREATE),
    "make an operator": (
        "CREATE OPERATOR public.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = uuid_eq)",
        CREATE,
    ),
    "make an aggregate": (
        "CREATE AGGREGATE public.evil (int) (SFUNC = int4pl, STYPE = int)",
        CREATE,
    ),
    "make a sequence": ("CREATE SEQUENCE evil", CREATE),
    "make a temporary table": ("CREATE TEMP TABLE widgets (name text)", TEMPORARY),
    "make a temporary view": ("CREATE TEMP VIEW widgets AS SELECT 1 AS name", TEMPORARY),
    "make a temporary sequence": ("CREATE TEMP SEQUENCE evil", TEMPORARY),
    "make a temporary function": ("CREATE FUNCTION pg_temp.evil() " + FUNCTION, TEMPORARY),
    "select into a table": ("SELECT 1 INTO TEMP evil", TEMPORARY),
    "make something in a DO block": (
        "DO $$ BEGIN EXECUTE 'CREATE TABLE evil ()'; END $$",
        CREATE,
    ),
    # to change what is there
    "replace the tenant function": (
        "CREATE OR REPLACE FUNCTION tenantry.current_tenant() " + FUNCTION,
        OWNER,
    ),
    "overload the tenant function": (
        "CREATE FUNCTION tenantry.current_tenant(int) " + FUNCTION,
        OWNER,
    ),
    "mark the tenant function immutable": (
        "ALTER FUNCTION tenantry.current_tenant() IMMUTABLE",
        OWNER,
    ),
    "drop the tenant function": ("DROP FUNCTION tenantry.current_tenant() CASCADE", OWNER),
    "drop a policy": ("DROP POLICY tenant_isolation ON widgets", OWNER),
    "change a policy": ("ALTER POLICY tenant_isolation ON widgets USING (true)", OWNER),
    "drop a table": ("DROP TABLE messages", OWNER),
    "drop an index": ("DROP INDEX widgets_tenant_id_idx", OWNER),
    "rename a schema": ("ALTER SCHEMA tenantry RENAME TO evil", (*OWNER, *DATABASE)),
    "reindex": ("REINDEX TABLE widgets", OWNER),
    "pretend to be migrated": ("DELETE FROM tenantry.alembic_version", OWNER),
}
# PostgreSQL runs these in no transaction.
ALONE = {"configure the server"}
# These say something else once the power is there, and not that it is missing.
OTHERWISE = {"listen to every event": "42883"}


@dataclass
class Attacker:
    """A login that has been granted the application's role, and its connection."""

    connection: asyncpg.Connection
    url: URL
    world: World
    names: dict[str, object]

    async def gain(self, *powers: str) -> None:
        for power in powers:
            await self.world.admin.execute(power.format(**self.names))

    async def log_in_anew(self) -> None:
        """Until PostgreSQL 17, whether a session is a superuser's is settled when it begins."""
        await self.connection.close()
        self.connection = await open_connection(self.url)

    async def try_(self, name: str) -> tuple[str, ...]:
        statement = POWERS[name][0].format(**self.names)
        if name not in ALONE:
            return await answer(self.connection, statement)
        try:
            return (await self.connection.execute(statement),)
        except asyncpg.PostgresError as error:
            return (str(error.sqlstate), str(error))


@pytest.fixture
async def attacker(server: Server, world: World) -> AsyncIterator[Attacker]:
    role = f"tenantry_test_{uuid4().hex[:12]}"
    password = f"PASSWORD '{server.url.password}'" if server.url.password else ""
    await world.admin.execute(f"CREATE ROLE {role} LOGIN {password}; GRANT {APP_ROLE} TO {role}")
    await world.admin.execute("CREATE TABLE IF NOT EXISTS scratch (line text)")
    await world.admin.execute("GRANT INSERT ON scratch TO PUBLIC")
    url = server.at(world.database, user=role)
    connection = await open_connection(url)
    superuser = await world.admin.fetchval("SELECT current_user::text")
    names = {"role": role, "database": world.database, "superuser": superuser, "b": world.b}
    attacker = Attacker(connection, url, world, names)
    try:
        yield attacker
    finally:
        await attacker.connection.close()
        await world.admin.execute(f"ALTER DATABASE {world.database} OWNER TO CURRENT_USER")
        await world.admin.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


@pytest.mark.parametrize("name", POWERS)
async def test_the_application_cannot(attacker: Attacker, name: str) -> None:
    """The statement is refused, for want of a right; with the right, it works."""
    told = await attacker.try_(name)
    assert told[0] == "42501", told
    await attacker.gain(*POWERS[name][1])
    await attacker.log_in_anew()
    told = await attacker.try_(name)
    expected = OTHERWISE.get(name)
    assert told[0] == expected if expected else len(told) == 1, told


async def test_row_security_is_not_switched_off(attacker: Attacker) -> None:
    """With row_security = off a query fails, rather than showing all; with BYPASSRLS it shows."""
    query = "SELECT name FROM widgets"
    async with attacker.connection.transaction():
        await bind(attacker.connection, attacker.world.a)
        await attacker.connection.execute("SET LOCAL row_security = off")
        assert (await answer(attacker.connection, query))[0] == "42501"
        await attacker.gain("ALTER ROLE {role} BYPASSRLS")
        assert await answer(attacker.connection, query) == ("SELECT 2",)


@pytest.mark.parametrize(
    "way",
    [
        "RESET ROLE",
        "SET ROLE NONE",
        "RESET SESSION AUTHORIZATION",
        "SET SESSION AUTHORIZATION DEFAULT",
        "DISCARD ALL",
        "RESET ALL",
    ],
)
@pytest.mark.parametrize("login", ["app", "admin"])
async def test_the_way_back_leads_to_the_same_rights(
    server: Server, connect: Connect, world: World, way: str, login: str
) -> None:
    """RESET leads to whoever has logged in. That is the application, so nothing is gained.

    A superuser who only becomes the application with SET ROLE shows what would be.
    """
    connection = await connect(server.at(world.database, user=APP_ROLE if login == "app" else None))

    async def rows() -> str:  # not prepared: DISCARD ALL forgets what is
        return await connection.execute("SELECT FROM widgets")

    if login == "admin":
        await connection.execute(f"SET SESSION ROLE {APP_ROLE}")
    await connection.execute(f"SET tenantry.tenant_id = '{world.a}'")
    assert await rows() == "SELECT 1"
    await connection.execute(way)
    # RESET ALL leaves the role as it is.
    assert (await rows() == "SELECT 2") is (login == "admin" and way != "RESET ALL")


async def test_maintenance_is_not_done(attacker: Attacker) -> None:
    """VACUUM and ANALYZE by the application are passed over with a warning; the owner's work."""
    pages = "SELECT reltuples FROM pg_class WHERE relname = 'meetings'"
    await attacker.connection.execute("ANALYZE meetings")
    await attacker.connection.execute("VACUUM meetings")
    assert await attacker.world.admin.fetchval(pages) == -1
    await attacker.gain(*OWNER)
    await attacker.connection.execute("ANALYZE meetings")
    assert await attacker.world.admin.fetchval(pages) == 2


async def test_another_roles_session_is_not_seen_or_ended(attacker: Attacker) -> None:
    """What another role's session runs is hidden, and it cannot be ended."""
    admin = attacker.world.admin
    other = await admin.fetchval("SELECT pg_backend_pid()")
    sees = "SELECT query FROM pg_stat_activity WHERE pid = $1"
    assert await attacker.connection.fetchval(sees, other) == "<insufficient privilege>"
    for function in ("pg_terminate_backend", "pg_cancel_backend"):
        told = await answer(attacker.connection, f"SELECT {function}({other})")
        assert told[0] == "42501"
    await attacker.gain("GRANT pg_read_all_stats TO {role}")
    assert "pg_read_all_stats" in await attacker.connection.fetchval(sees, other)
