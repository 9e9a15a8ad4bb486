"""An application that a real server serves, within the process of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

__all__ = ["serving"]


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # they are pytest's


@asynccontextmanager
async def serving(
    app: ASGIApp, *, certificate: Path | None = None, log_level: str = "critical"
) -> AsyncIterator[int]:
    """Serves an application with uvicorn, on a port that the system chooses."""
    pem: dict[str, Any] = {}
    if certificate is not None:
        pem = {"ssl_certfile": certificate, "ssl_keyfile": certificate}
    config = uvicorn.Config(
        app,
        port=0,
        log_config=None,
        log_level=log_level,
        ws="none",
        timeout_graceful_shutdown=5,
        **pem,
    )
    server = _Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        assert not running.done(), running.result()
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await running
