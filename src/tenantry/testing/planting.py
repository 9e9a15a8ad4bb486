"""A row of a tenant in every table that the models declare, with texts that occur nowhere else."""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import CheckConstraint, Column, Enum, MetaData, Table, insert, inspect, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.types import TypeDecorator

from tenantry.database import Database
from tenantry.errors import TenantryError
from tenantry.schema.types import Embedding
from tenantry.tenancy.sessions import OperatorSession
from tenantry.testing.markers import new_marker

__all__ = ["Planting", "Snapshot", "changes"]

Snapshot = dict[tuple[str, tuple[str, ...]], dict[str, Any]]
"""Rows by table and primary key."""

_TRIES: Final = 60
_LARGEST: Final = 2**31 - 1
_QUOTED: Final = re.compile(r"'((?:[^']|'')*)'")

# What anybody may cause who knows an address: attempts that are counted, events that are noted,
# mails that are sent. And what a session notes of its own use.
_UNWATCHED: Final = frozenset({"sign_in_throttles", "security_events", "single_use_tokens"})
_UNWATCHED_COLUMNS: Final = frozenset({("sessions", "last_seen_at"), ("sessions", "expires_at")})


class Planting:
    """Plants and reads rows as the operator.

    Args:
        db: With an admin URL.
        metadata: The models.
        values: By ``table.column``, what a row must hold there.
    """

    def __init__(
        self, db: Database, metadata: MetaData, values: Mapping[str, Any] | None = None
    ) -> None:
        self._db = db
        self._metadata = metadata
        self._values = dict(values or {})
        self._tables: list[Table] | None = None
        self.failed: dict[str, str] = {}

    async def plant(self, tenant_id: UUID) -> None:
        """Add a row of the tenant to every table; what cannot be made is noted in ``failed``."""
        async with self._db.operator(reason="plant rows for a test") as tx:
            for table in await self._known(tx):
                if table.name != "tenants":
                    await self._plant(tx, table, tenant_id)

    async def snapshot(self, tenant_id: UUID) -> Snapshot:
        """Return every row of the tenant."""
        found: Snapshot = {}
        async with self._db.operator(reason="compare rows for a test") as tx:
            for table in await self._known(tx):
                statement = select(table).where(_owner(table) == tenant_id)
                for row in (await tx.execute(statement)).mappings():
                    key = tuple(str(row[column.name]) for column in table.primary_key)
                    found[table.name, key] = dict(row)
        return found

    async def _known(self, tx: OperatorSession) -> list[Table]:
        if self._tables is None:
            connection = await tx.connection()
            names = await connection.run_sync(lambda sync: set(inspect(sync).get_table_names()))
            self._tables = [
                table
                for table in self._metadata.sorted_tables
                if table.name in names and (table.name == "tenants" or "tenant_id" in table.c)
            ]
        return self._tables

    async def _plant(self, tx: OperatorSession, table: Table, tenant_id: UUID) -> None:
        try:
            row = await self._row(tx, table, tenant_id)
        except LookupError as error:
            self.failed[table.name] = str(error)
            return
        variants, reason = iter([row]), ""
        for _ in range(_TRIES):
            attempt = next(variants, None)
            if attempt is None:
                break
            try:
                async with tx.begin_nested():
                    await tx.execute(insert(table).values(attempt))
            except (SQLAlchemyError, TenantryError) as error:
                broken = _constraint(table, error)
                reason = f"{type(error).__name__}{f' by {broken.name}' if broken else ''}"
                if broken is not None:
                    variants = itertools.chain(variants, _variants(row, broken))
            else:
                self.failed.pop(table.name, None)
                return
        self.failed[table.name] = f"no row could be made ({reason}); give values= for its columns"

    async def _row(self, tx: OperatorSession, table: Table, tenant_id: UUID) -> dict[str, Any]:
        row = {
            column.name: _value(column)
            for column in table.columns
            if not (column.computed or column.identity or column.default or column.server_default)
        }
        row |= await self._references(tx, table, tenant_id)
        for name in row.keys() | {column.name for column in table.columns}:
            if f"{table.name}.{name}" in self._values:
                row[name] = self._values[f"{table.name}.{name}"]
        return {**row, "tenant_id": tenant_id}

    async def _references(
        self, tx: OperatorSession, table: Table, tenant_id: UUID
    ) -> dict[str, Any]:
        referred: dict[str, Any] = {}
        for key in table.foreign_key_constraints:
            pairs = [(each.parent, each.column) for each in key.elements]
            pairs = [(mine, theirs) for mine, theirs in pairs if mine.name != "tenant_id"]
            if not pairs:
                continue
            parent = None
            if key.referred_table is not table and "tenant_id" in key.referred_table.c:
                statement = select(*(theirs for _, theirs in pairs))
                of_tenant = statement.where(_owner(key.referred_table) == tenant_id)
                parent = (await tx.execute(of_tenant.limit(1))).one_or_none()
            if parent is None and not all(mine.nullable for mine, _ in pairs):
                raise LookupError(f"{key.referred_table.name} has no row for it to refer to")
            for number, (mine, _) in enumerate(pairs):
                referred[mine.name] = None if parent is None else parent[number]
        return referred


