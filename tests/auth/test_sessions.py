"""Sessions: how long they last, by whose clock, and how they end."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import select, update

import tenantry.auth
from tenantry import Database
from tenantry.auth import STRICT, Auth, SessionInfo, SignedIn, UserInfo
from tenantry.auth.profiles import TESTING, TESTING_HASHING, Profile
from tenantry.errors import InvalidTokenError, TenantRequiredError, UserUnknownError
from tenantry.schema import AuthSession, User
from tests.auth.conftest import EMAIL, PASSWORD, Later, another_auth, events, kinds, shift
from tests.conftest import TenantPair, Urls

MOMENT = timedelta(seconds=5)
CHEAP_STRICT = replace(STRICT, hashing=TESTING_HASHING, for_tests=True)


async def is_good(auth: Auth, token: str) -> bool:
    """Whether the token is valid, also when asked together with others."""
    alone = await _is_good(auth, token)
    together = await asyncio.gather(*(_is_good(auth, token) for _ in range(3)))
    assert set(together) == {alone}
    return alone


async def _is_good(auth: Auth, token: str) -> bool:
    try:
        await auth.validate(token)
    except InvalidTokenError:
        return False
    return True


async def row_of(db: Database, signed_in: SignedIn) -> AuthSession:
    """The session as it is stored."""
    async with db.tenant(signed_in.user.tenant_id) as tx:
        return await tx.get_one(AuthSession, signed_in.session.id)


@pytest.mark.parametrize("profile", [TESTING, CHEAP_STRICT], ids=["standard", "strict"])
async def test_a_session_that_is_not_used_ends(
    urls: Urls, ada: UserInfo, later: Later, profile: Profile
) -> None:
    """It is good until its idle timeout, and not a moment longer."""
    async with another_auth(urls, profile=profile) as auth:
        early = await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD)
        await later(profile.idle_timeout - MOMENT)
        late = await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD)
        assert await is_good(auth, early.token)
        await later(profile.idle_timeout)
        assert not await is_good(auth, late.token)
        assert await auth.sessions(ada.tenant_id, ada.id) == []


@pytest.mark.parametrize("profile", [TESTING, CHEAP_STRICT], ids=["standard", "strict"])
async def test_a_session_that_is_used_ends_too(
    urls: Urls, ada: UserInfo, db: Database, later: Later, profile: Profile
) -> None:
    """Used all the time it lasts for its absolute lifetime; the last renewal does not pass it."""
    async with another_auth(urls, profile=profile) as auth:
        signed_in = await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD)
        step, passed = profile.idle_timeout * 0.9, timedelta(0)
        while passed + step < profile.absolute_lifetime:
            await later(step)
            passed += step
            assert (await auth.validate(signed_in.token)).user_id == ada.id
        row = await row_of(db, signed_in)
        assert row.expires_at == row.absolute_expires_at
        assert row.absolute_expires_at == row.created_at + profile.absolute_lifetime
        await later(profile.absolute_lifetime - passed - MOMENT)
        assert await is_good(auth, signed_in.token)
        await later(MOMENT)
        assert not await is_good(auth, signed_in.token)


async def test_the_absolute_end_holds_whatever_the_idle_one_says(
    auth: Auth, ada: UserInfo, observer: asyncpg.Connection, later: Later
) -> None:
    """Also for a row that some other program has written: both ends are looked at."""
    signed_in = await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD)
    await observer.execute(
        "ALTER TABLE sessions DROP CONSTRAINT sessions_absolute_expires_at_check;"
        "UPDATE sessions SET expires_at = now() + interval '1 year', absolute_expires_at = now()"
    )
    assert not await is_good(auth, signed_in.token)
    assert await auth.sessions(ada.tenant_id, ada.id) == []


async def test_an_end_that_was_set_by_hand_holds(
    auth: Auth, ada: UserInfo, observer: asyncpg.Connection
) -> None:
    """Also for a session that was used a moment ago, and is not due to be renewed."""
    signed_in = await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD)
    assert await is_good(auth, signed_in.token)
    await observer.execute("UPDATE sessions SET expires_at = created_at + interval '1 us'")
    assert not await is_good(auth, signed_in.token)
    assert await auth.sessions(ada.tenant_id, ada.id) == []


@pytest.mark.parametrize("together", [False, True], ids=["alone", "together"])
@pytest.mark.parametrize(
    ("profile", "interval"),
    [(TESTING, timedelta(hours=1)), (CHEAP_STRICT, timedelta(minutes=5))],
    ids=["standard", "strict"],
)
async def test_use_renews_at_most_once_an_hour(
    urls: Urls,
    ada: UserInfo,
    db: Database,
    later: Later,
    profile: Profile,
    interval: timedelta,
    together: bool,
) -> None:
    """Within an hour (a sixth of a shorter idle timeout) nothing is written; after it, once."""
    async with another_auth(urls, profile=profile) as auth:
        signed_in = await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD)

        async def use() -> list[datetime | None]:
            calls = [auth.validate(signed_in.token) for _ in range(40 if together else 1)]
            return [each.expires_at for each in await asyncio.gather(*calls)]

        await later(interval - MOMENT)
        before = await row_of(db, signed_in)
        assert set(await use()) == {before.expires_at}
        assert (await row_of(db, signed_in)).last_seen_at == before.last_seen_at
        await later(MOMENT)
        told = await use()
        after = await row_of(db, signed_in)
        assert after.expires_at in told
        assert after.expires_at - before.expires_at > interval - MOMENT
        assert after.expires_at == after.last_seen_at + profile.idle_timeout
        assert set(await use()) == {after.expires_at}
        assert (await row_of(db, signed_in)).last_seen_at == after.last_seen_at


@pytest.mark.parametrize("days", [1, -1])
async def test_the_programs_clock_does_not_count(
    auth: Auth, ada: UserInfo, db: Database, days: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With this machine's clock a day off, sessions begin, end and are throttled as before."""
    real, off = time.time, timedelta(days=days).total_seconds()
    monkeypatch.setattr(time, "time", lambda: real() + off)
    sources = Path(tenantry.auth.__file__).parent.glob("*.py")
    clocks = re.compile(r"\b(datetime\.now|utcnow|today\(|time_ns|time\.time\b)")
    assert not [each.name for each in sources if clocks.search(each.read_text())]
    signed_in = await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD)
    assert await is_good(auth, signed_in.token)
    monkeypatch.undo()
    assert await is_good(auth, signed_in.token)
    assert abs(signed_in.session.created_at - datetime.now(UTC)) < timedelta(minutes=5)
    lifetime = signed_in.session.expires_at - signed_in.session.created_at
    assert lifetime == TESTING.idle_timeout
    await shift(db, TESTING.idle_timeout)
    assert not await is_good(auth, signed_in.token)


