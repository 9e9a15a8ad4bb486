"""Sessions that are bound to one tenant, and the operator's, which is bound to none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, Generic, TypeVar, cast
from uuid import UUID

from sqlalchemy import (
    Alias,
    ColumnClause,
    CompoundSelect,
    Connection,
    Delete,
    FromClause,
    ScalarSelect,
    Select,
    SelectBase,
    Table,
    Update,
    bindparam,
    event,
    inspect,
)
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Mapper, Session, SessionTransaction, with_loader_criteria
from sqlalchemy.orm.interfaces import ORMOption
from sqlalchemy.sql.lambdas import StatementLambdaElement

from tenantry.errors import CrossTenantError, SessionUseError, TenantRequiredError
from tenantry.schema import Tenant, TenantScoped
from tenantry.tenancy.driver import BoundConnection, bound
from tenantry.tenancy.observing import Observation, Observer

__all__ = ["ObservedBlock", "OperatorSession", "SessionBlock", "TenantSession", "as_tenant_id"]


def as_tenant_id(value: object) -> UUID:
    """Return a tenant's id as a UUID.

    Raises:
        TenantRequiredError: It is neither a UUID nor the text of one.
    """
    if isinstance(value, UUID):
        return UUID(int=value.int)
    if isinstance(value, str):
        try:
            return UUID(value)
        except ValueError:
            pass
    found = f"a str of {len(value)} characters" if isinstance(value, str) else repr(value)[:40]
    raise TenantRequiredError(
        f"A tenant id is required, a UUID or its text; found {found}. "
        "For work on all tenants use db.operator()."
    )


_PARAMETER: Final = "tenantry_tenant_id"
_BOUND: Final = bindparam(_PARAMETER, type_=Tenant.id.type)


# Not propagated to loaders: those come through execute() themselves, where it is added.
# One for all sessions: to make it for each would cost as much as the statement itself.
_SELECT_CRITERIA: Final[tuple[ORMOption, ...]] = (
    with_loader_criteria(
        TenantScoped,
        lambda model: model.tenant_id == _BOUND,
        include_aliases=True,
        propagate_to_loaders=False,
        track_closure_variables=False,
    ),
    with_loader_criteria(
        Tenant, Tenant.id == _BOUND, include_aliases=True, propagate_to_loaders=False
    ),
)


def _add_select_criteria(statement: Any) -> Any:
    return statement.options(*_SELECT_CRITERIA)


def _change_criteria(tenant_id: UUID) -> tuple[ORMOption, ...]:
    # In an UPDATE a named parameter would count as a column to set: here the value itself.
    return (
        with_loader_criteria(
            TenantScoped,
            lambda model: model.tenant_id == tenant_id,
            include_aliases=True,
            propagate_to_loaders=False,
        ),
        with_loader_criteria(
            Tenant, Tenant.id == tenant_id, include_aliases=True, propagate_to_loaders=False
        ),
    )


def _further_tables(statement: Update | Delete) -> Iterator[FromClause]:
    """Yield the tenant tables that UPDATE … FROM and DELETE … USING join.

    SQLAlchemy gives the criteria to the table that is changed and to subqueries, not to these.
    """
    if statement.whereclause is None:
        return
    seen: set[FromClause] = {cast("FromClause", statement.table)}
    stack: list[Any] = [statement.whereclause]
    while stack:
        element = stack.pop()
        if isinstance(element, ColumnClause):
            table = element.table
            if isinstance(table, Table | Alias) and table not in seen and "tenant_id" in table.c:
                seen.add(table)
                yield table
        elif not isinstance(element, SelectBase | ScalarSelect):
            stack.extend(element.get_children())


class _BlockSession(Session):
    """A session that cannot be used after its block."""

    ended = False


@event.listens_for(_BlockSession, "after_transaction_create")
def _refuse_after_the_end(session: _BlockSession, transaction: SessionTransaction) -> None:
    if session.ended:
        transaction.close()  # or the next use would find it begun
        raise SessionUseError(
            "This session's block has ended. Open another with db.tenant() or db.operator()."
        )


class _TenantSyncSession(_BlockSession):
    tenant_id: UUID
    opening: str
    driver: BoundConnection | None = None
    """The connection of the transaction that is under way."""

    def __init__(self, *args: Any, tenant_id: UUID, read_only: bool, **options: Any) -> None:
        super().__init__(*args, **options)
        self.tenant_id = tenant_id
        # A statement, not set_config(): a distributed PostgreSQL carries only the statement to
        # its nodes. LOCAL, so that a pooled connection cannot keep it. The value is a UUID's text.
        self.opening = f"SET LOCAL tenantry.tenant_id = '{tenant_id}';"
        if read_only:
            self.opening = f"SET TRANSACTION READ ONLY;{self.opening}"

    # Every ORM statement comes through these three, the loads of relationships and refreshes
    # included. A do_orm_execute event would make SQLAlchemy prepare each statement twice.
    def execute(self, statement: Any, params: Any = None, **options: Any) -> Any:
        return super().execute(*self._with_condition(statement, params), **options)

    def scalars(self, statement: Any, params: Any = None, **options: Any) -> Any:
        return super().scalars(*self._with_condition(statement, params), **options)

    def scalar(self, statement: Any, params: Any = None, **options: Any) -> Any:
        return super().scalar(*self._with_condition(statement, params), **options)

    def _with_condition(self, statement: Any, params: Any) -> tuple[Any, Any]:
        if isinstance(statement, Select | CompoundSelect):
            return statement.options(*_SELECT_CRITERIA), self._with_parameter(params)
        if isinstance(statement, StatementLambdaElement) and statement.is_select:
            statement = statement.add_criteria(_add_select_criteria, enable_tracking=False)
            return statement, self._with_parameter(params)
        if isinstance(statement, Update | Delete):
            statement = statement.options(*_change_criteria(self.tenant_id))
            for table in _further_tables(statement):
                statement = statement.where(table.c.tenant_id == self.tenant_id)
        return statement, params

    def _with_parameter(self, params: Any) -> dict[str, Any]:
        return {**(params or {}), _PARAMETER: self.tenant_id}

    # get_one() and AsyncSession's methods of both names come here as well.
    def get(self, entity: Any, ident: Any, **options: Any) -> Any:
        return super().get(entity, self._whole_key(entity, ident), **options)

    def _whole_key(self, entity: Any, ident: Any) -> Any:
        mapper = cast("Mapper[Any]", inspect(entity))
        keys = [column.key for column in mapper.primary_key]
        if keys == ["tenant_id", "id"] and not isinstance(ident, tuple | dict):
            return (self.tenant_id, ident)
        return ident

    def merge(self, instance: Any, **options: Any) -> Any:
        if isinstance(instance, TenantScoped):
            self.require_own(instance)
        return super().merge(instance, **options)

    def require_own(self, instance: TenantScoped) -> None:
        """Raise where ``instance`` belongs to another tenant.

        Raises:
            CrossTenantError: It does.
        """
        # Read from the dict: loading an expired attribute here would need a round trip.
        tenant_id = instance.__dict__.get("tenant_id")
        if tenant_id is not None and as_tenant_id(tenant_id) != self.tenant_id:
            raise CrossTenantError(
                f"This {type(instance).__name__} belongs to tenant {tenant_id}; the session is "
                f"bound to {self.tenant_id}. Use a session of its tenant."
            )


class TenantSession(AsyncSession):
    """An `AsyncSession` bound to one tenant for its whole life.

    Every transaction starts by binding the tenant in the database, where row security keeps the
    promise. The same condition is added to every ORM statement, for the planner's sake. ``get``
    and ``get_one`` take the bare id of a row. ``commit`` and ``rollback`` give the connection
    back; the next statement takes one again, with the tenant.

    Get one from `tenantry.Database.tenant`.

    Attributes:
        tenant_id: Whose rows.
        read_only: Whether it refuses to write.
        observer: Who watches it; None for nobody.
    """

    sync_session_class = _TenantSyncSession

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        tenant_id: UUID | str,
        read_only: bool = False,
        observer: Observer | None = None,
    ) -> None:
        self.tenant_id = as_tenant_id(tenant_id)
        self.read_only = read_only
        self.observer = observer
        super().__init__(
            engine, expire_on_commit=False, tenant_id=self.tenant_id, read_only=read_only
        )

    @property
    def is_connected(self) -> bool:
        """Whether the connection of the transaction, if there is one, is open."""
        driver = cast("_TenantSyncSession", self.sync_session).driver
        return driver is None or not driver.is_closed()

    async def driver(self) -> BoundConnection:
        """Return the driver's connection of this session's transaction, begun if need be.

        For statements that need no ORM; what is pending is flushed before. Straight on it a
        statement costs a third of what it costs through SQLAlchemy.
        """
        session = cast("_TenantSyncSession", self.sync_session)
        # What SQLAlchemy asks before it flushes. Its public properties each make a set to answer.
        if not session._is_clean():  # noqa: SLF001
            await self.flush()
        if session.driver is None or not session.driver.is_in_transaction():
            connection = await self.connection()
            await connection.exec_driver_sql("SELECT 1")  # the transaction begins with a statement
        return cast("BoundConnection", session.driver)


class OperatorSession(AsyncSession):
    """An `AsyncSession` on connections that are ``tenantry_operator``'s: it sees all tenants."""

    sync_session_class = _BlockSession

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine, expire_on_commit=False)


