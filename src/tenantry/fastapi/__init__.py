"""The door for FastAPI: who is calling, sessions of the caller's tenant, and the routes to sign in.

``app = FastAPI(lifespan=lifespan)`` and ``install(app)``; then ask for `TenantTx` and its like.
"""

from __future__ import annotations

from tenantry.asgi.settings import DoorSettings, host_or_body
from tenantry.fastapi.application import install, lifespan
from tenantry.fastapi.dependencies import (
    ApiKeyPrincipal,
    CurrentDoor,
    CurrentPrincipal,
    OptionalPrincipal,
    SessionPrincipal,
    TenantTx,
    require_role,
)

__all__ = [
    "ApiKeyPrincipal",
    "CurrentDoor",
    "CurrentPrincipal",
    "DoorSettings",
    "OptionalPrincipal",
    "SessionPrincipal",
    "TenantTx",
    "host_or_body",
    "install",
    "lifespan",
    "require_role",
]