async def revoked(auth: Auth, db: Database, it: SignedIn) -> None:
    assert await auth.revoke(it.user.tenant_id, it.user.id, it.session.id)


async def all_revoked(auth: Auth, db: Database, it: SignedIn) -> None:
    assert await auth.revoke_all(it.user.tenant_id, it.user.id) == 1


async def signed_out(auth: Auth, db: Database, it: SignedIn) -> None:
    assert await auth.sign_out(it.token)


async def disabled(auth: Auth, db: Database, it: SignedIn) -> None:
    await auth.disable_user(it.user.tenant_id, it.user.id)


async def disabled_by_hand(auth: Auth, db: Database, it: SignedIn) -> None:
    async with db.operator(reason="test") as tx:
        await tx.execute(update(User).values(disabled_at=datetime.now(UTC)))


async def deleted(auth: Auth, db: Database, it: SignedIn) -> None:
    await auth.delete_user(it.user.tenant_id, it.user.id)


async def given_a_password(auth: Auth, db: Database, it: SignedIn) -> None:
    await auth.set_password(it.user.tenant_id, it.user.id, "another fine day of may")


async def expired(auth: Auth, db: Database, it: SignedIn) -> None:
    await shift(db, TESTING.idle_timeout)


ENDS = [
    revoked,
    all_revoked,
    signed_out,
    disabled,
    disabled_by_hand,
    deleted,
    given_a_password,
    expired,
]


