"""What doors ask of who is calling."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from tenantry.auth import Principal
from tenantry.errors import ConfigurationError
from tenantry.schema.users import UserRole

__all__ = ["rank_of", "user_of"]

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
