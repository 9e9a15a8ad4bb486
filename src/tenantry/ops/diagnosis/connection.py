"""The way to the server: who is in between, whether others can read along, and the clocks."""

from __future__ import annotations

import time
from typing import Final

import asyncpg
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncConnection

from tenantry.ops.diagnosis.report import Diagnosis, State

__all__ = ["diagnose_clock", "diagnose_encryption", "diagnose_pooler", "judge_clock"]

# With a time service, clocks differ by milliseconds: a second means that one has none. Half a
# minute is what others commonly allow for when they check a signed token's times, and it is seen
# in our rows: ids are ordered by the application's clock, created_at is the server's.
_CLOCK_WARNING_SECONDS: Final = 1.0
_CLOCK_PROBLEM_SECONDS: Final = 30.0
_SAMPLES: Final = 5

_ENCRYPTION = text("""
    SELECT inet_client_addr() IS NULL AS is_socket,
           inet_client_addr() <<= '127.0.0.0/8' OR inet_client_addr() = '::1' AS is_local,
           (SELECT CASE WHEN ssl THEN version END FROM pg_stat_ssl WHERE pid = pg_backend_pid())
               AS tls
""")
_VERIFYING: Final = frozenset({"verify-ca", "verify-full"})


async def _driver(connection: AsyncConnection) -> asyncpg.Connection:
    raw = await connection.get_raw_connection()
    driver = raw.driver_connection
    if not isinstance(driver, asyncpg.Connection):
        raise TypeError(f"{type(driver).__name__} is not asyncpg's connection")
    return driver


async def diagnose_pooler(connection: AsyncConnection) -> list[Diagnosis]:
    """Find out whether the driver talks to PostgreSQL itself.

    A pooler answers the login in the server's place, with a process id of its own making.
    """
    driver = await _driver(connection)
    if await driver.fetchval("SELECT pg_backend_pid()") == driver.get_server_pid():
        return [Diagnosis("pooler", "ok", "none in between")]
    found = "a pooler such as PgBouncer is in between; `Database` keeps no statements prepared"
    return [Diagnosis("pooler", "ok", found)]


async def diagnose_encryption(connection: AsyncConnection, *, url: URL) -> list[Diagnosis]:
    """Judge whether the last stretch to PostgreSQL can be read or changed by others."""
    name = "encryption"
    row = (await connection.execute(_ENCRYPTION)).one()
    if row.is_socket:
        return [Diagnosis(name, "ok", "a Unix socket, no network")]
    if row.tls:
        mode = url.query.get("sslmode")
        if mode in _VERIFYING:
            return [Diagnosis(name, "ok", f"{row.tls}, certificate verified")]
        return [
            Diagnosis(
                name,
                "ok",
                f"{row.tls}, but any certificate is taken: sslmode is {mode or 'not set'}",
                "sslmode=verify-full with sslrootcert in the URL also finds out an impostor.",
            )
        ]
    if row.is_local:
        return [Diagnosis(name, "ok", "not encrypted, on this machine only")]
    return [
        Diagnosis(
            name,
            "warning",
            "not encrypted: whoever is on the network in between reads every tenant's rows",
            "Add sslmode=verify-full and sslrootcert to the URL, or sslmode=require at least.",
        )
    ]


async def diagnose_clock(connection: AsyncConnection) -> list[Diagnosis]:
    """Compare the server's clock with this machine's, as exactly as the network lets it."""
    driver = await _driver(connection)
    best_round_trip, difference = float("inf"), 0.0
    for _ in range(_SAMPLES):
        sent = time.time()
        began = time.perf_counter()
        theirs = await driver.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
        round_trip = time.perf_counter() - began
        if round_trip < best_round_trip:
            best_round_trip, difference = round_trip, theirs - (sent + round_trip / 2)
    return [judge_clock(difference, uncertainty=best_round_trip / 2)]


def judge_clock(difference: float, *, uncertainty: float) -> Diagnosis:
    """Judge a difference of clocks.

    Args:
        difference: Seconds that the server is ahead.
        uncertainty: Seconds that the measurement may be wrong by, either way.
    """
    certain = abs(difference) - uncertainty
    state: State = "ok"
    if certain > _CLOCK_PROBLEM_SECONDS:
        state = "problem"
    elif certain > _CLOCK_WARNING_SECONDS:
        state = "warning"
    way = "ahead of" if difference > 0 else "behind"
    found = f"the server is {abs(difference):.3f} s {way} this machine (± {uncertainty:.3f} s)"
    advice = "" if state == "ok" else "Run a time service (NTP) on both; one of the clocks is off."
    return Diagnosis("clock", state, found, advice)