@pytest.mark.parametrize("ended", ENDS)
async def test_the_next_validation_knows(
    auth: Auth, signed_in: SignedIn, db: Database, ended: object
) -> None:
    """What has ended is refused at once: by a lone validation, and while 200 are under way."""
    others = [await auth.sign_in(signed_in.user.tenant_id, EMAIL, PASSWORD)]
    if ended in {all_revoked, disabled, disabled_by_hand, deleted, given_a_password, expired}:
        await auth.sign_out(others.pop().token)  # it would end as well
    crowd = [asyncio.create_task(crowded(auth, each.token)) for each in (*others, signed_in) * 100][
        :200
    ]
    await asyncio.sleep(0.02)
    await ended(auth, db, signed_in)  # type: ignore[operator]
    assert not await _is_good(auth, signed_in.token)
    for task in crowd:
        task.cancel()
    await asyncio.gather(*crowd, return_exceptions=True)
    await asyncio.sleep(0.05)
    for _ in range(3):  # the first still goes the way of the crowd
        assert not await _is_good(auth, signed_in.token)
    for other in others:
        assert await is_good(auth, other.token)


async def crowded(auth: Auth, token: str) -> None:
    """Validate without end."""
    while True:
        await _is_good(auth, token)
        await asyncio.sleep(0)


async def test_a_role_changes_at_once(auth: Auth, signed_in: SignedIn) -> None:
    """The principal has the role of this moment, and not that of the sign-in."""
    for role in ("admin", "owner"):
        await auth.set_role(signed_in.user.tenant_id, signed_in.user.id, role)
        told = await asyncio.gather(*(auth.validate(signed_in.token) for _ in range(50)))
        assert {each.role for each in told} == {role}
        assert (await auth.validate(signed_in.token)).role == role


async def test_a_renewal_waits_for_nobody(
    auth: Auth, signed_in: SignedIn, observer: asyncpg.Connection, later: Later
) -> None:
    """While another transaction holds the row, a session that is due is valid all the same."""
    await later(timedelta(hours=2))
    async with observer.transaction():
        await observer.execute("SELECT FROM sessions FOR UPDATE")
        async with asyncio.timeout(5):
            calls = [auth.validate(signed_in.token) for _ in range(20)]
            told = [each.expires_at for each in await asyncio.gather(*calls)]
    assert max(filter(None, told)) < signed_in.session.expires_at


async def test_the_list_of_devices(
    auth: Auth, ada: UserInfo, tenants: TenantPair, later: Later
) -> None:
    """The newest first, with what each said of itself; nothing that opens anything."""
    other = await auth.register(ada.tenant_id, "bob@acme.example", PASSWORD)
    await auth.sign_in(ada.tenant_id, other.email, PASSWORD)
    made = []
    for number in range(3):
        await later(timedelta(minutes=1))
        made.append(
            await auth.sign_in(
                ada.tenant_id, EMAIL, PASSWORD, address=f"10.0.0.{number}", user_agent=f"{number}"
            )
        )
    listed = await auth.sessions(ada.tenant_id, str(ada.id))
    assert [each.id for each in listed] == [each.session.id for each in reversed(made)]
    assert [str(each.address) for each in listed] == ["10.0.0.2", "10.0.0.1", "10.0.0.0"]
    assert [each.user_agent for each in listed] == ["2", "1", "0"]
    assert {field.name for field in fields(SessionInfo)} == {
        "id", "created_at", "last_seen_at", "expires_at", "address", "user_agent",
    }  # fmt: skip
    secrets = [part for each in made for part in (each.token, each.token.split(".")[2])]
    assert not [secret for secret in secrets if secret in repr(listed)]
    assert await auth.sessions(tenants.b.id, ada.id) == []
    assert await auth.sessions(tenants.a.id, uuid4()) == []


