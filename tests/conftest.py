"""A real PostgreSQL, a migrated template, and a copy of it for each test.

`TENANTRY_TEST_SERVER_URL`, a superuser's URL, runs the tests on that server instead of the
embedded one. Roles are a whole server's, so each process of `pytest -n` needs a server of its own:
several URLs are separated by blanks.

`TENANTRY_TEST_SAMPLE=1` runs every test, but of the many cases of a parametrized one a sample: for
further runs of the suite, on other versions.
"""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import URL, make_url
from sqlalchemy.orm import make_transient_to_detached

from tenantry import Database, Settings
from tenantry.ops import embedded
from tenantry.ops.migrations import migrate
from tenantry.schema import Tenant
from tenantry.schema.base import uuid7
from tenantry.schema.row_security import APP_ROLE
from tests.driver import remember_types
from tests.places import in_memory, scratch
from tests.tracing import UNTRACED, leave_processes_alone, trace_once, traced, without

# A developer's own settings must not reach the tests.
for _name in ("TENANTRY_DATABASE_URL", "TENANTRY_ADMIN_URL", "TENANTRY_DATA_DIR"):
    os.environ.pop(_name, None)


# What is granted and set on a database itself is not copied with its content.
_COPY_OF_THE_DATABASE_ITSELF = """
    UPDATE pg_database SET datacl = t.datacl
      FROM pg_database t WHERE pg_database.datname = '{name}' AND t.datname = '{template}';
    INSERT INTO pg_db_role_setting
    SELECT d.oid, s.setrole, s.setconfig FROM pg_db_role_setting s
      JOIN pg_database t ON t.oid = s.setdatabase AND t.datname = '{template}'
      JOIN pg_database d ON d.datname = '{name}';
"""


@dataclass(frozen=True)
class Server:
    """The server under test."""

    url: URL
    _kept: dict[asyncio.AbstractEventLoop, asyncpg.Connection] = field(default_factory=dict)

    def at(self, database: str, *, user: str | None = None) -> URL:
        """The URL of a database on it, as the superuser or another role."""
        url = self.url.set(database=database)
        return url.set(username=user) if user else url

    async def run(self, *statements: str, database: str = "postgres") -> None:
        """Run statements as the superuser, each in its own transaction."""
        connection = await open_connection(self.at(database))
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    @asynccontextmanager
    async def administered(self) -> AsyncIterator[None]:
        """Within the block one connection makes and drops the databases of this event loop.

        To open one costs as much as to drop a database.
        """
        loop = asyncio.get_running_loop()
        self._kept[loop] = await open_connection(self.url)
        try:
            yield
        finally:
            await self._kept.pop(loop).close()

    @asynccontextmanager
    async def _administrator(self) -> AsyncIterator[asyncpg.Connection]:
        loop = asyncio.get_running_loop()
        kept = self._kept.pop(loop, None)  # two at once need two
        connection = kept or await open_connection(self.url)
        try:
            yield connection
        finally:
            if kept is None:
                await connection.close()
            else:
                self._kept[loop] = connection

    async def create_database(self, *, template: str = "template0") -> str:
        """Make a database and return its name."""
        name = f"tenantry_test_{uuid4().hex[:12]}"
        async with self._administrator() as connection:
            # On a disk, copying files costs three times as much as PostgreSQL's own default.
            memory = in_memory(await connection.fetchval("SHOW data_directory"))
            strategy = "FILE_COPY" if memory else "WAL_LOG"
            await connection.execute(
                f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY {strategy}"
            )
            if template != "template0":
                copy = _COPY_OF_THE_DATABASE_ITSELF.format(name=name, template=template)
                await connection.execute(copy)
        return name

    async def drop_database(self, name: str) -> None:
        """Drop a database, whoever is connected to it."""
        async with self._administrator() as connection:
            await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


async def open_connection(url: URL) -> asyncpg.Connection:
    """Open a bare driver connection, without anything of tenantry's."""
    return await asyncpg.connect(url.render_as_string(hide_password=False))


