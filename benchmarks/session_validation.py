"""What telling who is calling costs, beside the least that it could cost without sharing.

- ours: ``Auth.validate`` as ``tenantry_app``, through the function of ``tenantry_auth``;
- plain: the same token read and hashed, and one prepared statement of asyncpg's for it on a held
  connection, as the superuser, straight from ``sessions`` and ``users``; with as many connections
  as give the most.

Both are loops of so many callers at once, each with a random token of 100,000. They take turns,
ours first in every other round; the figure is the median of the rounds' ratios.

With ``--sessions 10000000`` a second database of that size is compared with the first.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from hmac import compare_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.filling import fill, token
from benchmarks.server import running_server
from tenantry import Database, Settings
from tenantry.auth import Auth, Principal
from tenantry.auth.tokens import read_token
from tenantry.schema.row_security import APP_ROLE

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sqlalchemy import URL

    from benchmarks.server import Server

    Validate = Callable[[str], Awaitable[Principal]]

SESSIONS: Final = 100_000
LEAST: Final = {1: 0.7, 16: 1.5, 256: 2.5}
"""Callers at once, and how many times the throughput of plain is required."""
MOST_GROWN: Final = 1.3
CONNECTIONS: Final = (1, 2, 4, 8, 16)
SECONDS: Final = 1.0
RESULTS: Final = Path(__file__).with_name("results") / "session_validation.md"

_PLAIN: Final = """
    SELECT s.user_id, u.role, s.created_at, s.expires_at, s.secret_hash
      FROM sessions s JOIN users u ON u.tenant_id = s.tenant_id AND u.id = s.user_id
     WHERE s.tenant_id = $1 AND s.id = $2 AND s.expires_at > now()
       AND s.absolute_expires_at > now() AND u.disabled_at IS NULL
"""


async def run(options: Namespace) -> bool:
    """Print the figures; return whether the limits are kept."""
    rounds = max(5, options.rounds)
    tokens = [token(number) for number in random.sample(range(SESSIONS), 20_000)]
    with running_server() as server:
        name = await server.create()
        await fill(server, name, sessions=SESSIONS)
        lines, kept = [], True
        async with _ours(server.at(name)) as ours:
            for callers, least in LEAST.items():
                ratio, line = await _compare(server, name, ours, tokens, callers, rounds)
                kept &= ratio >= least
                lines.append(f"{line}   at least {least}: {'kept' if ratio >= least else 'MISSED'}")
                print(lines[-1], flush=True)
            if options.sessions > SESSIONS:
                grown, line = await _compare_sizes(server, ours, tokens, options.sessions, rounds)
                kept &= grown
                lines.append(line)
                print(line, flush=True)
        await server.drop(name)
    if options.save:
        _save(lines)
    return kept


@asynccontextmanager
async def _ours(admin: URL) -> AsyncIterator[Validate]:
    settings = Settings(database_url=admin.set(username=APP_ROLE), admin_url=admin)
    async with Database.connect(settings=settings) as db:
        yield Auth(db).validate


@asynccontextmanager
async def _plain(server: Server, name: str, connections: int) -> AsyncIterator[Validate]:
    opened = [await server.connect(name) for _ in range(connections)]
    held: asyncio.LifoQueue[Any] = asyncio.LifoQueue()
    for connection in opened:
        held.put_nowait(await connection.prepare(_PLAIN))

    async def validate(text: str) -> Principal:
        read = read_token(text)
        assert read is not None
        statement = await held.get()
        try:
            row = await statement.fetchrow(read.tenant, read.id)
        finally:
            held.put_nowait(statement)
        assert compare_digest(row["secret_hash"], read.hash)
        return Principal(read.tenant, row[0], row[1], read.id, row[2], row[3])  # type: ignore[arg-type]

    yield validate
    for connection in opened:
        await connection.close()


async def _compare(
    server: Server, name: str, ours: Validate, tokens: list[str], callers: int, rounds: int
) -> tuple[float, str]:
    """Return the median ratio of the throughputs, and a line that shows it."""
    best = 1
    if callers > 1:
        tried = {}
        for connections in CONNECTIONS:
            async with _plain(server, name, connections) as plain:
                await _throughput(plain, tokens, callers, SECONDS / 4)
                tried[connections] = await _throughput(plain, tokens, callers, SECONDS / 2)
        best = max(tried, key=tried.__getitem__)
    async with _plain(server, name, best) as plain:
        results = await _rounds(ours, plain, tokens, callers, rounds)
    ratio = statistics.median(a / b for a, b in results)
    ours_rate, plain_rate = (statistics.median(each) for each in zip(*results, strict=True))
    spread = f"{min(a / b for a, b in results):.2f} to {max(a / b for a, b in results):.2f}"
    return ratio, (
        f"{callers:3} callers   ours {ours_rate:8,.0f}/s   plain {plain_rate:8,.0f}/s on {best} "
        f"connections   ours / plain {ratio:.2f} ({spread})"
    )


async def _compare_sizes(
    server: Server, small: Validate, tokens: list[str], sessions: int, rounds: int
) -> tuple[bool, str]:
    name = await server.create()
    await fill(server, name, sessions=sessions)
    many = [token(number) for number in random.sample(range(sessions), 20_000)]
    lines, kept = [], True
    async with _ours(server.at(name)) as large:
        for callers in LEAST:
            for _ in range(2):  # the table's pages have to be read once
                await _throughput(large, many, callers, SECONDS)
            results = []
            for number in range(rounds):
                pair = [(small, tokens), (large, many)]
                rates = [
                    await _throughput(validate, of, callers, SECONDS)
                    for validate, of in (pair if number % 2 else pair[::-1])
                ]
                results.append(rates if number % 2 else rates[::-1])
            costs = statistics.median(a / b for a, b in results)
            kept &= costs <= MOST_GROWN
            lines.append(
                f"{callers:3} callers: with {sessions:,} sessions it costs {costs:.2f} times what "
                f"it costs with {SESSIONS:,}; at most {MOST_GROWN}: "
                f"{'kept' if costs <= MOST_GROWN else 'MISSED'}"
            )
    await server.drop(name)
    return kept, "\n".join(lines)


async def _rounds(
    ours: Validate, plain: Validate, tokens: list[str], callers: int, rounds: int
) -> list[tuple[float, float]]:
    for validate in (ours, plain):
        await _throughput(validate, tokens, callers, SECONDS / 2)
    results = []
    for number in range(rounds):
        order = (ours, plain) if number % 2 else (plain, ours)
        rates = {each: await _throughput(each, tokens, callers, SECONDS) for each in order}
        results.append((rates[ours], rates[plain]))
    return results


async def _throughput(validate: Validate, tokens: list[str], callers: int, seconds: float) -> float:
    """Return validations per second of so many callers, each of whom waits for its answer."""
    started = time.perf_counter()
    ends = started + seconds

    async def call(number: int) -> int:
        done = 0
        while time.perf_counter() < ends:
            await validate(tokens[(number + done * callers) % len(tokens)])
            done += 1
        return done

    done = await asyncio.gather(*(call(number) for number in range(callers)))
    return sum(done) / (time.perf_counter() - started)


def _save(lines: list[str]) -> None:
    heading = f"## {datetime.now(UTC):%Y-%m-%d}, load average {os.getloadavg()[0]:.1f}"
    if not RESULTS.exists():
        RESULTS.write_text("# Validating sessions\n\nNewest last; see `session_validation.py`.\n")
    with RESULTS.open("a") as file:
        file.write("\n".join(["", heading, "", "```text", *lines, "```", ""]))
