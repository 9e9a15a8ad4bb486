"""What users are called."""

from __future__ import annotations

import unicodedata
from typing import Final

from tenantry.errors import InvalidValueError
from tenantry.schema.types import check_text

__all__ = ["check_name", "name_from"]

_MAX_BYTES: Final = 200
"""As in the column ``users.name``."""
_CONTROLS: Final = frozenset({"Cc", "Zl", "Zp"})


def name_from(email: str) -> str:
    """Return the name of a user who has given none: what is before the @."""
    return email.partition("@")[0]


def check_name(name: str) -> None:
    """Refuse what cannot be a user's name.

    It goes into mails, whose headers a line break would add to, and strangers may choose it.

    Raises:
        InvalidValueError: It is no text, has control characters or line breaks, is blank, or too
            long.
    """
    check_text(name, max_bytes=_MAX_BYTES, where="the name")
    if any(unicodedata.category(each) in _CONTROLS for each in name):
        raise InvalidValueError("The name contains a control character or a line break; remove it.")
    if not name.strip():
        raise InvalidValueError("The name is blank; leave it out, or give one.")
