"""API keys: issued and shown once, rotated without a gap, taken away."""

from __future__ import annotations

from datetime import timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import case, func, null, select, update

from tenantry.auth.core import Core
from tenantry.auth.principals import IssuedApiKey
from tenantry.auth.tokens import make_api_key
from tenantry.errors import InvalidValueError, TenantUnknownError
from tenantry.schema import Tenant

__all__ = ["ApiKeys"]

_LONGEST_GRACE: Final = timedelta(days=366)


class ApiKeys(Core):
    """The part of `Auth` about a tenant's API key."""

    async def issue_api_key(
        self, tenant_id: UUID | str, *, grace: timedelta | None = None
    ) -> IssuedApiKey:
        """Make a tenant's API key; the one before it still works for a while.

        A key that is in its grace already ends at once: there are never more than two.

        Args:
            tenant_id: The tenant.
            grace: For how long; None: what the profile says; ``timedelta(0)``: not at all, as for
                a key that has become known.

        Returns:
            The key, which cannot be shown again.

        Raises:
            TenantUnknownError: There is no such tenant.
            InvalidValueError: ``grace`` is negative, or longer than a year.
        """
        grace = self._profile.api_key_grace if grace is None else grace
        if not timedelta(0) <= grace <= _LONGEST_GRACE:
            raise InvalidValueError(
                f"grace is {grace}; a duration of 0 to {_LONGEST_GRACE.days} days is required."
            )
        async with self._transaction(tenant_id) as tx:
            text, key = make_api_key(tx.tenant_id)
            issued = await tx.execute(
                update(Tenant)
                .values(
                    api_key=key.hash,
                    previous_api_key=Tenant.api_key if grace else null(),
                    previous_api_key_expires_at=(
                        case((Tenant.api_key.is_not(None), func.now() + grace), else_=null())
                        if grace
                        else null()
                    ),
                )
                .returning(Tenant.previous_api_key_expires_at)
                .execution_options(synchronize_session=False)
            )
            row = issued.one_or_none()
            if row is None:
                raise TenantUnknownError(
                    f"There is no tenant {tx.tenant_id}. `tenantry tenant list` shows the tenants."
                )
            await self._record(tx, "api_key_issued", user_id=None)
        return IssuedApiKey(text, row[0])

    async def revoke_api_key(self, tenant_id: UUID | str) -> bool:
        """Take a tenant's API keys away, the one in its grace too; return whether it had one."""
        async with self._transaction(tenant_id) as tx:
            had = await tx.scalar(
                select(Tenant.id).where(
                    Tenant.api_key.is_not(None) | Tenant.previous_api_key.is_not(None)
                )
            )
            if had is not None:
                await tx.execute(
                    update(Tenant).values(
                        api_key=None, previous_api_key=None, previous_api_key_expires_at=None
                    )
                )
                await self._record(tx, "api_key_revoked", user_id=None)
        return had is not None
