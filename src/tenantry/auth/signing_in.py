"""Signing in: count, look up, hash, and only then make a session."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from typing import NoReturn
from uuid import UUID

from sqlalchemy import delete, select

from tenantry.auth import throttling
from tenantry.auth.core import same_digest, user_info
from tenantry.auth.device_sessions import DeviceSessions
from tenantry.auth.emails import account_of
from tenantry.auth.opening import open_session
from tenantry.auth.origins import Origin
from tenantry.auth.passwords import Verification, prepare
from tenantry.auth.principals import SignedIn
from tenantry.auth.throttling import Attempt
from tenantry.auth.tokens import Token, read_token
from tenantry.errors import BusyError, InvalidCredentialsError, PasswordRefusedError
from tenantry.schema import AuthSession, User
from tenantry.tenancy.sessions import TenantSession

__all__ = ["SigningIn"]


@dataclass(frozen=True, slots=True)
class _Found:
    """What was found before hashing; nothing of it may be told before the end."""

    attempt: Attempt
    user_id: UUID | None
    stored: str | None  # None as well where the user may not sign in


class SigningIn(DeviceSessions):
    """The part of `Auth` that signs users in."""

    _without_tenant = 0
    """Sign-ins under way to tenants that there are not."""

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
            replaces: The session token that the client still has; that session ends,
                if it is of this tenant.

        Raises:
            InvalidCredentialsError: Email and password open no account.
            ThrottledError: Too many attempts.
            BusyError: Too much hashing is waiting.
            TenantUnknownError: There is no such tenant.
            TenantRequiredError: ``tenant_id`` is no tenant id.
            InvalidValueError: ``address`` is no IP address.
        """
        with self._observed("sign_in", tenant_id=tenant_id):
            origin = Origin.of(address, user_agent)
            device = read_token(device_token)
            found = await self._find(tenant_id, email, origin, device)
            while True:
                renewed = await self._prove(tenant_id, found, password, origin)
                async with self._transaction(tenant_id) as tx:
                    user = await self._enabled_user(tx, found.user_id)
                    if user is not None and user.hashed_password == found.stored:
                        if renewed is not None:
                            user.hashed_password = renewed
                        info = user_info(user)
                        token, session, device_text = await open_session(
                            tx,
                            info.id,
                            origin=origin,
                            profile=self._profile,
                            device=device,
                            device_token=device_token,
                        )
                        await throttling.give_back(tx, found.attempt, profile=self._profile)
                        await self._end_replaced(tx, read_token(replaces), origin)
                        return SignedIn(token, session, info, device_text)
                # Disabled, deleted or given another password meanwhile: it opens nothing. Or
                # another sign-in has hashed the same password anew: it does. The new hash can tell.
                found = replace(found, stored=None if user is None else user.hashed_password)

    async def refuse_sign_in(self, password: str) -> NoReturn:
        """Do the work of a sign-in with a wrong password, for a tenant that there is not.

        Raises:
            InvalidCredentialsError: Always, unless there is too much to do.
            BusyError: Too much hashing is waiting.
        """
        with self._observed("sign_in"):
            # These attempts are throttled nowhere: a flood of them gets a small part of the queue,
            # and leaves the rest to those who have a tenant.
            if self._without_tenant >= max(1, self.hashing.max_waiting // 8):
                raise BusyError(
                    "Too many sign-ins at once. Try again later.",
                    retry_after_seconds=1,
                )
            self.hashing.refuse_when_full()
            self._without_tenant += 1
            try:
                await self._check(None, password)
            finally:
                self._without_tenant -= 1
            raise _no_account()

    async def _find(
        self, tenant_id: UUID | str, email: str, origin: Origin, device: Token | None
    ) -> _Found:
        account = account_of(email)
        async with self._transaction(tenant_id) as tx:
            # Where all would end up waiting, before anything is counted or looked up.
            self.hashing.refuse_when_full()
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
            return _Found(attempt, None, None)
        return _Found(attempt, row.id, row.hashed_password if row.disabled_at is None else None)

    async def _prove(
        self, tenant_id: UUID | str, found: _Found, password: str, origin: Origin
    ) -> str | None:
        """Return the hash to store instead of the old one, or None; raise on a wrong password."""
        try:
            checked = await self._check(found.stored, password)
        except BusyError:
            # Nothing was tried. That we are busy must not keep the owner out for longer.
            async with self._transaction(tenant_id) as tx:
                await throttling.give_back(
                    tx, found.attempt, profile=self._profile, keep_address=True
                )
            raise
        if not checked.ok:
            await self._refuse(tenant_id, found, origin)
        if not checked.rehash:
            return None
        try:
            return await self.hashing.hash(prepare(password), self._profile.hashing)
        except BusyError:
            return None  # next time

    async def _check(self, stored: str | None, password: str) -> Verification:
        try:
            prepared = prepare(password)
        except PasswordRefusedError:
            # No stored password is like that. The work is done all the same.
            stored, prepared = None, b""
        return await self.hashing.verify(stored, prepared, parameters=self._profile.hashing)

    async def _refuse(self, tenant_id: UUID | str, found: _Found, origin: Origin) -> NoReturn:
        async with self._transaction(tenant_id) as tx:
            await self._record(tx, "sign_in_failed", user_id=found.user_id, origin=origin)
        raise _no_account()

    async def _enabled_user(self, tx: TenantSession, user_id: UUID | None) -> User | None:
        return await tx.scalar(
            select(User)
            .where(User.id == user_id, User.disabled_at.is_(None))
            .with_for_update(key_share=True)
        )

    async def _end_replaced(self, tx: TenantSession, old: Token | None, origin: Origin) -> None:
        # Whoever's it was: another user may share the browser. Last of all, so that nothing else is
        # waited for while it is held.
        if old is None or old.tenant != str(tx.tenant_id):
            return
        ended = delete(AuthSession).where(
            AuthSession.id == old.id, same_digest(AuthSession.secret_hash, old.hash)
        )
        user_id = await tx.scalar(ended.returning(AuthSession.user_id))
        if user_id is not None:
            await self._record(tx, "sign_out", user_id=user_id, origin=origin, session=old.id)


def _no_account() -> InvalidCredentialsError:
    return InvalidCredentialsError("Email and password do not match an account.")