SessionT = TypeVar("SessionT", TenantSession, OperatorSession)


class SessionBlock(Generic[SessionT]):
    """``async with`` around a session: commit at its end, roll back on an exception, then close.

    Other than in SQLAlchemy's own block, the session may commit and go on within it.
    """

    __slots__ = ("_session",)

    def __init__(self, session: SessionT) -> None:
        self._session: SessionT = session

    async def __aenter__(self) -> SessionT:
        return self._session

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        session = self._session
        inner = cast("_BlockSession", session.sync_session)
        try:
            if kind is None:
                await session.commit()
        finally:
            inner.ended = True
            if inner.in_transaction():
                # As a task of its own: where this one is cancelled, it still comes to its end.
                await asyncio.shield(asyncio.create_task(session.close()))
            else:
                inner.close()


class ObservedBlock(SessionBlock[TenantSession]):
    """The same, of which an observer is told."""

    __slots__ = ("_observation", "_observer")

    def __init__(self, session: TenantSession, observer: Observer) -> None:
        super().__init__(session)
        self._observer = observer
        self._observation: Observation | None = None

    async def __aenter__(self) -> TenantSession:
        session = await super().__aenter__()
        self._observation = self._observer.begin(
            "transaction", tenant_id=session.tenant_id, read_only=session.read_only
        )
        return session

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await super().__aexit__(kind, error, trace)
        except BaseException as failure:
            error = failure
            raise
        finally:
            if self._observation is not None:
                self._observation.end(error)


