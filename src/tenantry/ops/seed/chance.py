"""Chance that is the same on every machine, and ids and times made from it.

Only what Python and IEEE 754 define to the bit is used: ``Random.random()`` from an integer seed,
the four operations, square roots, and ``fsum``. No ``choice`` or ``shuffle``, whose algorithms may
change; no ``sum`` of floats, which did in Python 3.12; no logarithms, which differ by platform.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["EPOCH", "SPAN", "Source", "pick", "whole"]

EPOCH: Final = datetime(2025, 1, 6, 8, tzinfo=UTC)
"""When seeded tenants begin; fixed, since "now" would be other bytes tomorrow."""

SPAN: Final = timedelta(days=180)
"""How long they have been customers."""

T = TypeVar("T")


def pick(random: Random, items: Sequence[T]) -> T:
    """Return one of ``items``."""
    return items[int(random.random() * len(items))]


def whole(random: Random, low: int, high: int) -> int:
    """Return an integer from ``low`` to ``high``, both included."""
    return low + int(random.random() * (high - low + 1))


class Source:
    """The chance of one tenant.

    Anything can be made again from its kind and number alone, so rows can refer to one another
    without being kept in memory.
    """

    def __init__(self, *names: object) -> None:
        self._key = hashlib.sha256("|".join(map(str, names)).encode()).digest()

    def _bits(self, kind: str, number: int) -> int:
        data = b"%s %d" % (kind.encode(), number)
        return int.from_bytes(hashlib.blake2b(data, key=self._key, digest_size=16).digest(), "big")

    def random(self, kind: str, number: int) -> Random:
        """Return the random numbers of one thing."""
        return Random(self._bits(f"{kind} random", number))  # noqa: S311 - not for secrets

    def uuid(self, kind: str, number: int, created_at: datetime) -> UUID:
        """Return an id of UUIDv7's form (RFC 9562, 5.7)."""
        milliseconds = (created_at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
        bits = self._bits(kind, number)
        high = milliseconds << 16 | 0x7000 | bits >> 64 & 0x0FFF
        return UUID(int=high << 64 | 0x2 << 62 | bits & (1 << 62) - 1)

    def when(self, number: int, count: int) -> datetime:
        """Return the time of the ``number``-th of ``count`` things, spread over `SPAN`."""
        seconds = int(SPAN.total_seconds()) * number // max(count, 1)
        return EPOCH + timedelta(seconds=seconds)
