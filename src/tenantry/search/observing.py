"""Searches, watched where somebody watches."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from tenantry.tenancy.observing import Operation
from tenantry.tenancy.sessions import TenantSession

__all__ = ["observed"]

Search = TypeVar("Search", bound=Callable[..., Any])


def observed(search: Search) -> Search:
    """Return ``search``, of which the observer of its session is told."""
    operation = cast("Operation", search.__name__)

    @wraps(search)
    async def searching(tx: TenantSession, *args: Any, **options: Any) -> Any:
        observer = getattr(tx, "observer", None)  # of what is no session, the search complains
        if observer is None:
            return await search(tx, *args, **options)
        with observer.begin(
            operation, tenant_id=tx.tenant_id, read_only=tx.read_only
        ) as observation:
            hits = await search(tx, *args, **options)
            observation.note(rows=len(hits))
            return hits

    return cast("Search", searching)
