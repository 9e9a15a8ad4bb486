"""Signing in: count, look up, hash, and only then make a session."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import NoReturn
from uuid import UUID

from sqlalchemy import delete, func, insert, select, update

from tenantry.auth import throttling
from tenantry.auth.core import same_digest, user_info
from tenantry.auth.device_sessions import INFO, DeviceSessions, end_sessions, session_info
from tenantry.auth.emails import account_of
from tenantry.auth.origins import Origin
from tenantry.auth.passwords import Verification, prepare
from tenantry.auth.principals import SessionInfo, SignedIn
from tenantry.auth.throttling import Attempt
from tenantry.auth.tokens import Token, make_token, read_token
from tenantry.errors import InvalidCredentialsError, PasswordRefusedError
from tenantry.schema import AuthSession, KnownDevice, User
from tenantry.tenancy.sessions import TenantSession

__all__ = ["SigningIn"]


@dataclass(frozen=True, slots=True)
class _Found:
    """What was found before hashing; nothing of it may be told before the end."""

    attempt: Attempt
    user_id: UUID | None
    stored: str | None
    may_sign_in: bool


class SigningIn(DeviceSessions):
    """The part of `Auth` that signs users in."""

    async def sign_in(
        self,
        tenant_id: UUID | str,
        email: str,
        password: str,
        *,
        address: IPv4Address | IPv6Address | str | None = None,
        user_agent: str | None = None,
        device_token: str | None = None,
        replaces: str | None = None,
    ) -> SignedIn:
        """Sign a user in, on a new session with a new token.

        An unknown email, a wrong password, and a user who is disabled or has no password are one
        error and the same work. No transaction is open while the password is hashed.

        Args:
            tenant_id: The tenant.
            email: In any spelling.
            password: As it was typed.
            address: The client's IP address, for throttling, the audit trail and the user's list
                of devices. Without one, attempts are counted per account alone.
            user_agent: What the client calls itself, for the same.
            device_token: `SignedIn.device_token` of an earlier sign-in from this device. Its
                attempts are counted apart from those of others.
            replaces: The session token that the client still has; that session ends.

        Raises:
            InvalidCredentialsError: Email and password open no account.
            ThrottledError: Too many attempts.
            BusyError: Too much hashing is waiting.
            TenantUnknownError: There is no such tenant.
            TenantRequiredError: ``tenant_id`` is no tenant id.
            InvalidValueError: ``address`` is no IP address.
        """
        origin = Origin.of(address, user_agent)
        device = read_token(device_token)
        found = await self._find(tenant_id, email, origin, device)
        checked = await self._check(found, password)
        if not checked.ok:
            await self._refuse(tenant_id, found, origin)
        renewed = None
        if checked.rehash:
            renewed = await self.hashing.hash(prepare(password), self._profile.hashing)
        async with self._db.tenant(tenant_id) as tx:
            user = await self._unchanged_user(tx, found)
            if user is None:
                # Disabled, deleted or given another password while this one was being hashed.
                await tx.rollback()
                await self._refuse(tenant_id, found, origin)
            if renewed is not None:
                user.hashed_password = renewed
            info = user_info(user)
            await self._end_replaced(tx, read_token(replaces))
            token, session = await self._open_session(tx, user.id, origin)
            device_text = await self._know_device(tx, user.id, device, device_token)
            await throttling.give_back(tx, found.attempt, profile=self._profile)
            await self._record(tx, "sign_in", user_id=user.id, origin=origin, session=session.id)
        return SignedIn(token=token, session=session, user=info, device_token=device_text)

    async def _find(
        self, tenant_id: UUID | str, email: str, origin: Origin, device: Token | None
    ) -> _Found:
        account = account_of(email)
        async with self._db.tenant(tenant_id) as tx:
            if device is not None and device.tenant != str(tx.tenant_id):
                device = None
            attempt = await throttling.take(
                tx,
                what="sign_in",
                email=account,
                origin=origin,
                profile=self._profile,
                device=device,
            )
            row = (
                await tx.execute(
                    select(User.id, User.hashed_password, User.disabled_at).where(
                        User.email == account
                    )
                )
            ).one_or_none()
        if row is None:
            return _Found(attempt, None, None, may_sign_in=False)
        return _Found(attempt, row.id, row.hashed_password, may_sign_in=row.disabled_at is None)

    async def _check(self, found: _Found, password: str) -> Verification:
        try:
            prepared = prepare(password)
        except PasswordRefusedError:
            # No stored password is like that. The work is done all the same.
            return await self.hashing.verify(None, b"", parameters=self._profile.hashing)
        stored = found.stored if found.may_sign_in else None
        return await self.hashing.verify(stored, prepared, parameters=self._profile.hashing)

    async def _refuse(self, tenant_id: UUID | str, found: _Found, origin: Origin) -> NoReturn:
        async with self._db.tenant(tenant_id) as tx:
            await self._record(tx, "sign_in_failed", user_id=found.user_id, origin=origin)
        raise InvalidCredentialsError("Email and password do not match an account.")

    async def _unchanged_user(self, tx: TenantSession, found: _Found) -> User | None:
        return await tx.scalar(
            select(User)
            .where(
                User.id == found.user_id,
                User.hashed_password == found.stored,
                User.disabled_at.is_(None),
            )
            .with_for_update(key_share=True)
        )

    async def _end_replaced(self, tx: TenantSession, old: Token | None) -> None:
        # Whoever's it was: another user may share the browser.
        if old is not None and old.tenant == str(tx.tenant_id):
            await tx.execute(
                delete(AuthSession).where(
                    AuthSession.id == old.id, same_digest(AuthSession.secret_hash, old.hash)
                )
            )

    async def _open_session(
        self, tx: TenantSession, user_id: UUID, origin: Origin
    ) -> tuple[str, SessionInfo]:
        text, token = make_token(tx.tenant_id)
        row = (
            await tx.execute(
                insert(AuthSession)
                .values(
                    tenant_id=tx.tenant_id,
                    id=token.id,
                    user_id=user_id,
                    secret_hash=token.hash,
                    idle_timeout=self._profile.idle_timeout,
                    expires_at=func.now() + self._profile.idle_timeout,
                    absolute_expires_at=func.now() + self._profile.absolute_lifetime,
                    address=origin.address,
                    user_agent=origin.user_agent,
                )
                .returning(*INFO)
            )
        ).one()
        oldest = (
            select(AuthSession.id)
            .where(AuthSession.user_id == user_id, AuthSession.id != token.id)
            .order_by(AuthSession.created_at.desc(), AuthSession.id)
            .offset(self._profile.max_sessions_per_user - 1)
        )
        await end_sessions(
            tx, user_id, AuthSession.id.in_(oldest) | (AuthSession.expires_at <= func.now())
        )
        return text, session_info(row)

    async def _know_device(
        self, tx: TenantSession, user_id: UUID, device: Token | None, text: str | None
    ) -> str:
        """Return the token of a device that the user is now known on: the old one if it is good."""
        if text is not None and device is not None and device.tenant == str(tx.tenant_id):
            known = await tx.scalar(
                update(KnownDevice)
                .where(
                    KnownDevice.id == device.id,
                    KnownDevice.user_id == user_id,
                    same_digest(KnownDevice.secret_hash, device.hash),
                    KnownDevice.last_used_at > func.now() - self._profile.device_lifetime,
                )
                .values(last_used_at=func.now())
                .returning(KnownDevice.id)
            )
            if known is not None:
                return text
        text, token = make_token(tx.tenant_id)
        await tx.execute(
            insert(KnownDevice).values(
                tenant_id=tx.tenant_id, id=token.id, user_id=user_id, secret_hash=token.hash
            )
        )
        oldest = (
            select(KnownDevice.id)
            .where(KnownDevice.user_id == user_id, KnownDevice.id != token.id)
            .order_by(KnownDevice.last_used_at.desc(), KnownDevice.id)
            .offset(self._profile.max_devices_per_user - 1)
        )
        await tx.execute(delete(KnownDevice).where(KnownDevice.id.in_(oldest)))
        return text
