"""Metrics: pools, the hashing queue, durations and batches; and whose they are."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import text

from tenantry import Database
from tenantry.auth import Auth, SignedIn
from tenantry.errors import BusyError, InvalidTokenError
from tenantry.opentelemetry import uninstrument
from tenantry.opentelemetry.places import pool_name
from tests.conftest import TenantPair, Urls
from tests.telemetry.conftest import Points, Recording


def connections(points: Points, pool: str) -> dict[str, int]:
    """How many are idle and used, of the pools whose name begins so."""
    return {
        dict(key)["db.client.connection.state"]: value
        for key, value in points.items()
        if dict(key)["db.client.connection.pool.name"].startswith(pool)
    }


async def test_pools_are_counted_as_they_are_now(
    recording: Recording, db: Database, auth: Auth, signed_in: SignedIn
) -> None:
    """Those of the application and the operator, and the connections that validation holds."""
    async with db.operator(reason="test") as everybody:
        await everybody.execute(text("SELECT 1"))
    async with db.tenant(signed_in.user.tenant_id) as tx:
        await tx.execute(text("SELECT 1"))
        now = recording.points("db.client.connection.count")
        assert connections(now, "application@")["used"] == 1
    await auth.validate(signed_in.token)
    now = recording.points("db.client.connection.count")
    assert connections(now, "application@")["used"] == 0
    assert connections(now, "application@")["idle"] >= 1
    assert connections(now, "operator@") == {"idle": 1, "used": 0}
    assert connections(now, "sessions@") == {"idle": 1, "used": 0}
    assert connections(now, "api_keys@") == {"idle": 0, "used": 0}
    assert db.settings.database_url is not None
    name = pool_name("application", db.settings.database_url)
    most = recording.points("db.client.connection.max")[("db.client.connection.pool.name", name),]
    assert most == db.settings.pool_size + db.settings.max_overflow


async def test_the_hashing_queue_is_counted(recording: Recording, auth: Auth) -> None:
    """What is hashed, what waits for it, and what was refused since the beginning."""
    gate = threading.Event()
    running, waiting = (asyncio.create_task(auth.hashing._run(gate.wait)) for _ in range(2))
    await asyncio.sleep(0)
    with pytest.raises(BusyError):
        await auth.hashing._run(gate.wait)
    names = ("running", "waiting", "refused")
    assert [recording.points(f"tenantry.hashing.{name}")[()] for name in names] == [1, 1, 1]
    gate.set()
    await asyncio.gather(running, waiting)
    assert [recording.points(f"tenantry.hashing.{name}")[()] for name in names] == [0, 0, 1]


async def test_validations_are_counted_by_outcome_and_batch(
    signed_in: SignedIn, recording: Recording, auth: Auth
) -> None:
    """Whoever shares a statement is counted once; no tenant is among the attributes."""
    await asyncio.gather(*(auth.validate(signed_in.token) for _ in range(20)))
    for token in ("nonsense", signed_in.token[:-2] + "AA"):
        with pytest.raises(InvalidTokenError):
            await auth.validate(token)
    counts = {
        dict(key)["tenantry.outcome"]: count
        for key, (count, _) in recording.points("tenantry.operation.duration").items()
        if dict(key)["tenantry.operation"] == "validate"
    }
    assert counts == {"ok": 20, "refused": 2}
    ((key, (statements, validations)),) = recording.points("tenantry.validation.batch_size").items()
    assert key == ()
    calls = recording.points("db.client.operation.duration")
    sent = sum(count for count, _ in calls.values())
    # What is no token asks nobody; the first comes alone, and so does the one that is refused.
    assert validations == 21 - (sent - statements)
    assert 1 <= statements < 15
    assert {dict(key)["db.system.name"] for key in calls} == {"postgresql"}
    assert str(signed_in.user.tenant_id) not in str(calls)


async def test_each_database_has_an_observer_of_its_own(
    recording: Recording, db: Database, urls: Urls, tenants: TenantPair
) -> None:
    """Of another database in the process nothing is told until it is asked for, then of both."""
    settings = replace(urls.settings, pool_size=7)
    async with Database.connect(settings=settings) as other:
        async with other.tenant(tenants.a.id) as tx:
            await tx.execute(text("SELECT 1"))
        assert recording.spans() == []
        before = recording.points("db.client.connection.max")
        recording.watch(other)
        async with other.tenant(tenants.a.id) as tx:
            await tx.execute(text("SELECT 1"))
        assert len(recording.spans()) == 1
        both = recording.points("db.client.connection.max")
        # Of two that lead to the same place, the pools are added.
        assert sum(both.values()) - sum(before.values()) == 7 + settings.max_overflow
    after = recording.points("db.client.connection.max")
    assert after == before


async def test_it_ends_and_begins_again(
    recording: Recording, db: Database, tenants: TenantPair, caplog: pytest.LogCaptureFixture
) -> None:
    """After `uninstrument` nothing is told, what was open comes to its end, and again is twice."""
    async with db.tenant(tenants.a.id):
        uninstrument(db)
        uninstrument(db)
    assert len(recording.spans()) == 1
    async with db.tenant(tenants.a.id) as tx:
        assert tx.observer is None
        await tx.execute(text("SELECT 1"))
    assert len(recording.spans()) == 1
    assert recording.points("db.client.connection.count") == {}
    recording.watch(db)
    recording.watch(db)
    async with db.tenant(tenants.a.id):
        pass
    assert len(recording.spans()) == 2
    assert connections(recording.points("db.client.connection.count"), "application@")["idle"] == 1
    assert not caplog.records


async def test_the_pools_of_an_earlier_application_are_not_read(
    record: Callable[..., Recording], db: Database
) -> None:
    """A database that moves to other providers is told to them alone."""
    first, second = record(), record()
    first.watch(db)
    second.watch(db)
    assert first.points("db.client.connection.max") == {}
    assert second.points("db.client.connection.max") != {}
