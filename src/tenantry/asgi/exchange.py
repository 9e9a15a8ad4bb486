"""What is known of one request: its id, who is calling, and what its answer does to cookies."""

from __future__ import annotations

import re
from collections.abc import MutableMapping, Sequence
from http import HTTPStatus
from random import getrandbits
from typing import TYPE_CHECKING, Any, Final

from tenantry.asgi.credentials import (
    bearer_tokens,
    has_header,
    read_credential,
    read_headers,
)
from tenantry.auth import Principal
from tenantry.errors import AuthenticationError, ConfigurationError, InvalidTokenError

if TYPE_CHECKING:
    from tenantry.asgi.door import Door

__all__ = ["Exchange", "Scope", "path_of"]

Scope = MutableMapping[str, Any]

_MOST_TO_SIGN_IN: Final = 64 * 1024
"""Bytes of a body that strangers may send to the routes of signing in. To look through ten
megabytes of unknown fields takes seconds."""
_MOST_SESSIONS: Final = 4
"""Of a kind that a request may have ended. Strangers may send as many as fit into its headers, and
the database is asked for each."""
_HEALTH: Final = frozenset({"/healthz", "/readyz"})
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{8,64}")


def _new_id() -> str:
    # Not uuid4: it asks the system for secret bytes, and this is no secret.
    return f"{getrandbits(128):032x}"


def path_of(scope: Scope) -> str:
    """Return a request's path below the place where the application is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if path.startswith(f"{root}/") else path


class Exchange:
    """What is known of a request. It lies in the request's scope.

    Args:
        door: The application's.
        scope: The request's.
    """

    __slots__ = (
        "door",
        "drops_cookie",
        "found_nobody",
        "headers",
        "most_bytes",
        "new_cookies",
        "principal",
        "refused",
        "request_id",
        "status",
        "used_credential",
    )

    def __init__(self, door: Door, scope: Scope) -> None:
        self.door = door
        self.headers = read_headers(scope["headers"], b"x-request-id", b"content-length")
        is_signing_in = path_of(scope).startswith(f"{door.settings.prefix}/")
        self.most_bytes = _MOST_TO_SIGN_IN if is_signing_in else door.settings.max_body_bytes
        given = self.headers.get(b"x-request-id", (b"",))[0]
        self.request_id = given.decode() if _REQUEST_ID.fullmatch(given) else _new_id()
        self.principal: Principal | None = None
        self.found_nobody = False
        # An answer of the routes of signing in is nothing to store, whatever it says; nor is what
        # the application's health was.
        self.used_credential = is_signing_in or path_of(scope) in _HEALTH
        self.drops_cookie = False
        self.new_cookies: Sequence[str] = ()
        self.refused: Exception | None = None
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

    @property
    def has_header(self) -> bool:
        """Whether the request shows a credential in a header, beside which a cookie is nothing."""
        return has_header(self.headers)

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
        try:
            credential = read_credential(self.headers, self.door.cookie)
            if credential is None:
                self.found_nobody = True
                return None
            auth = self.door.auth
            look_up = auth.authenticate_api_key if credential.kind == "api_key" else auth.validate
            self.principal = await look_up(credential.text)
        except InvalidTokenError:
            self.found_nobody = True
            # The cookie is not deleted: an answer that comes late would delete a newer one.
            if self.has_header or not optional:
                raise
        return self.principal

    async def caller(self) -> Principal:
        """Return who is calling.

        Raises:
            AuthenticationError: Nobody is, or the credential is not good.
            DatabaseUnavailableError: Nobody can tell.
        """
        if (principal := await self.authenticate()) is None:
            raise AuthenticationError("Nobody is signed in. Sign in, or send a token or API key.")
        return principal

    def cookies(self) -> tuple[list[str], str | None]:
        """Return the tokens of sessions and device that the browser has; a doubled device is none.

        Of sessions there is one, but where something else has planted another beside it.
        """
        sessions = self.door.cookie.read_all(self.headers)[:_MOST_SESSIONS]
        try:
            return sessions, self.door.device_cookie.read(self.headers)
        except InvalidTokenError:
            return sessions, None

    def session_tokens(self) -> list[str]:
        """Return the tokens that the request shows, whatever other credential is beside them."""
        return [*bearer_tokens(self.headers)[:_MOST_SESSIONS], *self.cookies()[0]]

    def marked(self, headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Return the headers of the answer with what is ours."""
        marks = [(b"x-request-id", self.request_id.encode())]
        if self.used_credential:
            marks.append((b"cache-control", b"no-store"))
            headers = [each for each in headers if each[0].lower() != b"cache-control"]
        if self.status == HTTPStatus.NO_CONTENT:  # FastAPI calls even nothing JSON
            headers = [each for each in headers if each[0].lower() != b"content-type"]
        if self.new_cookies:
            marks += [(b"set-cookie", cookie.encode()) for cookie in self.new_cookies]
        elif self.drops_cookie:
            marks.append((b"set-cookie", self.door.cookie.gone().encode()))
        return [*headers, *marks]
