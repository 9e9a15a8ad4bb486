"""Connections to PostgreSQL, and the one place where its refusals become our errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import asyncpg
from sqlalchemy import URL, Connection, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, NullPool, Pool
from sqlalchemy.util import await_only

from tenantry.errors import (
    ConfigurationError,
    CrossTenantError,
    DatabaseUnavailableError,
    InvalidValueError,
    PrivilegeError,
    ReadOnlyError,
    TenantryError,
    TenantUnknownError,
    TransactionUndoneError,
)
from tenantry.tenancy.driver import BoundConnection, bound, lies_behind_a_pooler

__all__ = [
    "connect",
    "create_bound_engine",
    "create_engine",
    "is_pooled",
    "run_script",
    "translate",
    "unanswered",
    "where",
]

# The functions of PostgreSQL that report these two refusals; both have SQLSTATE 42501.
_ROW_SECURITY_CHECK: Final = "ExecWithCheckOptions"
_KEPT_STATEMENTS: Final = 100  # asyncpg's own default
_FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
"""Options of a URL that name one."""

_SHUTTING_DOWN: Final = {"57P01", "57P02", "57P03"}
_IN_THE_WAY: Final = {
    "40001": "Another transaction has changed what this one goes by",
    "40P01": "This transaction and another were waiting for each other",
    "55P03": "Another transaction holds a lock for longer than this one may wait",
}


def where(url: URL) -> str:
    """Return ``role@host:port/database`` of ``url`` for messages, without the password."""
    query_host = url.query.get("host")
    host = url.host or (query_host if isinstance(query_host, str) else None) or "localhost"
    port = f":{url.port}" if url.port else ""
    return f"{url.username or 'the default role'}@{host}{port}/{url.database}"


async def connect(
    url: URL,
    *,
    timeout_seconds: float = 10.0,
    statement_timeout_seconds: float | None = None,
    role: str | None = None,
    connection_class: type[asyncpg.Connection] = asyncpg.Connection,
    pooled: bool = False,
) -> asyncpg.Connection:
    """Open one asyncpg connection.

    Args:
        url: Where to, and as whom.
        timeout_seconds: How long to wait for it.
        statement_timeout_seconds: How long one statement may take; None: no limit.
        role: Become this role with the first packet. RESET ROLE then leads back to it and not to
            whoever has logged in.
        connection_class: What to return.
        pooled: A pooler may give each transaction another connection of the server, so nothing
            that is prepared in one is there in the next.

    Raises:
        DatabaseUnavailableError: No answer, a wrong password, no such role or database, or no
            connection free. The message says which, and where; it holds no password.
        ConfigurationError: The URL has an option that the driver does not know, or a pooler does
            not let ``role`` through.
    """
    place = where(url)
    try:
        connection: asyncpg.Connection = await asyncpg.connect(
            url.render_as_string(hide_password=False),
            timeout=timeout_seconds,
            command_timeout=statement_timeout_seconds,
            server_settings={"application_name": "tenantry", **({"role": role} if role else {})},
            connection_class=connection_class,
            statement_cache_size=0 if pooled else _KEPT_STATEMENTS,
        )
    except asyncpg.PostgresError as error:
        raise _refused(error, place, role) from error
    except TimeoutError as error:
        raise DatabaseUnavailableError(
            f"No answer from PostgreSQL at {place} within {timeout_seconds:g} s. "
            "Check the host, the port and the firewall."
        ) from error
    except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        if (wrong := _wrong_with(url, error)) is not None:
            raise ConfigurationError(f"The URL for {place} cannot be used: {wrong}") from None
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DatabaseUnavailableError(
            f"Cannot reach PostgreSQL at {place}: {reason}. Is it running, and is the URL right?"
        ) from error
    if role:
        await _require_role(connection, role, place)
    if not pooled and (driver := bound(connection)) is not None:
        try:
            await driver.exchange_vectors_in_binary()
        except BaseException as error:
            driver.terminate()
            if isinstance(error, asyncpg.PostgresError):
                raise _refused(error, place, role) from error
            if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError | OSError):
                raise DatabaseUnavailableError(
                    f"PostgreSQL at {place} ended the connection as it was opened "
                    f"({type(error).__name__}). Is it starting or stopping?"
                ) from error
            raise
    return connection


def _wrong_with(url: URL, error: Exception) -> str | None:
    if isinstance(error, asyncpg.ClientConfigurationError):
        return str(error)
    for option in _FILES:
        for name in url.normalized_query.get(option, ()):
            if not Path(name).is_file():
                return f"{option}: there is no file {name}"
    return None


async def _require_role(connection: asyncpg.Connection, role: str, place: str) -> None:
    # A pooler can be told to drop what it does not know from the first packet, the role too.
    try:
        became = await connection.fetchval("SELECT current_user") == role
    except asyncpg.PostgresError:
        became = False  # behind a pooler, what is prepared may be gone with the next packet
    if not became:
        await connection.close()
        raise ConfigurationError(
            f"What answers at {place} is a pooler that has dropped the role {role}. The admin URL "
            "must lead to PostgreSQL itself."
        )
    if (driver := bound(connection)) is not None:
        driver.clean_thoroughly()


async def is_pooled(url: URL, *, timeout_seconds: float = 10.0) -> bool:
    """Return whether a pooler such as PgBouncer answers at ``url``.

    Raises:
        DatabaseUnavailableError, ConfigurationError: see `connect`.
    """
    connection = await connect(url, timeout_seconds=timeout_seconds, pooled=True)
    try:
        return await lies_behind_a_pooler(connection)
    finally:
        await connection.close(timeout=timeout_seconds)


def _refused(error: asyncpg.PostgresError, place: str, role: str | None) -> TenantryError:
    reasons: dict[str, str] = {
        "28P01": "the password is wrong or missing. Correct it in the URL",
        "28000": "it does not let this role in. Check the role's name and pg_hba.conf",
        "3D000": "there is no such database. Create it or correct the URL",
        "53300": "all its connections are in use. Raise max_connections or use smaller pools",
        "08P01": "a pooler does not take the role in the first packet. The admin URL must lead to "
        "PostgreSQL itself",
        "57P03": "it is starting up or shutting down. Try again in a moment",
        "42501": f"the role may not become {role or 'what the URL says'}, so it is not the "
        "administrator's",
        "42704": f"{error.args[0] if error.args else 'an option'}. Correct it in the URL",
        "22023": (
            f"there is no role {role}, which `tenantry db migrate` makes, or " if role else ""
        )
        + "it does not take a value among the URL's options. Correct it in the URL",
    }
    state = error.sqlstate or ""
    reason = reasons.get(state, f"{type(error).__name__}, SQLSTATE {state}. See the server's log")
    return DatabaseUnavailableError(f"PostgreSQL at {place} refused the connection: {reason}.")


def create_engine(
    url: URL,
    *,
    timeout_seconds: float = 10.0,
    statement_timeout_seconds: float | None = None,
    role: str | None = None,
    connection_class: type[asyncpg.Connection] = asyncpg.Connection,
    pooled: bool = False,
    pool_class: type[Pool] | None = None,
    **pool_options: Any,
) -> AsyncEngine:
    """Return an engine over `connect`.

    SQLAlchemy's errors do not list the parameters of a statement, which may be secrets, and those
    that say who may see what arrive as `TenantryError`. PostgreSQL itself quotes a value that it
    cannot read, as in ``invalid input syntax for type integer: "x"``.
    """

    async def open_connection() -> asyncpg.Connection:
        return await connect(
            url,
            timeout_seconds=timeout_seconds,
            statement_timeout_seconds=statement_timeout_seconds,
            role=role,
            connection_class=connection_class,
            pooled=pooled,
        )

    if pool_class is NullPool:
        pool_options = {}
    engine = create_async_engine(
        "postgresql+asyncpg://?prepared_statement_cache_size=0"
        if pooled
        else "postgresql+asyncpg://",
        async_creator=open_connection,
        poolclass=pool_class,
        hide_parameters=True,
        **pool_options,
    )
    event.listen(engine.sync_engine, "handle_error", _translate)
    return engine


def create_bound_engine(url: URL, **options: Any) -> AsyncEngine:
    """Return an engine over `BoundConnection`, whose connections come back clean or not at all.

    Args:
        url: Where to, and as whom.
        options: of `create_engine`.
    """
    engine = create_engine(url, connection_class=BoundConnection, **options)
    event.listen(engine.sync_engine, "checkin", _discard_in_doubt)
    return engine


def _discard_in_doubt(dbapi_connection: Any, record: ConnectionPoolEntry) -> None:
    del dbapi_connection
    driver = bound(record.driver_connection)
    if driver is None:
        return  # it was discarded before
    driver.opening = ""
    if driver.in_doubt or driver.is_in_transaction():
        record.invalidate()


def _translate(context: ExceptionContext) -> TenantryError | None:
    """Turn what PostgreSQL says about tenants, rights, itself and others at work into our errors.

    Other errors, such as a violated unique constraint, stay SQLAlchemy's, as its users expect.
    """
    if not isinstance(context.original_exception, Exception):
        return None  # cancelled: that must arrive as it is
    cause = context.original_exception.__cause__ or context.original_exception
    if isinstance(cause, asyncpg.PostgresError):
        return translate(cause)
    if isinstance(cause, asyncpg.InternalClientError | OSError):
        # The driver has lost track of the conversation: the connection is not to be used again.
        context.is_disconnect = True
    return unanswered(cause) if context.is_disconnect else None


def unanswered(cause: BaseException) -> DatabaseUnavailableError:
    """Return the error for a statement whose answer did not come."""
    what = (
        "PostgreSQL gave no answer in time. The limit is statement_timeout_seconds of the "
        "settings, or the network's own."
        if isinstance(cause, TimeoutError)
        else f"The connection to PostgreSQL was lost ({type(cause).__name__})."
    )
    return DatabaseUnavailableError(f"{what} Nothing uncommitted was kept.")


def translate(  # noqa: PLR0911 - one for each kind of refusal
    error: asyncpg.PostgresError,
) -> TenantryError | None:
    """Return what PostgreSQL says about tenants, rights, itself and others at work, or None."""
    state, details = error.sqlstate or "", error.as_dict()
    table = details.get("table_name")
    if state == "22000" and not details.get("severity"):
        # The driver's own, before anything was sent; it quotes the value.
        return InvalidValueError(
            "A parameter of the statement has another type than PostgreSQL expects in its place. "
            "Nothing was sent."
        )
    if state == "42501" and details.get("server_source_function") == _ROW_SECURITY_CHECK:
        return CrossTenantError(
            "Row security refused the row: it belongs to another tenant, or no tenant is bound to "
            "this transaction. Write rows of the bound tenant only."
        )
    if state == "42501":
        return PrivilegeError(f"PostgreSQL refused: {details.get('message')}.")
    if state == "23503" and details.get("constraint_name") == f"{table}_tenant_id_fkey":
        return TenantUnknownError(
            f"There is no such tenant, so {table} cannot hold its rows. `tenantry tenant list` "
            "shows the tenants."
        )
    if state == "F0000":
        return ConfigurationError(str(details.get("message")))  # tenantry.plan_vector_search's own
    if state == "25006":
        return ReadOnlyError(
            f"PostgreSQL refused: {details.get('message')}. This session is read-only, or its "
            "server is a replica; write with db.tenant(...) without read_only."
        )
    if (why := _IN_THE_WAY.get(state)) is not None:
        return TransactionUndoneError(
            f"{why} (SQLSTATE {state}). This one was undone: run it again from its beginning.",
            sqlstate=state,
        )
    if state.startswith("08") or state in _SHUTTING_DOWN:
        return DatabaseUnavailableError(
            f"PostgreSQL ended the connection (SQLSTATE {state}). Nothing uncommitted was kept."
        )
    return None


def run_script(connection: Connection, script: str) -> None:
    """Run several statements in the transaction of ``connection``, which is begun if need be.

    SQLAlchemy prepares every statement for asyncpg, and PostgreSQL prepares only one at a time;
    the driver's own ``execute`` sends a script as it is.

    Raises:
        asyncpg.PostgresError: What PostgreSQL says of a statement in it.
    """
    driver = connection.connection.driver_connection
    if isinstance(driver, asyncpg.Connection):
        connection.exec_driver_sql("SELECT 1")  # the transaction begins with the first statement
        await_only(driver.execute(script))
    else:
        connection.exec_driver_sql(script)
