"""One connection of the administrator's, on an event loop of its own, for the whole run.

Tests run on event loops of any scope, and a connection belongs to one loop. So databases are made
and dropped on a thread of their own; to open a connection for each would cost as much as the copy.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import URL

from tenantry.tenancy.connecting import connect

__all__ = ["Administrator"]

T = TypeVar("T")


class Administrator:
    """Runs statements and coroutines for callers that have no event loop.

    Args:
        url: A database of the server, as a role that may make databases.
    """

    def __init__(self, url: URL) -> None:
        self._url = url
        self._connection: asyncpg.Connection | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="tenantry-testing", daemon=True
        )
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what ``work`` returns, or raise what it raises."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def execute(self, *statements: str) -> None:
        """Run statements, each in its own transaction, on the connection that is kept open."""
        self.run(self._execute(statements))

    def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Return the rows of ``query``."""
        return self.run(self._fetch(query, arguments))

    def close(self) -> None:
        """Close the connection and end the thread."""
        self.run(self._disconnect())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _execute(self, statements: tuple[str, ...]) -> None:
        connection = await self._connected()
        for statement in statements:
            await connection.execute(statement)

    async def _fetch(self, query: str, arguments: tuple[object, ...]) -> list[asyncpg.Record]:
        return list(await (await self._connected()).fetch(query, *arguments))

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._url)
        return self._connection

    async def _disconnect(self) -> None:
        if self._connection is not None and not self._connection.is_closed():
            await self._connection.close(timeout=5)
        await self._loop.shutdown_asyncgens()
