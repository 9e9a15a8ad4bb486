"""Tokens that are mailed: used once, for what they were made, by nobody else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta

import pytest
from sqlalchemy import event, select, text, update

from tenantry import Database
from tenantry.auth import Auth, Mail, SignedIn, UserInfo, core
from tenantry.auth.profiles import TESTING
from tenantry.errors import (
    ConfigurationError,
    InvalidCredentialsError,
    InvalidTokenError,
    PasswordRefusedError,
    TenantUnknownError,
    ThrottledError,
)
from tenantry.schema import SingleUseToken, User
from tests.auth.conftest import EMAIL, PASSWORD, Later, WatchedPool, another_auth, kinds
from tests.conftest import TenantPair, Urls

NEW = "another fine day by the lake"


@pytest.fixture
async def verification(auth: Auth, ada: UserInfo, mails: list[Mail]) -> Mail:
    """A mail that proves Ada's address."""
    await auth.request_email_verification(ada.tenant_id, ada.id)
    return await mailed(mails)


@pytest.fixture
async def reset(auth: Auth, ada: UserInfo, mails: list[Mail]) -> Mail:
    """A mail that resets Ada's password."""
    await auth.request_password_reset(ada.tenant_id, "ADA@acme.example")
    return await mailed(mails)


async def mailed(mails: list[Mail]) -> Mail:
    """The next mail."""
    async with asyncio.timeout(10):
        while not mails:  # noqa: ASYNC110 - the list is no task's to signal
            await asyncio.sleep(0.005)
    return mails.pop()


async def tokens(db: Database, user: UserInfo) -> int:
    """How many a user has."""
    async with db.tenant(user.tenant_id) as tx:
        return len((await tx.scalars(select(SingleUseToken.id))).all())


async def test_a_mail_says_what_it_is_for_and_its_repr_holds_no_token(
    verification: Mail, ada: UserInfo
) -> None:
    """All that a text needs is there, and a log of it opens nothing."""
    assert verification.purpose == "verify_email"
    assert (verification.tenant_id, verification.user_id) == (ada.tenant_id, ada.id)
    assert (verification.email, verification.name) == (EMAIL, "Ada")
    assert not any(part in repr(verification) for part in verification.token.split(".")[1:])


async def test_an_email_is_verified_once(
    auth: Auth, verification: Mail, ada: UserInfo, db: Database
) -> None:
    """The time is noted, and the token is used up."""
    user = await auth.verify_email(verification.token)
    assert user.id == ada.id
    assert user.email_verified_at is not None
    with pytest.raises(InvalidTokenError):
        await auth.verify_email(verification.token)
    assert (await kinds(db, ada.tenant_id))[-1] == "email_verified"


async def test_a_password_is_reset_and_all_sessions_end(
    auth: Auth, signed_in: SignedIn, mails: list[Mail]
) -> None:
    """The new one opens the account, the old one does not, and the email counts as verified."""
    tenant = signed_in.user.tenant_id
    await auth.request_password_reset(tenant, EMAIL)
    user = await auth.reset_password((await mailed(mails)).token, NEW)
    assert user.email_verified_at is not None
    with pytest.raises(InvalidTokenError):
        await auth.validate(signed_in.token)
    with pytest.raises(InvalidCredentialsError):
        await auth.sign_in(tenant, EMAIL, PASSWORD)
    await auth.sign_in(tenant, EMAIL, NEW)


async def test_a_user_without_a_password_gets_one_by_mail(
    auth: Auth, tenants: TenantPair, mails: list[Mail]
) -> None:
    """That is how somebody is invited."""
    await auth.register(tenants.a.id, EMAIL, None)
    await auth.request_password_reset(tenants.a.id, EMAIL)
    await auth.reset_password((await mailed(mails)).token, NEW)
    await auth.sign_in(tenants.a.id, EMAIL, NEW)


async def test_fifty_verifications_at_once_give_one_success(auth: Auth, verification: Mail) -> None:
    """Whoever comes second is refused, however soon."""
    results = await asyncio.gather(
        *(auth.verify_email(verification.token) for _ in range(50)), return_exceptions=True
    )
    assert [type(each) for each in results].count(UserInfo) == 1
    assert [type(each) for each in results].count(InvalidTokenError) == 49


