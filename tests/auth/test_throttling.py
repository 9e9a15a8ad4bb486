"""How often somebody may try: counted exactly, before anything is hashed."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from math import ceil

import asyncpg
import pytest
from sqlalchemy import select, text

from tenantry import Database
from tenantry.auth import Auth, UserInfo
from tenantry.auth.profiles import TESTING, Argon2Parameters
from tenantry.errors import (
    AuthenticationError,
    BusyError,
    InvalidCredentialsError,
    TenantryError,
    ThrottledError,
)
from tenantry.schema import SignInThrottle
from tests.auth.conftest import EMAIL, PASSWORD, Later, WatchedPool, another_auth, kinds, shift
from tests.conftest import TenantPair, Urls

BURST = TESTING.account_attempts
MOMENT = timedelta(seconds=2)
BOB = "bob@acme.example"
# Few for an address, and so slow to come back that a slow machine makes no difference.
NARROW = replace(
    TESTING,
    account_attempts=5,
    account_recovery=timedelta(hours=1),
    address_attempts=7,
    address_recovery=timedelta(hours=1),
)


@pytest.fixture
async def narrow(db: Database, hashing: WatchedPool, ada: UserInfo) -> AsyncIterator[Auth]:
    """`Auth` with the profile NARROW, for which Ada is a user."""
    auth = Auth(db, profile=NARROW, hashing=hashing)
    yield auth
    await auth.close()


async def guess(auth: Auth, ada: UserInfo, email: str = EMAIL, **options: str) -> bool:
    """Whether a wrong password was looked at."""
    try:
        await auth.sign_in(ada.tenant_id, email, "wrong", **options)
    except InvalidCredentialsError:
        return True
    except ThrottledError:
        return False
    raise AssertionError


async def guesses(auth: Auth, ada: UserInfo, count: int, **options: str) -> int:
    """How many of so many guesses, made at once, were looked at."""
    return sum(await asyncio.gather(*(guess(auth, ada, **options) for _ in range(count))))


async def test_200_guesses_at_once(
    auth: Auth, ada: UserInfo, hashing: WatchedPool, db: Database
) -> None:
    """Exactly account_attempts of them reach the hashing; the rest are told when to come back."""
    hashing.verified = 0
    async with another_settings(db) as wide:
        many = Auth(wide, profile=TESTING, hashing=hashing)
        results = await asyncio.gather(
            *(many.sign_in(ada.tenant_id, EMAIL, f"guess {n}") for n in range(200)),
            return_exceptions=True,
        )
    assert hashing.verified == BURST
    assert sum(type(each) is InvalidCredentialsError for each in results) == BURST
    throttled = [each for each in results if isinstance(each, ThrottledError)]
    assert len(throttled) == 200 - BURST
    longest = TESTING.account_recovery.total_seconds()
    assert {0 < each.retry_after_seconds <= longest for each in throttled} == {True}
    assert (await kinds(db, ada.tenant_id)).count("sign_in_failed") == BURST


def another_settings(db: Database) -> contextlib.AbstractAsyncContextManager[Database]:
    """A second pool, large enough that many transactions are under way at the same moment."""
    return Database.connect(settings=replace(db.settings, pool_size=20))


async def test_two_programs_count_together(
    auth: Auth, ada: UserInfo, urls: Urls, hashing: WatchedPool
) -> None:
    """The count is the database's, whichever process asks."""
    async with another_auth(urls) as other:
        counted = await asyncio.gather(guesses(auth, ada, 20), guesses(other, ada, 20))
    assert sum(counted) == BURST


async def test_the_right_password_is_throttled_too(
    auth: Auth, ada: UserInfo, hashing: WatchedPool
) -> None:
    """Whoever guesses on cannot see when the guess is right; nothing is hashed for it."""
    await guesses(auth, ada, BURST)
    hashing.verified = 0
    with pytest.raises(ThrottledError) as caught:
        await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD)
    assert hashing.verified == 0
    assert caught.value.args == ("Too many attempts. Wait, and try again.",)


@pytest.mark.parametrize("email", ["nobody@acme.example", "no address", "\ud800\x00"])
async def test_unknown_accounts_are_throttled_alike(auth: Auth, ada: UserInfo, email: str) -> None:
    """That there is no such account cannot be told from the number of attempts."""
    assert await guesses(auth, ada, BURST + 5, email=email) == BURST
    assert await guess(auth, ada)


