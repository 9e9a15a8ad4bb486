"""One request and its answer: its id, its line in the log, refusals, and who is calling."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from ipaddress import ip_address
from random import getrandbits
from time import perf_counter
from typing import Any, Final

from tenantry.asgi.credentials import is_cross_site, read_credential, read_headers
from tenantry.asgi.door import Door
from tenantry.asgi.problems import Problem
from tenantry.auth import Principal
from tenantry.errors import ConfigurationError, InvalidTokenError

__all__ = ["Exchange", "Exchanges"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_log: Final = logging.getLogger("tenantry.asgi")
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_MOST_TO_SIGN_IN: Final = 64 * 1024
"""Bytes of a body that strangers may send to the routes of signing in. To look through ten
megabytes of unknown fields takes seconds."""
_DIGITS: Final = 19
_FORWARDED: Final = frozenset(
    {b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip"}
)
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{8,64}")
_LOCAL: Final = re.compile(
    rb"(localhost|[a-z0-9-]+\.localhost|127\.0\.0\.1|\[::1\]|testserver)(:\d+)?", re.IGNORECASE
)


def _new_id() -> str:
    # Not uuid4: it asks the system for secret bytes, and this is no secret.
    return f"{getrandbits(128):032x}"


class _BodyTooLongError(Exception):
    """Goes through the application, to where the answer is given."""


class Exchange:
    """What is known of a request. It lies in the request's scope.

    Args:
        door: The application's.
        scope: The request's.
    """

    __slots__ = (
        "door",
        "drops_cookie",
        "headers",
        "is_too_long",
        "most_bytes",
        "principal",
        "request_id",
        "status",
        "used_credential",
    )

    def __init__(self, door: Door, scope: Scope) -> None:
        self.door = door
        self.headers = read_headers(scope["headers"], b"x-request-id", b"content-length")
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        is_signing_in = path.startswith(f"{door.settings.prefix}/")
        self.most_bytes = _MOST_TO_SIGN_IN if is_signing_in else door.settings.max_body_bytes
        given = self.headers.get(b"x-request-id", (b"",))[0]
        self.request_id = given.decode() if _REQUEST_ID.fullmatch(given) else _new_id()
        self.principal: Principal | None = None
        # An answer of the routes of signing in is nothing to store, whatever it says.
        self.used_credential = is_signing_in
        self.drops_cookie = False
        self.is_too_long = False
        self.status: int | None = None

    @classmethod
    def of(cls, scope: Scope) -> Exchange:
        """Return that of a request.

        Raises:
            ConfigurationError: The application has not the middleware `Exchanges`.
        """
        found = scope.get("tenantry")
        if not isinstance(found, cls):
            raise ConfigurationError("This application has no door yet. Call install(app).")
        return found

    async def authenticate(self, *, optional: bool = False) -> Principal | None:
        """Return who is calling, looked up once; None where the request shows no credential.

        Args:
            optional: Whether a cookie that is not, or no longer, good counts as none.

        Raises:
            InvalidTokenError: The credential is not good, or there are several.
            DatabaseUnavailableError: Nobody can tell.
        """
        if self.principal is not None:
            return self.principal
        self.used_credential = True
        is_cookie = True
        try:
            credential = read_credential(self.headers, self.door.cookie)
            if credential is None:
                return None
            is_cookie = credential.kind == "cookie"
            auth = self.door.auth
            look_up = auth.authenticate_api_key if credential.kind == "api_key" else auth.validate
            self.principal = await look_up(credential.text)
        except InvalidTokenError:
            # For no other reason: that the database is away signs nobody out.
            self.drops_cookie = is_cookie
            if not (optional and is_cookie):
                raise
        return self.principal

    def cookies(self) -> tuple[str | None, str | None]:
        """Return the tokens of session and device that the browser has; doubled ones are none."""
        tokens = []
        for cookie in (self.door.cookie, self.door.device_cookie):
            try:
                tokens.append(cookie.read(self.headers))
            except InvalidTokenError:
                tokens.append(None)
        return tokens[0], tokens[1]

    def session_token(self) -> str | None:
        """Return the token of the session that the request shows, if it shows one."""
        try:
            credential = read_credential(self.headers, self.door.cookie)
        except InvalidTokenError:
            return None
        return credential.text if credential and credential.kind != "api_key" else None

    def marked(self, headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Return the headers of the answer with what is ours."""
        marks = [(b"x-request-id", self.request_id.encode())]
        if self.used_credential:
            marks.append((b"cache-control", b"no-store"))
            headers = [each for each in headers if each[0].lower() != b"cache-control"]
        cookie = f"{self.door.cookie.wire_name}=".encode()
        if self.drops_cookie and not any(
            name.lower() == b"set-cookie" and value.startswith(cookie) for name, value in headers
        ):
            marks.append((b"set-cookie", self.door.cookie.gone().encode()))
        return [*headers, *marks]


