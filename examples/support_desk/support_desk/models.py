"""The desk's own table. Everything else is tenantry's."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import UniqueConstraint, func
from sqlalchemy.orm import Mapped, mapped_column

from tenantry.schema import Base, TenantScoped
from tenantry.schema.types import BoundedText, UtcDateTime


class SavedReply(TenantScoped, Base):
    """An answer that a team gives often."""

    __tablename__ = "saved_replies"
    __table_args__ = (UniqueConstraint("tenant_id", "title"),)

    title: Mapped[str] = mapped_column(BoundedText(200))
    content: Mapped[str] = mapped_column(BoundedText(10_000))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())
