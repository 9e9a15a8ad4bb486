"""Expired rows go, in small batches, and nothing else does."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event, text

from tenantry import Database
from tenantry.auth import Auth, Mail, delete_expired
from tenantry.auth.profiles import TESTING, Profile
from tenantry.errors import ConfigurationError, InvalidCredentialsError, InvalidValueError
from tests.auth.conftest import EMAIL, PASSWORD, Later
from tests.conftest import Connect, TenantPair, Urls

TABLES = ("sessions", "sign_in_throttles", "single_use_tokens", "known_devices")
NOTHING = dict.fromkeys(TABLES, 0)

# Sessions of one user: some that have ended, some that go on.
_SESSIONS = """
    INSERT INTO sessions (tenant_id, id, user_id, secret_hash, created_at, last_seen_at, expires_at)
    SELECT u.tenant_id, 'made-' || $2 || n, u.id, sha256(n::text::bytea), now() - interval '2 days',
           now() - interval '2 days', now() + $3::interval
      FROM users u, generate_series(1, $1) n
"""


async def rows(db: Database) -> dict[str, int]:
    """How many there are, of all tenants."""
    async with db.operator(reason="test") as tx:
        counts = {each: await tx.scalar(text(f"SELECT count(*) FROM {each}")) for each in TABLES}
    return {table: int(count or 0) for table, count in counts.items()}


@pytest.fixture
async def busy(auth: Auth, tenants: TenantPair, mails: list[Mail]) -> Auth:
    """In each tenant: a session and a device, failed attempts, and two mailed tokens."""
    for tenant in tenants:
        user = await auth.register(tenant.id, EMAIL, PASSWORD)
        await auth.sign_in(tenant.id, EMAIL, PASSWORD)
        with pytest.raises(InvalidCredentialsError):
            await auth.sign_in(tenant.id, EMAIL, "wrong")
        await auth.request_email_verification(tenant.id, user.id)
        await auth.request_password_reset(tenant.id, EMAIL)
    await auth.close()
    return auth


async def test_what_is_alive_stays(busy: Auth, db: Database) -> None:
    """Right after it was made, nothing goes."""
    before = await rows(db)
    assert min(before.values()) >= 2
    await asyncio.sleep(0.01)
    assert await delete_expired(db) == NOTHING
    assert await rows(db) == before


async def test_each_row_goes_at_its_own_time(busy: Auth, db: Database, later: Later) -> None:
    """Attempts within minutes, mailed tokens by their purpose, sessions, and at last devices."""
    before = await rows(db)
    second = timedelta(seconds=1)
    await later(TESTING.reset_password_lifetime)
    attempts = before["sign_in_throttles"]
    expected = {**NOTHING, "sign_in_throttles": attempts, "single_use_tokens": 2}
    assert await delete_expired(db) == expected
    await later(TESTING.idle_timeout - TESTING.reset_password_lifetime + second)
    assert await delete_expired(db) == {**NOTHING, "sessions": 2, "single_use_tokens": 2}
    await later(TESTING.device_lifetime - TESTING.idle_timeout - 10 * second)
    assert await delete_expired(db) == NOTHING
    await later(10 * second)
    assert await delete_expired(db) == {**NOTHING, "known_devices": 2}
    assert await rows(db) == NOTHING


async def test_how_long_a_device_is_known_is_the_profiles(
    busy: Auth, db: Database, later: Later
) -> None:
    """A profile of one's own has its own number."""
    short = Profile(
        min_password_length=8,
        idle_timeout=timedelta(hours=1),
        absolute_lifetime=timedelta(hours=1),
        device_lifetime=timedelta(minutes=5),
    )
    await later(timedelta(minutes=6))
    assert (await delete_expired(db))["known_devices"] == 0
    assert (await delete_expired(db, profile=short))["known_devices"] == 2


async def test_batches_are_transactions_of_their_own(
    auth: Auth, tenants: TenantPair, db: Database, observer: asyncpg.Connection
) -> None:
    """No more than the batch at a time, until nothing is left; what goes on stays."""
    await auth.register(tenants.a.id, EMAIL, None)
    await auth.register(tenants.b.id, EMAIL, None)
    await observer.execute(_SESSIONS, 25, "old", timedelta(hours=-1))
    await observer.execute(_SESSIONS, 7, "live", timedelta(hours=1))
    seen: list[object] = []

    def note(*arguments: Any) -> None:
        cursor, statement = arguments[1], arguments[2]
        if "DELETE FROM sessions" in statement:
            seen.append(cursor.rowcount)

    async with db.operator(reason="test") as tx:
        engine = (await tx.connection()).sync_engine
    event.listen(engine, "after_cursor_execute", note)
    event.listen(engine, "commit", lambda connection: seen.append("commit"))
    assert (await delete_expired(db, batch=10))["sessions"] == 50
    deleted = [each for each in seen if each != "commit"]
    assert deleted == [10, 10, 5, 10, 10, 5]
    assert all(seen[at + 1] == "commit" for at, each in enumerate(seen) if each != "commit")
    assert (await rows(db))["sessions"] == 14


async def test_a_row_that_somebody_holds_is_skipped(
    busy: Auth, db: Database, later: Later, connect: Connect, urls: Urls
) -> None:
    """Nobody is waited for: what is held goes the next time."""
    await later(timedelta(days=2))
    holder = await connect(urls.admin)
    async with holder.transaction():
        await holder.execute("SELECT FROM sessions ORDER BY tenant_id LIMIT 1 FOR UPDATE")
        async with asyncio.timeout(5):
            assert (await delete_expired(db, batch=1))["sessions"] == 1
    assert (await delete_expired(db, batch=1))["sessions"] == 1


async def test_two_cleaners_at_once_share_the_work(
    auth: Auth, tenants: TenantPair, db: Database, urls: Urls, observer: asyncpg.Connection
) -> None:
    """Neither waits for the other, and each row is counted by one of them."""
    await auth.register(tenants.a.id, EMAIL, None)
    await observer.execute(_SESSIONS, 300, "old", timedelta(hours=-1))
    async with Database.connect(settings=urls.settings) as elsewhere:
        found = await asyncio.gather(
            delete_expired(db, batch=10), delete_expired(elsewhere, batch=10)
        )
    # One that found only rows in the other's hands has gone home early.
    assert sum(each["sessions"] for each in found) + (await rows(db))["sessions"] == 300
    assert (await delete_expired(db))["sessions"] + sum(each["sessions"] for each in found) == 300


@pytest.mark.parametrize("batch", [0, -1])
async def test_a_batch_of_nothing_is_refused(db: Database, batch: int) -> None:
    """It would never come to an end."""
    with pytest.raises(InvalidValueError, match="batch"):
        await delete_expired(db, batch=batch)


async def test_the_application_alone_cannot_clean_up(urls: Urls) -> None:
    """It sees one tenant at a time: the administrator's URL is needed."""
    async with Database.connect(urls.app) as db:
        with pytest.raises(ConfigurationError, match="admin URL"):
            await delete_expired(db)
