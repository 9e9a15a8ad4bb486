"""Sessions that are bound to one tenant, and the operator's, which is bound to none."""

from __future__ import annotations

from typing import Any, cast
from uuid import UUID

from sqlalchemy import Connection, event, inspect
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import (
    Mapper,
    ORMExecuteState,
    Session,
    SessionTransaction,
    with_loader_criteria,
)
from sqlalchemy.orm.interfaces import ORMOption

from tenantry.errors import CrossTenantError, TenantRequiredError
from tenantry.schema import Tenant, TenantScoped

__all__ = ["OperatorSession", "TenantSession", "as_tenant_id"]


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


class _TenantSyncSession(Session):
    tenant_id: UUID

    def __init__(self, *args: Any, tenant_id: UUID, **options: Any) -> None:
        super().__init__(*args, **options)
        self.tenant_id = tenant_id

    # get_one() and AsyncSession's methods of both names come here as well.
    def get(self, entity: Any, ident: Any, **options: Any) -> Any:
        return super().get(entity, self._whole_key(entity, ident), **options)

    def _whole_key(self, entity: Any, ident: Any) -> Any:
        mapper = cast("Mapper[Any]", inspect(entity))
        keys = [column.key for column in mapper.primary_key]
        if keys == ["tenant_id", "id"] and not isinstance(ident, tuple | dict):
            return (self.tenant_id, ident)
        return ident


class TenantSession(AsyncSession):
    """An `AsyncSession` bound to one tenant for its whole life.

    Every transaction starts by binding the tenant in the database, where row security keeps the
    promise. The same condition is added to every ORM statement, for the planner's sake. ``get``
    and ``get_one`` take the bare id of a row.
    """

    sync_session_class = _TenantSyncSession

    def __init__(self, *args: Any, tenant_id: UUID | str, **options: Any) -> None:
        self.tenant_id = as_tenant_id(tenant_id)
        super().__init__(*args, tenant_id=self.tenant_id, **options)


class OperatorSession(AsyncSession):
    """An `AsyncSession` on connections that are ``tenantry_operator``'s: it sees all tenants."""


@event.listens_for(_TenantSyncSession, "after_begin")
def _bind_tenant(
    session: _TenantSyncSession, transaction: SessionTransaction, connection: Connection
) -> None:
    # A statement, not set_config(): a distributed PostgreSQL carries only the statement to its
    # nodes. LOCAL, so that a pooled connection cannot keep it. The value is a UUID's own text.
    if not transaction.nested:
        connection.exec_driver_sql(f"SET LOCAL tenantry.tenant_id = '{session.tenant_id}'")


@event.listens_for(_TenantSyncSession, "do_orm_execute")
def _add_tenant_condition(state: ORMExecuteState) -> None:
    if state.is_column_load or not (state.is_select or state.is_update or state.is_delete):
        return
    tenant_id = cast("_TenantSyncSession", state.session).tenant_id
    state.statement = state.statement.options(*_tenant_criteria(tenant_id))


def _tenant_criteria(tenant_id: UUID) -> tuple[ORMOption, ...]:
    return (
        with_loader_criteria(
            TenantScoped, lambda model: model.tenant_id == tenant_id, include_aliases=True
        ),
        with_loader_criteria(Tenant, lambda model: model.id == tenant_id, include_aliases=True),
    )


@event.listens_for(_TenantSyncSession, "before_attach")
def _own_object(session: _TenantSyncSession, instance: object) -> None:
    if isinstance(instance, TenantScoped):
        # Read from the dict: loading an expired attribute here would need a round trip.
        tenant_id = instance.__dict__.get("tenant_id")
        if tenant_id is None and not _has_identity(instance):
            instance.tenant_id = session.tenant_id
        elif tenant_id is not None and as_tenant_id(tenant_id) != session.tenant_id:
            raise CrossTenantError(
                f"This {type(instance).__name__} belongs to tenant {tenant_id}; the session is "
                f"bound to {session.tenant_id}. Use a session of its tenant."
            )


def _has_identity(instance: object) -> bool:
    state = getattr(instance, "_sa_instance_state", None)
    return getattr(state, "key", None) is not None
