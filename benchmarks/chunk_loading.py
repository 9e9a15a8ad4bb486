"""How fast `load_chunks` is beside a bare COPY, and how much memory it takes.

The same rows, of 1,024 dimensions, go into the same table of one database, emptied before each run:

- ours: `load_chunks` as the application's role, under row security, every value checked; the
  vectors come as one float32 array, or as lists of floats;
- bare COPY: asyncpg's ``copy_records_to_table``, as the superuser, past row security, all values
  made beforehand, the vectors in pgvector's binary form already;
- COPY as it is usually written: the same, from lists of floats, by pgvector's codec for asyncpg.

Once with all indexes, where the vector index takes most of the time of both, and once without the
vector index. The lanes take turns; compared is the median of the ratios in each turn, since the
machine's speed changes from minute to minute.

Memory: processes of their own load rows that a generator makes; compared are their peaks.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import struct
import sys
import time
from array import array
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID

import asyncpg
from pgvector.asyncpg import register_vector
from sqlalchemy import make_url, text

from benchmarks.server import Server, running_server
from tenantry import Database, Settings
from tenantry.knowledge import Chunk, load_chunks
from tenantry.schema import EMBEDDING_DIMENSIONS
from tenantry.schema.base import uuid7
from tenantry.schema.row_security import APP_ROLE
from tenantry.settings import url_text

if TYPE_CHECKING:
    from argparse import Namespace

LEAST_OF_BARE: Final = 0.9
MOST_GROWTH_MIB: Final = 16.0
FEW_ROWS: Final = 10_000
RUNS_WITHOUT_INDEX: Final = 11
RUNS_WITH_INDEX: Final = 9
INDEX: Final = "knowledge_chunks_embedding_idx"
TEXT: Final = "A passage of some length, that says what it has to say about one thing. " * 8
TENANT: Final = UUID(int=1)
DOCUMENT: Final = UUID(int=2)
COLUMNS: Final = ("tenant_id", "id", "document_id", "content", "embedding", "position")
RESULTS: Final = Path(__file__).with_name("results") / "chunk_loading.md"

_FILL: Final = f"""
    INSERT INTO tenants (id, name, slug) VALUES ('{TENANT}', 't', 'tenant');
    INSERT INTO knowledge_documents (tenant_id, id, title, content)
         VALUES ('{TENANT}', '{DOCUMENT}', 't', 'c')
