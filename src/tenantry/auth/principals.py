"""Who is calling, and what a sign-in gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Literal
from uuid import UUID

from tenantry.schema.users import UserRole

__all__ = ["IssuedApiKey", "Principal", "SessionInfo", "SignedIn", "UserInfo"]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling: a signed-in user, or a tenant with its API key.

    Args:
        tenant_id: Whose rows the caller may have; open ``db.tenant(principal.tenant_id)`` with it.
        user_id: The user; None for an API key.
        role: The user's role at this moment; None for an API key.
        session_id: The session, which proves nothing by itself; None for an API key.
        signed_in_at: When the password was given; None for an API key. For what needs a fresh
            sign-in, compare it.
        expires_at: When the session ends unless it is used before; for an API key that was
            rotated, when it ends; None for the key of today.
    """

    tenant_id: UUID
    user_id: UUID | None = None
    role: UserRole | None = None
    session_id: str | None = None
    signed_in_at: datetime | None = None
    expires_at: datetime | None = None

    @property
    def kind(self) -> Literal["session", "api_key"]:
        """Whether a user or a program is calling."""
        return "api_key" if self.session_id is None else "session"


@dataclass(frozen=True, slots=True)
class UserInfo:
    """A user as sign-in sees one: without the password's hash.

    Args:
        tenant_id: The tenant.
        id: The user.
        email: In its canonical form.
        name: What people call the user.
        role: ``owner``, ``admin`` or ``member``.
        email_verified_at: When the address was shown to be the user's; None: not yet.
        disabled_at: Since when the user cannot sign in; None: can.
        created_at: When the user was registered.
    """

    tenant_id: UUID
    id: UUID
    email: str
    name: str
    role: UserRole
    email_verified_at: datetime | None
    disabled_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A signed-in device, for the user to recognize it; it holds nothing that opens anything.

    Args:
        id: For `Auth.revoke`.
        created_at: When the user signed in there.
        last_seen_at: When it was last renewed: exact to an hour, or to a sixth of the idle timeout.
        expires_at: When it ends unless it is used before.
        address: From where the user signed in.
        user_agent: What the browser or program called itself then.
    """

    id: str
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    address: IPv4Address | IPv6Address | None
    user_agent: str | None


@dataclass(frozen=True, slots=True)
class SignedIn:
    """What a sign-in gives. Its ``repr`` holds neither token.

    Args:
        token: For the client to send with each request. It cannot be shown again.
        session: What is known of the session.
        user: Who has signed in.
        device_token: For the client to keep and give to the next sign-in, so that guesses of
            others do not lock this device out; see `Auth.sign_in`.
    """

    token: str = field(repr=False)
    session: SessionInfo
    user: UserInfo
    device_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class IssuedApiKey:
    """A new API key. Its ``repr`` does not hold it.

    Args:
        key: It cannot be shown again.
        previous_expires_at: Until when the key before it still works; None: there was none.
    """

    key: str = field(repr=False)
    previous_expires_at: datetime | None