async def test_revoking_reaches_ones_own_sessions_only(
    auth: Auth, ada: UserInfo, tenants: TenantPair, db: Database
) -> None:
    """Neither another user's nor another tenant's session ends, by its id or by a bad one."""
    bob = await auth.register(tenants.a.id, "bob@acme.example", PASSWORD)
    eve = await auth.register(tenants.b.id, EMAIL, PASSWORD)
    one = await auth.sign_in(tenants.a.id, EMAIL, PASSWORD)
    assert not await auth.revoke(tenants.a.id, bob.id, one.session.id)
    assert not await auth.revoke(tenants.b.id, eve.id, one.session.id)
    assert not await auth.revoke(tenants.b.id, ada.id, one.session.id)
    assert await auth.revoke_all(tenants.a.id, bob.id) == 0
    assert await auth.revoke_all(tenants.b.id, ada.id) == 0
    assert not await auth.sign_out(str(tenants.b.id) + one.token[36:])
    assert not await auth.sign_out(one.token[:-43] + "x" * 43)
    for bad in ("", "x" * 22, "\x00", "\ud800", "x" * 1_000_000, one.token, one.session.id + " "):
        assert not await auth.revoke(tenants.a.id, ada.id, bad)
    assert await is_good(auth, one.token)
    assert set(await kinds(db, tenants.a.id)) == {"registered", "sign_in"}


async def test_all_but_one_are_revoked(auth: Auth, ada: UserInfo, db: Database) -> None:
    """ "Sign out everywhere else" keeps the caller's own; what is no id keeps none."""
    here, *there = [await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD) for _ in range(3)]
    count = await auth.revoke_all(ada.tenant_id, ada.id, except_session=here.session.id)
    assert count == 2
    assert await is_good(auth, here.token)
    for each in there:
        assert not await is_good(auth, each.token)
    assert await auth.revoke_all(ada.tenant_id, ada.id, except_session=here.session.id) == 0
    assert await auth.revoke_all(ada.tenant_id, ada.id, except_session="\x00") == 1
    assert not await is_good(auth, here.token)
    told = [each for each in await events(db, ada.tenant_id) if each.kind == "sessions_revoked"]
    assert [(each.user_id, each.details) for each in told] == [
        (ada.id, {"count": 2}),
        (ada.id, {"count": 1}),
    ]


async def test_signing_out_twice_is_no_error(auth: Auth, signed_in: SignedIn, db: Database) -> None:
    """Whoever signs out is signed out, with whatever token."""
    assert await auth.sign_out(signed_in.token)
    assert not await auth.sign_out(signed_in.token)
    assert not await auth.sign_out(str(uuid4()) + signed_in.token[36:])
    for bad in ("", "\x00", signed_in.token + "x", None):
        assert not await auth.sign_out(bad)  # type: ignore[arg-type]
    assert not await is_good(auth, signed_in.token)
    assert (await kinds(db, signed_in.user.tenant_id)).count("sign_out") == 1


async def test_ids_that_are_none_are_named(auth: Auth, ada: UserInfo) -> None:
    """A mistake of the program is no empty list."""
    for bad in ("", "ada", None, 7, b"x" * 16):
        with pytest.raises(UserUnknownError):
            await auth.sessions(ada.tenant_id, bad)  # type: ignore[arg-type]
        with pytest.raises(UserUnknownError):
            await auth.revoke_all(ada.tenant_id, bad)  # type: ignore[arg-type]
        with pytest.raises(TenantRequiredError):
            await auth.sessions(bad, ada.id)  # type: ignore[arg-type]


async def test_a_session_is_of_its_user_alone(auth: Auth, ada: UserInfo, db: Database) -> None:
    """Sessions made at the same moment for several users lead each to its own."""
    users = [
        await auth.register(ada.tenant_id, f"user{n}@acme.example", PASSWORD) for n in range(5)
    ]
    made = await asyncio.gather(
        *(auth.sign_in(ada.tenant_id, each.email, PASSWORD) for each in users * 3)
    )
    told = await asyncio.gather(*(auth.validate(each.token) for each in made))
    assert [each.user_id for each in told] == [each.id for each in users * 3]
    async with db.tenant(ada.tenant_id) as tx:
        owners = dict((await tx.execute(select(AuthSession.id, AuthSession.user_id))).all())
    assert owners == {each.session.id: each.user.id for each in made}