async def test_fifty_resets_at_once_give_one_success(
    auth: Auth, reset: Mail, ada: UserInfo, hashing: WatchedPool
) -> None:
    """Also where all had found the token good and hashed; the password is the winner's."""
    passwords = [f"{NEW} {number}" for number in range(50)]
    with hashing.held_up():
        under_way = [asyncio.create_task(auth.reset_password(reset.token, p)) for p in passwords]
        async with asyncio.timeout(30):
            while hashing.hashed < 51:  # noqa: ASYNC110 - the first was Ada's own
                await asyncio.sleep(0.01)
    results = await asyncio.gather(*under_way, return_exceptions=True)
    won = [number for number, each in enumerate(results) if isinstance(each, UserInfo)]
    assert len(won) == 1
    assert [type(each) for each in results].count(InvalidTokenError) == 49
    await auth.sign_in(ada.tenant_id, EMAIL, passwords[won[0]])


async def test_a_reset_and_a_disabling_at_once_come_to_an_end(
    auth: Auth, ada: UserInfo, urls: Urls, mails: list[Mail]
) -> None:
    """Neither waits for the other in a circle; whoever is first, nobody is signed in after."""
    async with another_auth(urls) as elsewhere:
        for attempt in range(6):
            await auth.enable_user(ada.tenant_id, ada.id)
            await auth.request_password_reset(ada.tenant_id, EMAIL)
            token = (await mailed(mails)).token
            done, _ = await asyncio.gather(
                auth.reset_password(token, f"{NEW} {attempt}"),
                elsewhere.disable_user(ada.tenant_id, ada.id),
                return_exceptions=True,
            )
            assert isinstance(done, UserInfo | InvalidTokenError), done
            found = await auth.find_user(ada.tenant_id, EMAIL)
            assert found is not None
            assert found.disabled_at is not None


async def test_whoever_redeems_waits_for_the_user_before_taking_the_token(
    auth: Auth, verification: Mail, ada: UserInfo, db: Database
) -> None:
    """The order of locks is that of those who change a user, so that there is no deadlock."""
    async with db.tenant(ada.tenant_id) as tx:
        await tx.execute(select(User.id).where(User.id == ada.id).with_for_update())
        redeeming = asyncio.create_task(auth.verify_email(verification.token))
        await asyncio.sleep(0.2)
        assert not redeeming.done()
        held = await tx.scalars(select(SingleUseToken.id).with_for_update(nowait=True))
        assert len(held.all()) == 1
    assert (await redeeming).id == ada.id


@pytest.mark.parametrize("purpose", ["verify_email", "reset_password"])
async def test_a_token_ends_on_the_databases_clock(
    auth: Auth, ada: UserInfo, mails: list[Mail], later: Later, purpose: str
) -> None:
    """A second before it is good, a second after it is not."""
    lifetime = getattr(TESTING, f"{purpose}_lifetime")
    second = timedelta(seconds=1)

    async def redeem(age: timedelta) -> object:
        if purpose == "verify_email":
            await auth.request_email_verification(ada.tenant_id, ada.id)
            token = (await mailed(mails)).token
            await later(age)
            return await auth.verify_email(token)
        await auth.request_password_reset(ada.tenant_id, EMAIL)
        token = (await mailed(mails)).token
        await later(age)
        return await auth.reset_password(token, NEW)

    with pytest.raises(InvalidTokenError):
        await redeem(lifetime + second)
    assert isinstance(await redeem(lifetime - 10 * second), UserInfo)


async def test_a_token_serves_its_own_purpose(
    auth: Auth, verification: Mail, ada: UserInfo, mails: list[Mail]
) -> None:
    """A link that proves an address resets no password, nor the other way round."""
    await auth.request_password_reset(ada.tenant_id, EMAIL)
    reset = await mailed(mails)
    with pytest.raises(InvalidTokenError):
        await auth.reset_password(verification.token, NEW)
    with pytest.raises(InvalidTokenError):
        await auth.verify_email(reset.token)
    for mail in (verification, reset):
        with pytest.raises(InvalidTokenError):
            await auth.validate(mail.token)
    await auth.verify_email(verification.token)
    await auth.reset_password(reset.token, NEW)


