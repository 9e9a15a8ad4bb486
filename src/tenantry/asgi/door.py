"""The state of one web application: how its door is set, and what is open behind it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

from tenantry.asgi.callers import user_of
from tenantry.asgi.credentials import Cookie, check_origins
from tenantry.asgi.exchange import Exchange
from tenantry.asgi.readiness import Readiness
from tenantry.asgi.settings import DoorSettings
from tenantry.auth import Auth, Principal, SignedIn
from tenantry.auth.tenants import TenantFinder, slug_of_host
from tenantry.database import Database
from tenantry.errors import ConfigurationError, TenantUnknownError

__all__ = ["Door"]

_log: Final = logging.getLogger("tenantry.asgi")


class _Opened(NamedTuple):
    db: Database
    auth: Auth
    tenants: TenantFinder
    readiness: Readiness


class Door:
    """How requests come in.

    Args:
        settings: As the application has chosen.

    Raises:
        ConfigurationError: The cookie's name or an origin cannot be used.
    """

    def __init__(self, settings: DoorSettings) -> None:
        self.settings = settings
        self.secure: Final = not settings.insecure_http
        self.cookie: Final = Cookie(settings.cookie_name, secure=self.secure)
        self.device_cookie: Final = Cookie(f"{settings.cookie_name}-device", secure=self.secure)
        self.trusted: Final = check_origins(settings.trusted_origins)
        self._opened: _Opened | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Database]:
        """Connect to the database, and close it at the end of the block.

        Raises:
            TenantryError: As `Database.connect` says.
        """
        settings = self.settings
        if settings.insecure_http:
            _log.warning(
                "INSECURE: tokens go over plain HTTP, in a cookie that is not Secure. This is for "
                "development: only clients on this machine are served."
            )
        async with Database.connect(settings=settings.database) as db:
            auth = Auth(db, profile=settings.profile, send=settings.send)
            self._opened = _Opened(db, auth, TenantFinder(db), Readiness(db.ping))
            try:
                yield db
            finally:
                self._opened = None

    @property
    def db(self) -> Database:
        """The database."""
        return self._require().db

    @property
    def auth(self) -> Auth:
        """Who signs in."""
        return self._require().auth

    async def ready(self) -> None:
        """Ask the database for an answer; all who ask within a second share one.

        Strangers may ask as often as they like, and take one connection at most.

        Raises:
            DatabaseUnavailableError: As `Database.ping` says.
        """
        await self._require().readiness.ask()

    async def sign_in(
        self,
        request: Any,
        *,
        tenant: str | None,
        email: str,
        password: str,
        transport: Literal["cookie", "bearer"] = "cookie",
        device_token: str | None = None,
    ) -> SignedIn:
        """Sign in; that there is no such tenant looks like a wrong password.

        With cookies, the answer to the request sets them, and the session ends that the browser
        had before.

        Args:
            request: The framework's.
            tenant: The tenant that the form or body names.
            email: In any spelling.
            password: As it was typed.
            transport: ``bearer`` for clients without cookies: they are to get the tokens.
            device_token: As in `Auth.sign_in`, for clients without cookies.

        Raises:
            TenantryError: As `Auth.sign_in` says, but for the tenant.
        """
        exchange = Exchange.of(request.scope)
        exchange.used_credential = True  # nobody is to store the answer, whatever it says
        old: list[str] = []
        if transport == "cookie":
            old, device_token = exchange.cookies()
        try:
            signed_in = await self.auth.sign_in(
                await self.tenant(request, tenant),
                email,
                password,
                address=self.settings.client_address(request),
                user_agent=request.headers.get("user-agent"),
                device_token=device_token,
                replaces=old[0] if old else None,
            )
        except TenantUnknownError:
            await self.auth.refuse_sign_in(password)
        for number, token in enumerate(old):
            if number or not token.startswith(f"{signed_in.user.tenant_id}."):
                await self._end(request, token)  # which the sign-in left alone, as another tenant's
        if transport == "cookie":
            exchange.new_cookies = self._cookies_of(signed_in)
        return signed_in

    async def sign_out(self, request: Any) -> None:
        """End each session that a request shows, by cookie or bearer token, and delete the cookie.

        Args:
            request: The framework's.

        Raises:
            TenantryError: As `Auth.sign_out` says.
        """
        exchange = Exchange.of(request.scope)
        exchange.used_credential = True
        for token in exchange.session_tokens():
            await self._end(request, token)
        exchange.drops_cookie = True

    async def change_password(
        self, request: Any, principal: Principal, *, current: str, new: str
    ) -> None:
        """Change the password of who is calling, and end the user's other sessions.

        With a cookie, the answer sets another, and copies of the old one open nothing. A bearer
        token stays: the answer has no place for another.

        Args:
            request: The framework's.
            principal: Who is calling, on a session.
            current: The password of today.
            new: The one to come.

        Raises:
            TenantryError: As `Auth.change_password` says.
        """
        exchange = Exchange.of(request.scope)
        token = await self.auth.change_password(
            *user_of(principal),
            current,
            new,
            keep_session=principal.session_id,
            new_token=not exchange.has_header,
            address=self.settings.client_address(request),
        )
        if token is not None:
            exchange.new_cookies = [self._session_cookie(token)]

    async def tenant(self, request: Any, named: str | None) -> UUID:
        """Return the tenant that somebody signs in to.

        Args:
            request: The framework's.
            named: The tenant that the body names.

        Raises:
            TenantUnknownError: There is none. Do not tell.
        """
        found: UUID | str | None = named
        if self.settings.resolve_tenant is not None:
            found = await self.settings.resolve_tenant(request, named)
        elif (domain := self.settings.base_domain) is not None:
            found = slug_of_host(request.headers.get("host", ""), base_domain=domain)
        if not isinstance(found, UUID):
            found = await self._require().tenants.find(found)
        if found is None:
            raise TenantUnknownError("The request names no tenant that there is.")
        return found

    async def _end(self, request: Any, token: str) -> None:
        await self.auth.sign_out(
            token,
            address=self.settings.client_address(request),
            user_agent=request.headers.get("user-agent"),
        )

    def _session_cookie(self, token: str) -> str:
        return self.cookie.holding(token, lifetime=self.settings.profile.absolute_lifetime)

    def _cookies_of(self, signed_in: SignedIn) -> list[str]:
        lifetime = self.settings.profile.device_lifetime
        return [
            self._session_cookie(signed_in.token),
            self.device_cookie.holding(signed_in.device_token, lifetime=lifetime),
        ]

    def _require(self) -> _Opened:
        if self._opened is None:
            raise ConfigurationError(
                "No database is open: the application's lifespan has not begun, or has nothing of "
                "tenantry's. Write FastAPI(lifespan=lifespan)."
            )
        return self._opened
