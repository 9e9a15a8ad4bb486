"""Asking an application, within limits, and what is remembered of its answer."""

from __future__ import annotations

import asyncio
import io
import re
import time
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

import httpx

from tenantry.testing.applications import RunningApp, Walker
from tenantry.testing.direct import CUT, HELD
from tenantry.testing.openapi import Operation
from tenantry.testing.requesting import Filled, mentioned, request_of
from tenantry.testing.sockets import converse

__all__ = ["Answer", "Asker", "Limits", "OutOfLimitsError"]

_SECONDS: Final = 10.0
_FIRST_OF_ERRORS: Final = 400
_FIELDS_OF_AN_ERROR: Final = 3
_LONGEST_CHAIN: Final = 4
_LARGEST_FILE: Final = 10_000_000
_ZIP, _GZIP = b"PK\x03\x04", b"\x1f\x8b"
# What differs from answer to answer without saying anything. Long ones first: of an id such as
# 1f…, the digit alone would be taken, and the rest would differ.
_VOLATILE: Final = re.compile(
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{16,}"
    r"|(?<!\d)(?<!closed with )\d+(\.\d+)?"
)


_IDS: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{16,}")
_OF_EVERY_ANSWER: Final = frozenset({"date", "content-length", "x-request-id", "set-cookie"})


