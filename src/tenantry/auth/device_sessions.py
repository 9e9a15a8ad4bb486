"""Sessions as their user handles them: listed, ended, cleaned up."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Delete, delete, func, select, update

from tenantry.auth.core import Core, as_user_id, same_digest
from tenantry.auth.origins import Origin
from tenantry.auth.principals import SessionInfo
from tenantry.auth.tokens import make_token, read_id, read_token
from tenantry.schema import AuthSession, User
from tenantry.tenancy.sessions import TenantSession

__all__ = ["INFO", "DeviceSessions", "end_sessions", "give_new_token", "session_info"]

INFO: Final = (
    AuthSession.id,
    AuthSession.created_at,
    AuthSession.last_seen_at,
    AuthSession.expires_at,
    AuthSession.address,
    AuthSession.user_agent,
)
"""The columns of a `SessionInfo`."""


def session_info(row: Sequence[Any]) -> SessionInfo:
    """Return a row of `INFO` as what goes out."""
    return SessionInfo(*row)


class DeviceSessions(Core):
    """The part of `Auth` about sessions."""

    async def sessions(self, tenant_id: UUID | str, user_id: UUID | str) -> list[SessionInfo]:
        """Return the devices on which a user is signed in, the newest first.

        Args:
            tenant_id: The tenant.
            user_id: Whose; for an id that no user has, the list is empty.

        Raises:
            UserUnknownError: ``user_id`` is no UUID.
        """
        async with self._transaction(tenant_id) as tx:
            rows = await tx.execute(
                select(*INFO)
                .where(
                    AuthSession.user_id == as_user_id(user_id),
                    AuthSession.expires_at > func.now(),
                    AuthSession.absolute_expires_at > func.now(),
                )
                .order_by(AuthSession.created_at.desc(), AuthSession.id)
            )
            return [session_info(row) for row in rows]

    async def sign_out(
        self,
        token: str,
        *,
        address: IPv4Address | IPv6Address | str | None = None,
        user_agent: str | None = None,
    ) -> bool:
        """End the session of ``token``; the next validation refuses it.

        Args:
            token: The session's.
            address: The client's IP address, for the audit trail.
            user_agent: What the client calls itself, for the same.

        Returns:
            Whether there was one. A token that is malformed, or whose session has ended before, is
            no error: whoever signs out is signed out.
        """
        origin = Origin.of(address, user_agent)
        read = read_token(token)
        if read is None:
            return False
        async with self._transaction(read.tenant) as tx:
            ended = delete(AuthSession).where(
                AuthSession.id == read.id, same_digest(AuthSession.secret_hash, read.hash)
            )
            user_id = await tx.scalar(ended.returning(AuthSession.user_id))
            if user_id is not None:
                await self._record(tx, "sign_out", user_id=user_id, origin=origin, session=read.id)
        return user_id is not None

    async def revoke(self, tenant_id: UUID | str, user_id: UUID | str, session_id: str) -> bool:
        """End one of a user's sessions: "sign out there".

        Args:
            tenant_id: The tenant.
            user_id: Whose. Give the caller's own id, unless the caller may end others' sessions.
            session_id: As in `SessionInfo`.

        Returns:
            Whether the user had it.
        """
        return bool(await self._revoke(tenant_id, user_id, AuthSession.id == read_id(session_id)))

    async def revoke_all(
        self, tenant_id: UUID | str, user_id: UUID | str, *, except_session: str | None = None
    ) -> int:
        """End a user's sessions, on all devices.

        Args:
            tenant_id: The tenant.
            user_id: Whose.
            except_session: The id of one to keep: the caller's own. Anything else keeps none.

        Returns:
            How many there were.
        """
        others = () if except_session is None else (AuthSession.id != read_id(except_session),)
        return await self._revoke(tenant_id, user_id, *others)

    async def _revoke(self, tenant_id: UUID | str, user_id: UUID | str, *conditions: Any) -> int:
        id_ = as_user_id(user_id)
        async with self._transaction(tenant_id) as tx:
            # The user first, as whoever signs in does: two that end the same sessions in another
            # order would wait for each other.
            await tx.execute(select(User.id).where(User.id == id_).with_for_update(key_share=True))
            count = await end_sessions(tx, id_, *conditions)
            if count:
                await self._record(tx, "sessions_revoked", user_id=id_, count=count)
        return count


async def end_sessions(tx: TenantSession, user_id: UUID, *conditions: Any) -> int:
    """End those of a user's sessions that meet ``conditions``; return how many."""
    ended: Delete = delete(AuthSession).where(AuthSession.user_id == user_id, *conditions)
    found = await tx.scalars(ended.returning(AuthSession.id))
    return len(found.all())


async def give_new_token(tx: TenantSession, user_id: UUID, session_id: str | None) -> str | None:
    """Return another token for a session, whose old one opens nothing then; None for no session."""
    text, token = make_token(tx.tenant_id, id_=read_id(session_id))
    changed = update(AuthSession).where(AuthSession.user_id == user_id, AuthSession.id == token.id)
    found = await tx.scalar(changed.values(secret_hash=token.hash).returning(AuthSession.id))
    return None if found is None else text
