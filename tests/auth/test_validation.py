"""Validation: one round trip, and an answer about the token or none at all."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from importlib.resources import files
from typing import Any

import asyncpg
import pytest
from sqlalchemy import URL, make_url, select, text

from tenantry import Database, Settings
from tenantry.auth import Auth, Principal, SignedIn, looking_up
from tenantry.auth.profiles import TESTING
from tenantry.errors import (
    DatabaseUnavailableError,
    InvalidTokenError,
    SchemaMissingError,
    SessionUseError,
    TenantryError,
)
from tenantry.ops import embedded
from tenantry.ops.migrations import migrate
from tenantry.schema import AuthSession, Tenant
from tenantry.schema.row_security import APP_ROLE
from tests.auth.conftest import EMAIL, PASSWORD, Later, WatchedPool, another_auth
from tests.auth.gateway import Gateway, gateway
from tests.conftest import Server, Urls
from tests.pgbouncer import pgbouncer
from tests.places import scratch
from tests.tenancy.wire import Wire, recorded

pytestmark = pytest.mark.untraced

END_ALL = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
              WHERE datname = current_database() AND pid <> pg_backend_pid()"""


async def outcome(auth: Auth, token: str) -> str:
    """What a validation has come to."""
    try:
        return str((await auth.validate(token)).session_id)
    except TenantryError as error:
        return type(error).__name__


async def outcomes(auth: Auth, token: str, count: int) -> set[str]:
    """What as many validations at once have come to."""
    return set(await asyncio.gather(*(outcome(auth, token) for _ in range(count))))


@pytest.fixture
async def wire(urls: Urls) -> AsyncIterator[Wire]:
    """A recorded way to the database."""
    async with recorded(urls.app) as wire:
        yield wire


@pytest.fixture
async def watched(urls: Urls, wire: Wire) -> AsyncIterator[Auth]:
    """`Auth` whose packets are recorded."""
    settings = replace(urls.settings, database_url=wire.url)
    async with Database.connect(settings=settings) as db:
        yield Auth(db, profile=TESTING, hashing=WatchedPool())


async def waits(auth: Auth, token: str) -> tuple[int, Any]:
    """Validate by hand; return how often it has waited for something, and the result."""
    count, call = 0, auth.validate(token).__await__()
    while True:
        try:
            future: Any = call.send(None)
        except StopIteration as end:
            return count, end.value
        # Not one that is queued for another task to answer, in a later turn of the loop.
        assert not auth._sessions._waiting
        assert len(auth._sessions._idle) == 1
        count += 1
        future._asyncio_future_blocking = False
        await asyncio.wait([future])


async def test_one_round_trip_and_no_wait_before_it(
    watched: Auth, wire: Wire, signed_in: SignedIn
) -> None:
    """A lone validation is one packet and one wait: no BEGIN, no timer, no turn of the loop."""
    await watched.validate(signed_in.token)
    for _ in range(3):
        wire.messages.clear()
        count, principal = await waits(watched, signed_in.token)
        assert isinstance(principal, Principal)
        assert wire.messages == [("sync", "")]
        assert count == 1


async def test_a_lone_one_is_asked_at_once_after_a_crowd(
    watched: Auth, wire: Wire, signed_in: SignedIn
) -> None:
    """When the crowd has gone, and one has come alone, the next is not queued."""
    for crowd in (2, 3, 40, 256) * 5:  # whichever connection was the last of the crowd's
        await outcomes(watched, signed_in.token, crowd)
        await watched.validate(signed_in.token)
        wire.messages.clear()
        assert (await waits(watched, signed_in.token))[0] == 1
        assert wire.round_trips == 1


async def test_those_who_wait_share_a_statement(
    watched: Auth, wire: Wire, signed_in: SignedIn
) -> None:
    """256 callers at once cost a handful of statements, and 1,200 not many more."""
    for _ in range(5):  # until both connections have all of it prepared
        await outcomes(watched, signed_in.token, 256)
    for callers, most in ((256, 3), (1200, 6)):
        wire.messages.clear()
        assert await outcomes(watched, signed_in.token, callers) == {signed_in.session.id}
        assert wire.queries == []
        assert wire.round_trips <= most


