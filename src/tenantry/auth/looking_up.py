"""Look-ups that wait at the same moment share one statement, on connections held ready.

The hottest path of every product: each request of a signed-in user begins here. So there is no
pool to ask, no transaction to open, and no ORM: one prepared statement, one round trip.

Whoever comes alone is asked for alone, at once and in its own task. Whoever comes while others are
under way waits for a connection, and then goes with all that wait by then, in one statement. The
more come, the more each statement carries; nothing waits for a clock, and nothing is remembered
from one statement to the next, so an answer is never older than its question.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from tenantry.errors import (
    DatabaseUnavailableError,
    SchemaMissingError,
    TenantryError,
    TransactionUndoneError,
)
from tenantry.settings import Settings
from tenantry.tenancy.connecting import connect, translate
from tenantry.tenancy.observing import Observation, Reading

__all__ = ["Question", "Row", "SharedLookUp", "look_up_for"]

_MOST: Final = 512
"""Keys in one statement, so that none holds up those who come after it for long."""
_WORTH_SPLITTING: Final = 8
"""Keys for which a second connection is worth a statement of its own."""
_LOST: Final = (
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InvalidCachedStatementError,  # a migration has replaced the function
    asyncpg.InvalidSQLStatementNameError,  # a pooler has given us another server connection
    OSError,
)
"""After these a new connection is worth one try. A timeout is an OSError too, and is not."""
_FUNCTION: Final = re.compile(r"tenantry\.\w+")

Key = tuple[Any, ...]
Row = Any
Waiter = tuple[Key, "asyncio.Future[Row | None]", Observation | None]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the database.

    Args:
        one: A statement for one key, whose parts are its parameters: one row, or none.
        many: A statement for many, whose parameters are arrays of the parts: for each key that is
            found a row, which begins with the key's place, counted from 1.
        again: As ``many``, for those keys whose row of ``many`` ends in true; or None.
    """

    one: str
    many: str
    again: str | None = None

    @property
    def statements(self) -> list[str]:
        """All of them."""
        return [each for each in (self.one, self.many, self.again) if each is not None]


class _Held:
    """One connection and what is prepared on it; opened when it is first needed."""

    def __init__(self) -> None:
        self.connection: asyncpg.Connection | None = None
        self.prepared: dict[str, Any] = {}

    def drop(self) -> None:
        connection, self.connection = self.connection, None
        self.prepared = {}
        if connection is not None and not connection.is_closed():
            connection.terminate()


