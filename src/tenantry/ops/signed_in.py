"""Who is signed in, as the operator asks it: the sessions of a whole tenant."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select

from tenantry.auth import SessionInfo
from tenantry.database import Database
from tenantry.schema import AuthSession, User

__all__ = ["UserSession", "list_sessions"]


@dataclass(frozen=True, slots=True)
class UserSession:
    """A session, and whose it is.

    Args:
        email: The user's.
        session: As the user would see it; nothing in it opens anything.
    """

    email: str
    session: SessionInfo


async def list_sessions(
    db: Database, tenant_id: UUID | str, *, user_id: UUID | None = None
) -> list[UserSession]:
    """Return the sessions of a tenant that have not ended, by email, the newest first.

    Args:
        db: The database.
        tenant_id: The tenant.
        user_id: Only this user's.
    """
    statement = (
        select(
            User.email,
            AuthSession.id,
            AuthSession.created_at,
            AuthSession.last_seen_at,
            AuthSession.expires_at,
            AuthSession.address,
            AuthSession.user_agent,
        )
        .join(User, (User.tenant_id == AuthSession.tenant_id) & (User.id == AuthSession.user_id))
        .where(AuthSession.expires_at > func.now(), User.disabled_at.is_(None))
        .order_by(User.email, AuthSession.created_at.desc(), AuthSession.id)
    )
    if user_id is not None:
        statement = statement.where(AuthSession.user_id == user_id)
    async with db.tenant(tenant_id, read_only=True) as tx:
        return [UserSession(row[0], SessionInfo(*row[1:])) for row in await tx.execute(statement)]
