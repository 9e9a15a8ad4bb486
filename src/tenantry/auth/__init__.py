"""Signing in: passwords, sessions, API keys, and who is calling."""

from __future__ import annotations

from tenantry.auth.auth import Auth
from tenantry.auth.cleaning import delete_expired
from tenantry.auth.events import EventKind
from tenantry.auth.hashing import HashingPool
from tenantry.auth.mail import Mail
from tenantry.auth.principals import IssuedApiKey, Principal, SessionInfo, SignedIn, UserInfo
from tenantry.auth.profiles import STANDARD, STRICT, Argon2Parameters, Profile
from tenantry.auth.tokens import API_KEY_PATTERN

__all__ = [
    "API_KEY_PATTERN",
    "STANDARD",
    "STRICT",
    "Argon2Parameters",
    "Auth",
    "EventKind",
    "HashingPool",
    "IssuedApiKey",
    "Mail",
    "Principal",
    "Profile",
    "SessionInfo",
    "SignedIn",
    "UserInfo",
    "delete_expired",
]