async def test_a_renewal_is_one_more_statement_for_all(
    watched: Auth, wire: Wire, signed_in: SignedIn, later: Later
) -> None:
    """Sessions that are due are renewed together; alone, in the same round trip."""
    await outcomes(watched, signed_in.token, 50)
    await outcomes(watched, signed_in.token, 1)  # the crowd has gone
    await later(timedelta(hours=2))
    wire.messages.clear()
    await watched.validate(signed_in.token)
    assert wire.round_trips == 1
    await later(timedelta(hours=2))
    wire.messages.clear()
    assert await outcomes(watched, signed_in.token, 100) == {signed_in.session.id}
    assert 1 <= wire.round_trips <= 4


async def test_no_transaction_stays_open(
    auth: Auth, signed_in: SignedIn, observer: asyncpg.Connection
) -> None:
    """Between validations the connections that are held are idle, and hold no lock."""
    await outcomes(auth, signed_in.token, 50)
    states = await observer.fetch(
        "SELECT state, xact_start FROM pg_stat_activity WHERE datname = current_database()"
        " AND query LIKE '%validate_session%' AND pid <> pg_backend_pid()"
    )
    assert {row["state"] for row in states} == {"idle"}
    assert 1 <= len(states) <= 2


async def test_connections_come_back(
    auth: Auth, signed_in: SignedIn, observer: asyncpg.Connection
) -> None:
    """With all its connections ended by the server, the very next validation succeeds."""
    for _ in range(2):
        assert await outcome(auth, signed_in.token) == signed_in.session.id
        await observer.execute(END_ALL)
        assert await outcome(auth, signed_in.token) == signed_in.session.id
        await observer.execute(END_ALL)
        assert await outcomes(auth, signed_in.token, 50) == {signed_in.session.id}


async def test_connections_end_in_the_middle_of_a_storm(
    auth: Auth, signed_in: SignedIn, observer: asyncpg.Connection
) -> None:
    """Each caller has the right answer or none; nobody is told to be signed out."""
    seen: set[str] = set()
    storm = asyncio.Event()

    async def caller() -> None:
        while not storm.is_set():
            seen.add(await outcome(auth, signed_in.token))

    async with asyncio.TaskGroup() as group:
        for _ in range(30):
            group.create_task(caller())
        for _ in range(10):
            await asyncio.sleep(0.03)
            await observer.execute(END_ALL)
        storm.set()
    assert seen <= {signed_in.session.id, "DatabaseUnavailableError"}
    assert signed_in.session.id in seen
    assert await outcomes(auth, signed_in.token, 50) == {signed_in.session.id}


async def test_an_idle_connection_that_was_ended(
    urls: Urls, signed_in: SignedIn, observer: asyncpg.Connection
) -> None:
    """idle_session_timeout ends what is held; nobody notices."""
    name = urls.app.database
    await observer.execute(f'ALTER DATABASE "{name}" SET idle_session_timeout = 100')
    async with another_auth(urls) as auth:
        for _ in range(2):
            assert await outcome(auth, signed_in.token) == signed_in.session.id
            assert await outcomes(auth, signed_in.token, 20) == {signed_in.session.id}
            await asyncio.sleep(0.3)


@pytest.fixture
async def own_server() -> AsyncIterator[tuple[Any, URL]]:
    """A server of the test's own, migrated, that may be stopped."""
    folder = scratch("tenantry-restart-")
    try:
        url = make_url(embedded.start(folder / "data", settings={"fsync": "off"}).url())
        await migrate(url)
        yield folder / "data", url
    finally:
        embedded.stop(folder / "data")
        shutil.rmtree(folder)


async def test_the_server_restarts(own_server: tuple[Any, URL]) -> None:
    """Gone in the middle of a validation, it is unavailable, and back again it is as before."""
    data, url = own_server
    settings = Settings(database_url=url.set(username=APP_ROLE), admin_url=url)
    async with Database.connect(settings=settings) as db:
        auth = Auth(db, profile=TESTING, hashing=WatchedPool())
        async with db.operator(reason="test") as tx:
            tx.add(tenant := Tenant(name="Acme", slug="acme"))
        await auth.register(tenant.id, EMAIL, PASSWORD)
        signed_in = await auth.sign_in(tenant.id, EMAIL, PASSWORD)
        await outcomes(auth, signed_in.token, 50)
        blocker = await asyncpg.connect(url.render_as_string(hide_password=False))
        await blocker.execute("BEGIN; LOCK TABLE sessions")
        waiting = [asyncio.create_task(outcome(auth, signed_in.token)) for _ in range(30)]
        await asyncio.sleep(0.1)
        await asyncio.to_thread(embedded.stop, data)
        # The lock may go before the connections do, and then some are still answered.
        answers = set(await asyncio.gather(*waiting))
        assert answers <= {"DatabaseUnavailableError", signed_in.session.id}
        blocker.terminate()
        assert await outcome(auth, signed_in.token) == "DatabaseUnavailableError"
        assert await outcomes(auth, signed_in.token, 30) == {"DatabaseUnavailableError"}
        await asyncio.to_thread(embedded.start, data, settings={"fsync": "off"})
        assert await outcome(auth, signed_in.token) == signed_in.session.id
        assert await outcomes(auth, signed_in.token, 30) == {signed_in.session.id}


