"""Tenants as the operator handles them: made, listed, found by their slug."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, select
from sqlalchemy.exc import IntegrityError

from tenantry.database import Database
from tenantry.errors import ConflictError, InvalidValueError, TenantUnknownError
from tenantry.schema import Tenant
from tenantry.schema.tenants import ID_PATTERN, SLUG_PATTERN, folded_slug

__all__ = ["create_tenant", "find_tenant", "list_tenants", "slug_from"]


def slug_from(name: str) -> str:
    """Return a slug for ``name``: "Müller & Söhne" becomes ``muller-sohne``.

    Raises:
        InvalidValueError: Nothing of the name can be in a slug.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:63].strip("-")
    if not slug:
        raise InvalidValueError(
            f"No slug can be made from {name!r}: it has no Latin letters or digits. Give one "
            "with --slug."
        )
    return slug


async def create_tenant(db: Database, name: str, *, slug: str | None = None) -> Tenant:
    """Make a tenant.

    Args:
        db: With an admin URL.
        name: What people call it.
        slug: Its name in URLs, a DNS label. None: made from ``name``.

    Raises:
        InvalidValueError: The name is empty, or the slug is no DNS label.
        ConflictError: Another tenant has the slug.
    """
    if not name.strip():
        raise InvalidValueError("The tenant's name is empty; a name is required.")
    slug = slug_from(name) if slug is None else slug
    if not re.fullmatch(SLUG_PATTERN.strip("^$"), slug):
        raise InvalidValueError(
            f"{slug!r} is no slug. A slug has 1 to 63 lower-case letters, digits and hyphens, and "
            "no hyphen at either end."
        )
    tenant = Tenant(name=name, slug=slug)
    try:
        async with db.operator(reason="create a tenant") as tx:
            tx.add(tenant)
    except IntegrityError as error:
        raise ConflictError(
            f"A tenant with the slug {slug!r} exists already. Choose another with --slug."
        ) from error
    return tenant


async def list_tenants(db: Database) -> Sequence[Tenant]:
    """Return every tenant, in the order of their slugs."""
    async with db.operator(reason="list the tenants") as tx:
        return (await tx.scalars(select(Tenant).order_by(Tenant.slug))).all()


async def find_tenant(db: Database, slug: str) -> Tenant:
    """Return the tenant with this slug, or with this id, which has its dashes; in any case.

    Raises:
        TenantUnknownError: There is none.
    """
    async with db.operator(reason="find a tenant") as tx:
        tenant = await tx.scalar(select(Tenant).where(_named(folded_slug(slug))))
    if tenant is None:
        raise TenantUnknownError(
            f"There is no tenant {slug!r}. `tenantry tenant list` shows the tenants."
        )
    return tenant


def _named(slug: str) -> ColumnElement[bool]:
    if re.fullmatch(ID_PATTERN.strip("^$"), slug):
        return Tenant.id == UUID(slug)
    return Tenant.slug == slug