async def test_a_token_of_another_tenant_is_none(
    auth: Auth, reset: Mail, tenants: TenantPair
) -> None:
    """With the tenant exchanged it finds nothing, though the id and the secret are right."""
    foreign = f"{tenants.b.id}.{reset.token.partition('.')[2]}"
    with pytest.raises(InvalidTokenError):
        await auth.reset_password(foreign, NEW)
    await auth.reset_password(reset.token, NEW)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda token: "",
        lambda token: token[:-1],
        lambda token: token + "\n",
        lambda token: token[:-1] + ("A" if token[-1] != "A" else "B"),
        lambda token: token.upper(),
        lambda token: token * 10_000,
        lambda token: None,
        lambda token: token.encode(),
    ],
)
async def test_bad_tokens_are_one_error(
    auth: Auth, reset: Mail, spoil: Callable[[str], str], hashing: WatchedPool
) -> None:
    """They are refused before anything is hashed, by an error that does not quote them."""
    before = hashing.hashed
    for redeem in (auth.verify_email, lambda token: auth.reset_password(token, NEW)):
        with pytest.raises(InvalidTokenError) as caught:
            await redeem(spoil(reset.token))
        assert reset.token[-20:] not in repr(caught.value)
    assert hashing.hashed == before


async def test_a_token_is_void_once_the_email_has_changed(
    auth: Auth, verification: Mail, ada: UserInfo, db: Database, mails: list[Mail]
) -> None:
    """It proves the address that it was sent to, and no other."""
    await auth.request_password_reset(ada.tenant_id, EMAIL)
    reset = await mailed(mails)
    async with db.tenant(ada.tenant_id) as tx:
        await tx.execute(update(User).values(email="ada.new@acme.example"))
    with pytest.raises(InvalidTokenError):
        await auth.verify_email(verification.token)
    with pytest.raises(InvalidTokenError):
        await auth.reset_password(reset.token, NEW)
    user = await auth.find_user(ada.tenant_id, "ada.new@acme.example")
    assert user is not None
    assert user.email_verified_at is None


async def test_a_token_opens_no_disabled_account(
    auth: Auth, verification: Mail, ada: UserInfo, db: Database, mails: list[Mail]
) -> None:
    """Neither one from before, nor one that is issued after; nobody is mailed a reset."""
    await auth.disable_user(ada.tenant_id, ada.id)
    with pytest.raises(InvalidTokenError):
        await auth.verify_email(verification.token)
    await auth.request_password_reset(ada.tenant_id, EMAIL)
    await auth.request_email_verification(ada.tenant_id, ada.id)
    late = await mailed(mails)
    assert late.purpose == "verify_email"
    with pytest.raises(InvalidTokenError):
        await auth.verify_email(late.token)
    assert mails == []


async def test_disabled_while_the_new_password_is_hashed(
    auth: Auth, reset: Mail, ada: UserInfo, hashing: WatchedPool, db: Database
) -> None:
    """The reset is refused, though the token was good when it began."""
    with hashing.held_up():
        resetting = asyncio.create_task(auth.reset_password(reset.token, NEW))
        await hashing.reached.wait()
        async with db.tenant(ada.tenant_id) as tx:  # without voiding the token
            await tx.execute(update(User).values(disabled_at=text("now()")))
    with pytest.raises(InvalidTokenError):
        await resetting
    await auth.enable_user(ada.tenant_id, ada.id)
    await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD)


async def test_a_refused_password_does_not_use_the_token_up(auth: Auth, reset: Mail) -> None:
    """Whoever chose badly chooses again with the same link."""
    for bad in ("short", "ada@acme.example", "password1234"):
        with pytest.raises(PasswordRefusedError):
            await auth.reset_password(reset.token, bad)
    await auth.reset_password(reset.token, NEW)


