"""What the driver finds out about PostgreSQL's own types, found out once for each process.

Each connection of asyncpg asks anew what an array of names is, with a query that takes longer than
most tests' own. Types that a database or an extension has made are asked for every time, and so is
everything behind a pooler, where the question moves what is prepared.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, Final

import asyncpg

__all__ = ["remember_types"]

_FIRST_OF_OTHERS: Final = 16384  # FirstNormalObjectId of PostgreSQL
_KNOWN: Final[dict[tuple[object, frozenset[int]], Any]] = {}
_NOTHING_SENT: Final = SimpleNamespace(name="nothing was sent, so nothing that is prepared is lost")


def remember_types() -> None:
    """Have all connections of this process share what they learn; to be called once."""
    driver: Any = asyncpg.Connection
    asked = driver._introspect_types

    async def introspect_types(
        self: Any, typeoids: Iterable[int], *arguments: Any
    ) -> tuple[Any, Any]:
        wanted = frozenset(typeoids)
        key = (self.get_server_version(), wanted)
        if key in _KNOWN and self._stmt_cache_enabled:
            return _KNOWN[key], _NOTHING_SENT
        types, statement = await asked(self, wanted, *arguments)
        if max(wanted) < _FIRST_OF_OTHERS:
            _KNOWN[key] = types
        return types, statement

    driver._introspect_types = introspect_types
