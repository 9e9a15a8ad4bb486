"""The state of one web application: how its door is set, and what is open behind it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

from tenantry.asgi.credentials import Cookie, check_origins
from tenantry.asgi.settings import DoorSettings
from tenantry.auth import Auth, SignedIn
from tenantry.auth.tenants import TenantFinder, slug_of_host
from tenantry.database import Database
from tenantry.errors import ConfigurationError, TenantUnknownError

__all__ = ["Door"]

_log: Final = logging.getLogger("tenantry.asgi")


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
        self._opened: tuple[Database, Auth, TenantFinder] | None = None

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
            self._opened = (db, auth, TenantFinder(db))
            try:
                yield db
            finally:
                self._opened = None

    @property
    def db(self) -> Database:
        """The database."""
        return self._require()[0]

    @property
    def auth(self) -> Auth:
        """Who signs in."""
        return self._require()[1]

    def cookies_of(self, signed_in: SignedIn) -> list[str]:
        """Return the values of ``Set-Cookie`` that go with a sign-in."""
        profile = self.settings.profile
        return [
            self.cookie.holding(signed_in.token, lifetime=profile.absolute_lifetime),
            self.device_cookie.holding(signed_in.device_token, lifetime=profile.device_lifetime),
        ]

    async def sign_in(
        self,
        request: Any,
        *,
        tenant: str | None,
        email: str,
        password: str,
        device_token: str | None = None,
        replaces: str | None = None,
    ) -> SignedIn:
        """Sign in; that there is no such tenant looks like a wrong password.

        Args:
            request: The framework's.
            tenant: The tenant that the form or body names.
            email: In any spelling.
            password: As it was typed.
            device_token: As in `Auth.sign_in`.
            replaces: As in `Auth.sign_in`.

        Raises:
            TenantryError: As `Auth.sign_in` says, but for the tenant.
        """
        try:
            return await self.auth.sign_in(
                await self.tenant(request, tenant),
                email,
                password,
                address=self.settings.client_address(request),
                user_agent=request.headers.get("user-agent"),
                device_token=device_token,
                replaces=replaces,
            )
        except TenantUnknownError:
            await self.auth.refuse_sign_in(password)

    async def tenant(self, request: Any, named: str | None) -> UUID:
        """Return the tenant that somebody signs in to.

        Args:
            request: The framework's.
            named: The tenant that the body names.

        Raises:
            TenantUnknownError: There is none. Do not tell.
        """
        if self.settings.resolve_tenant is not None:
            found = await self.settings.resolve_tenant(request, named)
        else:
            if (domain := self.settings.base_domain) is not None:
                named = slug_of_host(request.headers.get("host", ""), base_domain=domain)
            found = await self._require()[2].find(named)
        if found is None:
            raise TenantUnknownError("The request names no tenant that there is.")
        return found

    def _require(self) -> tuple[Database, Auth, TenantFinder]:
        if self._opened is None:
            raise ConfigurationError(
                "No database is open: the application's lifespan has not begun, or has nothing of "
                "tenantry's. Write FastAPI(lifespan=lifespan)."
            )
        return self._opened