class SharedLookUp:
    """Asks one `Question` for many callers. Belongs to one event loop.

    Args:
        question: What is asked.
        connect: Opens a connection.
        connections: How many are held; two keep the server at work while answers are handed out.
        timeout_seconds: How long an answer may take; when it takes longer, all who wait are told.
        pooled: A pooler lies between: nothing stays prepared, and a transaction holds what
            belongs together.
        name: What the connections are called where they are counted.
    """

    def __init__(
        self,
        question: Question,
        connect: Callable[[], Awaitable[asyncpg.Connection]],
        *,
        connections: int = 2,
        timeout_seconds: float = 10.0,
        pooled: bool = False,
        name: str = "",
    ) -> None:
        self.name = name
        self._question = question
        self._summaries = {each: _summary(each) for each in question.statements}
        self._connect = connect
        self._timeout = timeout_seconds
        self._pooled = pooled
        self._all = tuple(_Held() for _ in range(connections))
        self._idle = list(self._all)
        self._waiting: deque[Waiter] = deque()
        self._crowded = False
        self._is_scheduled = False
        self._served: dict[asyncio.Task[None], list[Waiter]] = {}
        self._closed = False

    def readings(self) -> Iterator[Reading]:
        """Return how many connections are open, and how many there may be."""
        opened = {held for held in self._all if held.connection is not None}
        idle = len(opened.intersection(tuple(self._idle)))
        yield Reading("connections_idle", idle, self.name)
        yield Reading("connections_used", len(opened) - idle, self.name)
        yield Reading("connections_max", len(self._all), self.name)

    async def find(self, key: Key, *, caller: Observation | None = None) -> Row | None:
        """Return the row for ``key``, or None.

        Args:
            key: What is looked for.
            caller: The observation that the look-up is part of.

        Raises:
            DatabaseUnavailableError: No answer was to be had, which says nothing about the key.
            PrivilegeError, SchemaMissingError: The database is not one that we may ask.
        """
        self._refuse_when_closed()
        if not self._crowded and len(self._idle) == len(self._all):
            held = self._idle.pop()
            try:
                if caller is None:
                    rows = await self._fetch(held, self._question.one, key)
                else:
                    with caller.statement(self._summaries[self._question.one]):
                        rows = await self._fetch(held, self._question.one, key)
                return rows[0] if rows else None
            finally:
                self._give_back(held)
        self._crowded = True
        future: asyncio.Future[Row | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, future, caller))
        self._schedule()
        return await future

    async def close(self) -> None:
        """Close the connections. Whoever waits is told so."""
        self._closed = True
        _refuse(self._waiting, _closed())
        self._waiting.clear()
        served = list(self._served.items())
        for task, batch in served:
            task.cancel()
            _refuse(batch, _closed())  # a task that had not begun never will
        await asyncio.gather(*(task for task, _ in served), return_exceptions=True)
        for held in self._all:
            connection, held.connection = held.connection, None
            if connection is not None and not connection.is_closed():
                try:
                    await connection.close(timeout=self._timeout)
                except (asyncpg.PostgresError, OSError):
                    connection.terminate()

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise _closed()

    def _schedule(self) -> None:
        # In the next turn of the loop: all that become ready in this one have asked by then.
        if self._idle and self._waiting and not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._hand_out)

    def _hand_out(self) -> None:
        self._is_scheduled = False
        while self._idle and self._waiting:
            share = -(-len(self._waiting) // len(self._idle))
            count = min(max(share, _WORTH_SPLITTING), len(self._waiting), _MOST)
            batch = [self._waiting.popleft() for _ in range(count)]
            batch = [waiter for waiter in batch if not waiter[1].done()]  # cancelled meanwhile
            if batch:
                # It works for many, and must not inherit the context of one of them.
                task = asyncio.create_task(self._serve(self._idle.pop(), batch), context=Context())
                self._served[task] = batch
                task.add_done_callback(self._served.pop)

    def _give_back(self, held: _Held) -> None:
        self._idle.append(held)
        self._schedule()

    async def _serve(self, held: _Held, batch: list[Waiter]) -> None:
        if len(batch) == 1 and not self._waiting:
            self._crowded = False
        try:
            await self._answer(held, batch)
        except Exception as error:  # noqa: BLE001 - or those who wait would wait for ever
            refusal = error if isinstance(error, TenantryError) else _translated(error)
            _refuse(batch, refusal)
            if isinstance(refusal.__cause__, TimeoutError):
                # Or whoever came late would wait once more for each batch that is before them.
                _refuse(self._waiting, refusal)
                self._waiting.clear()
        finally:
            self._give_back(held)

    async def _answer(self, held: _Held, batch: list[Waiter]) -> None:
        rows = await self._ask_many(held, self._question.many, batch)
        due = []
        for waiter, row in zip(batch, rows, strict=True):
            if row is not None and self._question.again is not None and row[-1]:
                due.append(waiter)
            elif not waiter[1].done():
                waiter[1].set_result(row)
        if due and self._question.again is not None:
            rows = await self._ask_many(held, self._question.again, due)
            for (_, future, _), row in zip(due, rows, strict=True):
                if not future.done():
                    future.set_result(row)

    async def _ask_many(self, held: _Held, statement: str, batch: list[Waiter]) -> list[Row | None]:
        keys = [list(part) for part in zip(*[waiter[0] for waiter in batch], strict=True)]
        if batch[0][2] is None:
            found = await self._fetch(held, statement, keys)
        else:
            callers = [waiter[2] for waiter in batch if waiter[2] is not None]
            with callers[0].statement(self._summaries[statement], callers=callers):
                found = await self._fetch(held, statement, keys)
        rows: list[Row | None] = [None] * len(batch)
        for row in found:
            rows[row[0] - 1] = row
        return rows

    async def _fetch(self, held: _Held, statement: str, values: Sequence[Any]) -> list[Row]:
        try:
            try:
                return await self._send(held, statement, values)
            except TimeoutError:
                raise
            except _LOST:
                held.drop()
                self._refuse_when_closed()
                return await self._send(held, statement, values)
        except BaseException as error:
            # Also when cancelled: the answer may be on its way, and would meet the next question.
            held.drop()
            if isinstance(error, (asyncpg.PostgresError, *_LOST)):
                raise _translated(error) from error
            raise

    async def _send(self, held: _Held, statement: str, values: Sequence[Any]) -> list[Row]:
        if held.connection is None:
            held.connection = await self._connect()
            self._refuse_when_closed()  # meanwhile: whoever fails drops the connection
            if not self._pooled:
                await self._prepare(held, held.connection)
        if self._pooled:
            # BEGIN and COMMIT have no timeout of their own. There is no ROLLBACK, for which a
            # server that hangs would let us wait: whoever fails drops the connection.
            async with asyncio.timeout(self._timeout):
                await held.connection.execute("BEGIN")
                rows: list[Row] = await held.connection.fetch(statement, *values)
                await held.connection.execute("COMMIT")
                return rows
        found: list[Row] = await held.prepared[statement].fetch(*values, timeout=self._timeout)
        return found

    async def _prepare(self, held: _Held, connection: asyncpg.Connection) -> None:
        # All at once, so that every look-up after the first on a connection is one round trip,
        # whichever statement it needs.
        for statement in self._question.statements:
            held.prepared[statement] = await connection.prepare(statement, timeout=self._timeout)


def look_up_for(
    settings: Settings, question: Question, *, connections: int, name: str
) -> SharedLookUp:
    """Return the look-up of ``question`` as the application's role, where ``settings`` say.

    Args:
        settings: Of a `Database`.
        question: What is asked.
        connections: How many are held; they are opened when first needed.
        name: What they are called where they are counted.
    """
    url = settings.database_url
    assert url is not None  # noqa: S101 - Database has refused that

    async def open_connection() -> asyncpg.Connection:
        return await connect(
            url,
            timeout_seconds=settings.connect_timeout_seconds,
            pooled=bool(settings.pooler),
        )

    return SharedLookUp(
        question,
        open_connection,
        connections=connections,
        timeout_seconds=settings.connect_timeout_seconds,
        pooled=bool(settings.pooler),
        name=name,
    )


def _summary(statement: str) -> str:
    function = _FUNCTION.search(statement)
    return f"SELECT {function[0]}" if function else "SELECT"


def _refuse(waiters: Iterable[Waiter], error: TenantryError) -> None:
    for _, future, _ in waiters:
        if not future.done():
            # One for each: a traceback grows on it in every task that raises it.
            own = type(error)(*error.args)
            own.__cause__ = error.__cause__
            future.set_exception(own)


def _closed() -> DatabaseUnavailableError:
    return DatabaseUnavailableError(
        "The database was closed. Use it within its `async with` block."
    )


def _translated(error: BaseException) -> TenantryError:
    if isinstance(error, asyncpg.UndefinedFunctionError):
        return SchemaMissingError(
            "The database lacks the functions that signing in needs. Run `tenantry db migrate`."
        )
    known = translate(error) if isinstance(error, asyncpg.PostgresError) else None
    if isinstance(known, TransactionUndoneError):
        known = None  # nobody who looks up has a transaction to run again
    return known or DatabaseUnavailableError(
        f"PostgreSQL gave no answer ({type(error).__name__}). This says nothing about what was "
        "looked up; try again."
    )
