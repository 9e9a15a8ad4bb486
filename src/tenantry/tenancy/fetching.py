"""Statements of ours that need no ORM, straight on the driver's connection of a session."""

from __future__ import annotations

from typing import Any, Final

import asyncpg
from sqlalchemy.exc import DBAPIError, InvalidRequestError

from tenantry.errors import SessionUseError
from tenantry.tenancy.connecting import translate, unanswered
from tenantry.tenancy.sessions import TenantSession

__all__ = ["IN_USE", "fetch", "fetch_by_vector", "in_use"]

IN_USE: Final = (
    "The session is in use: its connection does one thing at a time. Give each task a session of "
    "its own."
)
_PROVISIONING: Final = "isce"
"""SQLAlchemy's code for a session that another task has begun to use."""


_TRANSLATED: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    DBAPIError,
    InvalidRequestError,
)


async def fetch(tx: TenantSession, query: str, *args: Any) -> list[asyncpg.Record]:
    """Run ``query`` in the transaction of ``tx`` and return its rows.

    Raises:
        SessionUseError: The session is in use by another task.
        DatabaseUnavailableError: The connection was lost.
        TenantryError: What PostgreSQL says about tenants and rights.
    """
    try:
        return await (await tx.driver()).fetch(query, *args)
    except _TRANSLATED as error:
        if (translated := _translated(tx, query, error)) is not None:
            raise translated from error
        raise


async def fetch_by_vector(
    tx: TenantSession, query: str, vector: bytes, *args: Any
) -> list[asyncpg.Record]:
    """Run ``query``, whose first parameter is a vector; see `BoundConnection.fetch_by_vector`.

    Raises:
        SessionUseError, DatabaseUnavailableError, TenantryError: as `fetch`.
    """
    try:
        return await (await tx.driver()).fetch_by_vector(query, vector, *args)
    except _TRANSLATED as error:
        if (translated := _translated(tx, query, error)) is not None:
            raise translated from error
        raise


def in_use(tx: TenantSession, error: DBAPIError | InvalidRequestError) -> SessionUseError | None:
    """Return what SQLAlchemy's error means where another task is using the session, else None."""
    # It is about to begin the transaction, to take a connection for it, or has a statement there.
    cause = error.orig.__cause__ if isinstance(error, DBAPIError) and error.orig else None
    is_taken = isinstance(cause, asyncpg.InterfaceError) and tx.is_connected
    return SessionUseError(IN_USE) if error.code == _PROVISIONING or is_taken else None


def _translated(tx: TenantSession, query: str, error: Exception) -> Exception | None:
    if isinstance(error, asyncpg.PostgresError):
        return translate(error) or DBAPIError(query, None, error, hide_parameters=True)
    if isinstance(error, DBAPIError | InvalidRequestError):
        return in_use(tx, error)
    if isinstance(error, asyncpg.InterfaceError) and tx.is_connected:
        return SessionUseError(IN_USE)
    return unanswered(error)
