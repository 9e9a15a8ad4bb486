"""A conversation over a WebSocket, held without a network."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from tenantry.testing.direct import scope_of

__all__ = ["ACCEPTED", "Conversation", "converse"]

ACCEPTED: Final = 101
_REFUSED: Final = 403
_FAILED_EARLY: Final = 500
_FAILED: Final = 1011
_TIDY: Final = (1000, 1001, 1005)
_SILENCE_SECONDS: Final = 0.2
_GRACE_SECONDS: Final = 0.02
"""The application waits for us; what another task of it sends may still come."""
_LONGEST_SECONDS: Final = 2.0


@dataclass
class Conversation:
    """What has come of one or more connections.

    Args:
        status: 101, or why it was refused or closed: an HTTP status, or a code of WebSockets.
        heard: All that was received, headers included.
        replies: How many messages were among it.
    """

    status: int = 0
    heard: list[str] = field(default_factory=list)
    replies: int = 0


async def converse(
    app: Any,
    request: httpx.Request,
    messages: Sequence[str],
    *,
    held: asyncio.Event | None = None,
) -> Conversation:
    """Connect, say one message after the other, and listen.

    A connection that is closed after a message is made anew for the next ones.

    Args:
        app: The application.
        request: The request that opens it.
        messages: What to say.
        held: Until it is set, the last connection is listened to.
    """
    made, left = Conversation(), list(messages)
    request.headers.setdefault("Origin", f"https://{request.headers['Host']}")
    while True:
        line = _Line(app, request)
        try:
            await line.settle()
            while left and line.is_open:
                await line.say(left.pop(0))
            if held is not None and not left:
                await held.wait()
            await line.settle(_GRACE_SECONDS)
        finally:
            await line.hang_up()
        made.heard += line.heard
        made.replies += line.replies
        # Accepted once, it counts as that, unless each time it was closed without a word.
        made.status = ACCEPTED if made.replies else line.status
        if not left or not line.accepted:
            return made


class _Line:
    """One connection."""

    def __init__(self, app: Any, request: httpx.Request) -> None:
        self.accepted = False
        self.heard: list[str] = []
        self.replies = 0
        self._code: int | None = None
        self._incoming: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()
        self._changed = asyncio.Event()
        self._waits = False
        scope = {**scope_of(request, "websocket"), "scheme": "wss", "subprotocols": []}
        del scope["method"]
        scope["extensions"] = {"websocket.http.response": {}}
        self._incoming.put_nowait({"type": "websocket.connect"})
        self._task = asyncio.create_task(self._serve(app, scope))

    @property
    def is_open(self) -> bool:
        return self.accepted and self._code is None and not self._task.done()

    @property
    def status(self) -> int:
        if not self.accepted:
            return self._code or _FAILED_EARLY
        return ACCEPTED if self._code is None or self._code in _TIDY else self._code

    async def say(self, text: str) -> None:
        self._waits = False
        self._incoming.put_nowait({"type": "websocket.receive", "text": text})
        await self.settle()

    async def settle(self, grace: float = 0.0) -> None:
        """Wait until the application waits for us, is silent for a while, or has ended."""
        until = time.monotonic() + _LONGEST_SECONDS
        while not self._task.done() and time.monotonic() < until:
            if self._waits and not grace:
                return
            self._changed.clear()
            try:
                async with asyncio.timeout(grace if self._waits else _SILENCE_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                return

    async def hang_up(self) -> None:
        self._incoming.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await asyncio.wait([self._task], timeout=_SILENCE_SECONDS)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _serve(self, app: Any, scope: dict[str, Any]) -> None:
        try:
            await app(scope, self._receive, self._send)
        except Exception:  # noqa: BLE001 - as behind a server: it is closed
            self._code = self._code or (_FAILED if self.accepted else _FAILED_EARLY)
        finally:
            self._changed.set()

    async def _receive(self) -> Mapping[str, Any]:
        if self._incoming.empty():
            self._waits = True
            self._changed.set()
        return await self._incoming.get()

    async def _send(self, message: Mapping[str, Any]) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            self.accepted = True
        elif kind == "websocket.send":
            self.replies += 1
            self.heard.append(_text(message.get("text") or message.get("bytes") or ""))
        elif kind == "websocket.close":
            self._code = message.get("code", 1000) if self.accepted else _REFUSED
            self.heard.append(f"closed with {self._code}: {message.get('reason') or ''}")
        elif kind == "websocket.http.response.start":
            self._code = message["status"]
        else:
            self.heard.append(_text(message.get("body", b"")))
        self.heard += [f"{_text(n)}: {_text(v)}" for n, v in message.get("headers", ())]
        self._changed.set()


def _text(content: str | bytes) -> str:
    return content if isinstance(content, str) else content.decode("utf-8", "replace")
