"""What the look-ups before the tenant is known answer, asked with SQL of one's own.

They are the only way past the policies that the application has. All is tried as its role, without
a tenant and bound to another one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest

from tests.conftest import Server, bind
from tests.isolation.house import FIND, KEYS, MANY, ONE, House, digest, house_on


@pytest.fixture(scope="module")
async def built(server: Server, template: str) -> AsyncIterator[House]:
    async with house_on(server, template) as house:
        yield house


@pytest.fixture(params=["unbound", "bound to another"])
async def house(request: pytest.FixtureRequest, built: House) -> AsyncIterator[House]:
    """In a transaction of the application's; what it did is rolled back."""
    transaction = built.app.transaction()
    await transaction.start()
    if request.param != "unbound":
        await bind(built.app, built.b)
    yield built
    await transaction.rollback()


# What is good, so that what follows proves something


async def test_a_session_is_validated_whoever_is_bound(house: House) -> None:
    """The right hash finds the user, role and times, and nothing else."""
    (row,) = await house.validated(house.a, "s", house.secret(house.a, "s"))
    stored = await house.session("s")
    assert dict(row) == {
        "user_id": house.user,
        "role": "admin",
        "signed_in_at": stored["created_at"],
        "expires_at": stored["expires_at"],
    }


async def test_both_keys_of_a_tenant_open_it(house: House) -> None:
    """The key of today has no end; the one before it has."""
    (today,) = await house.opened(house.a, house.secret(house.a, "key"))
    (before,) = await house.opened(house.a, house.secret(house.a, "old key"))
    assert dict(today) == {"expires_at": None}
    assert isinstance(before["expires_at"], datetime)


async def test_places_are_those_in_the_arrays(house: House) -> None:
    """Among many tokens each good one is told by its place, the same token twice as two."""
    good, bad = house.secret(house.a, "s"), digest("guess")
    rows = await house.app.fetch(
        MANY, [house.a, house.a, house.b, house.a], ["s"] * 4, [bad, good, good, good]
    )
    assert sorted(row["place"] for row in rows) == [2, 4]
    key = house.secret(house.b, "key")
    rows = await house.app.fetch(KEYS, [house.a, house.b, None, house.b], [key, key, key, None])
    assert [row["place"] for row in rows] == [2]


async def test_a_tenant_is_found_by_its_slug(house: House) -> None:
    """Whoever is bound: the id, and nothing else of it."""
    for slug, tenant in (("a", house.a), ("b", house.b)):
        (row,) = await house.app.fetch(FIND, slug)
        assert list(row) == [tenant]


# What is not good


SESSIONS: dict[str, Callable[[House], tuple[object, object, object]]] = {
    "a wrong hash": lambda h: (h.a, "s", digest("guess")),
    "the hash of another tenant's session": lambda h: (h.a, "s", h.secret(h.b, "s")),
    "another tenant's token under one's own": lambda h: (h.b, "s", h.secret(h.a, "s")),
    "an unknown tenant": lambda h: (uuid4(), "s", h.secret(h.a, "s")),
    "an unknown session": lambda h: (h.a, "t", h.secret(h.a, "s")),
    "no tenant": lambda h: (None, "s", h.secret(h.a, "s")),
    "no session": lambda h: (h.a, None, h.secret(h.a, "s")),
    "no hash": lambda h: (h.a, "s", None),
    "nothing": lambda h: (None, None, None),
    "an empty hash": lambda h: (h.a, "s", b""),
    "a truncated hash": lambda h: (h.a, "s", h.secret(h.a, "s")[:31]),
    "a hash and more": lambda h: (h.a, "s", h.secret(h.a, "s") + b"\0"),
    "the secret in place of its hash": lambda h: (h.a, "s", f"{h.a} s".encode()),
    "a pattern": lambda h: (h.a, "%", h.secret(h.a, "s")),
    "another pattern": lambda h: (h.a, "_", h.secret(h.a, "s")),
    "trailing blanks": lambda h: (h.a, "s ", h.secret(h.a, "s")),
    "another case": lambda h: (h.a, "S", h.secret(h.a, "s")),
    "SQL": lambda h: (h.a, "' OR true --", h.secret(h.a, "s")),
    "a megabyte": lambda h: (h.a, "s" * 1_000_000, h.secret(h.a, "s")),
    "a hash of a megabyte": lambda h: (h.a, "s", b"\0" * 1_000_000),
}


@pytest.mark.parametrize("name", SESSIONS)
async def test_a_session_is_not_validated_by(house: House, name: str) -> None:
    """No row, no error, and the same answer for what exists elsewhere as for what does not."""
    assert await house.validated(*SESSIONS[name](house)) == []


