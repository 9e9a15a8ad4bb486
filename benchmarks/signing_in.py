"""What signing in does to others, and what its duration tells.

- a storm: while 100 users sign in at once, one caller goes on validating sessions; compared are
  the 99th percentiles with and without the storm, and the memory at its peak;
- five kinds of sign-in that fail or meet old parameters, 200 of each in turn: their medians must
  not tell which it was.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.filling import fill, token
from benchmarks.server import running_server
from tenantry import Database, Settings
from tenantry.auth import STANDARD, Argon2Parameters, Auth, HashingPool
from tenantry.auth.passwords import hash_password, prepare
from tenantry.auth.profiles import OWASP_FLOOR
from tenantry.errors import InvalidCredentialsError
from tenantry.schema import Tenant, User
from tenantry.schema.row_security import APP_ROLE

if TYPE_CHECKING:
    from argparse import Namespace
    from uuid import UUID

SESSIONS: Final = 100_000
STORM: Final = 100
MOST_SLOWED: Final = 3.0
MEMORY_MIB: Final = 50
MOST_APART: Final = 1.05
KINDS: Final = ("unknown user", "disabled user", "no password", "wrong password", "old parameters")
EACH: Final = 200
PASSWORD: Final = "correct horse battery staple"
PAUSE_SECONDS: Final = 0.001
RESULTS: Final = Path(__file__).with_name("results") / "signing_in.md"


async def run(options: Namespace) -> bool:
    """Print the figures; return whether the limits are kept."""
    with running_server() as server:
        name = await server.create()
        await fill(server, name, sessions=SESSIONS)
        admin = server.at(name)
        settings = Settings(database_url=admin.set(username=APP_ROLE), admin_url=admin)
        async with Database.connect(settings=settings) as db:
            auth = Auth(db, hashing=HashingPool(max_waiting=STORM))
            tenant = await _populate(db)
            lines, kept = await _storm(auth, tenant)
            told, alike = await _compare_kinds(auth, tenant)
        await server.drop(name)
    lines += told
    print(*lines, sep="\n", flush=True)
    if options.save:
        _save(lines)
    return kept and alike


async def _populate(db: Database) -> UUID:
    """Make the users of the storm, and a user of each kind for each attempt."""
    current, old = STANDARD.hashing, OWASP_FLOOR
    async with db.operator(reason="benchmark") as tx:
        tenant = Tenant(name="Storm", slug="storm")
        tx.add(tenant)
        await tx.flush()
        hashed = {each: hash_password(prepare(PASSWORD), each) for each in (current, old)}

        def user(email: str, parameters: Argon2Parameters | None) -> User:
            return User(
                tenant_id=tenant.id,
                email=email,
                name="u",
                hashed_password=hashed[parameters] if parameters else None,
                disabled_at=datetime.now(UTC) if email.startswith("disabled") else None,
            )

        tx.add_all(user(f"storm{number}@x.example", current) for number in range(STORM))
        stored = {"disabled": current, "no": None, "wrong": current, "old": old}
        for kind, parameters in stored.items():
            tx.add_all(user(f"{kind}{number}@x.example", parameters) for number in range(EACH))
        return tenant.id


async def _storm(auth: Auth, tenant: UUID) -> tuple[list[str], bool]:
    tokens = [token(number) for number in random.sample(range(SESSIONS), 5_000)]
    storm: asyncio.Future[list[object]] | None = None

    async def latencies(seconds: float) -> list[float]:
        taken: list[float] = []
        ends = time.perf_counter() + seconds
        while (time.perf_counter() < ends) if storm is None else not storm.done():
            started = time.perf_counter()
            await auth.validate(random.choice(tokens))
            taken.append(time.perf_counter() - started)
            await asyncio.sleep(PAUSE_SECONDS)
        return taken

    await latencies(2)
    calm = await latencies(10)
    base = _start_peak()
    storm = asyncio.gather(
        *(auth.sign_in(tenant, f"storm{number}@x.example", PASSWORD) for number in range(STORM))
    )
    started = time.perf_counter()
    stormy = await latencies(0)
    await storm
    seconds = time.perf_counter() - started
    calm_p99, stormy_p99 = _p99(calm), _p99(stormy)
    slowed = stormy_p99 / calm_p99
    peak = _memory_mib("VmHWM") - base
    limit = auth.hashing.permits * STANDARD.hashing.memory_kib / 1024 + MEMORY_MIB
    return [
        f"{STORM} sign-ins at once took {seconds:.1f} s with {auth.hashing.permits} at a time",
        f"validate beside them: p99 {stormy_p99 * 1e6:,.0f} µs of {len(stormy):,}",
        f"validate without them: p99 {calm_p99 * 1e6:,.0f} µs of {len(calm):,}",
        f"slowed {slowed:.2f} times, at most {MOST_SLOWED:g}: {_verdict(slowed <= MOST_SLOWED)}",
        f"peak {peak:.0f} MiB above {base:.0f}, at most {limit:.0f}: {_verdict(peak <= limit)}",
    ], slowed <= MOST_SLOWED and peak <= limit


async def _compare_kinds(auth: Auth, tenant: UUID) -> tuple[list[str], bool]:
    taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(EACH):
        for kind in random.sample(KINDS, len(KINDS)):
            started = time.perf_counter()
            try:
                await auth.sign_in(
                    tenant, f"{kind.partition(' ')[0]}{number}@x.example", "not the password"
                )
            except InvalidCredentialsError:
                taken[kind].append(time.perf_counter() - started)
    medians = {kind: statistics.median(each) for kind, each in taken.items()}
    apart = max(medians.values()) / min(medians.values())
    listed = ", ".join(f"{kind} {median * 1e3:.1f}" for kind, median in medians.items())
    return [
        f"a sign-in that fails, medians of {EACH} in ms: {listed}",
        f"slowest / fastest {apart:.3f}, at most {MOST_APART}: {_verdict(apart <= MOST_APART)}",
    ], apart <= MOST_APART


def _verdict(kept: bool) -> str:
    return "kept" if kept else "MISSED"


def _p99(taken: list[float]) -> float:
    return statistics.quantiles(taken, n=100)[98]


def _start_peak() -> float:
    """Return the memory in use, and have its peak counted from here."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory_mib("VmRSS")


def _memory_mib(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {name}.")


def _save(lines: list[str]) -> None:
    heading = f"## {datetime.now(UTC):%Y-%m-%d}, load average {os.getloadavg()[0]:.1f}"
    if not RESULTS.exists():
        RESULTS.write_text("# Signing in\n\nNewest last; see `signing_in.py`.\n")
    with RESULTS.open("a") as file:
        file.write("\n".join(["", heading, "", "```text", *lines, "```", ""]))