class OutOfLimitsError(Exception):
    """As many requests were sent, or as much time has passed, as was allowed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a walk may go."""

    requests: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Args:
        status: The HTTP status; 0 where no answer came in time.
        text: Headers and body, in lower case.
        headers: Those that say something, of the first answer.
        body: The body in lower case.
        parsed: The body as JSON, or None.
        sent: All that the request has said.
        line: The request, for people.
        said: Whether it was answered to, as a WebSocket need not.
        endless: Whether it goes on for as long as somebody listens.
    """

    status: int
    text: str = field(repr=False)
    body: str = field(repr=False)
    parsed: Any = field(repr=False)
    sent: str = field(repr=False)
    line: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    said: bool = True
    endless: bool = False

    @property
    def ok(self) -> bool:
        """Whether the operation was carried out."""
        return 0 < self.status < _FIRST_OF_ERRORS

    @property
    def shape(self) -> tuple[int, str]:
        """The answer without what is repeated of the request, and without numbers and ids."""
        return self.status, _VOLATILE.sub("#", self._without_what_was_sent(self.body))

    @property
    def exactly(self) -> tuple[int, str, tuple[tuple[str, str], ...]]:
        """Status, body and headers without what is repeated of the request, and without ids."""
        clean = [
            (name, _IDS.sub("#", self._without_what_was_sent(value)))
            for name, value in self.headers.items()
        ]
        body = _IDS.sub("#", self._without_what_was_sent(self.body))
        return self.status, body, tuple(clean)

    def _without_what_was_sent(self, text: str) -> str:
        for word in sorted(set(re.findall(r"[\w.@-]{6,}", self.sent)), key=len, reverse=True):
            text = text.replace(word, "*")
        return text

    @property
    def complaint(self) -> str:
        """Why it was refused: the status, and the names of fields, but no values."""
        if self.status == 0:
            return f"no answer within {_SECONDS:.0f} s"
        detail = self.parsed.get("detail") if isinstance(self.parsed, dict) else None
        fields = [
            f"{'.'.join(map(str, each.get('loc', ())))} ({each.get('type')})"
            for each in (detail if isinstance(detail, list) else ())
            if isinstance(each, dict)
        ]
        return " ".join([str(self.status), *fields[:_FIELDS_OF_AN_ERROR]])


class Asker:
    """Sends requests and counts them.

    Args:
        running: The application.
        limits: How far to go.
    """

    def __init__(self, running: RunningApp, limits: Limits) -> None:
        self._running = running
        self._limits = limits
        self._until = time.monotonic() + limits.seconds
        self.count = 0

    async def ask(
        self,
        client: httpx.AsyncClient,
        operation: Operation,
        filled: Filled,
        *,
        held: asyncio.Event | None = None,
    ) -> Answer:
        """Send one request.

        Args:
            client: Who asks.
            operation: What.
            filled: With which values.
            held: Until it is set, what goes on is listened to.

        Raises:
            OutOfLimitsError: There is no request or no time left.
        """
        self._spend()
        request = request_of(operation, filled)
        line, sent = _line(request), mentioned(request)
        messages = request.pop("messages", ())
        _keep_cookies(client, request)
        if operation.by_key and isinstance(client, Walker) and client.api_key is not None:
            request["headers"] = {**request["headers"], "Authorization": f"Bearer {client.api_key}"}
        try:
            async with asyncio.timeout(_SECONDS if held is None else None):
                if operation.is_socket:
                    opening = client.build_request(**{**request, "method": "GET"})
                    talk = await converse(self._running, opening, messages, held=held)
                    answer = _answer(talk.status, "\n".join(talk.heard), "", sent, line)
                    return replace(answer, said=talk.replies > 0)
                response = await client.request(**request, extensions={HELD: held})
                landed = await self._follow(client, response)
        except TimeoutError:
            return Answer(0, "", "", None, sent, line)
        headers = "\n".join(f"{n}: {v}" for each in landed for n, v in each.headers.items())
        body = "\n".join(_readable(each) for each in landed)
        answer = _answer(response.status_code, body, headers, sent, line, _parsed(response))
        told = {
            name.lower(): value.lower()
            for name, value in response.headers.items()
            if name.lower() not in _OF_EVERY_ANSWER
        }
        return replace(answer, headers=told, endless=bool(response.extensions.get(CUT)))

    async def _follow(
        self, client: httpx.AsyncClient, response: httpx.Response
    ) -> list[httpx.Response]:
        """Return the answer, and those to which it leads within the application."""
        found = [response]
        while (onward := found[-1].next_request) is not None and len(found) < _LONGEST_CHAIN:
            if onward.url.host != response.request.url.host:
                break
            self._spend()
            found.append(await client.send(onward))
        return found

    def _spend(self) -> None:
        if self.count >= self._limits.requests or time.monotonic() > self._until:
            raise OutOfLimitsError
        self.count += 1


def _readable(response: httpx.Response) -> str:
    """Return the text of an answer; of an archive, that of its files."""
    content = response.content
    if content.startswith(_ZIP):
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                content = b"\n".join(
                    each.filename.encode() + b"\n" + archive.read(each)
                    for each in archive.infolist()
                    if each.file_size < _LARGEST_FILE
                )
        except zipfile.BadZipFile:
            return response.text
    elif content.startswith(_GZIP):
        with suppress(zlib.error):
            content = zlib.decompressobj(wbits=31).decompress(content, _LARGEST_FILE)
    # Of UTF-16, as spreadsheets write it, every second byte of what we look for is zero.
    return content.replace(b"\0", b"").decode("utf-8", "replace")


def _keep_cookies(client: httpx.AsyncClient, request: dict[str, Any]) -> None:
    """Add the client's cookie to those of the request, which would else take its place."""
    own, more = client.headers.get("Cookie"), request["headers"].get("Cookie")
    if own and more:
        request["headers"] = {**request["headers"], "Cookie": f"{own}; {more}"}


def _answer(
    status: int, body: str, headers: str, sent: str, line: str, parsed: Any = None
) -> Answer:
    body = body.lower()
    return Answer(status, f"{headers}\n{body}".lower(), body, parsed, sent, line)


def _parsed(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _line(request: Mapping[str, Any]) -> str:
    options = "".join(
        f", {name}={request[name]!r}"
        for name in ("params", "headers", "json", "data", "files", "messages")
        if request.get(name)
    )
    return f"client.request({request['method']!r}, {request['url']!r}{options})"
