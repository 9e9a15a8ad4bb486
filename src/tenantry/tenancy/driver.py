"""The driver's connection, which binds a transaction as it begins and cleans up as it ends."""

from __future__ import annotations

import sys
from array import array
from functools import lru_cache
from typing import Any, Final

import asyncpg
from pgvector import Vector

__all__ = ["BoundConnection", "bound", "lies_behind_a_pooler"]

# What a session could leave behind for the next one: cursors WITH HOLD, which hold rows of the
# tenant that declared them; settings without LOCAL; channels that are listened to. After the end
# of the transaction, or its failure would undo it.
_CLEANING: Final = "CLOSE ALL; UNLISTEN *; RESET ALL;"
_ENDS: Final = frozenset({"COMMIT;", "ROLLBACK;"})

# RESET ALL leaves the role as it is. The first of these forgets the role that the connection has
# begun with, and the second leads back to it. A temporary table is found before a real one.
_OPERATORS_CLEANING: Final = "RESET SESSION AUTHORIZATION; RESET ROLE; DISCARD TEMP;"

_VECTOR_SCHEMA: Final = """
    SELECT n.nspname FROM pg_catalog.pg_extension e
      JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'
"""


class BoundConnection(asyncpg.Connection):
    """A connection whose transactions begin with ``opening``, in the same packet as BEGIN.

    asyncpg sends BEGIN, COMMIT and ROLLBACK through `execute`. Several statements in one packet
    are one round trip, so binding the tenant costs none of its own. Behind a pooler that hands the
    server's connection to another client after each transaction, what is cleaned up with the end
    of it is cleaned up before the next client comes.

    Attributes:
        opening: What is sent with BEGIN; empty for nothing.
        cleaning: What is sent with its end.
        in_doubt: A transaction has begun and its end, with the cleaning, was not confirmed.
        binary_vectors: See `exchange_vectors_in_binary`.
    """

    opening: str = ""
    cleaning: str = _CLEANING
    in_doubt: bool = False
    binary_vectors: bool = False

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:  # noqa: ASYNC109 - the driver's own
        """Run ``query``, see `asyncpg.Connection.execute`."""
        if query.startswith("BEGIN"):
            self.in_doubt = True
            query += self.opening
        elif query in _ENDS:
            status = await super().execute(query + self.cleaning, timeout=timeout)
            self.in_doubt = False
            return str(status)
        return str(await super().execute(query, *args, timeout=timeout))

    def clean_thoroughly(self) -> None:
        """Have each transaction end in the role that the connection was opened with, too.

        And without temporary tables: for whoever may take roles that see more, and make such
        tables. The application may not, and pays for nothing.
        """
        self.cleaning = _CLEANING + _OPERATORS_CLEANING

    async def exchange_vectors_in_binary(self) -> None:
        """Send and receive vectors in pgvector's own form, which takes half the time of text.

        Whoever sends text, as the ORM does, still can. Where there is no pgvector, nothing changes.
        """
        schema = await self.fetchval(_VECTOR_SCHEMA)
        if schema is None:
            return
        await self.set_type_codec(
            "vector",
            schema=schema,
            encoder=_in_binary,
            decoder=Vector.from_binary,
            format="binary",
        )
        self.binary_vectors = True

    async def fetch_by_vector(self, query: str, vector: bytes, *args: Any) -> list[asyncpg.Record]:
        """Run ``query``, whose first parameter is a vector, and return its rows.

        Args:
            query: It says ``{vector}`` where the parameter is, once.
            vector: In pgvector's binary format.
            args: The other parameters, ``$2`` and so on.
        """
        if self.binary_vectors:
            return await self.fetch(_with_vector(query, "$1"), vector, *args)
        numbers = array("f", vector[4:])
        if sys.byteorder == "little":
            numbers.byteswap()
        cast = "CAST($1::pg_catalog.float4[] AS public.vector)"
        return await self.fetch(_with_vector(query, cast), numbers.tolist(), *args)


@lru_cache(maxsize=1_000)
def _with_vector(query: str, parameter: str) -> str:
    return query.replace("{vector}", parameter)


def _in_binary(value: bytes | str) -> bytes:
    return value if isinstance(value, bytes) else Vector.from_text(value).to_binary()


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