async def test_all_spellings_are_one_account(auth: Auth, ada: UserInfo) -> None:
    """Capitals and full-width letters in the email give no further attempts."""
    spellings = [EMAIL, EMAIL.upper(), EMAIL.title(), "ada@\uff41\uff43\uff4d\uff45.example"]
    made = [await guess(auth, ada, spellings[n % 4]) for n in range(2 * BURST)]
    assert made == [True] * BURST + [False] * BURST


async def test_tenants_and_accounts_are_counted_apart(
    auth: Auth, ada: UserInfo, tenants: TenantPair
) -> None:
    """Guesses at one account keep nobody else out."""
    await guesses(auth, ada, BURST + 1)
    await auth.register(tenants.b.id, EMAIL, PASSWORD)
    await auth.register(tenants.a.id, BOB, PASSWORD)
    await auth.sign_in(tenants.b.id, EMAIL, PASSWORD)
    await auth.sign_in(tenants.a.id, BOB, PASSWORD)


async def test_attempts_come_back_with_time(auth: Auth, ada: UserInfo, later: Later) -> None:
    """One in each recovery time, and all after the whole burst's; never more than the burst."""
    assert await guesses(auth, ada, BURST + 5) == BURST
    await later(TESTING.account_recovery - MOMENT)
    assert not await guess(auth, ada)
    await later(MOMENT)
    assert await guesses(auth, ada, 5) == 1
    await later(3 * TESTING.account_recovery)
    assert await guesses(auth, ada, 10) == 3
    await later(timedelta(days=30))
    assert await guesses(auth, ada, 2 * BURST) == BURST


async def test_retry_after_is_right(auth: Auth, ada: UserInfo, db: Database) -> None:
    """Coming back after so many seconds, and not three before, the attempt is looked at."""
    await guesses(auth, ada, BURST)
    for _ in range(3):
        with pytest.raises(ThrottledError) as caught:
            await auth.sign_in(ada.tenant_id, EMAIL, "wrong")
        wait = caught.value.retry_after_seconds
        assert 50 <= wait <= TESTING.account_recovery.total_seconds()
        await shift(db, timedelta(seconds=wait - 3))
        assert not await guess(auth, ada)
        await shift(db, timedelta(seconds=3))
        assert await guess(auth, ada)


async def test_retry_after_of_an_address(narrow: Auth, ada: UserInfo) -> None:
    """The longer of both waits: an account that is free helps nobody whose address is not."""
    for number in range(NARROW.address_attempts):
        assert await guess(narrow, ada, f"user{number}@acme.example", address="10.0.0.1")
    with pytest.raises(ThrottledError) as caught:
        await narrow.sign_in(ada.tenant_id, EMAIL, PASSWORD, address="10.0.0.1")
    assert 3500 < caught.value.retry_after_seconds <= 3600


async def test_an_address_is_counted(narrow: Auth, ada: UserInfo, hashing: WatchedPool) -> None:
    """Many accounts tried from one address: exactly address_attempts are looked at."""
    hashing.verified = 0
    tried = (guess(narrow, ada, f"user{n}@acme.example", address="10.0.0.1") for n in range(50))
    assert sum(await asyncio.gather(*tried)) == NARROW.address_attempts
    assert hashing.verified == NARROW.address_attempts
    assert not await guess(narrow, ada, address="::ffff:10.0.0.1")  # the same, in another form
    assert await guess(narrow, ada, address="10.0.0.2")
    assert await guess(narrow, ada)


async def test_a_network_of_ipv6_is_one_address(narrow: Auth, ada: UserInfo) -> None:
    """A client has 2**64 addresses: they count as one, and the next network's apart."""
    for number in range(NARROW.address_attempts):
        email = f"user{number}@acme.example"
        assert await guess(narrow, ada, email, address=f"2001:db8:0:1:{number:x}::{number:x}")
    assert not await guess(narrow, ada, address="2001:db8:0:1:ffff::")
    assert not await guess(narrow, ada, address="2001:0DB8::1:0:0:0:1%eth0")
    assert await guess(narrow, ada, address="2001:db8:0:2::1")


async def test_a_refused_address_leaves_the_account_alone(narrow: Auth, ada: UserInfo) -> None:
    """One address, and a thousand tries after its limit, do not keep the owner out elsewhere."""
    for number in range(NARROW.address_attempts):
        await guess(narrow, ada, f"user{number}@acme.example", address="10.0.0.1")
    assert await guesses(narrow, ada, 30, address="10.0.0.1") == 0
    assert await guesses(narrow, ada, 10, address="10.0.0.2") == NARROW.account_attempts


