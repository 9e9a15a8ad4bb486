"""Requests that go to an application directly, also where its answer never ends.

A stream of events goes on for as long as somebody listens. Here it is read until it has been silent
for a moment, and then the client is gone; so an answer always comes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

import httpx

__all__ = ["CUT", "HELD", "DirectTransport", "scope_of"]

HELD: Final = "held"
"""The extension of a request that has an event: until it is set, a stream is listened to."""
CUT: Final = "cut"
"""The extension of a response that says whether it was left before its end."""

_SILENCE_SECONDS: Final = 0.15
_SILENCE_OF_EVENTS_SECONDS: Final = 0.05
"""Streams of events are the ones that never end, so the first silence is it."""
_LONGEST_SECONDS: Final = 3.0
_ERROR: Final = 500


class DirectTransport(httpx.AsyncBaseTransport):
    """Gives each request to an application; an exception becomes a 500.

    Args:
        app: The application.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Return the answer, or as much as there was of it before a silence."""
        held: asyncio.Event | None = request.extensions.get(HELD)
        exchange = _Exchange(await request.aread(), held)
        task = asyncio.create_task(exchange.serve(self._app, scope_of(request, "http")))
        try:
            if not (cut := not await exchange.read()):
                await task  # what goes on in the background belongs to the request
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        content = b"".join(exchange.parts)
        headers = [each for each in exchange.headers if each[0].lower() != b"content-length"]
        response = httpx.Response(exchange.status or _ERROR, headers=headers, content=content)
        response.extensions[CUT] = cut
        return response


class _Exchange:
    """A request, and what has come of its answer."""

    def __init__(self, body: bytes, held: asyncio.Event | None) -> None:
        self._held = held
        self.status: int | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.parts: list[bytes] = []
        self._body: bytes | None = body
        self._messages: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()
        self._gone = asyncio.Event()

    async def serve(self, app: Any, scope: MutableMapping[str, Any]) -> None:
        try:
            await app(scope, self._receive, self._messages.put)
        except Exception:  # noqa: BLE001, S110 - as behind a server: the client sees the answer end
            pass
        finally:
            self._messages.put_nowait({"type": "ended"})

    async def read(self) -> bool:
        """Read the answer, and return whether it has come to its end."""
        until = time.monotonic() + _LONGEST_SECONDS
        try:
            while self.status is None or time.monotonic() < until or self._is_held:
                try:
                    message = await self._next(self._patience)
                except TimeoutError:
                    if self._is_held:
                        continue
                    return False
                if message["type"] == "http.response.start":
                    self.status, self.headers = message["status"], list(message.get("headers", ()))
                    until = time.monotonic() + _LONGEST_SECONDS
                elif message["type"] == "http.response.body":
                    self.parts.append(message.get("body", b""))
                if message["type"] == "ended" or _is_last(message):
                    return True
            return False
        finally:
            self._gone.set()

    @property
    def _is_held(self) -> bool:
        return self._held is not None and not self._held.is_set()

    @property
    def _patience(self) -> float | None:
        if self.status is None:
            return None
        events = any(b"text/event-stream" in value for _, value in self.headers)
        return _SILENCE_OF_EVENTS_SECONDS if events else _SILENCE_SECONDS

    async def _next(self, seconds: float | None) -> Mapping[str, Any]:
        try:
            async with asyncio.timeout(seconds):
                return await self._messages.get()
        except TimeoutError:
            # This process may have been held up, and not the application silent.
            if self._messages.empty():
                raise
            return self._messages.get_nowait()

    async def _receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}


def _is_last(message: Mapping[str, Any]) -> bool:
    return message["type"] == "http.response.body" and not message.get("more_body", False)


def scope_of(request: httpx.Request, kind: str) -> dict[str, Any]:
    """Return a request as ASGI has it.

    Args:
        request: The request.
        kind: ``http`` or ``websocket``.
    """
    return {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": request.url.scheme,
        "path": request.url.path,
        "raw_path": request.url.raw_path.partition(b"?")[0],
        "query_string": request.url.query,
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "server": (request.url.host, request.url.port),
        "client": ("127.0.0.1", 123),
    }
