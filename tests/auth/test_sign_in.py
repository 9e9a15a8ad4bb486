"""Signing in: what it gives, what it refuses, and what may change while a password is hashed."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import select, text, update

from tenantry import Database
from tenantry.auth import Auth, SignedIn, UserInfo
from tenantry.auth.passwords import hash_password, prepare
from tenantry.auth.profiles import TESTING, Argon2Parameters
from tenantry.errors import (
    AuthenticationError,
    BusyError,
    InvalidCredentialsError,
    InvalidTokenError,
    InvalidValueError,
    TenantRequiredError,
    TenantUnknownError,
)
from tenantry.schema import AuthSession, SecurityEvent, User
from tests.auth.conftest import EMAIL, PASSWORD, Later, WatchedPool, another_auth, events, kinds
from tests.conftest import TenantPair, Urls

EVENT_COLUMNS = SecurityEvent.__mapper__.column_attrs
OLD = Argon2Parameters(time_cost=2, memory_kib=32, parallelism=1)
ANOTHER = "another fine day of may"


async def store(db: Database, user: UserInfo, hashed: str | None) -> None:
    """Put a hash into the user's row, as an import would."""
    async with db.tenant(user.tenant_id) as tx:
        await tx.execute(update(User).where(User.id == user.id).values(hashed_password=hashed))


async def stored(db: Database, user: UserInfo) -> str | None:
    """The hash in the user's row."""
    async with db.tenant(user.tenant_id) as tx:
        return await tx.scalar(select(User.hashed_password).where(User.id == user.id))


async def test_it_gives_a_session(auth: Auth, ada: UserInfo, db: Database) -> None:
    """The token says who is calling; the session says from where; the user has no hash."""
    signed_in = await auth.sign_in(
        str(ada.tenant_id),
        " ADA@Acme.Example".strip(),
        PASSWORD,
        address="10.0.0.1",
        user_agent="x",
    )
    principal = await auth.validate(signed_in.token)
    assert (principal.tenant_id, principal.user_id) == (ada.tenant_id, ada.id)
    assert (principal.kind, principal.role) == ("session", "member")
    assert principal.session_id == signed_in.session.id
    assert principal.signed_in_at == signed_in.session.created_at
    assert principal.expires_at == signed_in.session.expires_at
    assert signed_in.user == ada
    assert str(signed_in.session.address) == "10.0.0.1"
    assert signed_in.session.user_agent == "x"
    assert await kinds(db, ada.tenant_id) == ["registered", "sign_in"]


async def test_each_sign_in_makes_a_new_token(auth: Auth, ada: UserInfo) -> None:
    """Nothing of a token that is known before comes back: no session can be fixed."""
    first = await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD)
    second = await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD, replaces=first.token)
    assert not set(first.token.split(".")[1:]) & set(second.token.split("."))
    assert first.session.id != second.session.id


def no_password(auth: Auth, db: Database, ada: UserInfo) -> Awaitable[None]:
    return store(db, ada, None)


async def disabled(auth: Auth, db: Database, ada: UserInfo) -> None:
    await auth.disable_user(ada.tenant_id, ada.id)


async def deleted(auth: Auth, db: Database, ada: UserInfo) -> None:
    await auth.delete_user(ada.tenant_id, ada.id)


async def changed(auth: Auth, db: Database, ada: UserInfo) -> None:
    await auth.set_password(ada.tenant_id, ada.id, ANOTHER)


async def unreadable(auth: Auth, db: Database, ada: UserInfo) -> None:
    await store(db, ada, "$2b$12$" + "x" * 53)


async def nothing(auth: Auth, db: Database, ada: UserInfo) -> None:
    pass


Change = Callable[[Auth, Database, UserInfo], Awaitable[None]]