"""


@dataclass
class Lane:
    """One way of loading all rows."""

    name: str
    run: Callable[[], Awaitable[float]]
    seconds: list[float] = field(default_factory=list)

    def speed(self, rows: int) -> float:
        return rows / statistics.median(self.seconds)

    def beside(self, other: Lane) -> float:
        """Return how fast it is in units of ``other``, in turns."""
        turns = zip(other.seconds, self.seconds, strict=True)
        return statistics.median(theirs / own for theirs, own in turns)


@dataclass
class Material:
    """The rows, in each of the forms in which they are taken.

    Lists of floats are made once: made anew for each run, their numbers would lie scattered over
    what the run before has left, and each run would take longer to read them.
    """

    vectors: list[array[float]]
    lists: list[list[float]]

    @classmethod
    def make(cls, rows: int) -> Material:
        chance = random.Random(5)
        pool = [chance.gauss(0, 1) for _ in range(100_000)]
        starts = [chance.randrange(len(pool) - EMBEDDING_DIMENSIONS) for _ in range(rows)]
        vectors = [array("f", pool[at : at + EMBEDDING_DIMENSIONS]) for at in starts]
        return cls(vectors, [each.tolist() for each in vectors])

    def matrix(self) -> memoryview[float]:
        flat = memoryview(b"".join(each.tobytes() for each in self.vectors))
        return flat.cast("f", (len(self.vectors), EMBEDDING_DIMENSIONS))

    def chunks(self) -> list[Chunk]:
        return [Chunk(TEXT, each) for each in self.lists]


def _in_binary(vector: array[float]) -> bytes:
    return struct.pack(f">HH{len(vector)}f", len(vector), 0, *vector)


async def run(options: Namespace) -> bool:
    """Print the figures; return whether the limits are kept."""
    lines: list[str] = []
    verdicts: list[bool] = []
    with running_server() as server:
        name = await server.create()
        await _execute(server, name, _FILL)
        for rows, runs in (
            (options.chunks // 10, RUNS_WITH_INDEX),
            (options.chunks, RUNS_WITHOUT_INDEX),
        ):
            if runs == RUNS_WITHOUT_INDEX:
                await _execute(server, name, f"DROP INDEX {INDEX}")
            told, kept = await _compare(server, name, rows, runs)
            lines += told
            verdicts.append(kept)
        told, kept = await _memory(server, name, options.rows)
        lines += told
        verdicts.append(kept)
        await server.drop(name)
    print(*lines, sep="\n", flush=True)
    if options.save:
        _save(lines)
    return all(verdicts)


async def _compare(server: Server, name: str, rows: int, runs: int) -> tuple[list[str], bool]:
    material = Material.make(rows)
    lanes = [
        Lane("bare COPY, superuser", lambda: _bare(server, name, material)),
        Lane("COPY, lists, pgvector", lambda: _usual(server, name, material)),
        Lane("ours, float32 array", lambda: _ours(server, name, material, as_array=True)),
        Lane("ours, lists of floats", lambda: _ours(server, name, material, as_array=False)),
    ]
    for number in range(runs):
        for lane in lanes if number % 2 == 0 else reversed(lanes):
            await _execute(server, name, "TRUNCATE knowledge_chunks")
            await _execute(server, name, "CHECKPOINT")
            lane.seconds.append(await lane.run())
    with_or_without = "without" if runs == RUNS_WITHOUT_INDEX else "with"
    lines = [f"{rows:,} rows, {with_or_without} the vector index, medians of {runs}"]
    lines += [f"    {lane.name:24} {lane.speed(rows):8,.0f} rows/s" for lane in lanes]
    kept = True
    bare, usual, *ours = lanes
    for lane in ours:
        ratio = lane.beside(bare)
        kept &= ratio >= LEAST_OF_BARE
        lines.append(
            f"    {lane.name} / bare COPY: {ratio:.2f}, at least {LEAST_OF_BARE}: "
            f"{_verdict(ratio >= LEAST_OF_BARE)}; / COPY from lists: {lane.beside(usual):.2f}"
        )
    return lines, kept


async def _bare(server: Server, name: str, material: Material) -> float:
    async def use_bytes(connection: asyncpg.Connection) -> None:
        await connection.set_type_codec(
            "vector", schema="public", encoder=bytes, decoder=bytes, format="binary"
        )

    records = [
        (TENANT, uuid7(), DOCUMENT, TEXT, _in_binary(each), position)
        for position, each in enumerate(material.vectors)
    ]
    return await _copied(server, name, records, use_bytes)


async def _usual(server: Server, name: str, material: Material) -> float:
    records = [
        (TENANT, uuid7(), DOCUMENT, TEXT, each, position)
        for position, each in enumerate(material.lists)
    ]
    return await _copied(server, name, records, register_vector)


async def _copied(
    server: Server,
    name: str,
    records: Sequence[tuple[object, ...]],
    prepare: Callable[[asyncpg.Connection], Awaitable[None]],
) -> float:
    connection = await server.connect(name)
    try:
        await prepare(connection)
        started = time.perf_counter()
        async with connection.transaction():
            await connection.copy_records_to_table(
                "knowledge_chunks", columns=COLUMNS, records=records
            )
        return time.perf_counter() - started
    finally:
        await connection.close()


async def _ours(server: Server, name: str, material: Material, *, as_array: bool) -> float:
    rows = len(material.vectors)
    chunks = [TEXT] * rows if as_array else material.chunks()
    embeddings = material.matrix() if as_array else None
    settings = Settings(database_url=server.at(name).set(username=APP_ROLE))
    async with Database.connect(settings=settings) as db:
        async with db.tenant(TENANT) as tx:
            await tx.execute(text("SELECT 1"))  # the connection is open, as the bare one is
        started = time.perf_counter()
        async with db.tenant(TENANT) as tx:
            loaded = await load_chunks(tx, chunks, document_id=DOCUMENT, embeddings=embeddings)
        seconds = time.perf_counter() - started
    found = await server.run("SELECT count(*) FROM knowledge_chunks", database=name)
    if (loaded, found) != (rows, str(rows)):
        raise AssertionError(f"{loaded} rows were loaded, {found} found, {rows} given")
    return seconds


async def _execute(server: Server, name: str, script: str) -> None:
    connection = await server.connect(name)
    try:
        await connection.execute(script)
    finally:
        await connection.close()


async def _memory(server: Server, name: str, rows: int) -> tuple[list[str], bool]:
    peaks = []
    for count in (FEW_ROWS, rows):
        await _execute(server, name, "TRUNCATE knowledge_chunks")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.chunk_loading", str(count)),
            env={**os.environ, "URL": url_text(server.at(name).set(username=APP_ROLE))},
            stdout=asyncio.subprocess.PIPE,
        )
        printed, _ = await process.communicate()
        peaks.append(float(printed))
    growth = peaks[1] - peaks[0]
    kept = growth <= MOST_GROWTH_MIB
    return [
        f"peak memory: {peaks[0]:.1f} MiB for {FEW_ROWS:,} rows, {peaks[1]:.1f} for {rows:,}",
        f"    growth {growth:.1f} MiB, at most {MOST_GROWTH_MIB:g}: {_verdict(kept)}",
    ], kept


async def _load_generated(rows: int) -> None:
    vector = Material.make(1).vectors[0]

    def generated() -> Iterator[Chunk]:
        for number in range(rows):
            vector[number % EMBEDDING_DIMENSIONS] = float(number)
            yield Chunk(f"{number} {TEXT}", vector)

    settings = Settings(database_url=make_url(os.environ["URL"]))
    async with Database.connect(settings=settings) as db, db.tenant(TENANT) as tx:
        await load_chunks(tx, generated(), document_id=DOCUMENT)
    print(_peak_mib())


def _peak_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmHWM.")


def _verdict(kept: bool) -> str:
    return "kept" if kept else "MISSED"


def _save(lines: list[str]) -> None:
    heading = f"## {datetime.now(UTC):%Y-%m-%d}, load average {os.getloadavg()[0]:.1f}"
    if not RESULTS.exists():
        RESULTS.write_text("# Loading chunks\n\nNewest last; see `chunk_loading.py`.\n")
    with RESULTS.open("a") as file:
        file.write("\n".join(["", heading, "", "```text", *lines, "```", ""]))


if __name__ == "__main__":
    asyncio.run(_load_generated(int(sys.argv[1])))
