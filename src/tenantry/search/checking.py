"""The arguments of a search, checked before anything is sent."""

from __future__ import annotations

from typing import Final

from tenantry.errors import InvalidValueError, TenantRequiredError
from tenantry.schema.languages import LANGUAGES
from tenantry.tenancy.sessions import TenantSession

__all__ = [
    "MAX_K",
    "checked_flag",
    "checked_k",
    "checked_languages",
    "checked_session",
    "checked_share",
    "checked_text",
]

MAX_K: Final = 1_000
_HUGE: Final = 10**12


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
    return int(k)  # of an enumeration, str() would give its name


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
    if not isinstance(language, str) or language not in LANGUAGES:
        found = repr(language)[:40] if isinstance(language, str) else f"a {type(language).__name__}"
        raise InvalidValueError(
            f"language is {found}; one of {', '.join(LANGUAGES)} is required. 'simple' is for "
            "every other language."
        )
    return [str.__str__(language)]
