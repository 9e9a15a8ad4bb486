"""Statements of ours that need no ORM, straight on the driver's connection of a session."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import asyncpg
from sqlalchemy.exc import DBAPIError, InvalidRequestError

from tenantry.errors import DatabaseUnavailableError, SessionUseError
from tenantry.tenancy.connecting import translate
from tenantry.tenancy.sessions import TenantSession

__all__ = ["fetch", "fetch_by_vector"]

_IN_USE: Final = (
    "The session is in use: its connection does one thing at a time. Give each task a session of "
    "its own."
)
_PROVISIONING: Final = "isce"
"""SQLAlchemy's code for a session that another task has begun to use."""


async def fetch(tx: TenantSession, query: str, *args: Any) -> list[asyncpg.Record]:
    """Run ``query`` in the transaction of ``tx`` and return its rows.

    Raises:
        SessionUseError: The session is in use by another task.
        DatabaseUnavailableError: The connection was lost.
        TenantryError: What PostgreSQL says about tenants and rights.
    """
    with _translated(tx, query):
        return await (await tx.driver()).fetch(query, *args)


async def fetch_by_vector(
    tx: TenantSession, query: str, vector: bytes, *args: Any
) -> list[asyncpg.Record]:
    """Run ``query``, whose first parameter is a vector; see `BoundConnection.fetch_by_vector`.

    Raises:
        SessionUseError, DatabaseUnavailableError, TenantryError: as `fetch`.
    """
    with _translated(tx, query):
        return await (await tx.driver()).fetch_by_vector(query, vector, *args)


@contextmanager
def _translated(tx: TenantSession, query: str) -> Iterator[None]:
    try:
        yield
    except asyncpg.PostgresError as error:
        raise translate(error) or DBAPIError(query, None, error, hide_parameters=True) from error
    except (DBAPIError, InvalidRequestError) as error:
        # Another task is about to begin the transaction, or to take a connection for it.
        cause = error.orig.__cause__ if isinstance(error, DBAPIError) and error.orig else None
        is_taken = isinstance(cause, asyncpg.InterfaceError) and tx.is_connected
        if error.code == _PROVISIONING or is_taken:
            raise SessionUseError(_IN_USE) from error
        raise
    except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        if isinstance(error, asyncpg.InterfaceError) and tx.is_connected:
            raise SessionUseError(_IN_USE) from error
        raise DatabaseUnavailableError(
            f"The connection to PostgreSQL was lost ({type(error).__name__}). Nothing uncommitted "
            "was kept."
        ) from error