KEYS_OF: dict[str, Callable[[House], tuple[object, object]]] = {
    "a wrong hash": lambda h: (h.a, digest("guess")),
    "the hash of another tenant": lambda h: (h.a, h.secret(h.b, "key")),
    "the old key of another tenant": lambda h: (h.a, h.secret(h.b, "old key")),
    "an unknown tenant": lambda h: (uuid4(), h.secret(h.a, "key")),
    "no tenant": lambda h: (None, h.secret(h.a, "key")),
    "no hash": lambda h: (h.a, None),
    "nothing": lambda h: (None, None),
    "an empty hash": lambda h: (h.a, b""),
    "a truncated hash": lambda h: (h.a, h.secret(h.a, "key")[:31]),
    "a session's hash": lambda h: (h.a, h.secret(h.a, "s")),
}


@pytest.mark.parametrize("name", KEYS_OF)
async def test_a_tenant_is_not_opened_by(house: House, name: str) -> None:
    """No row, no error."""
    assert await house.opened(*KEYS_OF[name](house)) == []


SLUGS: dict[str, Callable[[House], object]] = {
    "nothing": lambda _: None,
    "an empty text": lambda _: "",
    "an unknown slug": lambda _: "acme",
    "another case": lambda _: "A",
    "a leading blank": lambda _: " a",
    "a trailing blank": lambda _: "a ",
    "a line's end": lambda _: "a\n",
    "a pattern": lambda _: "%",
    "another pattern": lambda _: "_",
    "a beginning and a pattern": lambda _: "a%",
    "a regular expression": lambda _: "^a$",
    "another letter that looks the same": lambda _: "\N{CYRILLIC SMALL LETTER A}",
    "a letter with nothing after it": lambda _: "a\N{ZERO WIDTH SPACE}",
    "the tenant's id": lambda h: str(h.a),
    "the tenant's name": lambda _: "Tenant a",
    "SQL": lambda _: "' OR true --",
    "a megabyte": lambda _: "a" * 1_000_000,
}


@pytest.mark.parametrize("name", SLUGS)
async def test_a_tenant_is_not_found_by(house: House, name: str) -> None:
    """The slug itself and nothing near it; one row with NULL in it, and no error."""
    assert [tuple(row) for row in await house.app.fetch(FIND, SLUGS[name](house))] == [(None,)]


async def test_a_tenant_without_a_key_is_opened_by_nothing(built: House) -> None:
    """NULL is no key: neither no hash nor that of nothing opens it."""
    bare = uuid4()
    await built.admin.execute("INSERT INTO tenants (id, name, slug) VALUES ($1, 'c', 'c')", bare)
    for hash_ in (None, b"", digest("")):
        assert await built.opened(bare, hash_) == []


@pytest.mark.parametrize("query", [MANY, KEYS])
async def test_arrays_that_do_not_fit_give_nothing_more(house: House, query: str) -> None:
    """NULL, empty, ragged, nested and huge arrays: no row but for the good ones, no error."""
    kind = "s" if query is MANY else "key"
    name = [["s"]] if query is MANY else []

    async def places(tenants: Any, names: Any, hashes: Any) -> list[int]:
        arguments = (tenants, names, hashes) if query is MANY else (tenants, hashes)
        return [row["place"] for row in await house.app.fetch(query, *arguments)]

    good = house.secret(house.a, kind)
    assert await places(None, None, None) == []
    assert await places([], [], []) == []
    assert await places([house.a], [], []) == []
    assert await places([house.a], ["s"], []) == []
    assert await places([], ["s"], [good]) == []
    assert await places([None], [None], [None]) == []
    assert await places([house.a, None], ["s", None], [good, None]) == [1]
    assert await places([house.a] * 3, ["s"] * 3, [None, good]) == [2]
    if name:
        assert await places([[house.a], [house.b]], [["s"], ["s"]], [[good], [good]]) == [1]
    many = 20_000
    hashes = [digest(str(number)) for number in range(many)]
    assert await places([house.a] * (many + 1), ["s"] * (many + 1), [*hashes, good]) == [many + 1]


SPENT = {
    "idle for too long": {"expires_at": "now() - interval '1 second'"},
    "at the end of its idle timeout": {"expires_at": "now()"},
    "at its absolute end": {"expires_at": "now()", "absolute_expires_at": "now()"},
    "past its absolute end": {
        "expires_at": "now() - interval '1 hour'",
        "absolute_expires_at": "now() - interval '1 hour'",
    },
}


@pytest.mark.parametrize("name", SPENT)
async def test_a_session_that_has_ended_is_not_validated(built: House, name: str) -> None:
    """Idle or absolute: over is over, by the database's clock."""
    await built.add(built.a, name, **SPENT[name])
    assert await built.validated(built.a, name, built.secret(built.a, name)) == []


