"""What the use of models costs."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKeyConstraint, Index, Numeric, func
from sqlalchemy.orm import Mapped, mapped_column

from tenantry.schema.base import Base, TenantScoped
from tenantry.schema.types import BoundedText, UtcDateTime

__all__ = ["CostEvent"]


class CostEvent(TenantScoped, Base):
    """One charge of a provider, in US dollars."""

    __tablename__ = "cost_events"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant_id", "session_id"],
            ["conversation_sessions.tenant_id", "conversation_sessions.id"],
            ondelete="SET NULL (session_id)",
        ),
        CheckConstraint("tokens >= 0", name="tokens"),
        CheckConstraint("cost >= 0", name="cost"),
        Index(None, "tenant_id", "created_at"),
        {"comment": "Charges of model providers; they outlive the conversation they arose in."},
    )

    session_id: Mapped[UUID | None]
    provider: Mapped[str] = mapped_column(BoundedText(100))
    model: Mapped[str] = mapped_column(BoundedText(200))
    tokens: Mapped[int] = mapped_column(BigInteger)
    cost: Mapped[Decimal] = mapped_column(
        Numeric(20, 10), comment="US dollars; one token can cost less than a millionth."
    )
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())