@pytest.fixture
async def way(urls: Urls) -> AsyncIterator[Gateway]:
    """A way to the database that can be blocked."""
    async with gateway(urls.app) as way:
        yield way


@pytest.mark.parametrize("pooler", [False, True])
async def test_a_server_that_hangs(
    urls: Urls, way: Gateway, signed_in: SignedIn, pooler: bool
) -> None:
    """No answer is an error within the time limit, alone and together; nobody hangs with it."""
    limit = 0.5
    settings = replace(
        urls.settings, database_url=way.url, connect_timeout_seconds=limit, pooler=pooler
    )
    async with Database.connect(settings=settings) as db:
        auth = Auth(db, profile=TESTING, hashing=WatchedPool())
        assert await outcomes(auth, signed_in.token, 20) == {signed_in.session.id}
        way.passing = False
        for callers in (1, 20):
            started = time.monotonic()
            async with asyncio.timeout(20):
                assert await outcomes(auth, signed_in.token, callers) == {
                    "DatabaseUnavailableError"
                }
            assert time.monotonic() - started < 4 * limit + 1
        way.passing = True
        assert await outcome(auth, signed_in.token) == signed_in.session.id
        assert await outcomes(auth, signed_in.token, 20) == {signed_in.session.id}


async def test_a_server_that_hangs_is_waited_for_once(
    urls: Urls, way: Gateway, signed_in: SignedIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many wait, and in however many statements: none waits for those before it."""
    monkeypatch.setattr(looking_up, "_MOST", 4)
    settings = replace(urls.settings, database_url=way.url, connect_timeout_seconds=0.3)
    async with Database.connect(settings=settings) as db:
        auth = Auth(db, profile=TESTING, hashing=WatchedPool())
        assert await outcomes(auth, signed_in.token, 20) == {signed_in.session.id}
        way.passing = False
        before = way.connections
        async with asyncio.timeout(20):
            assert await outcomes(auth, signed_in.token, 80) == {"DatabaseUnavailableError"}
        assert way.connections - before <= 4, "20 statements would be as many new connections"
        way.passing = True
        assert await outcome(auth, signed_in.token) == signed_in.session.id


@pytest.mark.parametrize("pooler", [False, True])
@pytest.mark.parametrize("callers", [1, 20])
async def test_a_server_that_hangs_in_the_middle(
    urls: Urls,
    way: Gateway,
    signed_in: SignedIn,
    observer: asyncpg.Connection,
    callers: int,
    pooler: bool,
) -> None:
    """Once the statement is under way, too: behind a pooler, nothing waits for a ROLLBACK."""
    settings = replace(
        urls.settings, database_url=way.url, connect_timeout_seconds=0.5, pooler=pooler
    )
    async with Database.connect(settings=settings) as db:
        auth = Auth(db, profile=TESTING, hashing=WatchedPool())
        assert await outcomes(auth, signed_in.token, 20) == {signed_in.session.id}
        async with observer.transaction():
            await observer.execute("LOCK TABLE sessions")
            calls = asyncio.create_task(outcomes(auth, signed_in.token, callers))
            await asyncio.sleep(0.1)
            way.passing = False
            async with asyncio.timeout(5):
                assert await calls == {"DatabaseUnavailableError"}
        way.passing = True
        assert await outcomes(auth, signed_in.token, 20) == {signed_in.session.id}


async def test_a_connection_that_is_cut(urls: Urls, way: Gateway, signed_in: SignedIn) -> None:
    """A reset by the network says nothing about the token, and is mended by the next try."""
    async with Database.connect(settings=replace(urls.settings, database_url=way.url)) as db:
        auth = Auth(db, profile=TESTING, hashing=WatchedPool())
        assert await outcomes(auth, signed_in.token, 20) == {signed_in.session.id}
        way.passing = False
        waiting = [asyncio.create_task(outcome(auth, signed_in.token)) for _ in range(20)]
        await asyncio.sleep(0.1)
        way.passing = True
        way.cut()
        assert set(await asyncio.gather(*waiting)) == {signed_in.session.id}


@pytest.mark.parametrize("sql", ["validate_session.sql", "validate_sessions.sql"])
async def test_a_function_that_was_replaced(
    auth: Auth, signed_in: SignedIn, observer: asyncpg.Connection, sql: str
) -> None:
    """A migration may give it more columns, while statements on it are prepared."""
    source = files("tenantry.tenancy").joinpath("sql", sql).read_text()
    name = sql.removesuffix(".sql")
    drop = f"DROP FUNCTION tenantry.{name};"
    more = (
        source.replace("expires_at timestamptz\n", "expires_at timestamptz, more int\n")
        .replace("is_due boolean\n", "is_due boolean, more int\n")
        .replace("/ 6)\n      FROM unnest", "/ 6), 1\n      FROM unnest")
    )
    assert more.count("more int") == 1
    for change in (source, drop + source, drop + more, drop + source):
        for callers in (1, 20):
            assert await outcomes(auth, signed_in.token, callers) == {signed_in.session.id}
        await observer.execute(f"{change} ALTER FUNCTION tenantry.{name} OWNER TO tenantry_auth")
    for callers in (1, 20):
        assert await outcomes(auth, signed_in.token, callers) == {signed_in.session.id}


async def test_functions_that_are_missing(
    auth: Auth, signed_in: SignedIn, observer: asyncpg.Connection
) -> None:
    """A database that was not migrated is named as such."""
    await observer.execute(
        "DROP FUNCTION tenantry.validate_session; DROP FUNCTION tenantry.validate_sessions"
    )
    for callers in (1, 20):
        assert await outcomes(auth, signed_in.token, callers) == {SchemaMissingError.__name__}


async def test_a_statement_that_is_cancelled_on_the_server(
    auth: Auth, signed_in: SignedIn, observer: asyncpg.Connection
) -> None:
    """A statement_timeout, or an administrator, does not sign anybody out."""
    await outcomes(auth, signed_in.token, 20)
    cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    for callers in (1, 20):
        async with observer.transaction():
            await observer.execute("LOCK TABLE sessions")
            calls = asyncio.create_task(outcomes(auth, signed_in.token, callers))
            while not calls.done():
                await asyncio.sleep(0.02)
                await observer.execute(cancel)
        assert await calls == {"DatabaseUnavailableError"}


async def test_a_closed_database_says_so(
    urls: Urls, signed_in: SignedIn, observer: asyncpg.Connection
) -> None:
    """Those who wait when it is closed get an error of ours, and so does who comes later."""
    for callers in (1, 30):
        async with observer.transaction():
            async with another_auth(urls) as auth:
                await outcomes(auth, signed_in.token, callers)
                await observer.execute("LOCK TABLE sessions")
                waiting = [
                    asyncio.create_task(outcome(auth, signed_in.token)) for _ in range(callers)
                ]
                await asyncio.sleep(0.1)
            async with asyncio.timeout(5):
                assert set(await asyncio.gather(*waiting)) == {"DatabaseUnavailableError"}
        with pytest.raises(DatabaseUnavailableError, match="was closed"):
            await auth.validate(signed_in.token)
        with pytest.raises(DatabaseUnavailableError, match="was closed"):
            await auth.authenticate_api_key(await auth_key(urls, signed_in))


async def auth_key(urls: Urls, signed_in: SignedIn) -> str:
    """A new API key of the tenant."""
    async with another_auth(urls) as auth:
        return (await auth.issue_api_key(signed_in.user.tenant_id)).key


async def test_closing_while_connecting_leaves_no_connection(
    urls: Urls, way: Gateway, signed_in: SignedIn
) -> None:
    """A connection that comes about after the end is not kept."""
    async with Database.connect(settings=replace(urls.settings, database_url=way.url)) as db:
        auth = Auth(db, profile=TESTING, hashing=WatchedPool())
        call = asyncio.create_task(outcome(auth, signed_in.token))
        await asyncio.sleep(0)
        await auth.close()
        assert await call == "DatabaseUnavailableError"
        assert [held.connection for held in auth._sessions._all] == [None, None]


async def test_another_event_loop_is_refused(auth: Auth, signed_in: SignedIn) -> None:
    """Connections belong to the loop that has opened them: an error, and no mixed answers."""
    await auth.validate(signed_in.token)
    seen: list[str] = []

    def elsewhere() -> None:
        seen.append(asyncio.run(outcome(auth, signed_in.token)))
        seen.append(asyncio.run(outcome(auth, "rubbish")))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    await asyncio.to_thread(thread.join)
    assert seen == [SessionUseError.__name__] * 2
    assert await outcome(auth, signed_in.token) == signed_in.session.id


async def test_two_threads_with_a_loop_each(auth: Auth, urls: Urls, signed_in: SignedIn) -> None:
    """Each has a Database and an Auth of its own; sign-in and validation work in both at once."""
    seen: list[set[str]] = []

    async def work() -> None:
        async with another_auth(urls) as own:
            seen.extend([await outcomes(own, signed_in.token, 20) for _ in range(10)])
            mine = await own.sign_in(signed_in.user.tenant_id, EMAIL, PASSWORD)
            await own.validate(mine.token)

    threads = [threading.Thread(target=lambda: asyncio.run(work())) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen.append(await outcomes(auth, signed_in.token, 20))
        await asyncio.sleep(0)
    assert set.union(*seen) == {signed_in.session.id}
    assert len(seen) > 20


async def test_behind_pgbouncer(
    server: Server, urls: Urls, signed_in: SignedIn, later: Later
) -> None:
    """Over a server connection that changes hands: right answers, renewed, and revoked at once."""
    async with pgbouncer(server.url, connections=2) as url:
        pooled = url.set(username=urls.app.username, database=urls.app.database)
        settings = Settings(database_url=pooled, admin_url=urls.admin)
        async with (
            Database.connect(settings=settings) as db,
            Database.connect(settings=settings) as same,
        ):
            assert db.settings.pooler is True
            auth = Auth(db, profile=TESTING, hashing=WatchedPool())
            neighbour = Auth(same, profile=TESTING, hashing=WatchedPool())
            mine = await auth.sign_in(signed_in.user.tenant_id, EMAIL, PASSWORD)
            both, held = {mine.session.id, signed_in.session.id}, set()
            for _ in range(10):
                calls = (outcome(auth, each.token) for each in (mine, signed_in) * 25)
                neighbours = (outcome(neighbour, mine.token) for _ in range(5))
                assert set(await asyncio.gather(*calls, *neighbours)) == both
                for each in (auth, neighbour):
                    assert await outcome(each, mine.token) == mine.session.id
                # A transaction takes the connection that has just become free.
                async with same.tenant(mine.user.tenant_id) as tx:
                    await tx.execute(text("SELECT 1"))
                    assert await outcome(auth, mine.token) == mine.session.id
                held |= {each.connection for each in auth._sessions._all}
            assert len(held) <= 2  # none had to be given up for what was prepared on it
            await later(timedelta(hours=2))
            before = (await auth.sessions(mine.user.tenant_id, mine.user.id))[0].expires_at
            renewed = (await auth.validate(mine.token)).expires_at
            assert renewed is not None
            assert renewed > before
            await auth.sign_out(mine.token)
            assert await outcome(auth, mine.token) == "InvalidTokenError"
            assert await outcomes(auth, mine.token, 20) == {"InvalidTokenError"}


async def test_where_nothing_can_be_written(
    urls: Urls, db: Database, signed_in: SignedIn, later: Later, observer: asyncpg.Connection
) -> None:
    """On a standby, or with read-only transactions, what is due is valid and not renewed."""
    await later(timedelta(hours=2))
    name = urls.app.database
    await observer.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    async with another_auth(urls) as auth:
        for callers in (1, 20):
            assert await outcomes(auth, signed_in.token, callers) == {signed_in.session.id}
    async with db.tenant(signed_in.user.tenant_id) as tx:
        expires_at = await tx.scalar(select(AuthSession.expires_at))
    assert expires_at is not None
    assert expires_at < signed_in.session.expires_at


async def test_malformed_tokens_cost_nothing(
    watched: Auth, wire: Wire, signed_in: SignedIn
) -> None:
    """What cannot be a token is refused without asking the database."""
    await watched.validate(signed_in.token)
    wire.messages.clear()
    for bad in ("", "x" * 1_000_000, signed_in.token + " ", signed_in.token.upper()):
        with pytest.raises(InvalidTokenError):
            await watched.validate(bad)
    assert wire.messages == []
