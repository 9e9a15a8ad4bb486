"""Signing in on a database of the test's own, with hashes that cost nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import select, text

from tenantry import Database
from tenantry.auth import Auth, HashingPool, Mail, SignedIn, UserInfo
from tenantry.auth.passwords import Verification
from tenantry.auth.profiles import TESTING, Argon2Parameters
from tenantry.schema import SecurityEvent
from tests.conftest import Connect, TenantPair, Urls

PASSWORD = "correct horse battery staple"
EMAIL = "ada@acme.example"

# Every time that signing in compares with the database's clock.
_TIMES = {
    "sessions": ("created_at", "last_seen_at", "expires_at", "absolute_expires_at"),
    "known_devices": ("created_at", "last_used_at"),
    "single_use_tokens": ("created_at", "expires_at"),
    "sign_in_throttles": ("free_at",),
    "tenants": ("previous_api_key_expires_at",),
}

Later = Callable[[timedelta], Awaitable[None]]


class WatchedPool(HashingPool):
    """A pool of hashing that counts what reaches it, and can be held up."""

    def __init__(self) -> None:
        super().__init__(permits=2, max_waiting=10_000)
        self.verified = 0
        self.hashed = 0
        self.reached = asyncio.Event()
        self._gate = asyncio.Event()
        self._gate.set()

    async def verify(
        self, stored: str | None, prepared: bytes, *, parameters: Argon2Parameters
    ) -> Verification:
        """Count, and wait at the gate."""
        self.verified += 1
        await self._wait()
        return await super().verify(stored, prepared, parameters=parameters)

    async def hash(self, prepared: bytes, parameters: Argon2Parameters) -> str:
        """Count, and wait at the gate."""
        self.hashed += 1
        await self._wait()
        return await super().hash(prepared, parameters)

    @contextmanager
    def held_up(self) -> Iterator[None]:
        """Within the block, no hash begins; ``reached`` is set by the first that waits."""
        self.reached.clear()
        self._gate.clear()
        try:
            yield
        finally:
            self._gate.set()

    async def reached_by(self, count: int) -> None:
        """Return when so many have asked for `verify`."""
        async with asyncio.timeout(20):
            while self.verified < count:
                self.reached.clear()
                await self.reached.wait()

    async def _wait(self) -> None:
        self.reached.set()
        await self._gate.wait()


@pytest.fixture
def hashing() -> Iterator[WatchedPool]:
    """The hashing of `auth`."""
    pool = WatchedPool()
    yield pool
    pool.close()


@pytest.fixture
def mails() -> list[Mail]:
    """The mails that `auth` has sent."""
    return []


@pytest.fixture
async def auth(db: Database, hashing: WatchedPool, mails: list[Mail]) -> Auth:
    """Signing in with the profile TESTING, on a database of the test's own."""

    async def send(mail: Mail) -> None:
        mails.append(mail)

    return Auth(db, profile=TESTING, hashing=hashing, send=send)


@pytest.fixture
async def ada(auth: Auth, tenants: TenantPair) -> UserInfo:
    """A user of Acme with EMAIL and PASSWORD."""
    return await auth.register(tenants.a.id, EMAIL, PASSWORD, name="Ada")


@pytest.fixture
async def signed_in(auth: Auth, ada: UserInfo) -> SignedIn:
    """Ada, signed in."""
    return await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD)


@pytest.fixture
async def later(db: Database) -> Later:
    """Has time pass: all that the database has noted lies so much further back."""
    return lambda by: shift(db, by)


async def shift(db: Database, by: timedelta) -> None:
    """Move all times of signing in into the past, as the operator."""
    async with db.operator(reason="test") as tx:
        for table, columns in _TIMES.items():
            moved = ", ".join(f"{column} = {column} - CAST(:by AS interval)" for column in columns)
            await tx.execute(text(f"UPDATE {table} SET {moved}"), {"by": by})


@asynccontextmanager
async def another_auth(urls: Urls, **options: Any) -> AsyncIterator[Auth]:
    """Another process's `Auth`, so to say, on the same database."""
    pool = WatchedPool()
    async with Database.connect(settings=urls.settings) as database:
        yield Auth(database, **{"profile": TESTING, "hashing": pool, **options})
    pool.close()


async def events(db: Database, tenant_id: UUID) -> list[SecurityEvent]:
    """The tenant's audit trail, the oldest first."""
    async with db.tenant(tenant_id) as tx:
        rows = await tx.scalars(select(SecurityEvent).order_by(SecurityEvent.id))
        return list(rows)


async def kinds(db: Database, tenant_id: UUID) -> list[str]:
    """What the audit trail tells of, the oldest first."""
    return [event.kind for event in await events(db, tenant_id)]


@pytest.fixture
async def observer(urls: Urls, connect: Connect) -> asyncpg.Connection:
    """A superuser's connection that looks on."""
    return await connect(urls.admin)