@event.listens_for(_TenantSyncSession, "after_begin")
def _bind_tenant(
    session: _TenantSyncSession, transaction: SessionTransaction, connection: Connection
) -> None:
    if transaction.nested:
        return
    driver = bound(connection.connection.driver_connection)
    if driver is None:
        raise SessionUseError("This engine cannot bind a tenant. Open sessions with db.tenant().")
    if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        raise SessionUseError(
            "A tenant is bound to a transaction, and with AUTOCOMMIT there is none. Leave the "
            "isolation level out, or choose another."
        )
    driver.opening = session.opening
    session.driver = driver


@event.listens_for(_TenantSyncSession, "after_transaction_end")
def _let_go(session: _TenantSyncSession, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.driver = None


@event.listens_for(_TenantSyncSession, "before_attach")
def _own_object(session: _TenantSyncSession, instance: object) -> None:
    if not isinstance(instance, TenantScoped):
        return
    if instance.__dict__.get("tenant_id") is None and not _has_identity(instance):
        instance.tenant_id = session.tenant_id
    session.require_own(instance)


@event.listens_for(_TenantSyncSession, "before_flush")
def _own_objects(session: _TenantSyncSession, context: object, instances: object) -> None:
    # A tenant that was assigned after the object was added.
    del context, instances
    for instance in (*session.new, *session.dirty):
        if isinstance(instance, TenantScoped):
            session.require_own(instance)


def _has_identity(instance: object) -> bool:
    state = getattr(instance, "_sa_instance_state", None)
    return getattr(state, "key", None) is not None