@pytest.mark.parametrize(
    ("before", "email", "password"),
    [
        (nothing, "nobody@acme.example", PASSWORD),
        (nothing, EMAIL, "wrong"),
        (nothing, EMAIL, ""),
        (nothing, "no address", PASSWORD),
        (nothing, "a\x00\ud800@b@c", PASSWORD),
        (nothing, "", PASSWORD),
        (nothing, None, PASSWORD),
        (nothing, EMAIL, "x" * 10_000_000),
        (nothing, EMAIL, PASSWORD + "\x00"),
        (nothing, EMAIL, PASSWORD + "\ud800"),
        (nothing, EMAIL, PASSWORD.encode()),
        (nothing, EMAIL, None),
        (no_password, EMAIL, PASSWORD),
        (no_password, EMAIL, ""),
        (disabled, EMAIL, PASSWORD),
        (deleted, EMAIL, PASSWORD),
        (changed, EMAIL, PASSWORD),
        (unreadable, EMAIL, PASSWORD),
    ],
)
async def test_all_refusals_are_one(
    auth: Auth,
    ada: UserInfo,
    db: Database,
    hashing: WatchedPool,
    before: Change,
    email: str,
    password: str,
) -> None:
    """Whatever is wrong: one error, one hash, one event; no session."""
    await before(auth, db, ada)
    hashing.verified = 0
    with pytest.raises(InvalidCredentialsError) as caught:
        await auth.sign_in(ada.tenant_id, email, password)
    assert type(caught.value) is InvalidCredentialsError
    assert caught.value.args == ("Email and password do not match an account.",)
    assert caught.value.__cause__ is None
    assert hashing.verified == 1
    assert (await kinds(db, ada.tenant_id))[-1] == "sign_in_failed"
    assert await auth.sessions(ada.tenant_id, ada.id) == []


async def test_another_tenants_user_is_unknown(
    auth: Auth, ada: UserInfo, tenants: TenantPair
) -> None:
    """Email and password open an account of their tenant only."""
    with pytest.raises(InvalidCredentialsError):
        await auth.sign_in(tenants.b.id, EMAIL, PASSWORD)
    await auth.register(tenants.b.id, EMAIL, ANOTHER)
    with pytest.raises(InvalidCredentialsError):
        await auth.sign_in(tenants.b.id, EMAIL, PASSWORD)
    assert (await auth.sign_in(tenants.a.id, EMAIL, PASSWORD)).user.tenant_id == tenants.a.id


async def test_an_unknown_tenant_is_named(auth: Auth, ada: UserInfo, hashing: WatchedPool) -> None:
    """It is the product's mistake and no secret; nothing is hashed."""
    with pytest.raises(TenantUnknownError):
        await auth.sign_in(uuid4(), EMAIL, PASSWORD)
    for no_id in (None, "", "acme", 7):
        with pytest.raises(TenantRequiredError):
            await auth.sign_in(no_id, EMAIL, PASSWORD)  # type: ignore[arg-type]
    assert hashing.verified == 0


@pytest.mark.parametrize(
    "address", ["localhost", "1.2.3.4, 5.6.7.8", "1.2.3.4:80", "::1::", "x" * 9999]
)
async def test_an_address_that_is_none_is_refused(auth: Auth, ada: UserInfo, address: str) -> None:
    """Throttling by a header as it came would be no throttling."""
    with pytest.raises(InvalidValueError):
        await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD, address=address)


async def test_what_a_client_calls_itself_is_never_refused(auth: Auth, ada: UserInfo) -> None:
    """It is kept as far as it can be stored, on one line, and steers no terminal."""
    hostile = "\x1b[2J\r\n\x00agent\ud800 é\u202e" + "€" * 4000
    signed_in = await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD, user_agent=hostile)
    agent = signed_in.session.user_agent
    assert agent is not None
    assert agent.startswith("[2Jagent é€€")
    assert agent.isprintable()
    assert len(agent.encode()) <= 1024


async def test_no_transaction_is_open_while_a_password_is_hashed(
    auth: Auth, ada: UserInfo, hashing: WatchedPool, observer: asyncpg.Connection
) -> None:
    """A slow hash holds no connection, no lock and no snapshot; also a wrong one and an old one."""
    state = """SELECT state, query FROM pg_stat_activity
                WHERE datname = current_database() AND usename = 'tenantry_app'"""
    for password in (PASSWORD, "wrong"):
        with hashing.held_up():
            task = asyncio.create_task(auth.sign_in(ada.tenant_id, EMAIL, password))
            await hashing.reached.wait()
            seen = await observer.fetch(state)
            locks = await observer.fetchval(
                "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation"
                " WHERE c.relname IN ('users', 'sign_in_throttles') AND l.pid <> pg_backend_pid()"
            )
        await asyncio.wait([task])
        assert {row["state"] for row in seen} == {"idle"}
        assert locks == 0
        assert (task.exception() is None) == (password == PASSWORD)


