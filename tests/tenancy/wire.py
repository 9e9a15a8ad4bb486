"""What goes over the wire, recorded by a proxy between the driver and the server."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sqlalchemy import URL

# After each of these the driver waits for the server.
_WAITED_FOR = {b"Q": "query", b"S": "sync", b"H": "flush"}


@dataclass
class Wire:
    """The client's messages that the server has to answer, in order."""

    url: URL
    messages: list[tuple[str, str]] = field(default_factory=list)

    @property
    def round_trips(self) -> int:
        """How often the client has waited for the server."""
        return len(self.messages)

    @property
    def queries(self) -> list[str]:
        """The text of the simple queries."""
        return [text for kind, text in self.messages if kind == "query"]


@asynccontextmanager
async def recorded(server: URL) -> AsyncIterator[Wire]:
    """Yield a URL that leads to `server`, and what is sent through it."""
    host = str(server.host or server.query["host"])
    port = server.port or 5432
    wire = Wire(server)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        current = asyncio.current_task()
        assert current is not None
        tasks.add(current)
        upstream = (
            await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
            if host.startswith("/")
            else await asyncio.open_connection(host, port)
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(_forward(reader, upstream[1], wire))
            group.create_task(_copy(upstream[0], writer))
        writer.close()
        upstream[1].close()

    proxy = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = proxy.sockets[0].getsockname()
    wire.url = server.set(host=address[0], port=address[1], query={"sslmode": "disable"})
    try:
        yield wire
    finally:
        proxy.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wire: Wire) -> None:
    length = await reader.readexactly(4)  # the first message has no kind
    writer.write(length + await reader.readexactly(struct.unpack("!I", length)[0] - 4))
    while head := await reader.read(1):
        head += await reader.readexactly(4)
        body = await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)
        if head[:1] in _WAITED_FOR:
            wire.messages.append((_WAITED_FOR[head[:1]], body.rstrip(b"\0").decode()))
        writer.write(head + body)
        await writer.drain()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()  # the server has hung up, which the client waits for