class Exchanges:
    """The middleware around an application.

    It refuses what comes from other sites, and bodies that are too long; gives each request an id
    and a record in the log; and answers where the application fails.

    Args:
        app: The application.
        door: Its door.
    """

    def __init__(self, app: App, door: Door) -> None:
        self._app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        exchange = scope["tenantry"] = Exchange(self._door, scope)
        scope.setdefault("state", {})["request_id"] = exchange.request_id
        started = perf_counter()

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                if exchange.is_too_long:
                    raise _BodyTooLongError  # where a framework has made something else of it
                exchange.status = message["status"]
                message["headers"] = exchange.marked(message.get("headers", ()))
            await send(message)

        try:
            await self._serve(scope, exchange, receive, send_marked)
        except _BodyTooLongError:
            exchange.is_too_long = False
            await _answer(scope, exchange, Problem(413), send_marked)
        except Exception:
            await _answer(scope, exchange, Problem(500), send_marked)
            raise  # for the server, which logs it
        finally:
            if _log.isEnabledFor(logging.INFO):
                _record(scope, exchange, perf_counter() - started)

    async def _serve(self, scope: Scope, exchange: Exchange, receive: Receive, send: Send) -> None:
        refused = _refusal(scope, exchange)
        if refused is not None:
            await _answer(scope, exchange, refused, send)
            return
        if scope["type"] == "http":  # also where a length is given: what is sent may be another
            receive = _limited(receive, exchange)
        await self._app(scope, receive, send)


async def _answer(scope: Scope, exchange: Exchange, problem: Problem, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
    elif exchange.status is None:
        headers = [(name.encode(), value.encode()) for name, value in problem.all_headers().items()]
        start = {"type": "http.response.start", "status": problem.status, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": problem.body(exchange.request_id)})


def _refusal(scope: Scope, exchange: Exchange) -> Problem | None:
    door, headers = exchange.door, exchange.headers
    if not door.secure and not _is_local(scope, headers.get(b"host", ())):
        return Problem(403, detail="Development over plain HTTP is for the same machine only.")
    is_unsafe = scope["type"] == "websocket" or scope["method"] not in _SAFE
    if is_unsafe and is_cross_site(headers, secure=door.secure, trusted=door.trusted):
        return Problem(403, detail="This comes from another site, or does not say from where.")
    for length in headers.get(b"content-length", ()):
        is_number = length.isdigit() and len(length) <= _DIGITS
        if not is_number or int(length) > exchange.most_bytes:
            return Problem(413)
    return None


def _is_local(scope: Scope, hosts: Sequence[bytes]) -> bool:
    client = (scope.get("client") or ("",))[0]
    try:
        near = ip_address(client.partition("%")[0]).is_loopback
    except ValueError:
        near = client in {"", "testclient"}  # a socket of this machine, or a client in a test
    is_forwarded = any(name in _FORWARDED for name, _ in scope["headers"])
    return near and not is_forwarded and all(_LOCAL.fullmatch(host) for host in hosts)


def _limited(receive: Receive, exchange: Exchange) -> Receive:
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > exchange.most_bytes:
            exchange.is_too_long = True
            raise _BodyTooLongError
        return message

    return limited


def _record(scope: Scope, exchange: Exchange, seconds: float) -> None:
    # The route's template and not the path: a path may hold a token, as a query may. FastAPI keeps
    # the whole one, with all prefixes, in a place of its own since it includes routers lazily.
    route = scope.get("fastapi", {}).get("effective_route_context") or scope.get("route")
    principal = exchange.principal
    fields = {
        "method": scope.get("method", "WEBSOCKET"),
        "route": getattr(route, "path", None),
        "status": exchange.status,
        "duration_ms": round(seconds * 1000, 2),
        "tenant_id": None if principal is None else str(principal.tenant_id),
        "request_id": exchange.request_id,
    }
    _log.info("%(method)s %(route)s %(status)s in %(duration_ms)s ms", fields, extra=fields)
