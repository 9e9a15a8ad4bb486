"""The driver's connection, which binds a transaction as it begins and cleans up as it ends."""

from __future__ import annotations

from typing import Any, Final

import asyncpg

__all__ = ["BoundConnection", "bound", "lies_behind_a_pooler"]

# What a session could leave behind for the next one: cursors WITH HOLD, which hold rows of the
# tenant that declared them; settings without LOCAL; channels that are listened to. After the end
# of the transaction, or its failure would undo it.
_CLEANING: Final = "CLOSE ALL; UNLISTEN *; RESET ALL;"
_ENDS: Final = frozenset({"COMMIT;", "ROLLBACK;"})


class BoundConnection(asyncpg.Connection):
    """A connection whose transactions begin with ``opening``, in the same packet as BEGIN.

    asyncpg sends BEGIN, COMMIT and ROLLBACK through `execute`. Several statements in one packet
    are one round trip, so binding the tenant costs none of its own. Behind a pooler that hands the
    server's connection to another client after each transaction, what is cleaned up with the end
    of it is cleaned up before the next client comes.

    Attributes:
        opening: What is sent with BEGIN; empty for nothing.
        in_doubt: A transaction has begun and its end, with the cleaning, was not confirmed.
    """

    opening: str = ""
    in_doubt: bool = False

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:  # noqa: ASYNC109 - the driver's own
        """Run ``query``, see `asyncpg.Connection.execute`."""
        if query.startswith("BEGIN"):
            self.in_doubt = True
            query += self.opening
        elif query in _ENDS:
            status = await super().execute(query + _CLEANING, timeout=timeout)
            self.in_doubt = False
            return str(status)
        return str(await super().execute(query, *args, timeout=timeout))


def bound(connection: object) -> BoundConnection | None:
    """Return ``connection`` if it is a `BoundConnection`.

    To ``isinstance``, asyncpg makes every connection an instance of each of its subclasses.
    """
    return connection if BoundConnection in type(connection).__mro__ else None  # type: ignore[return-value]


async def lies_behind_a_pooler(connection: asyncpg.Connection) -> bool:
    """Return whether the server at the other end is another from one transaction to the next.

    A pooler tells its clients a process id of its own making, for cancelling, and not the one of
    the server's process.

    Args:
        connection: One that was opened with ``statement_cache_size=0``.
    """
    backend = await connection.fetchval("SELECT pg_catalog.pg_backend_pid()")
    return bool(backend != connection.get_server_pid())