async def test_asking_again_voids_no_token_that_is_on_its_way(
    auth: Auth, reset: Mail, ada: UserInfo, db: Database, mails: list[Mail]
) -> None:
    """Somebody else may ask as often as the limits let them; a reset voids all."""
    tokens_ = [reset.token]
    for _ in range(TESTING.account_attempts - 1):
        await auth.request_password_reset(ada.tenant_id, EMAIL)
        tokens_.append((await mailed(mails)).token)
    with pytest.raises(ThrottledError):
        await auth.request_password_reset(ada.tenant_id, EMAIL)
    assert await tokens(db, ada) == len(tokens_)
    await auth.reset_password(tokens_[0], NEW)
    assert await tokens(db, ada) == 0
    for token in tokens_:
        with pytest.raises(InvalidTokenError):
            await auth.reset_password(token, NEW)


async def test_tokens_that_have_expired_go_with_the_next(
    auth: Auth, reset: Mail, ada: UserInfo, db: Database, later: Later
) -> None:
    """So that nobody's are kept without end where nobody cleans up."""
    await auth.request_email_verification(ada.tenant_id, ada.id)
    await later(TESTING.reset_password_lifetime)
    await auth.request_password_reset(ada.tenant_id, EMAIL)
    await auth.close()
    assert await tokens(db, ada) == 2


@pytest.fixture
def sent(db: Database) -> Iterator[list[str]]:
    """The statements that were sent, and the ends of transactions."""
    statements: list[str] = []
    engine = db._app.sync_engine
    listeners = {
        "before_cursor_execute": lambda *given: statements.append(str(given[2])),
        "commit": lambda _: statements.append("COMMIT"),
        "rollback": lambda _: statements.append("ROLLBACK"),
    }
    for name, listener in listeners.items():
        event.listen(engine, name, listener)
    yield statements
    for name, listener in listeners.items():
        event.remove(engine, name, listener)


NOBODY = ("nobody@acme.example", "no email at all", "x" * 5000, "a\0b", "\ud800")


async def test_an_unknown_email_gets_the_same_answer_and_no_mail(
    auth: Auth, ada: UserInfo, sent: list[str], mails: list[Mail]
) -> None:
    """Before the answer, the same is asked of the database whether there is such a user or not.

    After it too: what is done then, the next request waits for.
    """
    before, after = {}, {}
    for email in (EMAIL, *NOBODY):
        sent.clear()
        await auth.request_password_reset(ada.tenant_id, email)
        before[email] = list(sent)  # before the task of its own has had its turn
        await auth.close()
        after[email] = list(sent)
    assert all(each == before[EMAIL] for each in before.values())
    assert len(before[EMAIL]) == 2
    assert "sign_in_throttles" in before[EMAIL][0]
    assert all(each == after[EMAIL] for each in after.values())
    assert after[EMAIL].count("COMMIT") == 2
    assert [mail.email for mail in mails] == [EMAIL]


async def test_signing_up_is_the_same_work_for_a_member(
    auth: Auth, ada: UserInfo, sent: list[str], mails: list[Mail]
) -> None:
    """A known address and a new one are one transaction each; the new one is noted besides."""
    seen = []
    for email in (EMAIL, "new@acme.example"):
        sent.clear()
        await auth.sign_up(ada.tenant_id, email)
        await auth.close()
        seen.append(list(sent))
    known, new = seen
    assert sorted([*known, next(each for each in new if "security_events" in each)]) == sorted(new)
    assert known.count("COMMIT") == 2
    assert "ROLLBACK" not in known
    assert [mail.email for mail in mails] == [EMAIL, "new@acme.example"]


async def test_a_slow_mail_server_holds_nobody_up(db: Database, tenants: TenantPair) -> None:
    """The answer comes before the mail is sent, so its time says nothing of the user."""
    gate, sent = asyncio.Event(), list[Mail]()

    async def send(mail: Mail) -> None:
        await gate.wait()
        sent.append(mail)

    auth = Auth(db, profile=TESTING, send=send)
    await auth.register(tenants.a.id, EMAIL, PASSWORD)
    await asyncio.wait_for(auth.request_password_reset(tenants.a.id, EMAIL), 5)
    assert sent == []
    gate.set()
    await auth.close()
    assert [mail.email for mail in sent] == [EMAIL]


