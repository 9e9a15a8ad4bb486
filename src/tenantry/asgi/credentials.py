"""What a request says of who sends it, and from where: credentials, cookies, other sites.

Headers are ASGI's: names in lower case, and all values of each, as bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal, NamedTuple

from tenantry.errors import ConfigurationError, InvalidTokenError

__all__ = [
    "HEADERS",
    "Cookie",
    "Credential",
    "Headers",
    "bearer_tokens",
    "check_origins",
    "has_header",
    "is_cross_site",
    "read_credential",
    "read_headers",
]

Headers = Mapping[bytes, Sequence[bytes]]

HEADERS: Final = frozenset(
    {b"authorization", b"cookie", b"host", b"origin", b"sec-fetch-site", b"x-api-key"}
)
"""The headers that the functions here look at."""

_COOKIE_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,60}")
_ORIGIN: Final = re.compile(r"https?://[a-z0-9.\-\[\]:]+")


class Credential(NamedTuple):
    """What a request shows of who sends it, not yet looked up.

    Args:
        kind: How it came; ``api_key`` also where it came as a bearer token.
        text: The session token or API key.
    """

    kind: Literal["cookie", "bearer", "api_key"]
    text: str


@dataclass(frozen=True, slots=True)
class Cookie:
    """A cookie that holds a token.

    Args:
        name: As in the setting; on the wire with ``__Host-``, where it is secure: then no other
            host of the domain, and nobody on a plain connection, can set it.
        secure: False only where a developer's browser talks plain HTTP to its own machine.

    Raises:
        ConfigurationError: The name has other letters than ``A-Za-z0-9_-``, or too many.
    """

    name: str
    secure: bool = True

    def __post_init__(self) -> None:
        if not _COOKIE_NAME.fullmatch(self.name):
            raise ConfigurationError(
                f"The cookie's name is {self.name!r}; 1 to 60 letters of A-Z, a-z, 0-9, _ and - "
                "are required."
            )

    @property
    def wire_name(self) -> str:
        """The name that browsers see."""
        return f"__Host-{self.name}" if self.secure else self.name

    def holding(self, token: str, *, lifetime: timedelta) -> str:
        """Return the value of ``Set-Cookie`` that has a browser keep ``token``."""
        flags = "; Secure" if self.secure else ""
        return (
            f"{self.wire_name}={token}; Path=/; Max-Age={int(lifetime.total_seconds())}"
            f"; HttpOnly; SameSite=Lax{flags}"
        )

    def gone(self) -> str:
        """Return the value of ``Set-Cookie`` that has a browser forget it."""
        return self.holding("", lifetime=timedelta(0))

    def read(self, headers: Headers) -> str | None:
        """Return what it holds in a request, or None.

        Raises:
            InvalidTokenError: It is there more than once, and nobody can tell which one is meant.
        """
        found = self.read_all(headers)
        if len(found) > 1:
            raise InvalidTokenError("The session's cookie was sent twice. Sign in again.")
        return found[0] if found else None

    def read_all(self, headers: Headers) -> list[str]:
        """Return what it holds in a request, as often as it is there."""
        wanted = self.wire_name.encode() + b"="
        return [
            part[len(wanted) :].decode("latin-1")
            for header in headers.get(b"cookie", ())
            for part in map(bytes.strip, header.split(b";"))
            if part.startswith(wanted)
        ]


def read_headers(raw: Iterable[tuple[bytes, bytes]], *also: bytes) -> dict[bytes, list[bytes]]:
    """Return those of a request's headers that are in `HEADERS` or ``also``."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in raw:
        if name in HEADERS or name in also:
            found.setdefault(name, []).append(value)
    return found


def read_credential(headers: Headers, cookie: Cookie) -> Credential | None:
    """Return what a request shows; a header goes before the cookie, which then counts for nothing.

    Raises:
        InvalidTokenError: There is more than one of a kind.
    """
    given = [(b"", key) for key in headers.get(b"x-api-key", ())]
    given += [(b"bearer", token) for token in _bearer_tokens(headers)]
    if len(given) > 1:
        raise InvalidTokenError("The request holds more than one credential. Send one.")
    if given:
        text = given[0][1].decode("latin-1")
        is_key = given[0][0] == b"" or text.startswith("tnt_")
        return Credential("api_key" if is_key else "bearer", text)
    text_or_none = cookie.read(headers)
    return None if text_or_none is None else Credential("cookie", text_or_none)


def bearer_tokens(headers: Headers) -> list[str]:
    """Return the bearer tokens of a request, be they good or not."""
    return [token.decode("latin-1") for token in _bearer_tokens(headers)]


def has_header(headers: Headers) -> bool:
    """Return whether a request shows a credential in a header, be it good or not."""
    return b"x-api-key" in headers or bool(_bearer_tokens(headers))


def is_cross_site(headers: Headers, *, secure: bool, trusted: frozenset[str]) -> bool:
    """Return whether a request that changes something may come from a page of somebody else's.

    A bearer token or API key in a header is nothing that a page of another site can have a browser
    send. Else browsers say where a request comes from, in ``Sec-Fetch-Site`` or, older ones, in
    ``Origin``; what says neither is no browser, and passes only without cookies.

    Args:
        headers: The request's.
        secure: Whether the site is one of HTTPS.
        trusted: Other origins that may send requests, as ``https://app.example.com``.
    """
    if has_header(headers):
        return False
    sites, origins = headers.get(b"sec-fetch-site", ()), headers.get(b"origin", ())
    if len(sites) > 1 or len(origins) > 1:
        return True
    origin = origins[0].decode("latin-1") if origins else None
    if origin in trusted:
        return False
    if sites:
        return sites[0] not in {b"same-origin", b"none"}
    if origin is None:
        return b"cookie" in headers
    hosts = [host.decode("latin-1").lower() for host in headers.get(b"host", ())]
    return [origin] != [f"{'https' if secure else 'http'}://{host}" for host in hosts]


def check_origins(origins: Iterable[str]) -> frozenset[str]:
    """Return the origins as a set.

    Raises:
        ConfigurationError: One is not as browsers write it.
    """
    # A str would be an iterable of its letters.
    listed = [origins] if isinstance(origins, str) else list(origins)
    for origin in listed:
        if not _ORIGIN.fullmatch(origin):
            raise ConfigurationError(
                f"The trusted origin {origin!r} is none; https://app.example.com is required, in "
                "lower case and without a path."
            )
    return frozenset(listed)


def _bearer_tokens(headers: Headers) -> list[bytes]:
    # Other schemes, such as the Basic of a gateway, are not ours. Without a token it is still ours:
    # the empty one, which opens nothing.
    parts = (value.split(maxsplit=1) for value in headers.get(b"authorization", ()))
    return [b"".join(each[1:]).strip() for each in parts if each and each[0].lower() == b"bearer"]