_SAMPLE_EACH = 10
_TRACED_EACH = 16
_LONG = Path(__file__).with_name("testing")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have coverage trace the first case of a parametrized test, and every sixteenth after it.

    All cases run, and are judged, unless a sample was asked for. Those of tests/testing take up to
    12 s: they come first, as the last one of all would have the other processes wait for it.
    """
    items.sort(key=lambda item: item.path.parent != _LONG)
    seen: Counter[tuple[Path, str]] = Counter()
    others: list[pytest.Item] = []
    for item in items:
        if item.get_closest_marker("untraced"):
            item.stash[UNTRACED] = True
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            test = (item.path, item.originalname)
            if seen[test] % _TRACED_EACH:
                item.stash[UNTRACED] = True
            if seen[test] % _SAMPLE_EACH:
                others.append(item)
            seen[test] += 1
    if others and os.environ.get("TENANTRY_TEST_SAMPLE"):
        config.hook.pytest_deselected(items=others)
        left_out = set(others)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Leave coverage out of a test, from its setting up to its end."""
    if item.stash.get(UNTRACED, False):
        with without():
            return (yield)
    return (yield)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Let the collector leave alone what lives to the end, and look at the rest less often.

    Reflecting a schema makes a few hundred thousand objects that go without its help. A sixth of
    the tests' time was its search among modules, models and tests.
    """
    leave_processes_alone()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    gc.enable()


@pytest.fixture
def traced_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have coverage trace the processes of a test that alone runs some lines."""
    for name, value in traced().items():
        monkeypatch.setenv(name, value)


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to share a server between processes; let what the tests start be interrupted."""
    gc.disable()  # until all is collected
    remember_types()
    leave_processes_alone()
    if hasattr(config, "workerinput"):
        trace_once()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as of a shell's background job
        signal.signal(signal.SIGINT, signal.default_int_handler)
    given, needed = len(_given()), config.getoption("numprocesses", None) or 1
    if 0 < given < needed:
        msg = (
            f"TENANTRY_TEST_SERVER_URL names {given} of the {needed} servers that are needed, one"
            f" for each process: name more, or run with -n {given}."
        )
        raise pytest.UsageError(msg)


def _given() -> list[str]:
    return os.environ.get("TENANTRY_TEST_SERVER_URL", "").split()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The PostgreSQL server: given by the environment, or an embedded one for this process."""
    given = _given()
    if given:
        worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
        yield Server(make_url(given[int(worker)]))
        return
    folder = scratch("tenantry-")
    settings = {
        "fsync": "off",
        "full_page_writes": "off",
        "synchronous_commit": "off",
        "autovacuum": "off",  # hundreds of databases that live for a second
        "shared_buffers": "32MB",  # searched through whenever a database is made or dropped
        "jit": "off",  # the driver would switch it off, and on again, at each look at a type
    }
    started = embedded.start(folder / "data", settings=settings)
    try:
        yield Server(make_url(started.url(database="postgres")))
    finally:
        embedded.stop(folder / "data")
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
async def template(server: Server) -> AsyncIterator[str]:
    """A migrated database that tests copy and never connect to."""
    name = await server.create_database()
    await migrate(server.at(name))
    if server.url.password:
        connection = await open_connection(server.url)
        password = await connection.fetchval("SELECT quote_literal($1::text)", server.url.password)
        await connection.execute(f"ALTER ROLE {APP_ROLE} PASSWORD {password}")
        await connection.close()
    async with server.administered():
        yield name
    await server.drop_database(name)


@dataclass(frozen=True)
class Urls:
    """How to connect to one test's database."""

    app: URL
    admin: URL

    @classmethod
    def on(cls, server: Server, database: str) -> Self:
        """To one of the server's, as the application and as the superuser."""
        return cls(app=server.at(database, user=APP_ROLE), admin=server.at(database))

    @property
    def settings(self) -> Settings:
        """The same as settings, with small pools, and no need to look for a pooler."""
        return Settings(database_url=self.app, admin_url=self.admin, pool_size=3, pooler=False)


@pytest.fixture
async def empty_database(server: Server) -> AsyncIterator[URL]:
    """A database without anything, as the superuser."""
    name = await server.create_database()
    yield server.at(name)
    await server.drop_database(name)


@pytest.fixture
def source(request: pytest.FixtureRequest) -> str:
    """What a test's database is a copy of: the template, or the one with the tenants."""
    wanted = "inhabited" if "tenants" in request.fixturenames else "template"
    name: str = request.getfixturevalue(wanted)
    return name


@pytest.fixture
async def urls(server: Server, source: str) -> AsyncIterator[Urls]:
    """A migrated database, without rows but those of `tenants`."""
    name = await server.create_database(template=source)
    yield Urls.on(server, name)
    await server.drop_database(name)


@pytest.fixture
async def db(urls: Urls) -> AsyncIterator[Database]:
    """The same, opened, without the looks at the server that `Database.connect` takes each time."""
    database = Database(urls.settings)
    await database.ping()
    try:
        yield database
    finally:
        await database.close()


Connect = Callable[[URL], Awaitable["asyncpg.Connection"]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Opens bare connections, which are closed at the end."""
    opened: list[asyncpg.Connection] = []

    async def open_(url: URL) -> asyncpg.Connection:
        opened.append(await open_connection(url))
        return opened[-1]

    yield open_
    for connection in opened:
        await asyncio.wait_for(connection.close(), 5)


@pytest.fixture
async def app(urls: Urls, connect: Connect) -> asyncpg.Connection:
    """A bare connection as the application's role."""
    return await connect(urls.app)


@pytest.fixture
async def admin(urls: Urls, connect: Connect) -> asyncpg.Connection:
    """A bare connection as the superuser."""
    return await connect(urls.admin)


_TENANTS: Final = (
    {"id": uuid7(), "name": "Acme", "slug": "acme"},
    {"id": uuid7(), "name": "Globex", "slug": "globex"},
)


@dataclass(frozen=True)
class TenantPair:
    """Two tenants that must not see each other."""

    a: Tenant
    b: Tenant

    def __iter__(self) -> Iterator[Tenant]:
        return iter((self.a, self.b))


@pytest.fixture(scope="session")
async def inhabited(server: Server, template: str) -> AsyncIterator[str]:
    """A copy of the template with two tenants, for tests to copy in turn."""
    name = await server.create_database(template=template)
    settings = Urls.on(server, name).settings
    async with (
        Database.connect(settings=settings) as database,
        database.operator(reason="test") as tx,
    ):
        tx.add_all(Tenant(**each) for each in _TENANTS)
    yield name
    await server.drop_database(name)


@pytest.fixture
def tenants(db: Database) -> TenantPair:
    """Two tenants, Acme (a) and Globex (b)."""
    a, b = (Tenant(**each) for each in _TENANTS)
    for each in (a, b):
        make_transient_to_detached(each)  # as if this test had just added them
    return TenantPair(a, b)


async def bind(connection: asyncpg.Connection, tenant_id: UUID) -> None:
    """Bind a tenant to the connection's transaction, as the library does."""
    await connection.execute(f"SET LOCAL tenantry.tenant_id = '{tenant_id}'")