async def test_a_refused_account_leaves_the_address_alone(narrow: Auth, ada: UserInfo) -> None:
    """What is refused counts for nothing, so that a colleague can still sign in."""
    await guesses(narrow, ada, NARROW.account_attempts)
    assert await guesses(narrow, ada, 30, address="10.0.0.1") == 0
    made = [await guess(narrow, ada, f"user{n}@acme.example", address="10.0.0.1") for n in range(9)]
    assert sum(made) == NARROW.address_attempts


async def test_success_gives_back_its_own_attempt(narrow: Auth, ada: UserInfo) -> None:
    """Any number of sign-ins is possible, and the failures before them stay counted."""
    assert await guesses(narrow, ada, 3, address="10.0.0.1") == 3
    for _ in range(12):
        await narrow.sign_in(ada.tenant_id, EMAIL, PASSWORD, address="10.0.0.1")
    assert await guesses(narrow, ada, 10, address="10.0.0.1") == NARROW.account_attempts - 3
    others = [await guess(narrow, ada, f"{n}@acme.example", address="10.0.0.1") for n in range(9)]
    assert sum(others) == NARROW.address_attempts - NARROW.account_attempts


async def test_a_late_success_gives_back_no_attempt_of_others(
    db: Database, ada: UserInfo, hashing: WatchedPool
) -> None:
    """What time has brought back already is not given back again, at the cost of guesses since."""
    soon = replace(TESTING, account_attempts=3, account_recovery=timedelta(seconds=0.2))
    auth = Auth(db, profile=soon, hashing=hashing)

    async def counted() -> datetime:
        async with db.tenant(ada.tenant_id) as tx:
            return (await tx.scalars(select(SignInThrottle.free_at))).one()

    with hashing.held_up():
        task = asyncio.create_task(auth.sign_in(ada.tenant_id, EMAIL, PASSWORD))
        await hashing.reached.wait()
        await asyncio.sleep(0.25)
        failing = asyncio.create_task(guess(auth, ada))
        await hashing.reached_by(2)
        before = await counted()
    await task
    assert await failing
    assert await counted() == before


async def test_busy_is_nobodys_attempt(
    narrow: Auth, ada: UserInfo, hashing: WatchedPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not hashed keeps no owner out; the address that makes us busy is counted."""

    async def busy(*args: object, parameters: Argon2Parameters) -> None:
        raise BusyError("busy", retry_after_seconds=1)

    monkeypatch.setattr(hashing, "verify", busy)
    for _ in range(2 * NARROW.account_attempts):
        with pytest.raises(BusyError):
            await narrow.sign_in(ada.tenant_id, EMAIL, PASSWORD)
    for _ in range(NARROW.address_attempts):
        with pytest.raises(BusyError):
            await narrow.sign_in(ada.tenant_id, EMAIL, PASSWORD, address="10.0.0.1")
    monkeypatch.undo()
    assert not await guess(narrow, ada, address="10.0.0.1")
    assert await guesses(narrow, ada, 20) == NARROW.account_attempts


async def test_a_known_device_gets_in(narrow: Auth, ada: UserInfo) -> None:
    """While others guess at the account, and from the same address, its owner can sign in."""
    device = (await narrow.sign_in(ada.tenant_id, EMAIL, PASSWORD)).device_token
    await guesses(narrow, ada, 20, address="10.0.0.1")
    for number in range(20):
        await guess(narrow, ada, f"user{number}@acme.example", address="10.0.0.1")
    with pytest.raises(ThrottledError):
        await narrow.sign_in(ada.tenant_id, EMAIL, PASSWORD, address="10.0.0.1")
    for _ in range(3):
        again = await narrow.sign_in(
            ada.tenant_id, EMAIL, PASSWORD, address="10.0.0.1", device_token=device
        )
        assert again.device_token == device


async def test_a_known_device_has_its_own_attempts(
    narrow: Auth, ada: UserInfo, hashing: WatchedPool, later: Later
) -> None:
    """A stolen device token is good for one burst, and takes nothing from the account's."""
    device = (await narrow.sign_in(ada.tenant_id, EMAIL, PASSWORD)).device_token
    hashing.verified = 0
    assert await guesses(narrow, ada, 50, device_token=device) == NARROW.account_attempts
    assert hashing.verified == NARROW.account_attempts
    with pytest.raises(ThrottledError) as caught:
        await narrow.sign_in(ada.tenant_id, EMAIL, PASSWORD, device_token=device)
    assert 3500 < caught.value.retry_after_seconds <= 3600
    assert await guesses(narrow, ada, 20) == NARROW.account_attempts
    await later(NARROW.account_recovery)
    assert await guesses(narrow, ada, 20, device_token=device) == 1


async def test_other_device_tokens_count_for_nothing(
    narrow: Auth, ada: UserInfo, tenants: TenantPair, later: Later
) -> None:
    """Another user's or tenant's, forged, expired, of a deleted user, a session's, or no token."""
    await narrow.register(ada.tenant_id, BOB, PASSWORD)
    await narrow.register(tenants.b.id, EMAIL, PASSWORD)
    expired = (await narrow.sign_in(ada.tenant_id, EMAIL, PASSWORD)).device_token
    await later(NARROW.device_lifetime)
    own = await narrow.sign_in(ada.tenant_id, EMAIL, PASSWORD)
    bobs = await narrow.sign_in(ada.tenant_id, BOB, PASSWORD)
    others = await narrow.sign_in(tenants.b.id, EMAIL, PASSWORD)
    bad = [
        expired,
        bobs.device_token,
        others.device_token,
        str(ada.tenant_id) + others.device_token[36:],
        own.device_token[:-43] + "x" * 43,
        own.device_token + "=",
        own.token,
        "rubbish\x00",
        "",
        None,
        7,
    ]
    await guesses(narrow, ada, NARROW.account_attempts)
    for device in bad:
        with pytest.raises(ThrottledError):
            await narrow.sign_in(ada.tenant_id, EMAIL, PASSWORD, device_token=device)  # type: ignore[arg-type]
    await narrow.sign_in(ada.tenant_id, EMAIL, PASSWORD, device_token=own.device_token)


async def test_a_device_token_opens_no_session(auth: Auth, ada: UserInfo) -> None:
    """It says where, and not who."""
    signed_in = await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD)
    with pytest.raises(AuthenticationError):
        await auth.validate(signed_in.device_token)


