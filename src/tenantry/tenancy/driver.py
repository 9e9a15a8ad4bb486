"""The driver's connection, which binds a transaction as it begins and cleans up as it ends."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import asyncpg

if TYPE_CHECKING:
    from asyncpg.prepared_stmt import PreparedStatement

__all__ = ["BoundConnection", "bound", "lies_behind_a_pooler"]

# What a session could leave behind for the next one: cursors WITH HOLD, which hold rows of the
# tenant that declared them; settings without LOCAL; channels that are listened to. After the end
# of the transaction, or its failure would undo it.
_CLEANING: Final = "CLOSE ALL; UNLISTEN *; RESET ALL;"
_ENDS: Final = frozenset({"COMMIT;", "ROLLBACK;"})

_VECTOR_SCHEMA: Final = """
    SELECT n.nspname FROM pg_catalog.pg_extension e
      JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'
"""
_KEPT_STATEMENTS: Final = 100


class BoundConnection(asyncpg.Connection):
    """A connection whose transactions begin with ``opening``, in the same packet as BEGIN.

    asyncpg sends BEGIN, COMMIT and ROLLBACK through `execute`. Several statements in one packet
    are one round trip, so binding the tenant costs none of its own. Behind a pooler that hands the
    server's connection to another client after each transaction, what is cleaned up with the end
    of it is cleaned up before the next client comes.

    Attributes:
        opening: What is sent with BEGIN; empty for nothing.
        in_doubt: A transaction has begun and its end, with the cleaning, was not confirmed.
        pooled: A pooler may give each transaction another connection of the server.
    """

    opening: str = ""
    in_doubt: bool = False
    pooled: bool = False
    _by_vector: OrderedDict[str, PreparedStatement[Any]] | None = None

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

    async def fetch_by_vector(self, query: str, vector: bytes, *args: Any) -> list[asyncpg.Record]:
        """Run ``query``, whose first parameter is a vector, and return its rows.

        A vector in PostgreSQL's own form takes half the time of one in text or as an array of
        numbers. For the driver that form belongs to a type and to all of a connection's
        statements, while the ORM sends text: so it is set for as long as the statement is being
        prepared, which keeps it.

        Args:
            query: It says ``{vector}`` where the parameter is, once.
            vector: In pgvector's binary format.
            args: The other parameters, ``$2`` and so on.
        """
        if self.pooled:  # what is prepared may be gone with the next transaction
            numbers = array("f", vector[4:])
            numbers.byteswap()
            statement = query.replace("{vector}", "CAST($1::pg_catalog.float4[] AS vector)")
            return await self.fetch(statement, numbers.tolist(), *args)
        return await (await self._prepared_by_vector(query)).fetch(vector, *args)

    async def _prepared_by_vector(self, query: str) -> PreparedStatement[Any]:
        kept = self._by_vector
        if kept is None:
            kept = self._by_vector = OrderedDict()
        if (statement := kept.get(query)) is not None:
            kept.move_to_end(query)
            return statement
        schema = await self.fetchval(_VECTOR_SCHEMA)
        await self.set_type_codec(
            "vector", schema=schema, encoder=_as_is, decoder=_as_is, format="binary"
        )
        try:
            statement = await self.prepare(query.replace("{vector}", "$1"))
        finally:
            await self.reset_type_codec("vector", schema=schema)
        kept[query] = statement
        if len(kept) > _KEPT_STATEMENTS:
            kept.popitem(last=False)
        return statement


def _as_is(value: bytes) -> bytes:
    return value


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
