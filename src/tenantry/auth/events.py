"""What the audit trail tells of: every kind of event, in one place."""

from __future__ import annotations

from typing import Literal

__all__ = ["EventKind"]

EventKind = Literal[
    "api_key_issued",
    "api_key_revoked",
    "email_verified",
    "password_change_failed",
    "password_changed",
    "password_reset",
    "password_reset_requested",
    "password_set",
    "registered",
    "role_changed",
    "sessions_revoked",
    "sign_in",
    "sign_in_failed",
    "sign_out",
    "user_deleted",
    "user_disabled",
    "user_enabled",
]
"""``security_events.kind``. The database takes any word: products may add kinds of their own."""
