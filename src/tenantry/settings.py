"""Frozen settings, read once at the edge and passed down."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from tenantry.errors import ConfigurationError

__all__ = [
    "ADMIN_URL",
    "DATABASE_URL",
    "DATA_DIR",
    "REPLICA_URL",
    "Settings",
    "parse_url",
    "url_text",
]

DATABASE_URL: Final = "TENANTRY_DATABASE_URL"
"""The environment variable of `Settings.database_url`."""

REPLICA_URL: Final = "TENANTRY_REPLICA_URL"
"""The environment variable of `Settings.replica_url`."""

ADMIN_URL: Final = "TENANTRY_ADMIN_URL"
"""The environment variable of `Settings.admin_url`."""

DATA_DIR: Final = "TENANTRY_DATA_DIR"
"""The environment variable of `Settings.data_dir`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Where the database is and how it is used.

    Args:
        database_url: Connects as the application's role. None: the embedded server.
        admin_url: Connects as a role that may migrate and become the operator. With
            ``database_url`` alone, there is no operator session and no migration. It must lead
            to PostgreSQL itself and not to a pooler.
        replica_url: Connects to a replica as the application's role, for sessions that only
            read. None: they read from ``database_url``.
        data_dir: Where the embedded server keeps its data. None: its own default.
        pool_size: Connections that each pool keeps open.
        max_overflow: Connections that a pool may open beyond them, for a while.
        connect_timeout_seconds: How long to wait for a new connection.
        pool_timeout_seconds: How long to wait for a connection of the pool that others are using.
        statement_timeout_seconds: How long one statement of a tenant's session may take, by the
            clock here, so that a server or a network that hangs ends it as well. None: no limit.
        pooler: Whether a pooler that may give each transaction another connection of the server
            lies between, such as PgBouncer. Statements are then not kept prepared. None: find
            out when connecting.

    The URLs are SQLAlchemy's: their ``repr`` and ``str`` mask the password.
    """

    database_url: URL | None = None
    admin_url: URL | None = None
    replica_url: URL | None = None
    data_dir: Path | None = None
    pool_size: int = 10
    max_overflow: int = 10
    connect_timeout_seconds: float = 10.0
    pool_timeout_seconds: float = 30.0
    statement_timeout_seconds: float | None = 60.0
    pooler: bool | None = None

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] | None = None, *, admin_alone: bool = False
    ) -> Self:
        """Read the ``TENANTRY_…`` variables; an empty one counts as unset.

        Args:
            environment: Where they are; by default the process's.
            admin_alone: Whether the admin URL may be given without the application's.

        Raises:
            ConfigurationError: A URL cannot be read, or the admin or replica URL stands alone.
        """
        values = os.environ if environment is None else environment
        database_url = values.get(DATABASE_URL) or None
        admin_url = values.get(ADMIN_URL) or None
        replica_url = values.get(REPLICA_URL) or None
        data_dir = values.get(DATA_DIR) or None
        for name, given in ((ADMIN_URL, admin_url), (REPLICA_URL, replica_url)):
            if given and not database_url and not (name == ADMIN_URL and admin_alone):
                raise ConfigurationError(
                    f"{name} is set and {DATABASE_URL} is not. Set {DATABASE_URL} to the "
                    "application's role as well, or neither for the embedded server."
                )
        return cls(
            database_url=parse_url(database_url, source=DATABASE_URL) if database_url else None,
            admin_url=parse_url(admin_url, source=ADMIN_URL) if admin_url else None,
            replica_url=parse_url(replica_url, source=REPLICA_URL) if replica_url else None,
            data_dir=Path(data_dir).expanduser() if data_dir else None,
        )


def parse_url(text: str | URL, *, source: str = "the database URL") -> URL:
    """Parse ``postgresql://user:password@host:port/database?option=value``.

    Args:
        text: The URL; ``postgres://`` and drivers as in ``postgresql+psycopg://`` are fine too.
        source: Where it came from, for the message.

    Raises:
        ConfigurationError: It is not such a URL. The message does not repeat it, as it may
            hold a password.
    """
    required = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE is required"
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigurationError(
            f"{source} is not a URL; {required}, with %40 for an @ and %3A for a : in the password."
        ) from None
    if url.get_backend_name() not in {"postgresql", "postgres"}:
        raise ConfigurationError(f"{source} is for {url.get_backend_name()!r}; {required}.")
    if not url.database:
        raise ConfigurationError(f"{source} names no database; {required}.")
    if url.port is not None and not 0 < url.port < 2**16:
        raise ConfigurationError(f"{source} has port {url.port}; 1 to 65535 is required.")
    if "@" in (url.host or ""):
        raise ConfigurationError(
            f"{source} has an @ in its password, where %40 is required; {required}."
        )
    # Where it stands elsewhere, it would not be masked.
    if "sslpassword" in url.query:
        raise ConfigurationError(
            f"{source} has sslpassword, which messages would show; {required}, with a key that "
            "needs none."
        )
    password = url.query.get("password")
    if password is not None:
        url = url.difference_update_query(["password"]).set(password=str(password))
    return url.set(drivername="postgresql")


def url_text(url: URL) -> str:
    """Return ``url`` with its password, in a form that libpq and every driver reads.

    Spaces in options become ``%20``: SQLAlchemy writes ``+``, which libpq takes for a plus.
    """
    head, mark, query = url.render_as_string(hide_password=False).partition("?")
    return head + mark + query.replace("+", "%20")
