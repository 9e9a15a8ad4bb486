"""Tokens that are mailed and used once: to prove an email, and to reset a password."""

from __future__ import annotations

import contextlib
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    LargeBinary,
    ScalarSelect,
    delete,
    func,
    insert,
    literal,
    select,
)

from tenantry.auth import throttling
from tenantry.auth.core import as_user_id, same_digest, user_info
from tenantry.auth.emails import account_of, canonical_email
from tenantry.auth.mail import Mail, Purpose
from tenantry.auth.names import check_name, name_from
from tenantry.auth.origins import Origin
from tenantry.auth.principals import UserInfo
from tenantry.auth.tokens import Token, make_token, read_token
from tenantry.auth.users import Users
from tenantry.errors import ConflictError, InvalidTokenError
from tenantry.schema import SingleUseToken, User
from tenantry.schema.base import uuid7
from tenantry.tenancy.sessions import TenantSession

__all__ = ["SingleUse"]


class SingleUse(Users):
    """The part of `Auth` about mailed tokens."""

    async def sign_up(
        self,
        tenant_id: UUID | str,
        email: str,
        *,
        name: str | None = None,
        address: IPv4Address | IPv6Address | str | None = None,
    ) -> None:
        """Have whoever asks made a member, and mailed a token for `reset_password`.

        Whether there was a user with this email before cannot be told from the answer, from how
        long it takes, or from the mail: to register and to mail come after it. The password is
        chosen with the token, so nobody can prepare an account for another's address.

        Raises:
            ConfigurationError: `Auth` was made without ``send``.
            InvalidValueError: The email or the name cannot be used, or ``address`` is no IP
                address.
            ThrottledError: Too many, for this email or from this address.
            TenantUnknownError: There is no such tenant.
        """
        self._require_send()
        origin, canonical = Origin.of(address, None), canonical_email(email)
        if name is not None:
            check_name(name)
        async with self._transaction(tenant_id) as tx:
            await throttling.take(
                tx, what="sign_up", email=canonical, origin=origin, profile=self._profile
            )
            tenant = tx.tenant_id
        self._in_background(self._make_member(tenant, canonical, name, origin))

    async def request_email_verification(self, tenant_id: UUID | str, user_id: UUID | str) -> None:
        """Have a user mailed a token for `verify_email`.

        Raises:
            ConfigurationError: `Auth` was made without ``send``.
            UserUnknownError: The tenant has no such user.
            ThrottledError: Too many mails to this address.
        """
        self._require_send()
        id_ = as_user_id(user_id)
        async with self._transaction(tenant_id) as tx:
            user = await self._locked_user(tx, id_)
            await throttling.take(
                tx,
                what="verify_email",
                email=user.email,
                origin=Origin(),
                profile=self._profile,
            )
            mail = await self._issue(tx, user, "verify_email")
        self._in_background(self._deliver(mail))

    async def verify_email(self, token: str) -> UserInfo:
        """Note that a user reads mail at the address, and use the token up.

        Raises:
            InvalidTokenError: Malformed, unknown, expired, used before, or mailed to an address
                that the user no longer has.
        """
        read = _read(token)
        async with self._transaction(read.tenant) as tx:
            user = await self._redeem(tx, read, "verify_email")
            if user.email_verified_at is None:
                user.email_verified_at = await tx.scalar(select(func.now()))
            await self._record(tx, "email_verified", user_id=user.id)
            return user_info(user)

    async def request_password_reset(
        self,
        tenant_id: UUID | str,
        email: str,
        *,
        address: IPv4Address | IPv6Address | str | None = None,
    ) -> None:
        """Have a user mailed a token for `reset_password`, if there is one with this email.

        Whether there is cannot be told from the answer, nor from how long it takes: looking up and
        mailing come after it. Nor from the error, when too many are asked for.

        Raises:
            ConfigurationError: `Auth` was made without ``send``.
            ThrottledError: Too many, for this email or from this address.
            InvalidValueError: ``address`` is no IP address.
            TenantUnknownError: There is no such tenant.
        """
        self._require_send()
        origin = Origin.of(address, None)
        account = account_of(email)
        async with self._transaction(tenant_id) as tx:
            await throttling.take(
                tx,
                what="reset_password",
                email=account,
                origin=origin,
                profile=self._profile,
            )
            tenant = tx.tenant_id
        self._in_background(self._mail_reset(tenant, account, origin))

    async def reset_password(self, token: str, new: str) -> UserInfo:
        """Give a user a new password for a mailed token, and end all the user's sessions.

        A password that is refused does not use the token up. The email counts as verified: the
        token was read there.

        Raises:
            InvalidTokenError: Malformed, unknown, expired, used before, mailed to an address that
                the user no longer has, or the user is disabled.
            PasswordRefusedError: ``new`` is too short, too long, or easily guessed.
            BusyError: Too much hashing is waiting.
        """
        read = _read(token)
        async with self._transaction(read.tenant) as tx:
            # Nothing is hashed for a token that is not good.
            user = await tx.scalar(select(User).where(User.id.in_(_holder(read, "reset_password"))))
            if user is None:
                raise _not_good()
            known = await self._known_of(tx, user.email, user.name)
        hashed = await self._hash_new(new, known)
        async with self._transaction(read.tenant) as tx:
            user = await self._redeem(tx, read, "reset_password")
            if user.email_verified_at is None:
                user.email_verified_at = await tx.scalar(select(func.now()))
            await self._put_password(tx, user, hashed, "password_reset")
            return user_info(user)

    async def _make_member(
        self, tenant_id: UUID, email: str, name: str | None, origin: Origin
    ) -> None:
        async with self._transaction(tenant_id) as tx:
            with contextlib.suppress(ConflictError):
                await self._add_user(tx, email, name=name or name_from(email))
            mail = await self._issue_reset(tx, email, origin)
        await self._deliver(mail)

    async def _mail_reset(self, tenant_id: UUID, email: str, origin: Origin) -> None:
        async with self._transaction(tenant_id) as tx:
            mail = await self._issue_reset(tx, email, origin)
        await self._deliver(mail)

    async def _issue_reset(self, tx: TenantSession, email: str, origin: Origin) -> Mail | None:
        # For an address that is nobody's the same is asked and written: other requests wait for
        # this one's turns and locks, and how long they do would tell.
        user = await tx.scalar(
            select(User)
            .where(User.email == email, User.disabled_at.is_(None))
            .with_for_update(key_share=True)
        )
        mail = await self._issue(tx, user, "reset_password")
        await self._record(
            tx, "password_reset_requested", user_id=user.id if user else None, origin=origin
        )
        return mail

    async def _issue(self, tx: TenantSession, user: User | None, purpose: Purpose) -> Mail | None:
        lifetime = (
            self._profile.verify_email_lifetime
            if purpose == "verify_email"
            else self._profile.reset_password_lifetime
        )
        user_id = user.id if user else uuid7()
        # Those mailed before stay good: whoever asks for one in another's name must not void the
        # one that its owner is about to use. How many there can be, the limits say.
        await tx.execute(
            delete(SingleUseToken).where(
                SingleUseToken.user_id == user_id, SingleUseToken.expires_at <= func.now()
            )
        )
        text, token = make_token(tx.tenant_id)
        values = {
            "tenant_id": User.tenant_id,
            "id": literal(token.id),
            "user_id": User.id,
            "purpose": literal(purpose),
            "email": User.email,
            "secret_hash": literal(token.hash, LargeBinary),
            "expires_at": func.now() + lifetime,
        }
        expires_at: datetime | None = (
            await tx.execute(
                insert(SingleUseToken)
                .from_select(list(values), select(*values.values()).where(User.id == user_id))
                .returning(SingleUseToken.expires_at)
            )
        ).scalar_one_or_none()
        if user is None or expires_at is None:
            return None
        return Mail(purpose, text, tx.tenant_id, user.id, user.email, user.name, expires_at)

    async def _redeem(self, tx: TenantSession, token: Token, purpose: Purpose) -> User:
        # The user's row first, as wherever a user is changed: nobody waits in a circle.
        user = await tx.scalar(
            select(User).where(User.id.in_(_holder(token, purpose))).with_for_update(key_share=True)
        )
        # Of all that redeem it at once, one gets the row.
        used = (
            await tx.execute(
                delete(SingleUseToken)
                .where(*_good(token, purpose))
                .returning(SingleUseToken.user_id, SingleUseToken.email)
            )
        ).one_or_none()
        if user is None or used is None or user.email != used.email or user.disabled_at is not None:
            raise _not_good()
        return user

    async def _deliver(self, mail: Mail | None) -> None:
        if mail is not None:
            await self._require_send()(mail)


def _good(token: Token, purpose: Purpose) -> tuple[ColumnElement[bool], ...]:
    return (
        SingleUseToken.id == token.id,
        SingleUseToken.purpose == purpose,
        SingleUseToken.expires_at > func.now(),
        same_digest(SingleUseToken.secret_hash, token.hash),
    )


def _holder(token: Token, purpose: Purpose) -> ScalarSelect[UUID]:
    return select(SingleUseToken.user_id).where(*_good(token, purpose)).scalar_subquery()


def _read(text: str) -> Token:
    token = read_token(text)
    if token is None:
        raise _not_good()
    return token


def _not_good() -> InvalidTokenError:
    return InvalidTokenError("The link is not, or no longer, good. Ask for a new one.")
