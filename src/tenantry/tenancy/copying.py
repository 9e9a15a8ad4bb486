"""Bulk loading with binary COPY, under row security, inside a session's own transaction.

PostgreSQL refuses COPY FROM on a table whose row security applies to the role, and it applies to
every role of ours. Rows are therefore copied into a temporary table and moved on by INSERT …
SELECT, batch by batch: policies, constraints and defaults see each of them.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import asyncpg
from pgvector.sqlalchemy import VECTOR
from sqlalchemy import JSON, Column, Integer, MetaData, Table, column, select, table, text
from sqlalchemy.schema import CreateTable, DropTable

from tenantry.errors import DatabaseUnavailableError, InvalidValueError
from tenantry.schema.types import (
    BoundedText,
    Embedding,
    JsonObject,
    TypedJson,
    UtcDateTime,
)
from tenantry.tenancy.driver import bound
from tenantry.tenancy.vectors import wire_vector

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

__all__ = ["BATCH_SIZE", "copy_rows"]

Row: TypeAlias = Sequence[Any]
Encode: TypeAlias = Callable[[Any, str], Any]

BATCH_SIZE: Final = 500
"""Rows per batch. 500 embedded chunks, a page each, stay within temp_buffers (8 MB by default);
200 and 2,000 are a tenth slower."""

_STAGE: Final = "tenantry_stage"

# Rows stay whole up to a page. Otherwise a vector would be moved out of its row twice, here and
# where it goes to: embedded rows load 15 to 20 % faster like this.
_STAGE_STORAGE: Final = "toast_tuple_target = 8160"

_LOST: Final = (
    OSError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
)

# What asyncpg lets through from its encoders, and what the staging table refuses.
_UNSENDABLE: Final = (
    ArithmeticError,
    AttributeError,
    TypeError,
    ValueError,
    asyncpg.DataError,
    asyncpg.InterfaceError,
)


async def copy_rows(
    tx: AsyncSession,
    target: Table,
    rows: Iterable[Row] | AsyncIterable[Row],
    *,
    columns: Sequence[str],
    batch_size: int = BATCH_SIZE,
    on_batch: Callable[[int], None] | None = None,
) -> int:
    """Load ``rows`` into ``target`` by binary COPY in the transaction of ``tx``.

    Every value is checked on its way as the ORM would check it. The transaction is begun if need
    be and never ended here: after an error it can only be rolled back, and then nothing of
    ``rows`` is there.

    Args:
        tx: A session whose role may create temporary tables: the operator's.
        target: The table to load into.
        rows: Tuples in the order of ``columns``. They are consumed batch by batch, so memory
            stays constant. Embeddings are sequences of floats, JSON values dicts or models.
        columns: Names of the target's columns; the others get their defaults in the database.
        batch_size: Rows held in memory, and moved by one INSERT.
        on_batch: Called with the number of rows of each batch once it is in the table.

    Returns:
        The number of rows loaded.

    Raises:
        InvalidValueError: An unknown column, a row of another length, or a value that the
            database would refuse or garble; the message names the row, counted from 0.
    """
    chosen = _columns(target, columns)
    if batch_size < 1:
        raise InvalidValueError(f"batch_size is {batch_size}; at least 1 is required.")
    await tx.flush()
    connection = await tx.connection()
    stage = _stage_of(target, chosen)
    await connection.execute(CreateTable(stage))
    await connection.exec_driver_sql(f"ALTER TABLE pg_temp.{_STAGE} SET ({_STAGE_STORAGE})")
    raw = bound((await connection.get_raw_connection()).driver_connection)
    is_set = raw is not None and raw.binary_vectors
    codec = (
        await _vector_schema(connection) if not is_set and any(map(_is_vector, chosen)) else None
    )
    move = target.insert().from_select(
        [c.name for c in chosen], select(*stage.c), include_defaults=False
    )
    loaded = 0
    async for batch in _batches(_checked(rows, target, chosen), batch_size):
        await _copy(connection, stage, batch, vector_schema=codec)
        await connection.execute(move)
        await connection.execute(text(f"TRUNCATE pg_temp.{_STAGE}"))
        loaded += len(batch)
        if on_batch is not None:
            on_batch(len(batch))
    await connection.execute(DropTable(stage))
    return loaded


def _columns(target: Table, names: Sequence[str]) -> list[Column[Any]]:
    columns = {column.name: column for column in target.columns}
    unknown = sorted(set(names) - set(columns))
    if unknown or not names or len(set(names)) != len(names):
        raise InvalidValueError(
            f"{target.name}: cannot load the columns {list(names)}; one or more of "
            f"{sorted(columns)} are required, each once."
        )
    return [columns[name] for name in names]


def _stage_of(target: Table, columns: Sequence[Column[Any]]) -> Table:
    # pg_temp is spelt out: no search_path can make this name another table.
    return Table(
        _STAGE,
        MetaData(),
        *(Column(column.name, column.type, nullable=True) for column in columns),
        schema="pg_temp",
        prefixes=["TEMPORARY"],
        postgresql_on_commit="DROP",
        info={"target": target.name},
    )


async def _vector_schema(connection: AsyncConnection) -> str:
    """Return the schema that pgvector was installed in; hosted services have their own."""
    namespace = table("pg_namespace", column("oid"), column("nspname"), schema="pg_catalog")
    extension = table(
        "pg_extension", column("extname"), column("extnamespace"), schema="pg_catalog"
    )
    found = await connection.scalar(
        select(namespace.c.nspname)
        .join_from(namespace, extension, extension.c.extnamespace == namespace.c.oid)
        .where(extension.c.extname == "vector")
    )
    return str(found)


async def _copy(
    connection: AsyncConnection, stage: Table, batch: list[Row], *, vector_schema: str | None
) -> None:
    raw = cast("asyncpg.Connection[Any]", (await connection.get_raw_connection()).driver_connection)
    columns = [column.name for column in stage.columns]
    try:
        if vector_schema is not None:
            # On a connection of another's, for this COPY only: its ORM sends vectors as text.
            await raw.set_type_codec(
                "vector", schema=vector_schema, encoder=_as_is, decoder=_as_is, format="binary"
            )
        await raw.copy_records_to_table(
            stage.name, schema_name=stage.schema, columns=columns, records=batch
        )
        if vector_schema is not None:
            await raw.reset_type_codec("vector", schema=vector_schema)
    except BaseException as error:
        # Taking the codec away needs a query, which a failed transaction refuses, and after some
        # errors the driver does not know its own state: the pool must not get this one back.
        lost = raw.is_closed()  # which the driver reports like a mistake of the caller's
        await connection.invalidate()
        if isinstance(error, _LOST) or (lost and isinstance(error, Exception)):
            raise DatabaseUnavailableError(
                f"The connection was lost while rows were copied to {stage.info['target']} "
                f"({type(error).__name__}). Nothing uncommitted was kept."
            ) from error
        if isinstance(error, _UNSENDABLE):
            raise InvalidValueError(
                f"{stage.info['target']}: a value does not fit its column: "
                f"{type(error).__name__}, {error}. Nothing was written."
            ) from error
        raise


async def _batches(rows: AsyncIterator[Row], size: int) -> AsyncIterator[list[Row]]:
    batch: list[Row] = []
    async for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


async def _checked(
    rows: Iterable[Row] | AsyncIterable[Row], target: Table, columns: Sequence[Column[Any]]
) -> AsyncIterator[Row]:
    encoders = [(column.name, bool(column.nullable), _encoder(column)) for column in columns]
    number = itertools.count()
    if isinstance(rows, AsyncIterable):
        async for row in rows:
            yield _encode(row, encoders, f"{target.name}, row {next(number)}")
    else:
        for row in rows:
            yield _encode(row, encoders, f"{target.name}, row {next(number)}")


def _encode(row: Row, encoders: Sequence[tuple[str, bool, Encode | None]], where: str) -> Row:
    if len(row) != len(encoders):
        raise InvalidValueError(
            f"{where}: {len(row)} values for {len(encoders)} columns. Nothing was written."
        )
    encoded: list[Any] = []
    for value, (name, nullable, encode) in zip(row, encoders, strict=True):
        if value is None:
            if not nullable:
                raise InvalidValueError(f"{where}: {name} is None; a value is required.")
            encoded.append(None)
        else:
            encoded.append(value if encode is None else encode(value, f"{where}: {name}"))
    return encoded


def _is_vector(column: Column[Any]) -> bool:
    return isinstance(column.type, Embedding | VECTOR)


def _encoder(column: Column[Any]) -> Encode | None:  # noqa: PLR0911 - one per kind of type
    """Return what turns a value of ``column`` into what asyncpg sends; None: nothing does."""
    type_ = column.type
    match type_:
        case Embedding():
            return _vector_encoder(type_.dimensions)
        case VECTOR():
            return _vector_encoder(type_.dim)
        case BoundedText() | UtcDateTime():
            return type_.accept
        case JsonObject():
            return lambda value, where: json.dumps(type_.accept(value, where))
        case TypedJson():
            return lambda value, where: type_.accept(value, where).model_dump_json()
        case JSON():
            return lambda value, _: json.dumps(value)
        case Integer():
            return _whole  # asyncpg would cut 1.5 to 1
        case _:
            return None


def _whole(value: Any, where: str) -> int:
    if not isinstance(value, int):
        raise InvalidValueError(f"{where} is a {type(value).__name__}; an int is required.")
    return value


def _vector_encoder(dimensions: int | None) -> Encode:
    def encode(value: Any, where: str) -> bytes:
        return wire_vector(value, where=where, dimensions=dimensions or len(value))

    return encode


def _as_is(value: bytes) -> bytes:
    return value
