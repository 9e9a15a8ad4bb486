"""The middleware around an application: ids, records in the log, refusals, and failures."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from http import HTTPStatus
from ipaddress import ip_address
from time import perf_counter
from typing import Any, Final

from tenantry.asgi.answers import answer, cause_of
from tenantry.asgi.callers import needs_caller, route_of
from tenantry.asgi.credentials import Headers, is_cross_site
from tenantry.asgi.door import Door
from tenantry.asgi.exchange import Exchange, Scope
from tenantry.asgi.problems import Problem, problem_of
from tenantry.errors import TenantryError

__all__ = ["Exchanges"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_log: Final = logging.getLogger("tenantry.asgi")
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_DIGITS: Final = 19
_FORWARDED: Final = re.compile(rb"forwarded|via|x-forwarded-.+|x-real-ip")
_LOCAL: Final = re.compile(
    rb"(localhost|[a-z0-9-]+\.localhost|127\.0\.0\.1|\[::1\]|testserver)(:\d+)?", re.IGNORECASE
)
_LOCAL_PAGE: Final = re.compile(f"https?://{_LOCAL.pattern.decode()}", re.IGNORECASE)


class _BodyRefusedError(Exception):
    """Goes through the application, to where the answer is given."""

    def __init__(self, problem: Problem, cause: Exception | None = None) -> None:
        super().__init__(problem.status)
        self.problem = problem
        self.cause = cause


class _ClientGoneError(OSError):
    """What a server has raised because nobody is there to be sent anything."""


class Exchanges:
    """The middleware around an application.

    It refuses what comes from other sites, bodies that are too long, and those of strangers where
    the route asks for a caller; gives each request an id and a record in the log; and answers where
    the application fails. That a client has gone away is no failure: nothing is answered then.

    Args:
        app: The application.
        door: Its door.
        left: The errors with which its framework tells it that the client has gone away.
    """

    def __init__(self, app: App, door: Door, left: tuple[type[Exception], ...] = ()) -> None:
        self._app = app
        self._door = door
        self._left: tuple[type[Exception], ...] = (*left, _ClientGoneError)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        exchange = scope["tenantry"] = Exchange(self._door, scope)
        scope.setdefault("state", {})["request_id"] = exchange.request_id
        started = perf_counter()
        sending = _Sending(send, exchange)
        try:
            await self._serve(scope, exchange, receive, sending)
            await sending.end()
        except _BodyRefusedError as error:
            exchange.refused = None
            await _answer(scope, exchange, error.problem, sending.now, cause=error.cause)
        except self._left:
            _log.debug("the client has gone away, request %s", exchange.request_id)
        except Exception as error:
            # Errors of an application that is mounted below have passed by our answers to them.
            known = problem_of(cause_of(error)) if sending.held else None
            await _answer(scope, exchange, known or Problem(500), sending.now, cause=error)
            if known is None:
                raise  # for the server, which logs where it came from
        finally:
            if _log.isEnabledFor(logging.INFO):
                _record(scope, exchange, perf_counter() - started)

    async def _serve(self, scope: Scope, exchange: Exchange, receive: Receive, send: Send) -> None:
        refused = _refusal(scope, exchange)
        if refused is not None:
            await _answer(scope, exchange, refused, send)
            return
        if scope["type"] == "http":  # also where a length is given: what is sent may be another
            receive = _guarded(receive, scope, exchange)
        await self._app(scope, receive, send)


class _Sending:
    """Sends an answer, with what is ours in its headers.

    A 500 is held back until its request has ended: whoever is outside of what has sent it may be
    told yet what it comes from, and know better.
    """

    def __init__(self, send: Send, exchange: Exchange) -> None:
        self._send = send
        self._exchange = exchange
        self.held: list[Message] = []

    async def __call__(self, message: Message) -> None:
        if self.held or message.get("status") == HTTPStatus.INTERNAL_SERVER_ERROR:
            self.held.append(message)
            if message.get("more_body"):  # a stream, which does not wait for its end
                await self.end()
        else:
            await self.now(message)

    async def end(self) -> None:
        """Send what is held back."""
        held, self.held = self.held, []
        for message in held:
            await self.now(message)

    async def now(self, message: Message) -> None:
        exchange = self._exchange
        if message["type"] == "http.response.start":
            if exchange.refused is not None:
                raise exchange.refused  # where a framework has made something else of it
            exchange.status = message["status"]
            message["headers"] = exchange.marked(message.get("headers", ()))
        try:
            await self._send(message)
        except OSError as error:
            raise _ClientGoneError from error


async def _answer(
    scope: Scope,
    exchange: Exchange,
    problem: Problem,
    send: Send,
    *,
    cause: Exception | None = None,
) -> None:
    status, headers, body = answer(scope, problem, cause=cause)
    with suppress(_ClientGoneError):  # what went wrong first is what to tell the server
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif exchange.status is None:
            raw = [(name.encode(), value.encode()) for name, value in headers.items()]
            await send({"type": "http.response.start", "status": status, "headers": raw})
            await send({"type": "http.response.body", "body": body})


def _refusal(scope: Scope, exchange: Exchange) -> Problem | None:
    door, headers = exchange.door, exchange.headers
    if not door.secure and not _is_local(scope, headers, door.trusted):
        return Problem(403, detail="Development over plain HTTP is for the same machine only.")
    is_unsafe = scope["type"] == "websocket" or scope["method"] not in _SAFE
    if is_unsafe and is_cross_site(headers, secure=door.secure, trusted=door.trusted):
        return Problem(403, detail="This comes from another site, or does not say from where.")
    for length in headers.get(b"content-length", ()):
        is_number = length.isdigit() and len(length) <= _DIGITS
        if not is_number or int(length) > exchange.most_bytes:
            return Problem(413)
    return None


def _is_local(scope: Scope, headers: Headers, trusted: frozenset[str]) -> bool:
    client = (scope.get("client") or ("",))[0]
    try:
        near = ip_address(client.partition("%")[0]).is_loopback
    except ValueError:
        near = client in {"", "testclient"}  # a socket of this machine, or a client in a test
    is_forwarded = any(_FORWARDED.fullmatch(name) for name, _ in scope["headers"])
    # Behind a proxy that does not say so, only the page tells that its browser is elsewhere.
    pages = (each.decode("latin-1") for each in headers.get(b"origin", ()))
    return (
        near
        and not is_forwarded
        and all(_LOCAL.fullmatch(host) for host in headers.get(b"host", ()))
        and all(page in trusted or _LOCAL_PAGE.fullmatch(page) for page in pages)
    )


def _guarded(receive: Receive, scope: Scope, exchange: Exchange) -> Receive:
    received: int | None = None

    async def guarded() -> Message:
        nonlocal received
        if received is None:
            received = 0
            await _require_caller(scope, exchange)
        message = await receive()
        received += len(message.get("body", b""))
        if received > exchange.most_bytes:
            exchange.refused = _BodyRefusedError(Problem(413))
            raise exchange.refused
        return message

    return guarded


async def _require_caller(scope: Scope, exchange: Exchange) -> None:
    # FastAPI would read and parse the whole body before it asks who sends it.
    if needs_caller(scope):
        try:
            await exchange.caller()
        except TenantryError as error:
            exchange.refused = _BodyRefusedError(problem_of(error) or Problem(500), error)
            raise exchange.refused from error


def _record(scope: Scope, exchange: Exchange, seconds: float) -> None:
    principal = exchange.principal
    fields = {
        "method": scope.get("method", "WEBSOCKET"),
        # The route's template and not the path: a path may hold a token, as a query may.
        "route": getattr(route_of(scope), "path", None),
        "status": exchange.status,
        "duration_ms": round(seconds * 1000, 2),
        "tenant_id": None if principal is None else str(principal.tenant_id),
        "request_id": exchange.request_id,
    }
    _log.info("%(method)s %(route)s %(status)s in %(duration_ms)s ms", fields, extra=fields)
