"""A way to the server that can be blocked, as by a firewall that drops what it was told to drop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sqlalchemy import URL


@dataclass
class Gateway:
    """Where it leads in, and whether anything passes; what is swallowed does not come later."""

    url: URL
    passing: bool = True
    connections: int = 0
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def cut(self) -> None:
        """Break all connections at once, without a word from the server."""
        for writer in self._writers:
            writer.transport.abort()


@asynccontextmanager
async def gateway(server: URL) -> AsyncIterator[Gateway]:
    """Yield a way to ``server`` over TCP."""
    host, port = str(server.host or server.query["host"]), server.port or 5432
    way = Gateway(server)
    tasks: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if way.passing:
                writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        way.connections += 1
        back, forth = (
            await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
            if host.startswith("/")
            else await asyncio.open_connection(host, port)
        )
        way._writers |= {writer, forth}
        for each in (copy(reader, forth), copy(back, writer)):
            tasks.add(asyncio.create_task(each))

    proxy = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = proxy.sockets[0].getsockname()
    way.url = server.set(host=address[0], port=address[1], query={"sslmode": "disable"})
    try:
        yield way
    finally:
        proxy.close()
        way.cut()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
