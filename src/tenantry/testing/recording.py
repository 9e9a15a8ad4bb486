"""The SQL that is sent while a block runs, whoever sends it.

SQLAlchemy's events see what goes through its engines. Search, validation and bulk loading go
straight to the driver, which logs no statement that is kept prepared. So what is recorded is the
calls of the driver itself: every statement of this process and thread passes through one of them.
"""

from __future__ import annotations

import functools
import inspect
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

__all__ = ["RecordedSql", "Statement", "recorded_sql"]

# BEGIN carries the SET LOCAL that binds the tenant, COMMIT what cleans the connection.
_TRANSACTION: Final = re.compile(
    r"\s*(BEGIN|START TRANSACTION|COMMIT|ROLLBACK|SAVEPOINT|RELEASE)\b", re.IGNORECASE
)
# What the library asks a new connection about itself.
_CATALOG: Final = re.compile(r"\bFROM\s+pg_catalog\.pg_extension\b", re.IGNORECASE)

_OF_CONNECTIONS: Final = (
    *("execute", "executemany", "fetch", "fetchmany", "fetchrow", "fetchval", "cursor"),
)
_OF_PREPARED: Final = ("executemany", "fetch", "fetchmany", "fetchrow", "fetchval", "cursor")
_COPIES: Final = (
    *("copy_records_to_table", "copy_to_table", "copy_from_table", "copy_from_query"),
)


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement that was sent.

    Args:
        sql: Its text, as the server has received it.
        values: Its parameters, if they were asked for, else empty.
    """

    sql: str
    values: tuple[Any, ...] = field(default=(), repr=False)


class RecordedSql(Sequence[str]):
    """The statements so far, in the order in which they were sent.

    As a sequence it holds their texts, without what begins and ends transactions.
    """

    def __init__(self) -> None:
        self.everything: list[Statement] = []

    @property
    def statements(self) -> list[Statement]:
        """Those that are not of transactions."""
        return [each for each in self.everything if not _TRANSACTION.match(each.sql)]

    def matching(self, pattern: str) -> list[str]:
        """Return the texts in which a regular expression is found, in any case of letters."""
        found = re.compile(pattern, re.IGNORECASE)
        return [each for each in self if found.search(each)]

    def __getitem__(self, index: Any) -> Any:
        return [each.sql for each in self.statements][index]

    def __len__(self) -> int:
        return len(self.statements)

    def __repr__(self) -> str:
        return "\n".join([f"{len(self)} statements:", *self])


@contextmanager
def recorded_sql(*, values: bool = False) -> Iterator[RecordedSql]:
    """Record the SQL that this thread sends through asyncpg until the end of the block.

    Seen are the ORM, SQLAlchemy Core, `tenantry.search`, `tenantry.auth`, `tenantry.knowledge` and
    bare connections of asyncpg, of every `Database` of the process. Not seen are other drivers,
    threads and processes.

    Args:
        values: Keep the parameters, too. They may be secrets: what fails prints them.
    """
    recorded, thread = RecordedSql(), threading.get_ident()

    def note(sql: str, parameters: tuple[Any, ...]) -> None:
        if threading.get_ident() == thread and not _CATALOG.search(sql):
            recorded.everything.append(Statement(sql, parameters if values else ()))

    # The application's own connections may be open already, so their class is where to listen.
    with (
        _noted(asyncpg.Connection, _OF_CONNECTIONS, _text_first, note),
        _noted(PreparedStatement, _OF_PREPARED, _prepared_text, note),
        _noted(asyncpg.Connection, _COPIES, _copy_text, note),
    ):
        yield recorded


Note = Callable[[str, tuple[Any, ...]], None]
Read = Callable[[Any, str, tuple[Any, ...]], tuple[str, tuple[Any, ...]]]


@contextmanager
def _noted(kind: type, names: Sequence[str], read: Read, note: Note) -> Iterator[None]:
    methods = {name: getattr(kind, name) for name in names if hasattr(kind, name)}
    for name, method in methods.items():
        setattr(kind, name, _noting(name, method, read, note))
    try:
        yield
    finally:
        for name, method in methods.items():
            setattr(kind, name, method)


def _noting(name: str, method: Callable[..., Any], read: Read, note: Note) -> Callable[..., Any]:
    signature = inspect.signature(method)

    @functools.wraps(method)
    def call(subject: Any, *arguments: Any, **options: Any) -> Any:
        given = signature.bind(subject, *arguments, **options).args[1:]  # also what has its name
        note(*read(subject, name, given))
        return method(subject, *arguments, **options)

    return call


def _text_first(subject: Any, name: str, arguments: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    del subject, name
    return str(arguments[0]), arguments[1:]


def _prepared_text(
    subject: Any, name: str, arguments: tuple[Any, ...]
) -> tuple[str, tuple[Any, ...]]:
    del name
    return subject.get_query(), arguments


def _copy_text(subject: Any, name: str, arguments: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    del subject
    if name == "copy_from_query":
        return f"COPY ({arguments[0]}) TO STDOUT", arguments[1:]
    direction = "TO STDOUT" if name == "copy_from_table" else "FROM STDIN"
    return f"COPY {arguments[0]} {direction}", ()
