"""How fast the loading step of `db seed` is, beside a bare COPY and the ORM.

The same rows, made beforehand, go into the same tables of fresh databases, which have all their
indexes at the start and at the end:

- ours: `seed()` itself, with its rows made beforehand: as the operator, under row security, every
  value checked, the costly indexes dropped and rebuilt;
- bare COPY: asyncpg's ``copy_records_to_table``, as the superuser, past row security, values in the
  form that the driver takes already, a transaction for each tenant, indexes in place;
- ORM: ``session.add`` and commit, one object at a time, as the operator. A tenant of
  `SAMPLE_CHUNKS` chunks, into an empty database and into the loaded one, since the vector index
  slows down as it grows. From the mean of the two, table by table, follows how long all rows would
  take. That flatters the ORM: most rows would come when the index is nearer its full size.
"""

from __future__ import annotations

import json
import os
import platform
import time
from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from pgvector import Vector
from pgvector.asyncpg import register_vector

from benchmarks.server import Server, running_server
from tenantry.database import Database
from tenantry.ops.seed import (
    SeedPlan,
    TableRows,
    TenantPlan,
    load,
    load_corpus,
    seed,
    tenant_rows,
)
from tenantry.schema import Base
from tenantry.settings import Settings

if TYPE_CHECKING:
    from argparse import Namespace

LEAST_OF_BARE: Final = 0.8
LEAST_OF_ORM: Final = 15.0
SAMPLE_CHUNKS: Final = 1000
RESULTS: Final = Path(__file__).with_name("results") / "seed_loading.md"

Made = list[tuple[TableRows, list[Sequence[Any]]]]


@dataclass
class Lane:
    """One way of loading all rows, once or several times."""

    name: str
    rows: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def speed(self) -> float:
        return self.rows * len(self.seconds) / sum(self.seconds)

    def line(self) -> str:
        each = ", ".join(f"{seconds:.1f}" for seconds in self.seconds)
        return f"{self.name:32} {self.speed:9,.0f} rows/s   {self.rows:,} rows in {each} s"


@dataclass
class Sample:
    """Seconds that the ORM took for one object, by table."""

    by_table: dict[str, float]

    def speed(self, counts: dict[str, int]) -> float:
        seconds = sum(self.by_table[table] * count for table, count in counts.items())
        return sum(counts.values()) / seconds


