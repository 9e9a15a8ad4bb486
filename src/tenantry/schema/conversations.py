"""Chat widgets, meetings, and the conversations that take place in them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, get_args
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKeyConstraint, Index, Text, and_, func, text
from sqlalchemy.orm import Mapped, foreign, mapped_column, relationship

from tenantry.schema.base import Base, TenantScoped
from tenantry.schema.types import (
    CONTENT_MAX_BYTES,
    BoundedText,
    JsonModel,
    TypedJson,
    UtcDateTime,
)

__all__ = [
    "ConversationSession",
    "Meeting",
    "MeetingStatus",
    "Message",
    "MessageRole",
    "Widget",
    "WidgetConfig",
]

MeetingStatus = Literal["scheduled", "active", "ended"]
MessageRole = Literal["system", "user", "assistant", "tool"]


class WidgetConfig(JsonModel):
    """How a chat widget looks and greets; unknown keys are kept.

    Attributes:
        theme: The colour scheme.
        greeting: The first line a visitor reads.
        allowed_origins: Web origins that may embed the widget, as in ``https://acme.example``.
    """

    theme: Literal["light", "dark", "auto"] = "auto"
    greeting: str | None = None
    allowed_origins: tuple[str, ...] = ()


class Widget(TenantScoped, Base):
    """A chat widget on a tenant's site."""

    __tablename__ = "widgets"
    __table_args__ = (
        CheckConstraint("name <> ''", name="name"),
        CheckConstraint("jsonb_typeof(config) = 'object'", name="config"),
        Index(None, "tenant_id"),
        {"comment": "Chat widgets that a tenant embeds in its site."},
    )

    name: Mapped[str] = mapped_column(BoundedText(200))
    config: Mapped[WidgetConfig] = mapped_column(
        TypedJson(WidgetConfig), default=WidgetConfig, server_default=text("'{}'::jsonb")
    )
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        UtcDateTime, server_default=func.now(), onupdate=func.now()
    )


class Meeting(TenantScoped, Base):
    """A room in which people and agents talk."""

    __tablename__ = "meetings"
    __table_args__ = (
        CheckConstraint("room_name <> ''", name="room_name"),
        CheckConstraint(f"status IN {get_args(MeetingStatus)}", name="status"),
        CheckConstraint("ended_at >= started_at", name="ended_at"),
        Index(None, "tenant_id"),
        {"comment": "Audio or video rooms."},
    )

    room_name: Mapped[str] = mapped_column(BoundedText(200))
    status: Mapped[MeetingStatus] = mapped_column(
        Text, default="scheduled", server_default="scheduled"
    )
    started_at: Mapped[datetime | None] = mapped_column(
        UtcDateTime, comment="NULL while the meeting is only scheduled."
    )
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class ConversationSession(TenantScoped, Base):
    """One conversation, in a meeting, in a widget, or in neither."""

    __tablename__ = "conversation_sessions"
    __table_args__ = (
        # SET NULL names its column: without it PostgreSQL would empty tenant_id as well.
        ForeignKeyConstraint(
            ["tenant_id", "meeting_id"],
            ["meetings.tenant_id", "meetings.id"],
            ondelete="SET NULL (meeting_id)",
        ),
        ForeignKeyConstraint(
            ["tenant_id", "widget_id"],
            ["widgets.tenant_id", "widgets.id"],
            ondelete="SET NULL (widget_id)",
        ),
        CheckConstraint("ended_at >= started_at", name="ended_at"),
        Index(None, "tenant_id", "started_at"),
        {"comment": "Conversations; they outlive the meeting or widget they began in."},
    )

    meeting_id: Mapped[UUID | None]
    widget_id: Mapped[UUID | None]
    started_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    # In every relationship only the id is "foreign": the tenant is never copied, nor emptied.
    meeting: Mapped[Meeting | None] = relationship(
        primaryjoin=lambda: and_(
            foreign(ConversationSession.meeting_id) == Meeting.id,
            ConversationSession.tenant_id == Meeting.tenant_id,
        ),
        lazy="raise",
    )
    widget: Mapped[Widget | None] = relationship(
        primaryjoin=lambda: and_(
            foreign(ConversationSession.widget_id) == Widget.id,
            ConversationSession.tenant_id == Widget.tenant_id,
        ),
        lazy="raise",
    )
    messages: Mapped[list[Message]] = relationship(
        primaryjoin=lambda: and_(
            foreign(Message.session_id) == ConversationSession.id,
            Message.tenant_id == ConversationSession.tenant_id,
        ),
        back_populates="session",
        order_by=lambda: (Message.created_at, Message.id),
        cascade="all, delete-orphan",
        passive_deletes=True,
        lazy="raise",
    )


class Message(TenantScoped, Base):
    """What was said in a conversation."""

    __tablename__ = "messages"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant_id", "session_id"],
            ["conversation_sessions.tenant_id", "conversation_sessions.id"],
            ondelete="CASCADE",
        ),
        CheckConstraint(f"role IN {get_args(MessageRole)}", name="role"),
        CheckConstraint(f"octet_length(content) <= {CONTENT_MAX_BYTES}", name="content"),
        Index(None, "tenant_id", "session_id", "created_at"),
        {"comment": "The turns of a conversation, in order of created_at and id."},
    )

    session_id: Mapped[UUID]
    role: Mapped[MessageRole] = mapped_column(Text)
    content: Mapped[str] = mapped_column(BoundedText(CONTENT_MAX_BYTES))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())

    session: Mapped[ConversationSession] = relationship(
        primaryjoin=lambda: and_(
            foreign(Message.session_id) == ConversationSession.id,
            Message.tenant_id == ConversationSession.tenant_id,
        ),
        back_populates="messages",
        lazy="raise",
    )
