"""`Database`: the way in. It opens sessions for one tenant, or for the operator."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import entry_points
from typing import Any, Final, Self
from uuid import UUID

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from tenantry.errors import ConfigurationError
from tenantry.schema.row_security import OPERATOR_ROLE
from tenantry.settings import ADMIN_URL, DATABASE_URL, Settings, parse_url
from tenantry.tenancy.connecting import create_engine
from tenantry.tenancy.inspection import check_application_role, check_server
from tenantry.tenancy.sessions import OperatorSession, TenantSession, as_tenant_id

__all__ = ["Database"]

SERVER_ENTRY_POINT: Final = "tenantry.server"
"""Group of the functions ``(Settings) -> Awaitable[Settings]`` that bring a server up."""

_log = logging.getLogger("tenantry")


class Database:
    """A database of tenants, and the pools of connections to it.

    Open it with `connect`; it is safe to share between the tasks of one event loop.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.database_url is None:
            raise ConfigurationError(
                f"No database is given. Set {DATABASE_URL}, or use Database.connect(), which "
                "falls back to the embedded server."
            )
        self.settings = settings
        self._app = self._engine(settings.database_url)
        self._admin: AsyncEngine | None = None

    def __repr__(self) -> str:
        return f"Database({self.settings.database_url!r})"

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        database_url: str | URL | None = None,
        *,
        admin_url: str | URL | None = None,
        settings: Settings | None = None,
    ) -> AsyncIterator[Self]:
        """Connect, check that tenants are kept apart, and close at the end of the block.

        Args:
            database_url: Connects as the application's role. None: what ``settings`` say.
            admin_url: Connects as a role that may become the operator.
            settings: None: from the environment. With no URL at all, the embedded server is
                started, or found running.

        Raises:
            ConfigurationError: A URL cannot be used.
            UnsafeRoleError: The application's role could see every tenant.
            PrivilegeError: It has not the rights of ``tenantry_app``.
            DatabaseUnavailableError: The server does not answer or refuses the connection.
            UnsupportedServerError: PostgreSQL or pgvector is too old.
            SchemaMissingError: The database was not migrated.
            SchemaTooNewError: It was migrated by a newer tenantry.
        """
        if admin_url is not None and database_url is None:
            raise ConfigurationError(
                "admin_url is given without database_url. Give both, or settings."
            )
        if database_url is not None:
            settings = Settings(
                database_url=parse_url(database_url),
                admin_url=parse_url(admin_url, source="the admin URL") if admin_url else None,
            )
        settings = settings or Settings.from_environment()
        if settings.database_url is None:
            settings = await _bring_up_server(settings)
        database = cls(settings)
        try:
            async with database._app.connect() as connection:
                await check_server(connection)
                await check_application_role(connection)
            yield database
        finally:
            await database.close()

    @asynccontextmanager
    async def tenant(self, tenant_id: UUID | str) -> AsyncIterator[TenantSession]:
        """Open a session bound to one tenant; commit at the end, roll back on an exception.

        Raises:
            TenantRequiredError: ``tenant_id`` is not a UUID or the text of one.
        """
        bound = as_tenant_id(tenant_id)
        session = TenantSession(self._app, tenant_id=bound, expire_on_commit=False)
        async with session, session.begin():
            yield session

    @asynccontextmanager
    async def operator(self, *, reason: str | None = None) -> AsyncIterator[OperatorSession]:
        """Open a session that sees all tenants; commit at the end, roll back on an exception.

        Args:
            reason: Why, for the log.

        Raises:
            ConfigurationError: There is no admin URL.
        """
        if self.settings.admin_url is None:
            raise ConfigurationError(
                f"The operator needs the admin URL, and none is set. Set {ADMIN_URL}."
            )
        if self._admin is None:
            self._admin = self._engine(self.settings.admin_url, role=OPERATOR_ROLE)
        _log.info("operator session: %s", reason or "no reason given")
        session = OperatorSession(self._admin, expire_on_commit=False)
        async with session, session.begin():
            yield session

    async def close(self) -> None:
        """Close the pools. Sessions that are still open lose their connections."""
        await self._app.dispose()
        if self._admin is not None:
            await self._admin.dispose()

    def _engine(self, url: URL, *, role: str | None = None) -> AsyncEngine:
        pool: dict[str, Any] = {
            "pool_size": self.settings.pool_size,
            "max_overflow": self.settings.max_overflow,
            "pool_pre_ping": False,
        }
        return create_engine(
            url, timeout_seconds=self.settings.connect_timeout_seconds, role=role, **pool
        )


async def _bring_up_server(settings: Settings) -> Settings:
    # By entry point, so that this module needs nothing above it and another package can bring
    # a server of its own.
    for entry_point in entry_points(group=SERVER_ENTRY_POINT):
        provide = entry_point.load()
        provided: Settings = await provide(settings)
        return provided
    raise ConfigurationError(
        f"{DATABASE_URL} is not set, and no server to start is installed. Set it, or run "
        "pip install 'tenantry[embedded]'."
    )