@pytest.mark.parametrize("meanwhile", [disabled, deleted, changed, no_password, unreadable])
async def test_what_changes_while_hashing_counts(
    auth: Auth, ada: UserInfo, db: Database, hashing: WatchedPool, meanwhile: Change
) -> None:
    """The password was right when it was read, and the user may not come in any more: refused."""
    with hashing.held_up():
        task = asyncio.create_task(auth.sign_in(ada.tenant_id, EMAIL, PASSWORD))
        await hashing.reached.wait()
        change = asyncio.create_task(during(meanwhile, auth, db, ada, hashing))
        await change
    with pytest.raises(InvalidCredentialsError, match="do not match"):
        await task
    assert await auth.sessions(ada.tenant_id, ada.id) == []
    assert (await kinds(db, ada.tenant_id))[-1] == "sign_in_failed"


async def during(
    change: Change, auth: Auth, db: Database, ada: UserInfo, hashing: WatchedPool
) -> None:
    """Make the change though hashing is held up."""
    if change is changed:
        return await store(db, ada, hash_password(prepare(ANOTHER), TESTING.hashing))
    return await change(auth, db, ada)


async def test_old_parameters_are_renewed(
    auth: Auth, ada: UserInfo, db: Database, hashing: WatchedPool
) -> None:
    """A sign-in stores the password with the parameters of today, once; a failure does not."""
    await store(db, ada, old := hash_password(prepare(PASSWORD), OLD))
    hashing.hashed = 0
    with pytest.raises(InvalidCredentialsError):
        await auth.sign_in(ada.tenant_id, EMAIL, "wrong")
    assert await stored(db, ada) == old
    await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD)
    new = await stored(db, ada)
    assert new is not None
    assert new.startswith("$argon2id$v=19$m=64,t=1,p=1$")
    assert hashing.hashed == 1
    await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD)
    assert await stored(db, ada) == new


async def test_sign_ins_that_renew_at_once_all_succeed(
    auth: Auth, ada: UserInfo, db: Database, hashing: WatchedPool
) -> None:
    """Ten devices come back after an upgrade: the first renews the hash, and none is refused."""
    await store(db, ada, hash_password(prepare(PASSWORD), OLD))
    with hashing.held_up():
        sign_ins = [
            asyncio.create_task(auth.sign_in(ada.tenant_id, EMAIL, PASSWORD)) for _ in range(10)
        ]
        await hashing.reached_by(len(sign_ins))
    assert len({each.token for each in await asyncio.gather(*sign_ins)}) == 10


async def test_busy_while_renewing_is_no_refusal(
    auth: Auth, ada: UserInfo, db: Database, hashing: WatchedPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password was right: the hash is renewed another time."""
    await store(db, ada, old := hash_password(prepare(PASSWORD), OLD))

    async def busy(prepared: bytes, parameters: Argon2Parameters) -> str:
        raise BusyError("busy", retry_after_seconds=1)

    monkeypatch.setattr(hashing, "hash", busy)
    signed_in = await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD)
    await auth.validate(signed_in.token)
    assert await stored(db, ada) == old


async def test_a_replaced_session_ends(
    auth: Auth, ada: UserInfo, db: Database, tenants: TenantPair
) -> None:
    """The old token is refused from then on; a forged one, or another tenant's, ends nothing."""
    first = await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD)
    await auth.register(tenants.b.id, EMAIL, ANOTHER)
    forged = first.token[:-43] + "x" * 43
    await auth.sign_in(tenants.b.id, EMAIL, ANOTHER, replaces=first.token)
    await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD, replaces=forged)
    await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD, replaces="rubbish\x00")
    with pytest.raises(InvalidCredentialsError):
        await auth.sign_in(ada.tenant_id, EMAIL, "wrong", replaces=first.token)
    await auth.validate(first.token)
    second = await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD, replaces=first.token)
    with pytest.raises(InvalidTokenError):
        await auth.validate(first.token)
    await auth.validate(second.token)
    assert sorted((await kinds(db, ada.tenant_id))[-2:]) == ["sign_in", "sign_out"]


async def test_the_oldest_session_goes(auth: Auth, ada: UserInfo, later: Later) -> None:
    """There are max_sessions_per_user at most; the newest stay, other users' count apart."""
    other = await auth.register(ada.tenant_id, "bob@acme.example", ANOTHER)
    bobs = await auth.sign_in(ada.tenant_id, other.email, ANOTHER)
    tokens = []
    for _ in range(TESTING.max_sessions_per_user + 2):
        await later(timedelta(seconds=1))
        tokens.append((await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD)).token)
    for token in tokens[:2]:
        with pytest.raises(InvalidTokenError):
            await auth.validate(token)
    for token in (*tokens[2:], bobs.token):
        await auth.validate(token)