async def test_a_new_password_keeps_devices(narrow: Auth, ada: UserInfo) -> None:
    """Whoever guesses at an account does not keep out the owner who has given it a new password."""
    device = (await narrow.sign_in(ada.tenant_id, EMAIL, PASSWORD)).device_token
    await narrow.set_password(ada.tenant_id, ada.id, new := "another fine day of may")
    await guesses(narrow, ada, NARROW.account_attempts)
    with pytest.raises(ThrottledError):
        await narrow.sign_in(ada.tenant_id, EMAIL, new)
    signed_in = await narrow.sign_in(ada.tenant_id, EMAIL, new, device_token=device)
    assert signed_in.device_token == device


async def test_nobody_waits_in_a_circle(
    auth: Auth, ada: UserInfo, db: Database, observer: asyncpg.Connection
) -> None:
    """100 sign-ins, right and wrong, of two accounts from two addresses: no deadlock, no slip."""
    await auth.register(ada.tenant_id, BOB, PASSWORD)
    profile = replace(TESTING, account_attempts=1000, address_attempts=1000)
    chance = random.Random(4)
    async with another_settings(db) as wide:
        many = Auth(wide, profile=profile, hashing=WatchedPool())
        devices = [
            (await many.sign_in(ada.tenant_id, each, PASSWORD)).device_token
            for each in (EMAIL, BOB)
        ]
        tokens = [
            (await many.sign_in(ada.tenant_id, each, PASSWORD)).token for each in (EMAIL, BOB)
        ]

        async def one() -> bool:
            right = chance.random() < 0.5
            try:
                await many.sign_in(
                    ada.tenant_id,
                    chance.choice((EMAIL, BOB)),
                    PASSWORD if right else "wrong",
                    address=chance.choice(("10.0.0.1", "10.0.0.2", None)),
                    device_token=chance.choice((*devices, None)),
                    replaces=chance.choice((*tokens, None)),
                )
            except InvalidCredentialsError:
                return not right
            except TenantryError as error:
                raise AssertionError from error
            return right

        async with asyncio.timeout(60):
            assert all(await asyncio.gather(*(one() for _ in range(100))))
        many.hashing.close()
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert await observer.fetchval(deadlocks) == 0


async def test_what_is_counted_says_nothing(auth: Auth, ada: UserInfo, db: Database) -> None:
    """The table is no address book: digests of accounts and addresses, and ids of devices."""
    device = (await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD, address="10.0.0.1")).device_token
    await guess(auth, ada, device_token=device)
    await guess(auth, ada, "nobody@acme.example", address="10.0.0.1")
    async with db.tenant(ada.tenant_id) as tx:
        ids = list(await tx.scalars(text("SELECT id FROM sign_in_throttles ORDER BY id")))
    assert [each.split(":")[0] for each in ids] == ["account", "account", "address", "device"]
    assert not [each for each in ids if "acme" in each or "10.0" in each]
    assert ceil(max(map(len, ids))) <= 128
