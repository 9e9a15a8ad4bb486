"""Who is calling, and a session of the caller's tenant: what endpoints ask for as parameters."""

# No `from __future__ import annotations`: FastAPI cannot resolve those of a callable object.
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, HTTPException
from fastapi.openapi.models import HTTPBearer
from fastapi.params import Depends as DependsMark
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from tenantry.asgi import Door, Exchange
from tenantry.asgi.callers import rank_of
from tenantry.asgi.openapi import SCHEME
from tenantry.auth import Principal
from tenantry.errors import ConfigurationError
from tenantry.schema.users import UserRole
from tenantry.tenancy.sessions import TenantSession

__all__ = [
    "ApiKeyPrincipal",
    "CurrentDoor",
    "CurrentPrincipal",
    "OptionalPrincipal",
    "SessionPrincipal",
    "TenantTx",
    "require_role",
]


class _Scheme(SecurityBase):
    """Finds who is calling; a scheme of FastAPI's, so that the routes that ask say so."""

    def __init__(self, *kinds: str) -> None:
        self.model = HTTPBearer()
        self.scheme_name = SCHEME + "|".join(kinds)
        self.kinds = kinds
        self.needs_caller = "none" not in kinds

    async def find(self, exchange: Exchange) -> Principal | None:
        found = exchange.caller() if self.needs_caller else exchange.authenticate(optional=True)
        principal = await found
        if principal is not None and principal.kind not in self.kinds:
            raise HTTPException(403, f"A credential of another kind is needed: {self.kinds[0]}.")
        return principal


class _Caller(_Scheme):
    async def __call__(self, connection: HTTPConnection) -> Principal | None:
        return await self.find(Exchange.of(connection.scope))


class _Transaction(_Scheme):
    # Asks for the caller itself: each dependency of a dependency costs a request some 40 µs.
    async def __call__(self, connection: HTTPConnection) -> AsyncIterator[TenantSession]:
        if connection.scope["type"] == "websocket":
            raise ConfigurationError("TenantTx is not for sockets. Open sessions of the door's db.")
        exchange = Exchange.of(connection.scope)
        principal = await self.find(exchange)
        async with exchange.door.db.tenant(principal.tenant_id) as tx:  # type: ignore[union-attr]
            yield tx


CurrentPrincipal = Annotated[Principal, Depends(_Caller("session", "api_key"))]
"""Who is calling: a signed-in user, or a program with the tenant's API key."""

OptionalPrincipal = Annotated[Principal | None, Depends(_Caller("session", "api_key", "none"))]
"""The same, or None; a credential in a header has to be good all the same."""

SessionPrincipal = Annotated[Principal, Depends(_Caller("session"))]
"""A signed-in user; an API key is refused."""

ApiKeyPrincipal = Annotated[Principal, Depends(_Caller("api_key"))]
"""A program with the tenant's API key; a user is refused."""


async def _door(connection: HTTPConnection) -> Door:
    return Exchange.of(connection.scope).door


CurrentDoor = Annotated[Door, Depends(_door)]
"""The application's `Door`: its ``db``, for what goes on while a response streams; its ``auth``."""


# Without the scope it would end when the response was sent: too late to tell of a commit that has
# failed, and as late as the slowest reader of a stream likes.
TenantTx = Annotated[TenantSession, Depends(_Transaction("session", "api_key"), scope="function")]
"""A session of the caller's tenant; it is committed before the response is sent."""


class _RoleMark(DependsMark):
    """Stands wherever ``Depends(…)`` does, and inside of it."""

    __hash__ = object.__hash__

    async def __call__(self, principal: SessionPrincipal) -> Principal:
        return await self.dependency(principal)  # type: ignore[misc, no-any-return]


def require_role(role: UserRole) -> Any:
    """Return a dependency on a signed-in user of this role or a higher one, for its `Principal`.

    In ``Annotated[Principal, require_role("admin")]``, or in ``dependencies=[…]``, also within
    ``Depends(…)``. Owners are above admins, and admins above members.

    Raises:
        ConfigurationError: There is no such role.
    """
    least = rank_of(role)

    async def check(principal: SessionPrincipal) -> Principal:
        if principal.role is None or rank_of(principal.role) < least:
            raise HTTPException(403, f"This needs the role {role}.")
        return principal

    return _RoleMark(check)