async def test_requests_are_throttled_alike_for_known_and_unknown_emails(
    auth: Auth, ada: UserInfo
) -> None:
    """Nobody's mailbox is flooded, and the limit tells nothing of who has an account."""
    for email in (EMAIL, "nobody@acme.example"):
        results = [
            type(each)
            for each in await asyncio.gather(
                *(auth.request_password_reset(ada.tenant_id, email) for _ in range(20)),
                return_exceptions=True,
            )
        ]
        assert results.count(ThrottledError) == 10
    for _ in range(10):
        await auth.request_email_verification(ada.tenant_id, ada.id)
    with pytest.raises(ThrottledError):
        await auth.request_email_verification(ada.tenant_id, ada.id)


async def test_a_tenant_that_is_not_there_is_said(auth: Auth) -> None:
    """It is no secret which tenants there are: their slugs are host names."""
    with pytest.raises(TenantUnknownError):
        await auth.request_password_reset("00000000-0000-0000-0000-000000000001", EMAIL)


async def test_a_mail_that_cannot_be_sent_is_logged_by_its_type(
    db: Database, tenants: TenantPair, caplog: pytest.LogCaptureFixture
) -> None:
    """The log holds no token, no address, and nothing of what the sender said."""
    seen: list[Mail] = []

    async def send(mail: Mail) -> None:
        seen.append(mail)
        raise ConnectionResetError(f"cannot send {mail.token} to {mail.email}")

    caplog.set_level(logging.DEBUG)
    auth = Auth(db, profile=TESTING, send=send)
    user = await auth.register(tenants.a.id, EMAIL, PASSWORD)
    await auth.request_password_reset(tenants.a.id, EMAIL)
    await auth.request_email_verification(tenants.a.id, user.id)
    await auth.close()
    records = [each for each in caplog.records if each.name == "tenantry.auth"]
    assert [each.getMessage() for each in records] == [
        "preparing or sending a mail failed: ConnectionResetError"
    ] * 2
    logged = " ".join(f"{each.getMessage()} {each.exc_text}" for each in caplog.records)
    assert len(seen) == 2
    assert EMAIL not in logged
    assert not any(part in logged for mail in seen for part in mail.token.split(".")[1:])


async def test_the_database_waits_for_mails_under_way(urls: Urls, tenants: TenantPair) -> None:
    """Closed at the end of the block, after what was promised is done."""
    sent: list[Mail] = []

    async def send(mail: Mail) -> None:
        await asyncio.sleep(0.05)
        sent.append(mail)

    async with Database.connect(settings=urls.settings) as db:
        auth = Auth(db, profile=TESTING, send=send)
        await auth.register(tenants.a.id, EMAIL, PASSWORD)
        await auth.request_password_reset(tenants.a.id, EMAIL)
    assert [mail.purpose for mail in sent] == ["reset_password"]


async def test_a_mail_server_that_hangs_does_not_hold_up_the_end(
    urls: Urls,
    tenants: TenantPair,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After a while it is given up, and the log says so."""
    monkeypatch.setattr(core, "_SENDING_SECONDS", 0.05)

    async def send(mail: Mail) -> None:
        await asyncio.Event().wait()

    async with asyncio.timeout(10), Database.connect(settings=urls.settings) as db:
        auth = Auth(db, profile=TESTING, send=send)
        await auth.register(tenants.a.id, EMAIL, PASSWORD)
        await auth.request_password_reset(tenants.a.id, EMAIL)
    assert "given up" in caplog.text
    assert EMAIL not in caplog.text


async def test_without_a_way_to_send_nothing_is_promised(db: Database, tenants: TenantPair) -> None:
    """Both requests say what is missing, before anything is written."""
    auth = Auth(db, profile=TESTING)
    user = await auth.register(tenants.a.id, EMAIL, PASSWORD)
    requests: list[Callable[[], Awaitable[None]]] = [
        lambda: auth.request_password_reset(tenants.a.id, EMAIL),
        lambda: auth.request_email_verification(tenants.a.id, user.id),
    ]
    for request in requests:
        with pytest.raises(ConfigurationError, match="send="):
            await request()
    assert await tokens(db, user) == 0
