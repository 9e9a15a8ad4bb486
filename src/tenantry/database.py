"""`Database`: the way in. It opens sessions for one tenant, or for the operator."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from importlib.metadata import entry_points
from typing import Any, Final, Self
from uuid import UUID

from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool

from tenantry.errors import ConfigurationError, DatabaseUnavailableError, SessionUseError
from tenantry.schema.row_security import OPERATOR_ROLE
from tenantry.settings import ADMIN_URL, DATABASE_URL, Settings, parse_url
from tenantry.tenancy.connecting import create_bound_engine, is_pooled
from tenantry.tenancy.inspection import check_application_role, check_server
from tenantry.tenancy.observing import Measured, Observer, Reading
from tenantry.tenancy.sessions import ObservedBlock, OperatorSession, SessionBlock, TenantSession
from tenantry.tenancy.statements import guard

__all__ = ["Database"]

SERVER_ENTRY_POINT: Final = "tenantry.server"
"""Group of the functions ``(Settings) -> Awaitable[Settings]`` that bring a server up."""

_log = logging.getLogger("tenantry")


class Database:
    """A database of tenants, and the pools of connections to it.

    Open it with `connect`; it is safe to share between the tasks of one event loop.

    Attributes:
        settings: What it was opened with.
        observer: Who watches it, see `tenantry.opentelemetry`; None for nobody.
    """

    observer: Observer | None = None

    def __init__(self, settings: Settings) -> None:
        if settings.database_url is None:
            raise ConfigurationError(
                f"No database is given. Set {DATABASE_URL}, or use Database.connect(), which "
                "falls back to the embedded server."
            )
        self.settings = settings
        self._app = self._application_engine(settings.database_url)
        self._replica = (
            self._application_engine(settings.replica_url) if settings.replica_url else None
        )
        self._admin: AsyncEngine | None = None
        self._closing: list[Callable[[], Awaitable[None]]] = []
        self._measured: list[Measured] = []
        self._loop: asyncio.AbstractEventLoop | None = None

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
        database = cls(await _with_pooler_known(settings))
        database._loop = asyncio.get_running_loop()
        try:
            for engine in (database._app, database._replica):
                if engine is not None:
                    await _check(engine)
            yield database
        finally:
            await database.close()

    def tenant(
        self, tenant_id: UUID | str, *, read_only: bool = False
    ) -> AbstractAsyncContextManager[TenantSession]:
        """Open a session bound to one tenant; commit at the end, roll back on an exception.

        No connection is held until the first statement, nor after ``commit`` or ``rollback``.

        Args:
            tenant_id: Whose rows.
            read_only: Refuse to write; on the replica, where ``settings`` name one.

        Raises:
            TenantRequiredError: ``tenant_id`` is not a UUID or the text of one.
            SessionUseError: Called from another event loop than the one that has connected.
        """
        self.require_own_loop()
        engine = self._replica if read_only and self._replica is not None else self._app
        observer = self.observer
        session = TenantSession(engine, tenant_id=tenant_id, read_only=read_only, observer=observer)
        return SessionBlock(session) if observer is None else ObservedBlock(session, observer)

    def operator(
        self, *, reason: str | None = None
    ) -> AbstractAsyncContextManager[OperatorSession]:
        """Open a session that sees all tenants; commit at the end, roll back on an exception.

        Args:
            reason: Why, for the log.

        Raises:
            ConfigurationError: There is no admin URL.
            SessionUseError: Called from another event loop than the one that has connected.
        """
        self.require_own_loop()
        if self.settings.admin_url is None:
            raise ConfigurationError(
                f"The operator needs the admin URL, and none is set. Set {ADMIN_URL}."
            )
        if self._admin is None:
            self._admin = self._engine(self.settings.admin_url, role=OPERATOR_ROLE)
        _log.info("operator session: %s", reason or "no reason given")
        return SessionBlock(OperatorSession(self._admin))

    async def ping(self) -> None:
        """Ask the server for an answer, as the application's role.

        Raises:
            DatabaseUnavailableError: There was none within the time for a new connection.
        """
        self.require_own_loop()
        try:
            async with (
                asyncio.timeout(self.settings.connect_timeout_seconds),
                self._app.connect() as connection,
            ):
                await connection.exec_driver_sql("SELECT 1")
        except (TimeoutError, SQLAlchemyError) as error:
            raise DatabaseUnavailableError(
                f"PostgreSQL gave no answer ({type(error).__name__}). Look at the server, its "
                "connections and the way to it."
            ) from error

    def require_own_loop(self) -> None:
        """Refuse to go on in another event loop than the one that has connected.

        Raises:
            SessionUseError: It is another, or none is running. Connections belong to the loop that
                has opened them.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise SessionUseError(
                "No event loop is running. Call this from a coroutine, as in asyncio.run(main())."
            ) from None
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise SessionUseError(
                "This Database belongs to another event loop. Connect once in each loop, and so "
                "in each thread that runs one."
            )

    def on_close(self, close: Callable[[], Awaitable[None]]) -> None:
        """Have ``close`` called before the pools are closed, the last given first."""
        self._closing.append(close)

    def measure(self, part: Measured) -> None:
        """Have the quantities of ``part`` among `readings`; once, however often it is given."""
        if not any(part is each for each in self._measured):
            self._measured.append(part)

    def readings(self) -> Iterator[Reading]:
        """Return how many connections and hashes there are at this moment, in any thread."""
        engines = {"application": self._app, "replica": self._replica, "operator": self._admin}
        most = self.settings.pool_size + self.settings.max_overflow
        for name, engine in engines.items():
            if engine is not None and isinstance(engine.pool, QueuePool):
                yield Reading("connections_idle", engine.pool.checkedin(), name)
                yield Reading("connections_used", engine.pool.checkedout(), name)
                yield Reading("connections_max", most, name)
        for part in tuple(self._measured):
            yield from part.readings()

    async def close(self) -> None:
        """Close the pools. Sessions that are still open lose their connections."""
        while self._closing:
            await self._closing.pop()()
        for engine in (self._app, self._replica, self._admin):
            if engine is not None:
                await engine.dispose()

    def _application_engine(self, url: URL) -> AsyncEngine:
        engine = self._engine(
            url,
            pooled=bool(self.settings.pooler),
            statement_timeout_seconds=self.settings.statement_timeout_seconds,
        )
        guard(engine)
        return engine

    def _engine(self, url: URL, **options: Any) -> AsyncEngine:
        return create_bound_engine(
            url,
            timeout_seconds=self.settings.connect_timeout_seconds,
            pool_timeout=self.settings.pool_timeout_seconds,
            pool_size=self.settings.pool_size,
            max_overflow=self.settings.max_overflow,
            **options,
        )


async def _check(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await check_server(connection)
        await check_application_role(connection)


async def _with_pooler_known(settings: Settings) -> Settings:
    if settings.pooler is not None or settings.database_url is None:
        return settings
    timeout = settings.connect_timeout_seconds
    urls = [url for url in (settings.database_url, settings.replica_url) if url is not None]
    found = [await is_pooled(url, timeout_seconds=timeout) for url in urls]
    return replace(settings, pooler=any(found))


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
