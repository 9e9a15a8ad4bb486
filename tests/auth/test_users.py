"""Users: made once, changed with care, and never without an owner."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import select

from tenantry import Database
from tenantry.auth import Auth, Mail, SignedIn, UserInfo
from tenantry.errors import (
    ConflictError,
    InvalidCredentialsError,
    InvalidTokenError,
    InvalidValueError,
    LastOwnerError,
    PasswordRefusedError,
    TenantUnknownError,
    ThrottledError,
    UserUnknownError,
)
from tenantry.schema import SingleUseToken, User
from tests.auth.conftest import EMAIL, PASSWORD, Later, WatchedPool, another_auth, kinds
from tests.conftest import TenantPair, Urls

OTHER = "another fine day by the lake"
MARKED = "marked"
THIRD = "seven ducks crossed a bridge"


async def stored(db: Database, user: UserInfo) -> str | None:
    """The hash that a user has."""
    async with db.tenant(user.tenant_id) as tx:
        return await tx.scalar(select(User.hashed_password).where(User.id == user.id))


def everything(error: BaseException) -> str:
    """All that a logger could print of an error: its chain, also where that is suppressed."""
    seen: list[str] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None:
            continue
        seen += [str(each), repr(each), repr(vars(each)), repr(each.args)]
        seen += traceback.format_exception(each)
        waiting += [each.__cause__, each.__context__, getattr(each, "orig", None)]
    return "\n".join(seen)


async def sent(mails: list[Mail], count: int) -> None:
    """Wait until so many mails were sent."""
    async with asyncio.timeout(10):
        while len(mails) < count:  # noqa: ASYNC110 - the list is no task's to signal
            await asyncio.sleep(0.01)


async def test_two_sign_ups_at_once_give_one_user_and_one_clear_error(
    auth: Auth, tenants: TenantPair, db: Database
) -> None:
    """The second is told of the conflict, and its error carries nothing of the row."""
    results = await asyncio.gather(
        *(auth.register(tenants.a.id, EMAIL, PASSWORD, name=MARKED) for _ in range(8)),
        return_exceptions=True,
    )
    errors = [each for each in results if isinstance(each, BaseException)]
    made = [each for each in results if isinstance(each, UserInfo)]
    assert [type(each) for each in errors] == [ConflictError] * 7
    assert len(made) == 1
    assert await auth.users(tenants.a.id) == made
    kept = await stored(db, made[0])
    assert kept is not None
    for error in errors:
        text = everything(error)
        assert not any(each in text for each in (EMAIL, PASSWORD, MARKED, "$argon2", kept))


async def test_a_constraint_of_ones_own_is_named_without_the_row(
    auth: Auth, tenants: TenantPair, admin: asyncpg.Connection
) -> None:
    """PostgreSQL's own error would quote the row, with the password's hash."""
    await admin.execute("ALTER TABLE users ADD CONSTRAINT no_markers CHECK (name <> 'marked')")
    with pytest.raises(InvalidValueError, match="no_markers") as caught:
        await auth.register(tenants.a.id, EMAIL, PASSWORD, name=MARKED)
    text = everything(caught.value)
    assert not any(each in text for each in (EMAIL, PASSWORD, MARKED, "$argon2"))


async def test_emails_are_unique_in_their_canonical_form_and_per_tenant(
    auth: Auth, tenants: TenantPair
) -> None:
    """Another spelling is the same user; another tenant is another user."""
    first = await auth.register(tenants.a.id, "Ada@ACME.example", PASSWORD)
    assert first.email == EMAIL
    assert first.name == "ada"
    for spelling in (EMAIL, "ADA@acme.EXAMPLE"):
        with pytest.raises(ConflictError):
            await auth.register(tenants.a.id, spelling, PASSWORD)
    second = await auth.register(str(tenants.b.id), EMAIL, OTHER)
    assert second.id != first.id
    assert await auth.find_user(tenants.a.id, "aDa@Acme.Example") == first
    assert await auth.find_user(tenants.b.id, EMAIL) == second
    assert await auth.find_user(tenants.a.id, "nobody@acme.example") is None
    with pytest.raises(InvalidCredentialsError):
        await auth.sign_in(tenants.a.id, EMAIL, OTHER)


@pytest.mark.parametrize("password", [PASSWORD, None])
async def test_a_tenant_that_is_not_there_has_no_users(auth: Auth, password: str | None) -> None:
    """To register with it is one error, whether or not there is a password."""
    with pytest.raises(TenantUnknownError):
        await auth.register(uuid4(), EMAIL, password)


async def test_what_cannot_be_a_user_is_refused_before_anything_is_hashed(
    auth: Auth, tenants: TenantPair, hashing: WatchedPool
) -> None:
    """Bad emails, roles, names and passwords are refused, each by its error; nothing is made."""
    refused: list[tuple[type[Exception], Callable[[], Awaitable[object]]]] = [
        (InvalidValueError, lambda: auth.register(tenants.a.id, "no email", PASSWORD)),
        (
            InvalidValueError,
            lambda: auth.register(tenants.a.id, EMAIL, PASSWORD, role="root"),  # type: ignore[arg-type]
        ),
        (InvalidValueError, lambda: auth.register(tenants.a.id, EMAIL, PASSWORD, name="x" * 999)),
        *(
            (
                InvalidValueError,
                lambda name=name: auth.register(tenants.a.id, EMAIL, None, name=name),
            )
            # What is mailed to has a name that anybody may have chosen.
            for name in ("a\0b", "Ada\r\nBcc: x@evil.example", "a\x1b[2J", "a\u2028b", "", " ")
        ),
        (PasswordRefusedError, lambda: auth.register(tenants.a.id, EMAIL, "short")),
        (PasswordRefusedError, lambda: auth.register(tenants.a.id, EMAIL, "ada@acme.example")),
        (PasswordRefusedError, lambda: auth.register(tenants.a.id, EMAIL, "acmeacmeacme")),
    ]
    for expected, call in refused:
        with pytest.raises(expected) as caught:
            await call()
        assert PASSWORD not in everything(caught.value)
    assert hashing.hashed == 0
    assert await auth.users(tenants.a.id) == []


async def test_a_role_is_what_the_next_validation_says(auth: Auth, signed_in: SignedIn) -> None:
    """A session goes on with the new role; an unknown role or user is refused."""
    user = signed_in.user
    assert (await auth.set_role(user.tenant_id, user.id, "admin")).role == "admin"
    assert (await auth.validate(signed_in.token)).role == "admin"
    with pytest.raises(InvalidValueError, match="owner, admin, member"):
        await auth.set_role(user.tenant_id, user.id, "root")  # type: ignore[arg-type]


async def test_users_of_another_tenant_are_not_there(
    auth: Auth, ada: UserInfo, tenants: TenantPair
) -> None:
    """Each function that takes a user's id knows the tenant's own users only."""
    for call in (
        lambda: auth.set_role(tenants.b.id, ada.id, "admin"),
        lambda: auth.disable_user(tenants.b.id, ada.id),
        lambda: auth.enable_user(tenants.b.id, ada.id),
        lambda: auth.delete_user(tenants.b.id, ada.id),
        lambda: auth.set_password(tenants.b.id, ada.id, OTHER),
        lambda: auth.set_password(tenants.b.id, ada.id, None),
        lambda: auth.change_password(tenants.b.id, ada.id, PASSWORD, OTHER),
        lambda: auth.request_email_verification(tenants.b.id, ada.id),
        lambda: auth.disable_user(tenants.a.id, "no id"),
    ):
        with pytest.raises(UserUnknownError):
            await call()
    assert await auth.users(tenants.a.id) == [ada]


Leave = Callable[[Auth, UserInfo], Awaitable[object]]

LEAVING: list[Leave] = [
    lambda auth, user: auth.set_role(user.tenant_id, user.id, "member"),
    lambda auth, user: auth.disable_user(user.tenant_id, user.id),
    lambda auth, user: auth.delete_user(user.tenant_id, user.id),
]


@pytest.mark.parametrize("leave", LEAVING, ids=["demoted", "disabled", "deleted"])
async def test_the_last_owner_stays(auth: Auth, tenants: TenantPair, leave: Leave) -> None:
    """Nobody but another owner who can sign in makes room; members and admins leave freely."""
    last = await auth.register(tenants.a.id, EMAIL, None, role="owner")
    other = await auth.register(tenants.a.id, "bob@acme.example", None, role="owner")
    admin = await auth.register(tenants.a.id, "eve@acme.example", None, role="admin")
    foreign = await auth.register(tenants.b.id, EMAIL, None, role="owner")
    await auth.disable_user(tenants.a.id, other.id)
    with pytest.raises(LastOwnerError):
        await leave(auth, last)
    await leave(auth, admin)
    await auth.delete_user(tenants.a.id, other.id)  # a disabled owner is no loss
    with pytest.raises(LastOwnerError):
        await leave(auth, foreign)
    assert (await auth.find_user(tenants.a.id, EMAIL)) == last
    third = await auth.register(tenants.a.id, "kim@acme.example", None, role="owner")
    await leave(auth, last)
    with pytest.raises(LastOwnerError):
        await leave(auth, third)


@pytest.mark.parametrize("leave", LEAVING, ids=["demoted", "disabled", "deleted"])
async def test_of_two_owners_who_leave_at_once_one_stays(
    auth: Auth, tenants: TenantPair, urls: Urls, leave: Leave
) -> None:
    """Whatever the order in which two processes let them go."""
    async with another_auth(urls) as elsewhere:
        for attempt in range(5):
            pair = [
                await auth.register(
                    tenants.a.id, f"{name}{attempt}@acme.example", None, role="owner"
                )
                for name in ("a", "b")
            ]
            for user in await auth.users(tenants.a.id):
                if user.role == "owner" and user.id not in {each.id for each in pair}:
                    await auth.set_role(tenants.a.id, user.id, "member")
            results = await asyncio.gather(
                leave(auth, pair[0]), leave(elsewhere, pair[1]), return_exceptions=True
            )
            assert sorted(type(each) is LastOwnerError for each in results) == [False, True]
            owners = [
                each
                for each in await auth.users(tenants.a.id)
                if each.role == "owner" and each.disabled_at is None
            ]
            assert len(owners) == 1


async def test_a_password_is_changed_by_who_knows_it(
    auth: Auth, signed_in: SignedIn, db: Database, mails: list[Mail]
) -> None:
    """Other sessions end and the given one goes on; mailed tokens are void."""
    user, tenant = signed_in.user, signed_in.user.tenant_id
    elsewhere = await auth.sign_in(tenant, EMAIL, PASSWORD)
    await auth.request_password_reset(tenant, EMAIL)
    await auth.request_email_verification(tenant, user.id)
    await sent(mails, 2)
    with pytest.raises(InvalidCredentialsError):
        await auth.change_password(tenant, user.id, OTHER, THIRD)
    await auth.validate(elsewhere.token)
    await auth.change_password(
        tenant, str(user.id), PASSWORD, OTHER, keep_session=signed_in.session.id
    )
    assert (await auth.validate(signed_in.token)).user_id == user.id
    with pytest.raises(InvalidTokenError):
        await auth.validate(elsewhere.token)
    async with db.tenant(tenant) as tx:
        assert (await tx.scalars(select(SingleUseToken.id))).all() == []
    with pytest.raises(InvalidCredentialsError):
        await auth.sign_in(tenant, EMAIL, PASSWORD)
    await auth.sign_in(tenant, EMAIL, OTHER)
    assert [each for each in await kinds(db, tenant) if each.startswith("password_change")] == [
        "password_change_failed",
        "password_changed",
    ]


async def test_the_session_that_is_kept_gets_another_token(auth: Auth, signed_in: SignedIn) -> None:
    """For whom it is wanted: copies of the old one open nothing then. No other session does."""
    user = signed_in.user
    eve = await auth.register(user.tenant_id, "eve@acme.example", PASSWORD)
    other = await auth.sign_in(user.tenant_id, "eve@acme.example", PASSWORD)
    for keep in (None, "none", other.session.id):
        assert await auth.change_password(
            eve.tenant_id, user.id, PASSWORD, PASSWORD, keep_session=keep, new_token=True
        ) is None  # fmt: skip
    assert (await auth.validate(other.token)).user_id == eve.id
    signed_in = await auth.sign_in(user.tenant_id, EMAIL, PASSWORD)
    session = signed_in.session.id
    token = await auth.change_password(
        user.tenant_id, user.id, PASSWORD, OTHER, keep_session=session, new_token=True
    )
    assert token is not None
    kept = await auth.validate(token)
    assert (kept.session_id, kept.user_id) == (session, user.id)
    with pytest.raises(InvalidTokenError):
        await auth.validate(signed_in.token)


async def test_without_a_session_to_keep_all_end(auth: Auth, signed_in: SignedIn) -> None:
    """A changed password signs out everywhere."""
    user = signed_in.user
    await auth.change_password(user.tenant_id, user.id, PASSWORD, OTHER)
    with pytest.raises(InvalidTokenError):
        await auth.validate(signed_in.token)


async def test_a_new_password_that_is_refused_changes_nothing(
    auth: Auth, signed_in: SignedIn, db: Database
) -> None:
    """Neither the password nor the sessions; and whoever knows the old one may try on."""
    user = signed_in.user
    before = await stored(db, user)
    several = ("short", "password1234", "ada@acme.example", "x" * 5000, "with\0nul-inside")
    for bad in several * 3:
        with pytest.raises(PasswordRefusedError) as caught:
            await auth.change_password(user.tenant_id, user.id, PASSWORD, bad)
        assert PASSWORD not in everything(caught.value)
    assert await stored(db, user) == before
    await auth.validate(signed_in.token)


@pytest.mark.parametrize("current", ["", "x" * 5000, "a\0b", "\ud800", 7, None])
async def test_odd_current_passwords_are_just_wrong(
    auth: Auth, ada: UserInfo, current: str, hashing: WatchedPool
) -> None:
    """They cost the same work and end in the same error."""
    before = hashing.verified
    with pytest.raises(InvalidCredentialsError):
        await auth.change_password(ada.tenant_id, ada.id, current, OTHER)
    assert hashing.verified == before + 1


async def test_guesses_at_the_current_password_are_throttled(
    auth: Auth, ada: UserInfo, hashing: WatchedPool, later: Later
) -> None:
    """Whoever has a stolen session cannot try out passwords; the right one counts for nothing."""
    before = hashing.verified
    for _ in range(3):
        await auth.change_password(ada.tenant_id, ada.id, PASSWORD, OTHER)
        await auth.change_password(ada.tenant_id, ada.id, OTHER, PASSWORD)
    results = await asyncio.gather(
        *(auth.change_password(ada.tenant_id, ada.id, f"guess {n}", OTHER) for n in range(40)),
        return_exceptions=True,
    )
    assert [type(each) for each in results].count(InvalidCredentialsError) == 10
    assert [type(each) for each in results].count(ThrottledError) == 30
    assert hashing.verified == before + 6 + 10
    with pytest.raises(ThrottledError):
        await auth.change_password(ada.tenant_id, ada.id, PASSWORD, OTHER)
    await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD)  # counted apart
    await later(timedelta(minutes=1))
    await auth.change_password(ada.tenant_id, ada.id, PASSWORD, OTHER)


async def test_a_disabled_user_changes_no_password(
    auth: Auth, ada: UserInfo, hashing: WatchedPool
) -> None:
    """Not with the right one either: the error and the work are those of a wrong one."""
    await auth.disable_user(ada.tenant_id, ada.id)
    for current in (PASSWORD, THIRD):
        hashing.verified = hashing.hashed = 0
        with pytest.raises(InvalidCredentialsError):
            await auth.change_password(ada.tenant_id, ada.id, current, OTHER)
        assert (hashing.verified, hashing.hashed) == (1, 0)


Meanwhile = Callable[[Auth, UserInfo], Awaitable[object]]


@pytest.mark.parametrize(
    ("meanwhile", "expected"),
    [
        (
            lambda auth, user: auth.set_password(user.tenant_id, user.id, None),
            InvalidCredentialsError,
        ),
        (lambda auth, user: auth.disable_user(user.tenant_id, user.id), InvalidCredentialsError),
        (lambda auth, user: auth.delete_user(user.tenant_id, user.id), UserUnknownError),
    ],
    ids=["taken away", "disabled", "deleted"],
)
async def test_what_happens_while_a_password_is_hashed_wins(
    auth: Auth,
    ada: UserInfo,
    hashing: WatchedPool,
    db: Database,
    meanwhile: Meanwhile,
    expected: type[Exception],
) -> None:
    """The change that was under way is refused: it began with a password that is gone."""
    with hashing.held_up():
        change = asyncio.create_task(auth.change_password(ada.tenant_id, ada.id, PASSWORD, OTHER))
        await hashing.reached.wait()
        before = await stored(db, ada)
        await meanwhile(auth, ada)
        after = await stored(db, ada)
    with pytest.raises(expected):
        await change
    assert await stored(db, ada) == after
    assert before is not None


async def test_of_two_changes_at_once_one_is_refused(auth: Auth, ada: UserInfo) -> None:
    """The password is then the one whose change was confirmed."""
    results = await asyncio.gather(
        auth.change_password(ada.tenant_id, ada.id, PASSWORD, OTHER),
        auth.change_password(ada.tenant_id, ada.id, PASSWORD, THIRD),
        return_exceptions=True,
    )
    assert sorted(type(each).__name__ for each in results) == [
        "InvalidCredentialsError",
        "NoneType",
    ]
    await auth.sign_in(ada.tenant_id, EMAIL, OTHER if results[0] is None else THIRD)


async def test_a_user_who_is_gone_gets_no_password(
    auth: Auth, ada: UserInfo, hashing: WatchedPool
) -> None:
    """Deleted while the new one is hashed: an error, and no row."""
    with hashing.held_up():
        setting = asyncio.create_task(auth.set_password(ada.tenant_id, ada.id, OTHER))
        await hashing.reached.wait()
        await auth.delete_user(ada.tenant_id, ada.id)
    with pytest.raises(UserUnknownError):
        await setting
    assert await auth.users(ada.tenant_id) == []


async def test_an_administrator_sets_and_takes_passwords(
    auth: Auth, signed_in: SignedIn, db: Database
) -> None:
    """All sessions end both times; without a password nothing opens the account."""
    user = signed_in.user
    await auth.set_password(user.tenant_id, user.id, OTHER)
    with pytest.raises(InvalidTokenError):
        await auth.validate(signed_in.token)
    again = await auth.sign_in(user.tenant_id, EMAIL, OTHER)
    await auth.set_password(user.tenant_id, user.id, None)
    with pytest.raises(InvalidTokenError):
        await auth.validate(again.token)
    assert await stored(db, user) is None
    for guess in (OTHER, PASSWORD, "", "None"):
        with pytest.raises(InvalidCredentialsError):
            await auth.sign_in(user.tenant_id, EMAIL, guess)
    with pytest.raises(PasswordRefusedError):
        await auth.set_password(user.tenant_id, user.id, "short")


async def test_disabling_ends_sessions_and_enabling_brings_none_back(
    auth: Auth, signed_in: SignedIn, mails: list[Mail]
) -> None:
    """Nor does a token that was mailed before work again."""
    user = signed_in.user
    await auth.request_password_reset(user.tenant_id, EMAIL)
    await sent(mails, 1)
    disabled = await auth.disable_user(user.tenant_id, user.id)
    assert disabled.disabled_at is not None
    assert await auth.disable_user(user.tenant_id, user.id) == disabled
    with pytest.raises(InvalidCredentialsError):
        await auth.sign_in(user.tenant_id, EMAIL, PASSWORD)
    assert (await auth.enable_user(user.tenant_id, user.id)).disabled_at is None
    with pytest.raises(InvalidTokenError):
        await auth.validate(signed_in.token)
    with pytest.raises(InvalidTokenError):
        await auth.reset_password(mails[0].token, OTHER)
    await auth.sign_in(user.tenant_id, EMAIL, PASSWORD)


async def test_a_deleted_user_is_gone_with_all_but_the_trail(
    auth: Auth, signed_in: SignedIn, db: Database
) -> None:
    """Sessions end, the email is free, and the audit trail keeps what happened."""
    user = signed_in.user
    await auth.delete_user(user.tenant_id, user.id)
    with pytest.raises(InvalidTokenError):
        await auth.validate(signed_in.token)
    assert await kinds(db, user.tenant_id) == ["registered", "sign_in", "user_deleted"]
    assert (await auth.register(user.tenant_id, EMAIL, PASSWORD)).id != user.id


async def test_a_password_does_not_age(auth: Auth, ada: UserInfo, later: Later) -> None:
    """After ten years it still opens the account: nobody has to change one for its age."""
    await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD)
    await later(timedelta(days=3653))
    await auth.sign_in(ada.tenant_id, EMAIL, PASSWORD)


async def test_a_new_tenant_has_nobody_in_it(auth: Auth, tenants: TenantPair) -> None:
    """No account that everybody knows of: the first is the one that is made."""
    for tenant in tenants:
        assert await auth.users(tenant.id) == []
        for email in ("admin@acme.example", "root@acme.example", EMAIL):
            with pytest.raises(InvalidCredentialsError):
                await auth.sign_in(tenant.id, email, "admin")
