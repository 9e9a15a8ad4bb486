"""What signing in needs beside users and sessions: limits, devices, tokens, and the audit trail."""

from __future__ import annotations

from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKeyConstraint, Index, LargeBinary, Text, func, text
from sqlalchemy.dialects.postgresql import INET
from sqlalchemy.orm import Mapped, mapped_column

from tenantry.schema.base import Base, TenantScoped
from tenantry.schema.row_security import APP_ROLE, INFO_KEY, Grant, tenant_row_security
from tenantry.schema.types import BoundedText, JsonObject, UtcDateTime

__all__ = ["KnownDevice", "SecurityEvent", "SignInThrottle", "SingleUseToken"]

_READ = Grant(APP_ROLE, frozenset({"SELECT"}))
# Without created_at: the time is the database's, whoever writes.
_ADD = Grant(
    APP_ROLE,
    frozenset({"INSERT"}),
    ("tenant_id", "id", "kind", "user_id", "address", "user_agent", "details"),
)


class SignInThrottle(TenantScoped, Base):
    """How far an account, an address or a device has used up its attempts.

    It counts with one timestamp (GCRA, the leaky bucket of ATM networks): each attempt moves it
    into the future by the time that one attempt takes to come back, and an attempt is refused
    when it lies too far ahead.
    """

    __tablename__ = "sign_in_throttles"
    __table_args__ = (
        CheckConstraint("char_length(id) BETWEEN 1 AND 128", name="id"),
        Index(None, "tenant_id", "free_at"),
        {"comment": "Attempts to sign in, counted per account, address and device."},
    )

    id: Mapped[str] = mapped_column(
        Text,
        primary_key=True,
        sort_order=-99,
        comment="What is counted, and SHA-256 of the account, address or device.",
    )
    free_at: Mapped[datetime] = mapped_column(
        UtcDateTime, comment="When every attempt has come back; the row says nothing from then on."
    )


class KnownDevice(TenantScoped, Base):
    """A device that a user has signed in from, whose attempts are counted by themselves.

    So that nobody can keep the rightful owner out by guessing at the account.
    """

    __tablename__ = "known_devices"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant_id", "user_id"], ["users.tenant_id", "users.id"], ondelete="CASCADE"
        ),
        CheckConstraint("octet_length(secret_hash) = 32", name="secret_hash"),
        CheckConstraint("char_length(id) BETWEEN 1 AND 128", name="id"),
        {"comment": "Devices that users have signed in from. Holds no token."},
    )

    id: Mapped[str] = mapped_column(
        Text, primary_key=True, sort_order=-99, comment="Random; finds the row, proves nothing."
    )
    user_id: Mapped[UUID]
    secret_hash: Mapped[bytes] = mapped_column(
        LargeBinary, comment="SHA-256 of the device token's secret."
    )
    last_used_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())


class SingleUseToken(TenantScoped, Base):
    """What a link in a mail proves, once."""

    __tablename__ = "single_use_tokens"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant_id", "user_id"], ["users.tenant_id", "users.id"], ondelete="CASCADE"
        ),
        CheckConstraint("octet_length(secret_hash) = 32", name="secret_hash"),
        CheckConstraint("char_length(id) BETWEEN 1 AND 128", name="id"),
        CheckConstraint("purpose ~ '^[a-z][a-z_]{0,39}$'", name="purpose"),
        Index(None, "tenant_id", "expires_at"),
        {"comment": "Tokens of mailed links; deleted by their use. Holds no token."},
    )

    id: Mapped[str] = mapped_column(
        Text, primary_key=True, sort_order=-99, comment="Random; finds the row, proves nothing."
    )
    user_id: Mapped[UUID]
    purpose: Mapped[str] = mapped_column(Text, comment="verify_email or reset_password.")
    email: Mapped[str] = mapped_column(
        BoundedText(320), comment="Where it was sent; it is void once the user has another address."
    )
    secret_hash: Mapped[bytes] = mapped_column(
        LargeBinary, comment="SHA-256 of the token's secret, 256 random bits."
    )
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())


class SecurityEvent(TenantScoped, Base):
    """What has happened to accounts. The application adds to it and changes nothing."""

    __tablename__ = "security_events"
    __table_args__ = (
        CheckConstraint("kind ~ '^[a-z][a-z_]{0,39}$'", name="kind"),
        CheckConstraint("jsonb_typeof(details) = 'object'", name="details"),
        Index(None, "tenant_id", "created_at"),
        Index(None, "tenant_id", "user_id", "created_at"),
        {
            "comment": "The audit trail: append-only for the application, without any secret.",
            "info": {INFO_KEY: tenant_row_security(app=[_READ, _ADD])},
        },
    )

    kind: Mapped[str] = mapped_column(Text, comment="As in sign_in or password_changed.")
    # No foreign key: what happened to a user stays known when the user is gone.
    user_id: Mapped[UUID | None] = mapped_column(
        comment="Whose account; NULL where no account has the given address."
    )
    address: Mapped[IPv4Address | IPv6Address | None] = mapped_column(INET)
    user_agent: Mapped[str | None] = mapped_column(BoundedText(1024))
    details: Mapped[dict[str, Any]] = mapped_column(
        JsonObject(), default=dict, server_default=text("'{}'::jsonb")
    )
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())