async def run(options: Namespace) -> bool:
    """Print the figures; return whether both limits are kept."""
    plan = SeedPlan(chunks=options.chunks, users=max(3, options.chunks // 100))
    started = time.perf_counter()
    made = {each: _make(each) for each in plan.tenant_plans()}
    counts = _counts(made)
    rows = sum(counts.values())
    generated = time.perf_counter() - started
    lines = [f"{options.chunks:,} chunks, {rows:,} rows; making them took {generated:.1f} s"]
    with running_server() as server:
        lines.insert(0, await _conditions(server))
        print(*lines, sep="\n", flush=True)
        ours, bare, samples = await _measure(server, plan, made, options.rounds)
    empty, loaded, flushed = samples
    orm = _mean(empty, loaded)
    figures = [
        ours.line(),
        bare.line(),
        f"{'ORM, add + commit':32} {orm.speed(counts):9,.0f} rows/s   all rows, extrapolated",
        *(
            f"{f'    a chunk, {name}':32} {1 / each.by_table['knowledge_chunks']:9,.0f} rows/s"
            for name, each in (
                ("empty", empty),
                ("loaded", loaded),
                ("loaded, add + flush", flushed),
            )
        ),
    ]
    verdicts = [
        _judge("ours / bare COPY", ours.speed / bare.speed, LEAST_OF_BARE),
        _judge("ours / ORM", ours.speed / orm.speed(counts), LEAST_OF_ORM),
    ]
    figures += [line for line, _ in verdicts]
    print(*figures, sep="\n", flush=True)
    if options.save:
        _save([*lines, *figures])
    return all(kept for _, kept in verdicts)


def _make(plan: TenantPlan) -> Made:
    return [(table, list(table.rows)) for table in tenant_rows(plan, load_corpus())]


def _counts(made: dict[TenantPlan, Made]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for tables in made.values():
        for table, rows in tables:
            counts[table.table.name] = counts.get(table.table.name, 0) + len(rows)
    return counts


def _mean(first: Sample, second: Sample) -> Sample:
    return Sample(
        {table: (seconds + second.by_table[table]) / 2 for table, seconds in first.by_table.items()}
    )


def _judge(what: str, ratio: float, least: float) -> tuple[str, bool]:
    kept = ratio >= least
    return f"{what}: {ratio:.2f}, limit {least:g}: {'kept' if kept else 'MISSED'}", kept


async def _conditions(server: Server) -> str:
    settings = [
        f"{name} {await server.run(f'SHOW {name}')}"
        for name in ("shared_buffers", "maintenance_work_mem", "max_wal_size", "fsync")
    ]
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {_processors()}, Python {platform.python_version()}, "
        f"PostgreSQL {await server.run('SHOW server_version')}, {', '.join(settings)}"
    )


def _processors() -> str:
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} processors, {names[0] if names else platform.machine()}"


def _save(lines: list[str]) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    head = "" if RESULTS.exists() else "# Loading a seed\n\nNewest last; see `seed_loading.py`.\n"
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write("\n".join([head, f"## {lines[1]}", "", lines[0], "", "```text"]))
        file.write("\n".join(["", *lines[2:], "```", ""]))


async def _measure(
    server: Server, plan: SeedPlan, made: dict[TenantPlan, Made], rounds: int
) -> tuple[Lane, Lane, list[Sample]]:
    rows = sum(_counts(made).values())
    ours, bare = Lane("ours", rows), Lane("bare COPY, superuser", rows)
    samples: list[Sample] = []
    for number in range(rounds):
        for is_ours in (True, False) if number % 2 == 0 else (False, True):
            database = await server.create()
            if is_ours and not samples:
                samples.append(await _load_by_orm(server, database, "empty"))
                await server.drop(database)
                database = await server.create()
            before = await _indexes(server, database)
            await server.run("CHECKPOINT")
            seconds = await (_seed if is_ours else _copy)(server, database, plan, made)
            (ours if is_ours else bare).seconds.append(seconds)
            print(f"  {'ours' if is_ours else 'bare'}: {seconds:.1f} s", flush=True)
            await _check(server, database, before, _counts(made))
            if is_ours and len(samples) == 1:
                await server.run("CHECKPOINT")
                samples.append(await _load_by_orm(server, database, "loaded"))
                samples.append(await _load_by_orm(server, database, "flushed", commit=False))
            await server.drop(database)
    return ours, bare, samples


async def _indexes(server: Server, database: str) -> str:
    statement = "SELECT string_agg(indexdef, ';' ORDER BY indexdef) FROM pg_indexes"
    return await server.run(f"{statement} WHERE schemaname = 'public'", database=database)


async def _check(server: Server, database: str, before: str, counts: dict[str, int]) -> None:
    if await _indexes(server, database) != before:
        raise AssertionError(f"{database} has not the indexes that it had")
    for table, count in counts.items():
        found = await server.run(f"SELECT count(*) FROM {table}", database=database)
        if found != str(count):
            raise AssertionError(f"{found} rows in {table}, not {count}")


async def _seed(
    server: Server, database: str, plan: SeedPlan, made: dict[TenantPlan, Made]
) -> float:
    def made_beforehand(plan: TenantPlan, _: object) -> list[TableRows]:
        return [
            TableRows(table.table, table.columns, iter(rows), len(rows))
            for table, rows in made[plan]
        ]

    async with _open(server, database) as db:
        with patch.object(load, "tenant_rows", made_beforehand):
            started = time.perf_counter()
            await seed(db, plan)
            return time.perf_counter() - started


async def _copy(
    server: Server, database: str, plan: SeedPlan, made: dict[TenantPlan, Made]
) -> float:
    del plan
    connection = await server.connect(database)
    await register_vector(connection)
    seconds = 0.0
    for tables in made.values():
        ready = [(table, [[*map(_as_driver_takes, row)] for row in rows]) for table, rows in tables]
        started = time.perf_counter()
        async with connection.transaction():
            for table, records in ready:
                await connection.copy_records_to_table(
                    table.table.name, columns=table.columns, records=records
                )
        seconds += time.perf_counter() - started
    await connection.close()
    return seconds


def _as_driver_takes(value: Any) -> Any:
    match value:
        case array():
            return Vector(value.tolist())
        case dict():
            return json.dumps(value)
        case _:
            return value


@asynccontextmanager
async def _open(server: Server, name: str) -> AsyncIterator[Database]:
    url = server.at(name)
    # Not connect(): it refuses the superuser as the application's role, which is not used here.
    db = Database(Settings(database_url=url, admin_url=url))
    try:
        yield db
    finally:
        await db.close()


async def _load_by_orm(server: Server, database: str, name: str, *, commit: bool = True) -> Sample:
    """Load a small tenant, object by object, each timed."""
    plan = TenantPlan(8, 500, f"ORM {name}", f"orm-{name}", users=50, chunks=SAMPLE_CHUNKS)
    seconds: dict[str, list[float]] = {}
    async with _open(server, database) as db:
        objects = [
            (table.table.name, _object(table, row)) for table, rows in _make(plan) for row in rows
        ]
        if commit:
            for table, each in objects:
                started = time.perf_counter()
                async with db.operator(reason="benchmark") as tx:
                    tx.add(each)
                seconds.setdefault(table, []).append(time.perf_counter() - started)
        else:
            async with db.operator(reason="benchmark") as tx:
                for table, each in objects:
                    started = time.perf_counter()
                    tx.add(each)
                    await tx.flush()
                    seconds.setdefault(table, []).append(time.perf_counter() - started)
    return Sample({table: sum(each) / len(each) for table, each in seconds.items()})


def _object(table: TableRows, row: Sequence[Any]) -> Any:
    mapper = next(each for each in Base.registry.mappers if each.local_table is table.table)
    keys = [mapper.get_property_by_column(table.table.c[name]).key for name in table.columns]
    values = [list(value) if isinstance(value, array) else value for value in row]
    return mapper.class_(**dict(zip(keys, values, strict=True)))