async def test_the_absolute_end_counts_where_the_idle_one_does_not(built: House) -> None:
    """Each of the two ends a session by itself, whatever put them into the table."""
    await built.add(built.a, "absolute")
    await built.admin.execute(
        "ALTER TABLE sessions DROP CONSTRAINT sessions_absolute_expires_at_check"
    )
    await built.admin.execute(
        "UPDATE sessions SET absolute_expires_at = now() - interval '1 s' WHERE id = 'absolute'"
    )
    try:
        assert await built.validated(built.a, "absolute", built.secret(built.a, "absolute")) == []
    finally:
        await built.admin.execute("DELETE FROM sessions WHERE id = 'absolute'")
        await built.admin.execute(
            "ALTER TABLE sessions ADD CONSTRAINT sessions_absolute_expires_at_check"
            " CHECK (expires_at <= absolute_expires_at)"
        )


async def test_a_revoked_session_is_not_validated_by_the_next_call(built: House) -> None:
    """A deleted row is gone for the very next statement, also a prepared one."""
    await built.add(built.a, "revoked")
    secret = built.secret(built.a, "revoked")
    prepared = await built.app.prepare(ONE)
    assert len(await prepared.fetch(built.a, "revoked", secret)) == 1
    await built.admin.execute("DELETE FROM sessions WHERE id = 'revoked'")
    assert await prepared.fetch(built.a, "revoked", secret) == []


async def test_a_disabled_user_is_not_let_in_until_enabled(built: House) -> None:
    """The user is looked at with every call, and it is the one of the session's tenant."""
    secret = built.secret(built.a, "s")
    for tenant, expected in ((built.a, 0), (built.b, 1)):
        disable = "UPDATE users SET disabled_at = now() WHERE tenant_id = $1"
        await built.admin.execute(disable, tenant)
        assert len(await built.validated(built.a, "s", secret)) == expected
        await built.admin.execute("UPDATE users SET disabled_at = NULL")
    assert len(await built.validated(built.a, "s", secret)) == 1


async def test_the_key_before_ends_with_its_grace(built: House) -> None:
    """The old key opens nothing from the moment it expires, and the new one still does."""
    await built.admin.execute("UPDATE tenants SET previous_api_key_expires_at = now()")
    try:
        assert await built.opened(built.a, built.secret(built.a, "old key")) == []
        assert len(await built.opened(built.a, built.secret(built.a, "key"))) == 1
    finally:
        await built.admin.execute(
            "UPDATE tenants SET previous_api_key_expires_at = now() + interval '1 day'"
            " WHERE previous_api_key IS NOT NULL"
        )


async def test_a_transaction_does_not_stop_the_clock(built: House) -> None:
    """What has ended since the caller's transaction began is over in it, too."""
    await built.add(built.a, "ending")
    async with built.app.transaction():
        assert len(await built.validated(built.a, "ending", built.secret(built.a, "ending"))) == 1
        assert len(await built.opened(built.b, built.secret(built.b, "old key"))) == 1
        await built.admin.execute("UPDATE sessions SET expires_at = now() WHERE id = 'ending'")
        await built.admin.execute("UPDATE tenants SET previous_api_key_expires_at = now()")
        assert await built.validated(built.a, "ending", built.secret(built.a, "ending")) == []
        assert await built.opened(built.b, built.secret(built.b, "old key")) == []
    await built.admin.execute(
        "UPDATE tenants SET previous_api_key_expires_at = now() + interval '1 day'"
        " WHERE previous_api_key IS NOT NULL"
    )


async def test_the_clock_is_the_databases(built: House) -> None:
    """No setting of the caller's moves the time by which sessions end."""
    await built.add(built.a, "yesterday", expires_at="now() - interval '1 minute'")
    async with built.app.transaction():
        for setting in ("TimeZone = 'Pacific/Honolulu'", "DateStyle = 'SQL, DMY'"):
            await built.app.execute(f"SET LOCAL {setting}")
        secret = built.secret(built.a, "yesterday")
        assert await built.validated(built.a, "yesterday", secret) == []


async def test_a_users_end_is_a_sessions_end(built: House) -> None:
    """A session whose user is only another tenant's of the same id is nobody's."""
    lone = uuid4()
    await built.admin.execute(
        "INSERT INTO users (tenant_id, id, email, name) VALUES ($1, $2, 'x@acme.example', 'X')",
        built.b,
        lone,
    )
    async with built.admin.transaction():
        await built.admin.execute("SET LOCAL session_replication_role = replica")
        await built.admin.execute(
            "INSERT INTO sessions (tenant_id, id, user_id, secret_hash, expires_at)"
            " VALUES ($1, 'lone', $2, $3, now() + interval '1 hour')",
            built.a,
            lone,
            built.secret(built.a, "lone"),
        )
    assert await built.validated(built.a, "lone", built.secret(built.a, "lone")) == []
