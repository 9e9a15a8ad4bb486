"""Databases filled with a `Corpus`, made once for all benchmarks of a run."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import asyncpg
from sqlalchemy import URL

from benchmarks.corpus import CHUNK_COLUMNS, DOCUMENT_COLUMNS, RECIPE, Corpus
from benchmarks.server import Server, running_server
from tenantry import Database, Settings
from tenantry.ops.migrations import migrate
from tenantry.ops.vector_measuring import measure_vector_search
from tenantry.ops.vector_parts import EF_CONSTRUCTION, PARTS
from tenantry.ops.vector_tuning import keep_tuning
from tenantry.schema.row_security import APP_ROLE

__all__ = ["Estate", "Filled", "connect"]

_GIB: Final = 1024**3
_BYTES_OF_VECTOR: Final = 9_000  # that a build of the index over whole vectors takes for each
_BUILDERS: Final = 2

_INDEXES: Final = """
    SELECT c.relname AS name, pg_get_indexdef(c.oid) AS definition
      FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
     WHERE i.indrelid = 'public.knowledge_chunks'::regclass
       AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid)
     ORDER BY c.relname
"""
# As `tenantry knowledge tune` makes it.
_PART: Final = f"""
    CREATE INDEX knowledge_chunks_embedding_part_{{part}}_idx ON knowledge_chunks
     USING hnsw ((l2_normalize(embedding)::halfvec(1024)) halfvec_ip_ops)
      WITH (ef_construction = {EF_CONSTRUCTION})
     WHERE tenantry.search_part(tenant_id) = {{part}}
"""
_STATE: Final = """
    SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1
"""


@dataclass(frozen=True)
class Filled:
    """A database that holds a corpus."""

    corpus: Corpus
    server: Server
    name: str
    shared_buffers: str

    @property
    def admin_url(self) -> URL:
        return self.server.at(self.name)

    def settings(self, *, pool_size: int = 10) -> Settings:
        """Return the application's settings."""
        return Settings(
            database_url=self.admin_url.set(username=APP_ROLE),
            admin_url=self.admin_url,
            pool_size=pool_size,
            max_overflow=0,
        )

    @property
    def title(self) -> str:
        return f"{self.corpus.size:,} chunks, shared_buffers {self.shared_buffers}"


class Estate:
    """The databases of one run: made when they are first asked for, gone at its end."""

    def __init__(self, options: Namespace) -> None:
        self._keep: bool = options.keep
        self._tune: float = options.tune
        self._settings: dict[str, str] = (
            {"shared_buffers": options.shared_buffers} if options.shared_buffers else {}
        )
        self._open = ExitStack()
        self._server: Server | None = None
        self._filled: dict[int, Filled] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._open.close()

    async def of(self, size: int) -> Filled:
        """Return the database of so many chunks."""
        if size not in self._filled:
            self._filled[size] = await self._made(Corpus(size))
        return self._filled[size]

    async def close(self) -> None:
        """Drop what is not to be kept."""
        if self._server is not None and not self._keep:
            await self._server.drop(*(each.name for each in self._filled.values()))
        self._filled.clear()

    async def _made(self, corpus: Corpus) -> Filled:
        if self._server is None:
            self._server = self._open.enter_context(running_server(self._settings))
        server = self._server
        name = f"tenantry_benchmark_corpus_{corpus.size}" if self._keep else ""
        state = f"recipe {RECIPE}, parts with {EF_CONSTRUCTION}, tuned {self._tune:g} s"
        kept = bool(name) and await _value(server, _STATE, name) == state
        if not kept:
            name = await _created(server, name)
            await _fill(server, name, corpus)
        filled = Filled(corpus, server, name, await server.run("SHOW shared_buffers"))
        if not kept:
            if self._tune:
                await _tune(filled, self._tune)
            await server.run(f"COMMENT ON DATABASE {name} IS '{state}'")
        return filled


async def connect(
    filled: Filled, settings: Mapping[str, str] | None = None, *, role: str | None = None
) -> asyncpg.Connection:
    """Return a bare connection, of the superuser unless told, that takes vectors in binary form."""
    url = filled.admin_url if role is None else filled.admin_url.set(username=role)
    connection: asyncpg.Connection = await asyncpg.connect(
        url.render_as_string(hide_password=False)
    )
    await connection.set_type_codec(
        "vector", schema="public", encoder=bytes, decoder=bytes, format="binary"
    )
    # A setting of pgvector's can be set only once pgvector is loaded.
    await connection.execute("SELECT '[1]'::vector")
    for name, value in (settings or {}).items():
        await connection.execute(f"SET {name} = '{value}'")
    return connection


async def _created(server: Server, name: str) -> str:
    if not name:
        return await server.create()
    await server.drop(name)
    await server.run(f"CREATE DATABASE {name} TEMPLATE template0")
    await migrate(server.at(name), on_step=lambda _: None)
    return name


async def _value(server: Server, query: str, *args: object) -> object:
    connection = await server.connect()
    try:
        return await connection.fetchval(query, *args)
    finally:
        await connection.close()


async def _fill(server: Server, name: str, corpus: Corpus) -> None:
    """Load the corpus as the superuser, past row security, and build the indexes afterwards."""
    connection = await server.connect(name)
    try:
        await connection.set_type_codec(
            "vector", schema="public", encoder=bytes, decoder=bytes, format="binary"
        )
        # Foreign keys hold by construction and are not checked one by one.
        await connection.execute("SET session_replication_role = replica")
        indexes = await connection.fetch(_INDEXES)
        for index in indexes:
            await connection.execute(f"DROP INDEX public.{index['name']}")
        started = time.perf_counter()
        for table, columns, rows in (
            ("tenants", ("id", "name", "slug"), corpus.tenant_rows()),
            ("knowledge_documents", DOCUMENT_COLUMNS, corpus.document_rows()),
            ("knowledge_chunks", CHUNK_COLUMNS, corpus.chunk_rows()),
        ):
            await connection.copy_records_to_table(table, columns=columns, records=rows)
        _tell(f"{corpus.size:,} chunks loaded", started)
        await connection.execute(f"SET maintenance_work_mem = '{_memory_kb(corpus.size)}kB'")
        await connection.execute(f"SET max_parallel_maintenance_workers = {_BUILDERS}")
        parts = [_PART.format(part=part) for part in range(PARTS)]
        for statement in [*(each["definition"] for each in indexes), *parts]:
            await connection.execute(statement)
        _tell("indexes built", started)
        await connection.execute("VACUUM ANALYZE")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


def _memory_kb(vectors: int) -> int:
    """Return what a build may take: all of its vectors, or half of the memory that is free."""
    free = _GIB
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    return max(_GIB // 4, min(free // 2, vectors * _BYTES_OF_VECTOR)) // 1024


async def _tune(filled: Filled, seconds: float) -> None:
    async with Database.connect(settings=filled.settings()) as db:
        report = await measure_vector_search(db, seconds=seconds)
    if report.tuning is not None:
        await keep_tuning(filled.admin_url, report.tuning)
        print(f"    tuned: {report.tuning.json()}", flush=True)


def _tell(what: str, started: float) -> None:
    print(f"    {what} after {time.perf_counter() - started:.0f} s", flush=True)
