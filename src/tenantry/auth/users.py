"""Users: registered, changed, disabled; and who must stay an owner."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv6Address
from typing import Any, get_args
from uuid import UUID

from sqlalchemy import delete, func, select

from tenantry.auth import throttling
from tenantry.auth.core import Core, as_user_id, user_info
from tenantry.auth.device_sessions import end_sessions, give_new_token
from tenantry.auth.emails import canonical_email
from tenantry.auth.events import EventKind
from tenantry.auth.names import check_name, name_from
from tenantry.auth.new_users import insert_user
from tenantry.auth.origins import NOWHERE, Origin
from tenantry.auth.passwords import check_new, prepare
from tenantry.auth.principals import UserInfo
from tenantry.auth.tokens import read_id
from tenantry.errors import (
    BusyError,
    InvalidCredentialsError,
    InvalidValueError,
    LastOwnerError,
    PasswordRefusedError,
    TenantUnknownError,
    UserUnknownError,
)
from tenantry.schema import AuthSession, SingleUseToken, Tenant, User
from tenantry.schema.users import UserRole
from tenantry.tenancy.sessions import TenantSession

__all__ = ["Users"]


class Users(Core):
    """The part of `Auth` about users."""

    async def register(
        self,
        tenant_id: UUID | str,
        email: str,
        password: str | None,
        *,
        name: str | None = None,
        role: UserRole = "member",
    ) -> UserInfo:
        """Make a user.

        Args:
            tenant_id: The tenant.
            email: In any spelling; stored and compared in its canonical form.
            password: None for a user who cannot sign in with one until it is reset.
            name: What people call the user. None: the part of the email before the @.
            role: ``owner``, ``admin`` or ``member``.

        Raises:
            ConflictError: The tenant has a user with this email. A product that anybody may
                register with should not pass that on, but send a mail to the address.
            PasswordRefusedError: The password is too short, too long, or easily guessed.
            InvalidValueError: The email, name or role cannot be used.
            BusyError: Too much hashing is waiting.
            TenantUnknownError: There is no such tenant.
        """
        canonical = canonical_email(email)
        _check_role(role)
        name = name_from(canonical) if name is None else name
        check_name(name)
        hashed = None
        if password is not None:
            async with self._transaction(tenant_id) as tx:
                known = await self._known_of(tx, canonical, name)
            hashed = await self._hash_new(password, known)
        async with self._transaction(tenant_id) as tx:
            user = await self._add_user(tx, canonical, name=name, role=role, hashed_password=hashed)
            return user_info(user)

    async def users(self, tenant_id: UUID | str) -> list[UserInfo]:
        """Return a tenant's users in the order of their emails."""
        async with self._transaction(tenant_id) as tx:
            return [user_info(user) for user in await tx.scalars(select(User).order_by(User.email))]

    async def user(self, tenant_id: UUID | str, user_id: UUID | str) -> UserInfo:
        """Return a user by id.

        Raises:
            UserUnknownError: The tenant has no such user.
        """
        id_ = as_user_id(user_id)
        async with self._transaction(tenant_id) as tx:
            user = await tx.get(User, id_)
            if user is None:
                raise UserUnknownError(f"The tenant has no user {id_}.")
            return user_info(user)

    async def find_user(self, tenant_id: UUID | str, email: str) -> UserInfo | None:
        """Return the user with this email, in any spelling; None if the tenant has none.

        Raises:
            InvalidValueError: It is no email.
        """
        canonical = canonical_email(email)
        async with self._transaction(tenant_id) as tx:
            user = await tx.scalar(select(User).where(User.email == canonical))
            return None if user is None else user_info(user)

    async def change_password(
        self,
        tenant_id: UUID | str,
        user_id: UUID | str,
        current: str,
        new: str,
        *,
        keep_session: str | None = None,
        new_token: bool = False,
        address: IPv4Address | IPv6Address | str | None = None,
    ) -> str | None:
        """Change a password that the user knows, and end the user's other sessions.

        Args:
            tenant_id: The tenant.
            user_id: Whose.
            current: The password of today.
            new: The one to come.
            keep_session: The id of the session in which it is changed.
            new_token: Whether that session gets another token, and copies of the old one open
                nothing. The client has to be given it.
            address: The client's, for throttling and the audit trail.

        Returns:
            The new token, where one was wanted and the user has the session.

        Raises:
            InvalidCredentialsError: ``current`` is not the password.
            PasswordRefusedError: ``new`` is too short, too long, or easily guessed.
            ThrottledError: Too many attempts.
            BusyError: Too much hashing is waiting.
            UserUnknownError: The tenant has no such user.
        """
        origin = Origin.of(address, None)
        async with self._transaction(tenant_id) as tx:
            user = await self._locked_user(tx, user_id)
            id_, stored, enabled = user.id, user.hashed_password, user.disabled_at is None
            known = await self._known_of(tx, user.email, user.name)
            attempt = await throttling.take(
                tx,
                what="change_password",
                email=user.email,
                origin=origin,
                profile=self._profile,
            )
        try:
            prepared = prepare(current)
        except PasswordRefusedError:
            prepared, stored = b"", None
        try:
            checked = await self.hashing.verify(
                stored if enabled else None, prepared, parameters=self._profile.hashing
            )
            hashed = await self._hash_new(new, known) if checked.ok else None
        except (BusyError, PasswordRefusedError):
            # It was no guess, or one that was not tried.
            async with self._transaction(tenant_id) as tx:
                await throttling.give_back(tx, attempt, profile=self._profile)
            raise
        if hashed is None:
            async with self._transaction(tenant_id) as tx:
                await self._record(tx, "password_change_failed", user_id=id_, origin=origin)
            raise InvalidCredentialsError("The current password is not right.")
        async with self._transaction(tenant_id) as tx:
            user = await self._locked_user(tx, id_)
            if user.hashed_password != stored or user.disabled_at is not None:
                raise InvalidCredentialsError("The current password is not right.")
            await throttling.give_back(tx, attempt, profile=self._profile)
            await self._put_password(
                tx, user, hashed, "password_changed", keep_session=keep_session, origin=origin
            )
            return await give_new_token(tx, id_, keep_session) if new_token else None

    async def set_password(
        self, tenant_id: UUID | str, user_id: UUID | str, new: str | None
    ) -> None:
        """Give a user another password without asking for the old one; end all sessions.

        It is the administrator's: who may call it is the product's to decide.

        Args:
            tenant_id: The tenant.
            user_id: Whose.
            new: None takes the password away, until it is reset.

        Raises:
            PasswordRefusedError: ``new`` is too short, too long, or easily guessed.
            BusyError: Too much hashing is waiting.
            UserUnknownError: The tenant has no such user.
        """
        hashed = None
        if new is not None:
            async with self._transaction(tenant_id) as tx:
                user = await self._locked_user(tx, user_id)
                known = await self._known_of(tx, user.email, user.name)
            hashed = await self._hash_new(new, known)
        async with self._transaction(tenant_id) as tx:
            user = await self._locked_user(tx, user_id)
            await self._put_password(tx, user, hashed, "password_set")

    async def disable_user(self, tenant_id: UUID | str, user_id: UUID | str) -> UserInfo:
        """Keep a user from signing in, and end the user's sessions.

        Raises:
            LastOwnerError: The tenant would have no owner left who can sign in.
            UserUnknownError: The tenant has no such user.
        """
        async with self._transaction(tenant_id) as tx:
            await self._lock_owners(tx)
            user = await self._locked_user(tx, user_id)
            if user.disabled_at is None:
                await self._require_another_owner(tx, user)
                user.disabled_at = await tx.scalar(select(func.now()))
                await self._record(tx, "user_disabled", user_id=user.id)
            await end_sessions(tx, user.id)
            await _void_tokens(tx, user.id)
            return user_info(user)

    async def enable_user(self, tenant_id: UUID | str, user_id: UUID | str) -> UserInfo:
        """Let a user sign in again.

        Raises:
            UserUnknownError: The tenant has no such user.
        """
        async with self._transaction(tenant_id) as tx:
            user = await self._locked_user(tx, user_id)
            if user.disabled_at is not None:
                user.disabled_at = None
                await self._record(tx, "user_enabled", user_id=user.id)
            return user_info(user)

    async def set_role(
        self, tenant_id: UUID | str, user_id: UUID | str, role: UserRole
    ) -> UserInfo:
        """Give a user another role. Sessions go on, and have it from their next validation.

        Raises:
            LastOwnerError: The tenant would have no owner left who can sign in.
            UserUnknownError: The tenant has no such user.
            InvalidValueError: There is no such role.
        """
        _check_role(role)
        async with self._transaction(tenant_id) as tx:
            await self._lock_owners(tx)
            user = await self._locked_user(tx, user_id)
            if user.role != role:
                await self._require_another_owner(tx, user)
                await self._record(tx, "role_changed", user_id=user.id, was=user.role, role=role)
                user.role = role
            return user_info(user)

    async def delete_user(self, tenant_id: UUID | str, user_id: UUID | str) -> None:
        """Delete a user with all sessions. The audit trail keeps the user's id.

        Raises:
            LastOwnerError: The tenant would have no owner left who can sign in.
            UserUnknownError: The tenant has no such user.
        """
        async with self._transaction(tenant_id) as tx:
            await self._lock_owners(tx)
            user = await self._locked_user(tx, user_id)
            await self._require_another_owner(tx, user)
            await self._record(tx, "user_deleted", user_id=user.id)
            await tx.execute(delete(User).where(User.id == user.id))

    async def _add_user(
        self,
        tx: TenantSession,
        email: str,
        *,
        name: str,
        role: UserRole = "member",
        hashed_password: str | None = None,
    ) -> User:
        """Add a user of whom all is checked, and note it.

        Raises:
            ConflictError: The tenant has a user with this email.
            InvalidValueError: A constraint of the database's refuses the user.
        """
        user = await insert_user(
            tx, email=email, name=name, role=role, hashed_password=hashed_password
        )
        await self._record(tx, "registered", user_id=user.id, role=role)
        return user

    async def _known_of(self, tx: TenantSession, email: str, name: str) -> list[str]:
        """Return what an attacker knows, and a password must not be made of."""
        tenant = (await tx.execute(select(Tenant.name, Tenant.slug))).one_or_none()
        if tenant is None:
            raise TenantUnknownError(
                f"There is no tenant {tx.tenant_id}. `tenantry tenant list` shows the tenants."
            )
        return [email, name, tenant.name, tenant.slug]

    async def _hash_new(self, password: str, known: list[str]) -> str:
        self.hashing.refuse_when_full()
        # In a thread: the first time it reads lists of common passwords.
        prepared = await asyncio.to_thread(
            check_new, password, profile=self._profile, personal=known
        )
        return await self.hashing.hash(prepared, self._profile.hashing)

    async def _put_password(
        self,
        tx: TenantSession,
        user: User,
        hashed: str | None,
        kind: EventKind,
        *,
        keep_session: str | None = None,
        origin: Origin = NOWHERE,
    ) -> None:
        user.hashed_password = hashed
        others: tuple[Any, ...] = (
            () if keep_session is None else (AuthSession.id != read_id(keep_session),)
        )
        await tx.flush()
        await end_sessions(tx, user.id, *others)
        await _void_tokens(tx, user.id)
        await self._record(tx, kind, user_id=user.id, origin=origin)

    async def _lock_owners(self, tx: TenantSession) -> None:
        # All of them, so that two owners who leave at once do so one after the other.
        await tx.execute(
            select(User.id)
            .where(User.role == "owner", User.disabled_at.is_(None))
            .order_by(User.id)
            .with_for_update(key_share=True)
        )

    async def _require_another_owner(self, tx: TenantSession, user: User) -> None:
        if user.role != "owner" or user.disabled_at is not None:
            return
        others = await tx.scalar(
            select(func.count())
            .select_from(User)
            .where(User.role == "owner", User.disabled_at.is_(None), User.id != user.id)
        )
        if not others:
            raise LastOwnerError(
                "This is the tenant's last owner who can sign in. Make somebody else an owner "
                "first."
            )


async def _void_tokens(tx: TenantSession, user_id: UUID) -> None:
    """Void what was mailed.

    Known devices stay known: they open nothing, and without them the guesses of others would keep
    the owner of a new password out.
    """
    await tx.execute(delete(SingleUseToken).where(SingleUseToken.user_id == user_id))


def _check_role(role: object) -> None:
    if role not in get_args(UserRole):
        raise InvalidValueError(
            f"{str(role)[:40]!r} is no role; {', '.join(get_args(UserRole))} are the roles."
        )
