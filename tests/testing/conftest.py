"""Signing in, as the tests of signing in have it."""

from __future__ import annotations

from tests.auth.conftest import ada, auth, hashing, mails, signed_in

__all__ = ["ada", "auth", "hashing", "mails", "signed_in"]
