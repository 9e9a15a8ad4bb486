"""What an application chooses for its door, built once at the edge and passed down."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Final
from uuid import UUID

from tenantry.auth import STANDARD, Mail, Profile
from tenantry.auth.tenants import slug_of_host
from tenantry.errors import ConfigurationError
from tenantry.settings import Settings

__all__ = ["DoorSettings", "Resolver", "host_or_body"]

Resolver = Callable[[Any, str | None], Awaitable[UUID | str | None]]
"""Names the tenant that somebody signs in to, from the framework's request and the tenant named in
the body: by id or slug; None for no tenant."""

_PREFIX: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_DOMAIN: Final = re.compile(r"[a-z0-9-]+(\.[a-z0-9-]+)*", re.IGNORECASE)


def host_or_body(base_domain: str) -> Resolver:
    """Return a resolver by the host, and on hosts that are no tenant's by the body.

    Args:
        base_domain: With ``example.com``, the host ``acme.example.com`` is the tenant ``acme``'s,
            whatever the body says.

    Raises:
        ConfigurationError: ``base_domain`` is no domain.
    """
    _check_domain(base_domain)

    async def resolve(request: Any, named: str | None) -> str | None:
        return slug_of_host(request.headers.get("host", ""), base_domain=base_domain) or named

    return resolve


def peer_address(request: Any) -> str | None:
    """Return the client's IP address as the server reports it; None for what is none."""
    try:
        return str(ip_address(request.client.host)) if request.client else None
    except ValueError:  # a socket of this machine
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class DoorSettings:
    """How requests come into an application.

    Args:
        database: Where the database is. None: as the environment says.
        profile: The security numbers.
        send: Sends a `Mail`. None: there are no routes that need one.
        sign_up: Whether anybody may become a member of any tenant, and see what its members see;
            needs ``send``.
        base_domain: With ``example.com``, the host ``acme.example.com`` is the tenant ``acme``'s,
            and no other host is a tenant's. None: the body names the tenant's slug or id.
        resolve_tenant: A `Resolver`, such as `host_or_body` makes. None: ``base_domain`` or the
            body says.
        client_address: Finds the client's IP address in the framework's request. By default it is
            the peer that the server reports; behind a proxy, have the server trust its headers.
        trusted_origins: Other origins whose pages may send requests, as ``https://x.example.com``.
        cookie_name: Of the session's cookie, without the prefix ``__Host-``.
        insecure_http: For development, plain HTTP: on this machine, and for nobody else.
        sign_in_page: Where browsers go whose user is not signed in, as ``/sign-in``, below the
            place where the application is mounted, or a whole URL. None: they are told 401, as
            programs are.
        page: Makes the HTML that people are shown of a problem, from the members of its problem
            details: ``status``, ``title``, ``detail``, the request's id as ``instance``, and of
            forms the ``errors``. Where it fails, and with None, they are told in JSON, as programs
            are.
        prefix: Where the routes of signing in are, as ``/auth``.
        max_body_bytes: Longer bodies are refused.

    Raises:
        ConfigurationError: ``sign_up`` without ``send``, or a prefix or domain that is none.
    """

    database: Settings | None = None
    profile: Profile = STANDARD
    send: Callable[[Mail], Awaitable[None]] | None = field(default=None, repr=False)
    sign_up: bool = False
    base_domain: str | None = None
    resolve_tenant: Resolver | None = None
    client_address: Callable[[Any], str | None] = peer_address
    trusted_origins: Collection[str] = ()
    cookie_name: str = "session"
    insecure_http: bool = False
    sign_in_page: str | None = None
    page: Callable[[Mapping[str, Any]], str] | None = None
    prefix: str = "/auth"
    max_body_bytes: int = 10 * 1024 * 1024

    def __post_init__(self) -> None:
        if self.sign_up and self.send is None:
            raise ConfigurationError("sign_up needs a way to send mail. Give send as well.")
        if not _PREFIX.fullmatch(self.prefix):
            raise ConfigurationError(
                f"The prefix of the routes of signing in is {self.prefix!r}; a path such as /auth "
                "is required, without a slash at its end and without parameters."
            )
        if self.base_domain is not None:
            _check_domain(self.base_domain)


def _check_domain(domain: str) -> None:
    if not _DOMAIN.fullmatch(domain):
        raise ConfigurationError(
            f"The base domain is {domain!r}; a name such as example.com is required, without a dot "
            "at either end, scheme, port and path."
        )
