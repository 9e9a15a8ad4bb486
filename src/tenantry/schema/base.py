"""The declarative base and `TenantScoped`, for our tables and for yours."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
    event,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, Mapper, QueryableAttribute, mapped_column
from sqlalchemy.sql.elements import SQLCoreOperations
from uuid_utils.compat import uuid7

from tenantry.errors import ConfigurationError, InvalidValueError
from tenantry.schema.row_security import INFO_KEY, row_security_of, tenant_row_security
from tenantry.schema.types import BoundedText, Embedding, JsonObject, TypedJson, UtcDateTime

__all__ = ["SCHEMA_REVISION", "Base", "TenantScoped", "uuid7"]

SCHEMA_REVISION: Final = "tenantry_0005"
"""The migration that makes the database what these models declare."""

# PostgreSQL's own names, so that a constraint made by hand and one made here are called the same.
NAMING_CONVENTION: Final = {
    "pk": "%(table_name)s_pkey",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ck": "%(table_name)s_%(constraint_name)s_check",
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
}


class Base(DeclarativeBase):
    """Declarative base of tenantry's tables and of yours: one metadata, one set of names."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy declares it without ClassVar
        str: BoundedText,
        UUID: postgresql.UUID(as_uuid=True),
    }


class TenantScoped:
    """Makes a model's rows belong to one tenant.

    It brings ``tenant_id`` (filled in by the session, or by the database from the bound tenant),
    ``id``, the primary key ``(tenant_id, id)``, the foreign key to ``tenants`` with ON DELETE
    CASCADE, an index for every foreign key that has none, and the row security of
    `tenant_row_security`. A foreign key to another tenant table must include the tenant:

        class Note(TenantScoped, Base):
            __tablename__ = "notes"
            __table_args__ = (
                ForeignKeyConstraint(
                    ["tenant_id", "widget_id"], ["widgets.tenant_id", "widgets.id"]
                ),
            )
            widget_id: Mapped[UUID]
            body: Mapped[str]
    """

    tenant_id: Mapped[UUID] = mapped_column(
        ForeignKey("tenants.id", ondelete="CASCADE"),
        primary_key=True,
        server_default=text("tenantry.current_tenant()"),
        sort_order=-100,
        comment="The tenant this row belongs to; row security compares it.",
    )
    # Any, so that a model may have an id of its own type.
    id: Mapped[Any] = mapped_column(
        postgresql.UUID(as_uuid=True),
        primary_key=True,
        default=uuid7,
        server_default=text("gen_random_uuid()"),
        sort_order=-99,
    )


# On every mapper: a project may have a declarative base of its own on this metadata.
@event.listens_for(Mapper, "instrument_class")
def _secure_table(mapper: Mapper[Any], cls: type) -> None:
    table = mapper.local_table
    if not issubclass(cls, TenantScoped) or not isinstance(table, Table):
        return
    if INFO_KEY not in table.info:
        tenant_row_security().attach(table)
    elif row_security_of(table) is None:
        raise ConfigurationError(
            f"{cls.__name__}: info[{INFO_KEY!r}] of its table is a "
            f"{type(table.info[INFO_KEY]).__name__}; a RowSecurity is required. Leave it out for "
            "the row security of a tenant table."
        )
    for constraint in list(table.foreign_key_constraints):
        if not _is_indexed(table, constraint):
            Index(None, *_columns(table, constraint))


def _columns(table: Table, constraint: ForeignKeyConstraint) -> list[Column[Any]]:
    return [table.c[key] for key in constraint.column_keys]


def _is_indexed(table: Table, constraint: ForeignKeyConstraint) -> bool:
    wanted = set(constraint.column_keys)
    unique = [
        each
        for each in table.constraints
        if isinstance(each, PrimaryKeyConstraint | UniqueConstraint)
    ]
    return any(
        {column.key for column in list(each.columns)[: len(wanted)]} == wanted
        for each in (*unique, *table.indexes)
    )


@event.listens_for(Base, "attribute_instrument", propagate=True)
def _check_on_assignment(cls: type, key: str, attribute: QueryableAttribute[Any]) -> None:
    """Check values where they are assigned, so that the error points at the culprit's line."""
    property_ = getattr(attribute, "property", None)
    columns = getattr(property_, "columns", None)
    if not columns or not isinstance(columns[0], Column):
        return
    type_ = columns[0].type
    if not isinstance(type_, BoundedText | Embedding | JsonObject | TypedJson | UtcDateTime):
        return
    nullable = columns[0].nullable
    where = f"{cls.__name__}.{key}"

    def check(target: object, value: object, old: object, initiator: object) -> object:
        del target, old, initiator
        if isinstance(value, SQLCoreOperations):
            return value
        if value is None:
            if nullable:
                return None
            raise InvalidValueError(f"{where} is None; a value is required.")
        return type_.accept(value, where)

    event.listen(attribute, "set", check, retval=True)
