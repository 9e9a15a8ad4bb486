"""The one thing that a look-up writes: a session that is used is renewed."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.conftest import Server
from tests.isolation.house import MANY, ONE, House, digest, house_on


@pytest.fixture(scope="module")
async def built(server: Server, template: str) -> AsyncIterator[House]:
    async with house_on(server, template) as house:
        yield house


async def due(house: House, name: str, **columns: str) -> bytes:
    """A session that was last seen two hours ago, and its hash."""
    await house.add(house.a, name, **{"last_seen_at": "now() - interval '2 hours'", **columns})
    return house.secret(house.a, name)


async def test_use_renews_a_session_once_an_hour(built: House) -> None:
    """The first use after an hour moves the idle end; the next one does not."""
    secret = await due(built, "used", expires_at="now() + interval '22 hours'")
    before = await built.session("used")
    (row,) = await built.app.fetch(ONE, built.a, "used", secret)
    after = await built.session("used")
    assert row["expires_at"] == after["expires_at"] > before["expires_at"]
    assert after["expires_at"] - after["last_seen_at"] == after["idle_timeout"]
    assert after["absolute_expires_at"] == before["absolute_expires_at"]
    await built.app.fetch(ONE, built.a, "used", secret)
    assert await built.session("used") == after


@pytest.mark.parametrize(("minutes", "renewed"), [(59, False), (61, True)])
async def test_the_hour_is_an_hour(built: House, minutes: int, renewed: bool) -> None:
    """Just under it nothing is written."""
    name = f"seen {minutes} minutes ago"
    secret = await due(built, name, last_seen_at=f"now() - interval '{minutes} minutes'")
    (row,) = await built.app.fetch(MANY, [built.a], [name], [secret])
    assert row["is_due"] is renewed
    before = await built.session(name)
    await built.app.fetch(ONE, built.a, name, secret)
    assert (await built.session(name) != before) is renewed


@pytest.mark.parametrize(("minutes", "renewed"), [(4, False), (6, True)])
async def test_a_short_timeout_is_renewed_by_its_sixth(
    built: House, minutes: int, renewed: bool
) -> None:
    """Of 30 minutes: after 5."""
    name = f"short {minutes}"
    secret = await due(
        built,
        name,
        idle_timeout="interval '30 minutes'",
        expires_at=f"now() + interval '{30 - minutes} minutes'",
        last_seen_at=f"now() - interval '{minutes} minutes'",
    )
    before = await built.session(name)
    await built.app.fetch(ONE, built.a, name, secret)
    after = await built.session(name)
    assert (after["expires_at"] > before["expires_at"]) is renewed


async def test_renewal_ends_at_the_absolute_end(built: House) -> None:
    """The last renewal reaches it and does not pass it."""
    end = "now() + interval '3 hours'"
    secret = await due(
        built, "last", expires_at="now() + interval '1 hour'", absolute_expires_at=end
    )
    (row,) = await built.app.fetch(ONE, built.a, "last", secret)
    stored = await built.session("last")
    assert row["expires_at"] == stored["expires_at"] == stored["absolute_expires_at"]


async def test_only_what_was_validated_is_renewed(built: House) -> None:
    """A wrong hash, or a disabled user, writes nothing; another session stays as it is."""
    secret = await due(built, "mine")
    await due(built, "other")
    before = [await built.session(name) for name in ("mine", "other")]
    await built.app.fetch(ONE, built.a, "mine", digest("guess"))
    await built.app.fetch(ONE, built.a, "mine", None)
    await built.app.fetch(MANY, [built.a], ["mine"], [secret])
    await built.admin.execute("UPDATE users SET disabled_at = now()")
    await built.app.fetch(ONE, built.a, "mine", secret)
    await built.admin.execute("UPDATE users SET disabled_at = NULL")
    assert [await built.session(name) for name in ("mine", "other")] == before
    await built.app.fetch(ONE, built.a, "mine", secret)
    assert await built.session("mine") != before[0]
    assert await built.session("other") == before[1]


async def test_a_read_only_transaction_validates_and_writes_nothing(built: House) -> None:
    """As on a replica: the answer is the same, and the row stays as it is."""
    secret = await due(built, "read only")
    before = await built.session("read only")
    async with built.app.transaction(readonly=True):
        (row,) = await built.app.fetch(ONE, built.a, "read only", secret)
    assert row["expires_at"] == before["expires_at"]
    assert await built.session("read only") == before


async def test_a_locked_session_is_not_waited_for(built: House) -> None:
    """While another transaction holds the row, the answer comes at once and renews nothing."""
    secret = await due(built, "held")
    async with built.admin.transaction():
        await built.admin.execute("SELECT FROM sessions WHERE id = 'held' FOR UPDATE")
        before = await built.session("held")
        async with built.app.transaction():
            await built.app.execute("SET LOCAL lock_timeout = '100ms'")
            (row,) = await built.app.fetch(ONE, built.a, "held", secret)
        assert row["expires_at"] == before["expires_at"]
    assert await built.session("held") == before
    await built.app.fetch(ONE, built.a, "held", secret)
    assert await built.session("held") != before
