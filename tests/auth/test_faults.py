"""What a stranger has found wrong once: each case is a fault that came back if it fails."""

from __future__ import annotations

import asyncio
import threading
import time
from ipaddress import ip_address

import pytest
from sqlalchemy import text

from tenantry import Database
from tenantry.auth import Auth, HashingPool, Mail, UserInfo, core
from tenantry.auth.looking_up import Question, SharedLookUp
from tenantry.auth.origins import Origin
from tenantry.auth.passwords import prepare
from tenantry.auth.profiles import TESTING, TESTING_HASHING
from tenantry.errors import (
    BusyError,
    DatabaseUnavailableError,
    InvalidCredentialsError,
    PasswordRefusedError,
)
from tenantry.tenancy.connecting import connect
from tests.auth.conftest import EMAIL, PASSWORD
from tests.conftest import Urls


async def test_revoking_and_replacing_at_once_do_not_deadlock(
    auth: Auth, ada: UserInfo, db: Database
) -> None:
    """A sign-in that replaces a session and the end of all sessions wait in one order."""
    old = await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD)
    async with db.tenant(ada.tenant_id) as tx:
        # Another's hand on the user, as a sign-in has: who revokes has to wait here, and holds
        # no session meanwhile.
        await tx.execute(text("SELECT FROM users WHERE id = :id FOR NO KEY UPDATE"), {"id": ada.id})
        revoking = asyncio.create_task(auth.revoke_all(ada.tenant_id, ada.id))
        await asyncio.sleep(0.2)
        assert not revoking.done()
        await tx.execute(
            text("SELECT FROM sessions WHERE id = :id FOR UPDATE NOWAIT"), {"id": old.session.id}
        )
    assert await revoking == 1


@pytest.mark.parametrize("turns", range(6))
async def test_closing_leaves_nobody_waiting(urls: Urls, turns: int) -> None:
    """In whatever turn of the loop the database is closed, each caller gets an answer."""
    question = Question(one="SELECT $1::int", many="SELECT x, x FROM unnest($1::int[]) x")
    look_up = SharedLookUp(question, lambda: connect(urls.app), connections=1)
    await look_up.find((1,))
    callers = [asyncio.create_task(look_up.find((number,))) for number in range(1, 6)]
    for _ in range(turns):
        await asyncio.sleep(0)
    await look_up.close()
    answers = await asyncio.wait_for(asyncio.gather(*callers, return_exceptions=True), 5)
    assert all(
        isinstance(each, DatabaseUnavailableError) or not isinstance(each, BaseException)
        for each in answers
    )


async def test_a_thread_that_cannot_be_started_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the limit of threads a sign-in is refused as busy, and the next one goes on."""
    pool = HashingPool(1)
    with monkeypatch.context() as patched:

        def refuse(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(BusyError):
            await pool.hash(prepare("password"), TESTING_HASHING)
    assert pool.running == 0
    assert (await asyncio.wait_for(pool.hash(prepare("password"), TESTING_HASHING), 5))[0] == "$"
    pool.close()


async def test_a_full_queue_refuses_before_the_database_is_asked(
    db: Database, ada: UserInfo
) -> None:
    """In a storm, those who will be refused count for nothing and hold no connection."""
    pool = HashingPool(1, max_waiting=0)
    auth = Auth(db, profile=TESTING, hashing=pool)
    gate = threading.Event()
    held = asyncio.create_task(pool._run(gate.wait))
    await asyncio.sleep(0)
    try:
        with pytest.raises(BusyError):
            await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD)
        async with db.tenant(ada.tenant_id) as tx:
            counted = await tx.scalar(text("SELECT count(*) FROM sign_in_throttles"))
        assert counted == 0
    finally:
        gate.set()
        await held
        pool.close()


async def test_sign_ins_leave_connections_to_others(db: Database, ada: UserInfo) -> None:
    """However many sign in, a tenant's own transaction finds a connection at once."""
    auth = Auth(db, profile=TESTING)
    async with db.operator(reason="test") as tx:
        await tx.execute(text("LOCK TABLE sign_in_throttles IN ACCESS EXCLUSIVE MODE"))
        storm = [
            asyncio.create_task(auth.sign_in(ada.tenant_id, EMAIL, PASSWORD)) for _ in range(30)
        ]
        await asyncio.sleep(0.2)
        async with asyncio.timeout(5):
            async with db.tenant(ada.tenant_id) as other:
                assert await other.scalar(text("SELECT 1")) == 1
    await asyncio.gather(*storm, return_exceptions=True)


async def test_a_mail_that_hangs_does_not_hold_up_the_end(
    urls: Urls, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, ada: UserInfo
) -> None:
    """The database closes after a while, and the log says that a mail was given up."""
    monkeypatch.setattr(core, "_SENDING_SECONDS", 0.2)
    sending = asyncio.Event()

    async def send(mail: Mail) -> None:
        sending.set()
        await asyncio.sleep(60)

    async with Database.connect(settings=urls.settings) as db:
        auth = Auth(db, profile=TESTING, send=send)
        await auth.request_password_reset(ada.tenant_id, EMAIL)
        await asyncio.wait_for(sending.wait(), 5)
        started = time.monotonic()
    assert time.monotonic() - started < 5
    assert "given up" in caplog.text


async def test_a_password_that_is_refused_is_no_guess(auth: Auth, ada: UserInfo) -> None:
    """Who knows the password and chooses a weak one, again and again, is not throttled."""
    for _ in range(TESTING.account_attempts + 1):
        with pytest.raises(PasswordRefusedError):
            await auth.change_password(ada.tenant_id, ada.id, PASSWORD, "password")


@pytest.mark.parametrize("kept", ["\0", 7, "x" * 1000, "\ud800"])
async def test_a_session_to_keep_that_is_none(auth: Auth, ada: UserInfo, kept: str) -> None:
    """It keeps none; the password is changed."""
    signed_in = await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD)
    await auth.change_password(
        ada.tenant_id, ada.id, PASSWORD, "another fine day of may", keep_session=kept
    )
    assert await auth.sessions(ada.tenant_id, ada.id) == []
    with pytest.raises(InvalidCredentialsError):
        await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD)
    del signed_in


def test_addresses_behind_a_translator_are_told_apart() -> None:
    """NAT64 puts all of IPv4 into one network of IPv6."""
    a, b = (Origin.of(f"64:ff9b::{each}", None) for each in ("192.0.2.1", "192.0.2.2"))
    assert a.network != b.network
    assert a.address == ip_address("192.0.2.1")
