"""What doors ask of who is calling."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from tenantry.asgi.exchange import Scope
from tenantry.auth import Principal
from tenantry.errors import ConfigurationError
from tenantry.schema.users import UserRole

__all__ = ["needs_caller", "rank_of", "route_of", "user_of"]

_RANKS: Final[dict[UserRole, int]] = {"member": 1, "admin": 2, "owner": 3}


def rank_of(role: UserRole) -> int:
    """Return a number that is higher for a role with more rights.

    Raises:
        ConfigurationError: There is no such role.
    """
    if role not in _RANKS:
        raise ConfigurationError(f"The role is {role!r}; member, admin or owner is required.")
    return _RANKS[role]


def user_of(principal: Principal) -> tuple[UUID, UUID]:
    """Return the tenant and the user of a session."""
    assert principal.user_id is not None  # noqa: S101 - a session is a user's
    return principal.tenant_id, principal.user_id


def route_of(scope: Scope) -> Any:
    """Return the framework's route that serves a request; None where there is none, or not yet."""
    # FastAPI keeps it with all prefixes in a place of its own since it includes routers lazily.
    return scope.get("fastapi", {}).get("effective_route_context") or scope.get("route")


def needs_caller(scope: Scope) -> bool:
    """Return whether a request's route is served only to callers that are known.

    It is, where one of the route's dependencies has an attribute ``needs_caller`` that is true.
    """
    if getattr(scope.get("app"), "dependency_overrides", None):
        return False  # in a test; the route asks for something else
    ahead = [getattr(route_of(scope), "dependant", None)]
    while ahead:
        each = ahead.pop()
        if getattr(getattr(each, "call", None), "needs_caller", False):
            return True
        ahead.extend(getattr(each, "dependencies", ()))
    return False
