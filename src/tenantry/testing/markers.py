"""Texts that occur nowhere else, and what of a tenant's is recognized in an answer."""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Iterator, Mapping
from typing import Any, Final
from uuid import UUID

__all__ = ["BEGINNING", "new_marker", "random_like", "texts_of"]

BEGINNING: Final = "qz"
"""What every marker begins with."""
_LENGTH: Final = 22
# A marker or what a short column has of it, or an id. Words are also in other answers, such as the
# names of states that an application gives; so are shorter texts and small numbers.
_OWN: Final = re.compile(r"qz[a-z]{6}|^(?=.*\d)[\w-]{16,}$")
_SMALLEST: Final = 10**8


def new_marker() -> str:
    """Return a text that is in no answer by chance.

    Lower-case letters alone: a slug, a name in a URL and most check constraints allow them.
    """
    return BEGINNING + "".join(secrets.choice(string.ascii_lowercase) for _ in range(_LENGTH))


def texts_of(value: Any) -> Iterator[str]:
    """Yield the forms in which a stored value would be recognized in an answer."""
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json")
    if isinstance(value, Mapping | list | tuple):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from texts_of(each)
    elif isinstance(value, UUID):
        yield from (str(value), value.hex)
    elif isinstance(value, str) and _OWN.search(value):
        yield value.lower()
    elif isinstance(value, int) and abs(value) >= _SMALLEST:
        yield str(value)


def random_like(value: Any) -> Any:
    """Return a value of the same form that belongs to nothing."""
    if isinstance(value, UUID):
        # Of the same version, and so of the same time: only the random part may be another.
        return UUID(int=(value.int & ~((1 << 62) - 1)) | secrets.randbits(62))
    if isinstance(value, int):
        return _SMALLEST * 9 + secrets.randbelow(_SMALLEST)
    text = str(value)
    if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text):
        return str(random_like(UUID(text)))
    return "".join(secrets.choice(string.ascii_lowercase) if c.isalpha() else c for c in text)
