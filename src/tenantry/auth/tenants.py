"""The tenant that somebody signs in to, found by its slug before anybody is known."""

from __future__ import annotations

import re
import time
from typing import Final
from uuid import UUID

from sqlalchemy import select

from tenantry.database import Database
from tenantry.schema import Tenant
from tenantry.schema.tenants import SLUG_PATTERN

__all__ = ["TenantFinder", "slug_of_host"]

_REMEMBERED_SECONDS: Final = 60.0
_MOST_REMEMBERED: Final = 10_000
_SLUG: Final = re.compile(SLUG_PATTERN.strip("^$"))


class TenantFinder:
    """Finds tenants by slug or id, and remembers those found for a minute.

    The application's role sees no tenant but the bound one, so the operator looks the slug up: the
    `Database` needs its admin URL. An id needs no look-up.

    Args:
        db: The database.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._found: dict[str, tuple[UUID, float]] = {}

    async def find(self, text: str | None) -> UUID | None:
        """Return the tenant's id, or None where there is no such slug.

        Args:
            text: A slug, or the text of a tenant's id, which is returned as it is.

        Raises:
            ConfigurationError: A slug is given, and there is no admin URL.
        """
        if text is None or not _SLUG.fullmatch(text):
            return None
        try:
            return UUID(text)
        except ValueError:
            pass
        known = self._found.get(text)
        if known is not None and time.monotonic() < known[1]:
            return known[0]
        async with self._db.operator(reason="the tenant of a sign-in") as tx:
            tenant_id = await tx.scalar(select(Tenant.id).where(Tenant.slug == text))
        if tenant_id is not None:
            if len(self._found) >= _MOST_REMEMBERED:
                self._found.clear()
            self._found[text] = (tenant_id, time.monotonic() + _REMEMBERED_SECONDS)
        return tenant_id


def slug_of_host(host: str, *, base_domain: str) -> str | None:
    """Return ``acme`` for ``acme.example.com:443`` below ``example.com``; else None."""
    name = host.lower().partition(":")[0]
    slug, dot, domain = name.partition(".")
    return slug if dot and domain == base_domain.lower() else None
