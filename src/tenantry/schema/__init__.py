"""What is stored: tenantry's tables, the base of your own, and their types."""

from __future__ import annotations

from tenantry.schema.base import Base, TenantScoped
from tenantry.schema.conversations import (
    ConversationSession,
    Meeting,
    Message,
    Widget,
    WidgetConfig,
)
from tenantry.schema.costs import CostEvent
from tenantry.schema.knowledge import KnowledgeChunk, KnowledgeDocument
from tenantry.schema.row_security import Grant, Policy, RowSecurity
from tenantry.schema.security import KnownDevice, SecurityEvent, SignInThrottle, SingleUseToken
from tenantry.schema.tenants import Tenant, TenantSettings
from tenantry.schema.types import EMBEDDING_DIMENSIONS
from tenantry.schema.users import AuthSession, User

__all__ = [
    "EMBEDDING_DIMENSIONS",
    "AuthSession",
    "Base",
    "ConversationSession",
    "CostEvent",
    "Grant",
    "KnowledgeChunk",
    "KnowledgeDocument",
    "KnownDevice",
    "Meeting",
    "Message",
    "Policy",
    "RowSecurity",
    "SecurityEvent",
    "SignInThrottle",
    "SingleUseToken",
    "Tenant",
    "TenantScoped",
    "TenantSettings",
    "User",
    "Widget",
    "WidgetConfig",
]
