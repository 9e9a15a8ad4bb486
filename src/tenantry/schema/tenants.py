"""The tenant itself: the one table whose rows are not inside a tenant."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import CheckConstraint, LargeBinary, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from tenantry.schema.base import Base, uuid7
from tenantry.schema.row_security import APP_ROLE, AUTH_ROLE, Grant, tenant_row_security
from tenantry.schema.types import BoundedText, JsonModel, TypedJson, UtcDateTime

__all__ = ["ID_PATTERN", "SLUG_PATTERN", "Tenant", "TenantSettings", "folded_slug"]

SLUG_PATTERN: Final = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
"""A slug is a DNS label, so that it can be a host name: ``acme.example.com``."""
ID_PATTERN: Final = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
"""What is an id where ids and slugs are taken. Without the dashes it is a slug."""


def folded_slug(text: str) -> str:
    """Return a slug or id that somebody has typed as it is stored, in lower case.

    ASCII alone, as in host names (RFC 4343): a Kelvin sign is no ``k``.
    """
    return text.lower() if text.isascii() else text


class TenantSettings(JsonModel):
    """What a tenant has chosen; unknown keys are kept.

    Attributes:
        locale: BCP 47 language tag, as in ``de-CH``.
        timezone: IANA name, as in ``Europe/Zurich``.
    """

    locale: str | None = None
    timezone: str | None = None


class Tenant(Base):
    """A customer of the product. The application sees its own tenant only."""

    __tablename__ = "tenants"
    __table_args__ = (
        UniqueConstraint("slug"),
        CheckConstraint(f"slug ~ '{SLUG_PATTERN}'", name="slug"),
        CheckConstraint("name <> ''", name="name"),
        CheckConstraint("octet_length(api_key) = 32", name="api_key"),
        CheckConstraint(
            "octet_length(previous_api_key) = 32 AND previous_api_key_expires_at IS NOT NULL"
            " OR previous_api_key IS NULL AND previous_api_key_expires_at IS NULL",
            name="previous_api_key",
        ),
        CheckConstraint("jsonb_typeof(settings) = 'object'", name="settings"),
        {"comment": "One row per tenant. Every other table refers to it by tenant_id."},
    )

    id: Mapped[UUID] = mapped_column(
        primary_key=True, default=uuid7, server_default=text("gen_random_uuid()")
    )
    name: Mapped[str] = mapped_column(BoundedText(200))
    slug: Mapped[str] = mapped_column(
        BoundedText(63), comment="Unique name in URLs and on the command line; a DNS label."
    )
    api_key: Mapped[bytes | None] = mapped_column(
        LargeBinary, comment="SHA-256 of the secret part of the API key, never the key; NULL: none."
    )
    settings: Mapped[TenantSettings] = mapped_column(
        TypedJson(TenantSettings), default=TenantSettings, server_default=text("'{}'::jsonb")
    )
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        UtcDateTime, server_default=func.now(), onupdate=func.now()
    )
    # From here on in the order in which migrations add.
    previous_api_key: Mapped[bytes | None] = mapped_column(
        LargeBinary, comment="The key before the last rotation, as api_key; NULL: none."
    )
    previous_api_key_expires_at: Mapped[datetime | None] = mapped_column(
        UtcDateTime, comment="Until when the previous key still opens the tenant."
    )


_API_KEY = ("api_key", "previous_api_key", "previous_api_key_expires_at")

# The application may rename its tenant, change its settings and issue its API key. Making and
# removing tenants, and changing the slug (a name that is then nobody else's), is the operator's.
tenant_row_security(
    tenant_column="id",
    app=(
        Grant(APP_ROLE, frozenset({"SELECT"})),
        Grant(APP_ROLE, frozenset({"UPDATE"}), ("name", "settings", "updated_at", *_API_KEY)),
    ),
    auth=[Grant(AUTH_ROLE, frozenset({"SELECT"}), ("id", "slug", *_API_KEY))],
).attach(Tenant.__table__)  # type: ignore[arg-type]