async def test_the_cap_is_exact(urls: Urls, ada: UserInfo, db: Database) -> None:
    """30 sign-ins at once leave 20 sessions and 20 known devices."""
    profile = dataclasses.replace(TESTING, account_attempts=30)
    async with another_auth(urls, profile=profile) as auth:
        sign_ins = [auth.sign_in(ada.tenant_id, EMAIL, PASSWORD) for _ in range(30)]
        made = {each.session.id for each in await asyncio.gather(*sign_ins)}
        left = {session.id for session in await auth.sessions(ada.tenant_id, ada.id)}
    assert len(left) == TESTING.max_sessions_per_user
    assert left < made
    async with db.tenant(ada.tenant_id) as tx:
        devices = await tx.scalar(text("SELECT count(*) FROM known_devices"))
    assert devices == TESTING.max_devices_per_user


async def test_ended_sessions_go_and_take_no_place(
    auth: Auth, ada: UserInfo, db: Database, later: Later
) -> None:
    """Sign-in removes the user's expired sessions; a live one does not go in their stead."""
    kept = await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD)
    for _ in range(TESTING.max_sessions_per_user - 1):
        await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD)
    async with db.tenant(ada.tenant_id) as tx:
        ended = update(AuthSession).where(AuthSession.id != kept.session.id)
        past = text("created_at + interval '1 microsecond'")
        await tx.execute(ended.values(expires_at=past))
    last = await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD)
    async with db.tenant(ada.tenant_id) as tx:
        left = set(await tx.scalars(select(AuthSession.id)))
    assert left == {kept.session.id, last.session.id}


async def test_nothing_secret_is_written_down(
    urls: Urls, ada: UserInfo, db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """No password and no token in the audit trail, a log at any level, an error or a repr."""
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "sqlalchemy")
    wrong = "wr0ng-Passw0rd-of-Ada"
    async with another_auth(urls) as auth:
        signed_in = await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD, user_agent="agent")
        said = [repr(signed_in), str(signed_in), repr(await auth.validate(signed_in.token))]
        await auth.sign_out(signed_in.token)
        attempts: list[Awaitable[object]] = [
            auth.sign_in(ada.tenant_id, EMAIL, wrong, device_token=signed_in.device_token),
            auth.sign_in(ada.tenant_id, PASSWORD, wrong),  # typed into the wrong field
            auth.validate(signed_in.token + "x"),
            auth.validate(signed_in.token),
        ]
        for attempt in attempts:
            with pytest.raises(AuthenticationError) as caught:
                await attempt
            error: BaseException | None = caught.value
            while error is not None:
                said += [str(error), repr(error), repr(error.__dict__)]
                error = error.__cause__ or error.__context__
    trail = await events(db, ada.tenant_id)
    said += [repr([getattr(event, each.key) for each in EVENT_COLUMNS]) for event in trail]
    said += [record.getMessage() + repr(record.__dict__) for record in caplog.records]
    assert [event.kind for event in trail] == [
        "registered", "sign_in", "sign_out", "sign_in_failed", "sign_in_failed",
    ]  # fmt: skip
    assert [each for each in said if "INSERT INTO sessions" in each]  # statements were logged
    secrets = [PASSWORD, wrong, signed_in.token, signed_in.device_token]
    secrets += [each.rpartition(".")[2] for each in secrets[2:]]
    for secret in secrets:
        assert not [each for each in said if secret in each]


async def test_the_audit_trail_says_who_and_from_where(
    auth: Auth, ada: UserInfo, db: Database
) -> None:
    """A failure names the account if there is one, the address and the agent; nothing else."""
    for email in (EMAIL, "nobody@acme.example"):
        with pytest.raises(InvalidCredentialsError):
            await auth.sign_in(ada.tenant_id, email, "x", address="::ffff:10.0.0.9", user_agent="a")
    signed_in = await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD, address="2001:db8::1")
    known, unknown, good = (await events(db, ada.tenant_id))[-3:]
    assert [known.user_id, unknown.user_id, good.user_id] == [ada.id, None, ada.id]
    assert (str(known.address), known.user_agent, known.details) == ("10.0.0.9", "a", {})
    assert (str(unknown.address), unknown.user_agent, unknown.details) == ("10.0.0.9", "a", {})
    assert (str(good.address), good.details) == ("2001:db8::1", {"session": signed_in.session.id})


async def test_what_goes_out_cannot_be_changed(signed_in: SignedIn) -> None:
    """Nobody gives a principal another tenant by mistake."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        signed_in.user.tenant_id = UUID(int=0)  # type: ignore[misc]
