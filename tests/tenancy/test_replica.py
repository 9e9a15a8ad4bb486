"""Reading from a replica: a second server that follows the first."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import uuid4

import pytest
from sqlalchemy import URL, make_url, select, text

from tenantry import Database, Settings
from tenantry.errors import ReadOnlyError, UnsafeRoleError
from tenantry.ops import embedded
from tenantry.ops.embedded import pginstall
from tenantry.ops.embedded.datadir import DataDir
from tenantry.ops.migrations import migrate
from tenantry.schema import Tenant, Widget
from tenantry.schema.row_security import APP_ROLE
from tests.places import scratch

SENDING = {"wal_level": "replica", "max_wal_senders": "3", "fsync": "off"}


@dataclass(frozen=True)
class Pair:
    """A primary, and a replica of it, as the superuser."""

    primary: URL
    replica: URL


@pytest.fixture(scope="module")
async def pair() -> AsyncIterator[Pair]:
    """A migrated primary with a hot standby."""
    folder = scratch("tenantry-pair-")
    primary, copy = folder / "primary", folder / "replica"
    try:
        first = embedded.start(primary, settings=SENDING)
        await migrate(make_url(first.url()))
        embedded.start(copy)  # makes the folder with its owner and modes; its content goes
        embedded.stop(copy)
        account = pginstall.server_account()
        pgdata = DataDir.at(copy).pgdata
        shutil.rmtree(pgdata)
        program = pginstall.bin_dir(account=account) / "pg_basebackup"
        host = make_url(first.url()).query["host"]
        copied = pginstall.run(
            [
                program,
                "-D",
                pgdata,
                "-h",
                str(host),
                "-p",
                "5432",
                "-U",
                "postgres",
                "-R",
                "-c",
                "fast",
            ],
            account=account,
        )
        assert copied.returncode == 0, copied.stderr
        second = embedded.start(copy, settings=SENDING)
        yield Pair(make_url(first.url()), make_url(second.url()))
    finally:
        for data in (copy, primary):
            embedded.stop(data)
        shutil.rmtree(folder)


async def test_a_read_only_session_reads_from_the_replica(pair: Pair) -> None:
    """It sees its tenant's rows and no other's, and cannot write; other sessions still can."""
    settings = Settings(
        database_url=pair.primary.set(username=APP_ROLE),
        replica_url=pair.replica.set(username=APP_ROLE),
        admin_url=pair.primary,
    )
    async with Database.connect(settings=settings) as db:
        tenants = [Tenant(name="x", slug=uuid4().hex) for _ in range(2)]
        async with db.operator(reason="test") as operator:
            operator.add_all(tenants)
        for tenant in tenants:
            async with db.tenant(tenant.id) as tx:
                tx.add(Widget(name=tenant.slug))
                assert await tx.scalar(text("SELECT pg_is_in_recovery()")) is False
        for tenant in tenants:
            names = []
            for _ in range(200):
                async with db.tenant(tenant.id, read_only=True) as tx:
                    assert await tx.scalar(text("SELECT pg_is_in_recovery()")) is True
                    names = list(await tx.scalars(select(Widget.name)))
                if names:
                    break
                await asyncio.sleep(0.05)  # it follows a moment later
            assert names == [tenant.slug]
            with pytest.raises(ReadOnlyError, match="replica"):
                async with db.tenant(tenant.id, read_only=True) as tx:
                    tx.add(Widget(name="x"))


async def test_the_replica_is_checked_like_the_primary(pair: Pair) -> None:
    """A superuser's URL is refused there too: row security would not bind it."""
    settings = Settings(database_url=pair.primary.set(username=APP_ROLE), replica_url=pair.replica)
    with pytest.raises(UnsafeRoleError):
        async with Database.connect(settings=settings):
            pass