def changes(before: Snapshot, after: Snapshot) -> list[str]:
    """Return what was done to the rows of a tenant, in words without values."""
    before = {key: row for key, row in before.items() if key[0] not in _UNWATCHED}
    after = {key: row for key, row in after.items() if key[0] not in _UNWATCHED}
    found = {f"added a row to {key[0]}" for key in after.keys() - before.keys()}
    found |= {f"deleted a row of {key[0]}" for key in before.keys() - after.keys()}
    for key in before.keys() & after.keys():
        for name, value in before[key].items():
            if value != after[key][name] and (key[0], name) not in _UNWATCHED_COLUMNS:
                found.add(f"changed {key[0]}.{name}")
    return sorted(found)


def _owner(table: Table) -> Column[Any]:
    return table.c.id if table.name == "tenants" else table.c.tenant_id


def _constraint(table: Table, error: Exception) -> CheckConstraint | None:
    original = getattr(error, "orig", None) if isinstance(error, DBAPIError) else None
    name = getattr(getattr(original, "__cause__", None), "constraint_name", None)
    checks = (each for each in table.constraints if isinstance(each, CheckConstraint))
    return next((each for each in checks if each.name == name), None)


def _variants(row: dict[str, Any], broken: CheckConstraint) -> Iterator[dict[str, Any]]:
    """Yield the row with other texts in what a check constraint looks at."""
    definition = str(broken.sqltext)
    names = [name for name, value in row.items() if isinstance(value, str) and name in definition]
    constants = [each.replace("''", "'") for each in _QUOTED.findall(definition)]
    for name in names:
        marker = new_marker()
        for text in (f"{marker}@example.com", f"https://example.com/{marker}", *constants):
            yield {**row, name: text}
        for length in (1, 2, 3, 8):
            yield {**row, name: marker[:length]}


def _value(column: Column[Any]) -> Any:  # noqa: PLR0911 - one for each kind of type
    kind = column.type
    if isinstance(kind, Enum):
        return None if column.nullable else kind.enums[0]
    python = _python_type(column)
    if python is str:
        length = getattr(kind, "length", None)
        return new_marker()[:length]
    if column.nullable:
        return None
    if isinstance(kind, Embedding):
        return [1.0, *[0.0] * (kind.dimensions - 1)]
    if python is UUID:
        return uuid4()
    if python is int:
        small = type(kind).__name__.upper() in {"SMALLINT", "SMALLINTEGER"}
        return secrets.randbelow(10**4) if small else next(_LARGE)
    if python is bytes:
        return secrets.token_bytes(32)
    return _FIXED[python]() if python in _FIXED else None


def _ascending() -> Iterator[int]:
    """Yield numbers of which each is the largest so far, so that a maximum tells of a new row."""
    number = 10**8 + secrets.randbelow(10**9)
    while number < _LARGEST:
        yield number
        number += 1 + secrets.randbelow(10**4)
    yield from _ascending()


_LARGE: Final = _ascending()

_FIXED: Final[dict[Any, Callable[[], Any]]] = {
    bool: lambda: False,
    float: lambda: 1.0,
    Decimal: lambda: Decimal(1),
    datetime: lambda: datetime.now(UTC) + timedelta(hours=1),
    date: lambda: datetime.now(UTC).date(),
    time: lambda: time(12),
    timedelta: lambda: timedelta(seconds=1),
    dict: dict,
    list: list,
}


def _python_type(column: Column[Any]) -> type | None:
    kind = column.type
    try:
        return (kind.impl_instance if isinstance(kind, TypeDecorator) else kind).python_type
    except NotImplementedError:
        return None
