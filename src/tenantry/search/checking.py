"""The arguments of a search, checked before anything is sent."""

from __future__ import annotations

import math
import struct
import sys
from array import array
from collections.abc import Sequence
from typing import Final

from tenantry.errors import InvalidValueError, TenantRequiredError
from tenantry.schema.languages import LANGUAGES
from tenantry.schema.types import EMBEDDING_DIMENSIONS, check_embedding
from tenantry.tenancy.sessions import TenantSession

__all__ = [
    "MAX_K",
    "checked_flag",
    "checked_k",
    "checked_languages",
    "checked_session",
    "checked_share",
    "checked_text",
    "checked_vector",
]

MAX_K: Final = 1_000
_VECTOR_HEAD: Final = struct.pack(">HH", EMBEDDING_DIMENSIONS, 0)

_HUGE: Final = 10**12
_LEAST: Final = 2.0**-40
"""Squares of smaller numbers, and of larger ones than its inverse, do not fit the float32 that
pgvector adds them up in: every similarity would be 1, or 0."""


def checked_session(tx: object) -> TenantSession:
    """Return ``tx`` if it is a tenant's session.

    Raises:
        TenantRequiredError: It is not.
    """
    if not isinstance(tx, TenantSession):
        raise TenantRequiredError(
            f"A search needs a tenant's session; found {type(tx).__name__}. "
            "Open one with db.tenant(tenant_id)."
        )
    return tx


def checked_k(k: object) -> int:
    """Return ``k`` if it is a whole number from 1 to `MAX_K`.

    Raises:
        InvalidValueError: It is not.
    """
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MAX_K:
        found = k if isinstance(k, int) and abs(k) < _HUGE else f"a {type(k).__name__}"
        raise InvalidValueError(f"k is {found}; a whole number from 1 to {MAX_K:,} is required.")
    return k


def checked_flag(value: object, name: str) -> bool:
    """Return ``value`` if it is True or False.

    Raises:
        InvalidValueError: It is neither.
    """
    if not isinstance(value, bool):
        raise InvalidValueError(f"{name} is a {type(value).__name__}; True or False is required.")
    return value


def checked_text(text: object) -> str:
    """Return ``text`` if it is a str.

    Raises:
        InvalidValueError: It is not.
    """
    if not isinstance(text, str):
        raise InvalidValueError(f"text is a {type(text).__name__}; a str is required.")
    return text


def checked_vector(embedding: object) -> bytes:
    """Return ``embedding`` in pgvector's binary format: two int16, then float32, big-endian.

    Raises:
        InvalidValueError: Cosine distance is not defined for it; see `check_embedding`.
    """
    numbers = array("f")
    length = 0.0
    tolist = getattr(embedding, "to_list", None) or getattr(embedding, "tolist", None)
    try:
        numbers = array("f", tolist() if tolist is not None else embedding)  # type: ignore[arg-type]
        length = math.hypot(*numbers) if len(numbers) == EMBEDDING_DIMENSIONS else 0.0
    except (TypeError, OverflowError):
        pass
    ordered = tolist is not None or isinstance(embedding, Sequence)
    if not ordered or isinstance(embedding, str | bytes) or not _LEAST <= length <= 1 / _LEAST:
        given = check_embedding(embedding)  # which says what is wrong
        largest = max(map(abs, given))
        numbers = array("f", [each / largest for each in given])
    if sys.byteorder == "little":
        numbers.byteswap()
    return _VECTOR_HEAD + numbers.tobytes()


def checked_share(value: object, name: str, *, least: float = 0.0, most: float = 1.0) -> float:
    """Return ``value`` if it is a number from ``least`` to ``most``.

    Raises:
        InvalidValueError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        known = isinstance(value, float) or (isinstance(value, int) and abs(value) < _HUGE)
        found = value if known else f"a {type(value).__name__}"
        raise InvalidValueError(
            f"{name} is {found}; a number from {least:g} to {most:g} is required."
        )
    return float(value)


def checked_languages(language: object) -> list[str] | None:
    """Return ``language`` as the list that the SQL functions take; None for None.

    Raises:
        InvalidValueError: It is none of `LANGUAGES`.
    """
    if language is None:
        return None
    if language not in LANGUAGES:
        found = repr(language)[:40] if isinstance(language, str) else f"a {type(language).__name__}"
        raise InvalidValueError(
            f"language is {found}; one of {', '.join(LANGUAGES)} is required. 'simple' is for "
            "every other language."
        )
    return [str(language)]
