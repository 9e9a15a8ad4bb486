"""What an authenticated request costs over HTTP: cookie, validation, one query, JSON.

- ours: a FastAPI endpoint with ``TenantTx``, as ``tenantry_app``;
- plain: the same endpoint and query on SQLAlchemy's ``AsyncSession``, as the superuser, with no
  sign-in and no tenant;
- with ``--peer-python PATH``, an interpreter that has ``fastapi-users[sqlalchemy]``, asyncpg and
  ``uvicorn[standard]``: the same endpoint behind fastapi-users' cookie and its database strategy.

Each is a uvicorn with uvloop and httptools, as ``uvicorn[standard]`` runs, in a process of its own,
asked by another process, and they take turns; the figure is the median of the rounds' ratios.

With one connection each request waits for the one before it, so that the figure tells of latency:
ours waits for four round trips to PostgreSQL (validation, BEGIN with the tenant, the query, COMMIT
before the answer), plain for two, as its ROLLBACK comes after the answer. It is held to the same
limits.
"""

from __future__ import annotations

import asyncio
import random
import socket
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.filling import TENANTS, fill, token
from benchmarks.lanes import save, verdict
from benchmarks.server import running_server

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Sequence

LEAST: Final = {"plain": 0.7, "fastapi-users": 1.7}
CONNECTIONS: Final = (1, 16, 64)
ROUNDS: Final = 12
SECONDS: Final = 2.0
SESSIONS: Final = 10_000
PEER: Final = Path(__file__).with_name("http_peer.py")

_WIDGETS: Final = """
    INSERT INTO widgets (tenant_id, name)
    SELECT md5(t::text)::uuid, 'widget ' || i
      FROM generate_series(0, {tenants} - 1) t, generate_series(1, 10) i"""


async def run(options: Namespace) -> bool:
    """Print the figures; return whether the limits are kept."""
    rounds = max(ROUNDS, options.rounds)
    numbers = random.sample(range(SESSIONS), 2_000)
    cookies = [f"__Host-session={token(number)}" for number in numbers]
    theirs = [f"auth=token-{number}" for number in numbers]
    lines, kept = [], True
    with running_server() as server:
        name = await server.create()
        await fill(server, name, sessions=SESSIONS)
        await server.run(_WIDGETS.format(tenants=TENANTS), database=name)
        await server.run("ANALYZE widgets", database=name)
        url = server.at(name).render_as_string(hide_password=False)
        with ExitStack() as stack:
            module = [sys.executable, "-m", "benchmarks.http_apps"]
            lanes = {
                "ours": (stack.enter_context(_app([*module, "ours"], url)), cookies),
                "plain": (stack.enter_context(_app([*module, "plain"], url)), cookies),
            }
            if options.peer_python:
                peer = _app([options.peer_python, str(PEER)], url)
                lanes["fastapi-users"] = (stack.enter_context(peer), theirs)
            else:
                lines.append("fastapi-users: not compared, as --peer-python is not given")
                print(lines[-1], flush=True)
            for connections in CONNECTIONS:
                for line, is_kept in await _compare(lanes, connections, rounds):
                    lines.append(line)
                    kept &= is_kept
                    print(line, flush=True)
        await server.drop(name)
    if options.save:
        save(
            "http_requests",
            "Authenticated requests",
            "uvicorn[standard]",
            ["```text", *lines, "```"],
        )
    return kept


@contextmanager
def _app(command: Sequence[str], url: str) -> Iterator[int]:
    """Run an application on a free port, and yield the port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    with subprocess.Popen([*command, str(port), url]) as process:
        try:
            _wait(port, process)
            yield port
        finally:
            process.terminate()


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + 30
    while time.monotonic() < ends and process.poll() is None:
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} does not listen")


async def _compare(
    lanes: dict[str, tuple[int, list[str]]], connections: int, rounds: int
) -> list[tuple[str, bool]]:
    rates: dict[str, list[float]] = {name: [] for name in lanes}
    for lane in lanes.values():
        await _throughput(*lane, connections, SECONDS / 2)
    for number in range(rounds):
        for name in [*lanes][:: 1 if number % 2 else -1]:
            rates[name].append(await _throughput(*lanes[name], connections, SECONDS))
    said = []
    for name in [name for name in lanes if name != "ours"]:
        ratios = [a / b for a, b in zip(rates["ours"], rates[name], strict=True)]
        ratio, least = statistics.median(ratios), LEAST[name]
        line = (
            f"{connections:3} connections   ours {statistics.median(rates['ours']):6,.0f}/s   "
            f"{name} {statistics.median(rates[name]):6,.0f}/s   ratio {ratio:.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})   at least {least}: "
            f"{verdict(ratio >= least)}"
        )
        said.append((line, ratio >= least))
    return said


async def _throughput(port: int, cookies: list[str], connections: int, seconds: float) -> float:
    """Return answers per second, as a process of its own counts them."""
    asked = [port, connections, seconds]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.http_load", *map(str, asked),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate("\n".join(cookies).encode())
    return float(out)
