"""Who belongs to a tenant, and the sessions they are signed in with."""

from __future__ import annotations

from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, get_args
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ForeignKeyConstraint,
    Index,
    Interval,
    LargeBinary,
    Text,
    UniqueConstraint,
    and_,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import INET
from sqlalchemy.orm import Mapped, foreign, mapped_column, relationship

from tenantry.schema.base import Base, TenantScoped
from tenantry.schema.row_security import AUTH_ROLE, INFO_KEY, Grant, tenant_row_security
from tenantry.schema.types import BoundedText, UtcDateTime

__all__ = ["AuthSession", "User", "UserRole"]

UserRole = Literal["owner", "admin", "member"]

# What validate_session and validate_sessions need.
_USER_LOOK_UP = Grant(AUTH_ROLE, frozenset({"SELECT"}), ("tenant_id", "id", "role", "disabled_at"))
_SESSION_LOOK_UP = Grant(
    AUTH_ROLE,
    frozenset({"SELECT"}),
    (
        "tenant_id",
        "id",
        "user_id",
        "secret_hash",
        "expires_at",
        "absolute_expires_at",
        "idle_timeout",
        "created_at",
        "last_seen_at",
    ),
)
_SESSION_RENEWAL = Grant(AUTH_ROLE, frozenset({"UPDATE"}), ("expires_at", "last_seen_at"))


class User(TenantScoped, Base):
    """A person in one tenant. The same person in two tenants is two users."""

    __tablename__ = "users"
    __table_args__ = (
        UniqueConstraint("tenant_id", "email"),
        CheckConstraint(
            "email = lower(email) AND email ~ '^[^@[:space:]]+@[^@[:space:]]+$'", name="email"
        ),
        CheckConstraint(f"role IN {get_args(UserRole)}", name="role"),
        Index(None, "tenant_id"),
        {
            "comment": "People who can sign in to a tenant; emails are unique per tenant.",
            # To tell whether the user of a session may still come in.
            "info": {INFO_KEY: tenant_row_security(auth=[_USER_LOOK_UP])},
        },
    )

    email: Mapped[str] = mapped_column(BoundedText(320), comment="The canonical, lower-case form.")
    hashed_password: Mapped[str | None] = mapped_column(
        BoundedText(512), comment="Argon2id in PHC string format; NULL: cannot use a password."
    )
    name: Mapped[str] = mapped_column(BoundedText(200))
    role: Mapped[UserRole] = mapped_column(Text, default="member", server_default="member")
    disabled_at: Mapped[datetime | None] = mapped_column(
        UtcDateTime, comment="Since when the user cannot sign in; NULL: can."
    )
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())
    # From here on in the order in which migrations add: one that is pushed has the same.
    email_verified_at: Mapped[datetime | None] = mapped_column(
        UtcDateTime, comment="When the user has shown to read mail at the address; NULL: not yet."
    )


class AuthSession(TenantScoped, Base):
    """A signed-in device. The table is named ``sessions``."""

    __tablename__ = "sessions"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant_id", "user_id"], ["users.tenant_id", "users.id"], ondelete="CASCADE"
        ),
        CheckConstraint("octet_length(secret_hash) = 32", name="secret_hash"),
        CheckConstraint("char_length(id) BETWEEN 1 AND 128", name="id"),
        CheckConstraint("expires_at > created_at", name="expires_at"),
        CheckConstraint("expires_at <= absolute_expires_at", name="absolute_expires_at"),
        CheckConstraint("idle_timeout > interval '0'", name="idle_timeout"),
        Index(None, "tenant_id", "expires_at"),
        {
            "comment": "Signed-in devices. Holds no token: a copy of this table opens nothing.",
            "info": {INFO_KEY: tenant_row_security(auth=[_SESSION_LOOK_UP, _SESSION_RENEWAL])},
        },
    )

    id: Mapped[str] = mapped_column(
        Text,
        primary_key=True,
        sort_order=-99,
        comment="Random, made by the application; finds the row and proves nothing.",
    )
    user_id: Mapped[UUID]
    secret_hash: Mapped[bytes] = mapped_column(
        LargeBinary, comment="SHA-256 of the token's secret, 256 random bits."
    )
    expires_at: Mapped[datetime] = mapped_column(
        UtcDateTime, comment="End of the idle timeout; moved by use, up to the absolute lifetime."
    )
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())
    last_seen_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())
    address: Mapped[IPv4Address | IPv6Address | None] = mapped_column(
        INET, comment="Where the user signed in from."
    )
    user_agent: Mapped[str | None] = mapped_column(BoundedText(1024))
    # From here on in the order in which migrations add.
    absolute_expires_at: Mapped[datetime] = mapped_column(
        UtcDateTime,
        server_default=text("now() + interval '30 days'"),
        comment="End of the session whatever its use; never moved.",
    )
    idle_timeout: Mapped[timedelta] = mapped_column(
        Interval,
        server_default=text("'24:00:00'::interval"),
        comment="How far expires_at lies after the last renewal.",
    )

    user: Mapped[User] = relationship(
        primaryjoin=lambda: and_(
            foreign(AuthSession.user_id) == User.id, AuthSession.tenant_id == User.tenant_id
        ),
        lazy="raise",
    )
