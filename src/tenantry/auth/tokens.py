"""The text of session tokens, API keys and mailed tokens: made, read and hashed.

::

    session   <tenant>.<id>.<secret>      018f….a1b2….c3d4…
    API key   tnt_<tenant>_<secret>       tnt_018f…_x9Y8…

The tenant routes, the id finds the row, and 256 random bits prove the rest. Stored is SHA-256 of
the secret: it cannot be turned back, and a secret of 256 random bits needs no slow hash, as nobody
can try them out.
"""

from __future__ import annotations

import re
import secrets
import string
import zlib
from hashlib import sha256
from typing import Final, NamedTuple
from uuid import UUID

__all__ = [
    "API_KEY_PATTERN",
    "ApiKey",
    "Token",
    "make_api_key",
    "make_token",
    "read_api_key",
    "read_id",
    "read_token",
]

API_KEY_PATTERN: Final = r"tnt_[0-9a-f]{32}_[0-9A-Za-z]{49}"
"""What a secret scanner looks for; the last six characters are a checksum of the rest."""

_ID_BYTES: Final = 16
_SECRET_BYTES: Final = 32
_UUID: Final = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_ID: Final = re.compile(r"[A-Za-z0-9_-]{22}")
_TOKEN: Final = re.compile(rf"({_UUID})\.({_ID.pattern})\.([A-Za-z0-9_-]{{43}})")
_TOKEN_LENGTH: Final = 36 + 1 + 22 + 1 + 43
_API_KEY: Final = re.compile(r"tnt_([0-9a-f]{32})_(([0-9A-Za-z]{43})([0-9A-Za-z]{6}))")
_API_KEY_LENGTH: Final = 4 + 32 + 1 + 49
_BASE62: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase


class Token(NamedTuple):
    """A token as it is looked up.

    Args:
        tenant: The tenant's id, in PostgreSQL's form of a UUID.
        id: Finds the row.
        hash: SHA-256 of the secret, 32 bytes.
    """

    tenant: str
    id: str
    hash: bytes


class ApiKey(NamedTuple):
    """An API key as it is looked up; see `Token`."""

    tenant: str
    hash: bytes


def make_token(tenant_id: UUID, *, id_: str | None = None) -> tuple[str, Token]:
    """Return a new token's text, to be shown once, and what is stored of it.

    Args:
        tenant_id: Whose.
        id_: Of the row that it is for; None for a new one.
    """
    id_ = secrets.token_urlsafe(_ID_BYTES) if id_ is None else id_
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    stored = Token(str(tenant_id), id_, sha256(secret.encode()).digest())
    return f"{tenant_id}.{id_}.{secret}", stored


def read_token(text: object) -> Token | None:
    """Return what a token says, or None where it is none of ours.

    There is one way to write a token: what has other letters, other lengths, or anything before or
    after it, is none. The length comes first, so that a megabyte costs nothing.
    """
    if not isinstance(text, str) or len(text) != _TOKEN_LENGTH:
        return None
    found = _TOKEN.fullmatch(text)
    if found is None:
        return None
    tenant, id_, secret = found.groups()
    return Token(tenant, id_, sha256(secret.encode()).digest())


def read_id(text: object) -> str:
    """Return ``text`` if it can be the id of a token; else ``""``, which none has.

    So that PostgreSQL is not given what it refuses as text, such as NUL.
    """
    return text if isinstance(text, str) and _ID.fullmatch(text) else ""


def make_api_key(tenant_id: UUID) -> tuple[str, ApiKey]:
    """Return a new API key's text, to be shown once, and what is stored of it."""
    secret = "".join(secrets.choice(_BASE62) for _ in range(43))  # 256 bits
    secret += _checksum(f"tnt_{tenant_id.hex}_{secret}")
    stored = ApiKey(str(tenant_id), sha256(secret.encode()).digest())
    return f"tnt_{tenant_id.hex}_{secret}", stored


def read_api_key(text: object) -> ApiKey | None:
    """Return what an API key says, or None where it is none of ours; see `read_token`."""
    if not isinstance(text, str) or len(text) != _API_KEY_LENGTH:
        return None
    found = _API_KEY.fullmatch(text)
    if found is None or _checksum(text[:-6]) != found[4]:
        return None
    return ApiKey(found[1], sha256(found[2].encode()).digest())


def _checksum(text: str) -> str:
    """CRC-32 in base 62, six letters: a scanner can tell a key from what only looks like one."""
    rest, letters = zlib.crc32(text.encode()), ""
    for _ in range(6):
        rest, digit = divmod(rest, 62)
        letters = _BASE62[digit] + letters
    return letters
