"""Rebuilding, mending and warming the indexes of the knowledge base."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from tenantry import Database
from tenantry.errors import (
    ConfigurationError,
    ConflictError,
    InvalidValueError,
    MigrationError,
)
from tenantry.knowledge import Chunk, add_document
from tenantry.ops import index_catalog, knowledge_indexes
from tenantry.ops.knowledge_indexes import (
    BuildAdvice,
    BuildProgress,
    Mended,
    advise,
    list_indexes,
    mend_indexes,
    rebuild_index,
    warm_index,
)
from tests.conftest import Connect, TenantPair, Urls

INDEX = "knowledge_chunks_embedding_idx"
OLD_FILE = f"SELECT pg_relation_filenode('{INDEX}')"


def vector(number: int) -> list[float]:
    return [float(number + 1), *map(float, range(1, 1024))]


async def fill(db: Database, tenants: TenantPair, count: int) -> None:
    async with db.tenant(tenants.a.id) as tx:
        chunks = (Chunk(f"{n}", vector(n)) for n in range(count))
        await add_document(tx, title="t", content="c", chunks=chunks)


async def test_indexes_are_listed(urls: Urls) -> None:
    """All of both tables are there, with what they are."""
    found = {each.name: each for each in await list_indexes(urls.admin)}
    chunks = found[INDEX]
    assert (chunks.table, chunks.method) == ("knowledge_chunks", "hnsw")
    assert (chunks.is_valid, chunks.is_key, chunks.is_left_behind) == (True, False, False)
    assert chunks.size_bytes > 0
    assert found["knowledge_documents_content_trgm_idx"].method == "gin"
    assert found["knowledge_chunks_pkey"].is_key


async def test_rebuilt_index_is_a_new_one_and_progress_is_told(
    db: Database,
    urls: Urls,
    tenants: TenantPair,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The build reports its phases, leaves nothing behind, and others write meanwhile."""
    monkeypatch.setattr(knowledge_indexes, "_POLL_SECONDS", 0.01)  # the build takes .2 s
    await fill(db, tenants, 1500)
    before = await admin.fetchval(OLD_FILE)
    seen: list[BuildProgress] = []
    writing = asyncio.create_task(fill(db, tenants, 10))
    await rebuild_index(urls.admin, INDEX, on_progress=seen.append)
    await writing
    assert await admin.fetchval(OLD_FILE) != before
    assert {each.index for each in seen} == {INDEX}
    assert all(each.fraction is None or 0 <= each.fraction <= 1 for each in seen)
    assert any(each.phase.startswith("building index") for each in seen)
    assert all(each.is_valid for each in await list_indexes(urls.admin))


async def test_unknown_index_is_named(urls: Urls) -> None:
    """Another table's index, or SQL, is no index of the knowledge tables."""
    for name in ("users_tenant_id_idx", 'x"; DROP TABLE users; --', ""):
        with pytest.raises(ConfigurationError, match="have no index .* They have .*embedding_idx"):
            await rebuild_index(urls.admin, name)
        with pytest.raises(ConfigurationError, match="have no index"):
            await warm_index(urls.admin, name)


async def test_interrupted_rebuild_is_mended(
    db: Database, urls: Urls, tenants: TenantPair, connect: Connect
) -> None:
    """What a cancelled build leaves is dropped, and the old index is in use all along."""
    await fill(db, tenants, 5)
    other = await connect(urls.admin)
    writing = other.transaction()
    await writing.start()
    await other.execute("UPDATE knowledge_chunks SET position = position + 100")
    waiting = asyncio.Event()

    def note(progress: BuildProgress) -> None:
        if progress.phase.startswith("waiting for writers"):
            waiting.set()

    task = asyncio.create_task(rebuild_index(urls.admin, INDEX, on_progress=note))
    await asyncio.wait_for(waiting.wait(), 20)
    with pytest.raises(ConflictError, match="being built"):
        await mend_indexes(urls.admin)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await writing.rollback()
    left = [each for each in await list_indexes(urls.admin) if not each.is_valid]
    assert [each.is_left_behind for each in left] == [True]
    with pytest.raises(ConflictError, match="mend_indexes"):
        await rebuild_index(urls.admin, left[0].name)
    assert await mend_indexes(urls.admin) == [Mended(left[0].name, "dropped")]
    assert await mend_indexes(urls.admin) == []
    assert all(each.is_valid for each in await list_indexes(urls.admin))


async def test_who_builds_is_named(urls: Urls, admin: asyncpg.Connection) -> None:
    """A build holds others off before it locks a table: its process is named then too."""
    await admin.execute("SELECT pg_advisory_lock($1)", index_catalog._BUILDING)
    pid = admin.get_server_pid()
    with pytest.raises(ConflictError, match=rf"process {pid}\..* pg_terminate_backend\({pid}\)"):
        await rebuild_index(urls.admin, INDEX)


async def test_invalid_index_is_rebuilt(
    db: Database, urls: Urls, tenants: TenantPair, admin: asyncpg.Connection
) -> None:
    """A declared index that a failed build has left invalid is built anew, and valid."""
    await fill(db, tenants, 5)
    await admin.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = $1::text::regclass", INDEX
    )
    found = {each.name: each.is_valid for each in await list_indexes(urls.admin)}
    assert not found[INDEX]
    assert await mend_indexes(urls.admin) == [Mended(INDEX, "rebuilt")]
    assert all(each.is_valid for each in await list_indexes(urls.admin))


async def test_mending_takes_the_memory_that_a_rebuild_takes(
    db: Database,
    urls: Urls,
    tenants: TenantPair,
    admin: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What both give to a build is the same, and too little is refused before it begins."""
    await fill(db, tenants, 5)
    given: list[dict[str, str]] = [{}]
    setting = index_catalog.configure

    async def note(connection: AsyncConnection, name: str, value: str) -> None:
        given[-1][name] = value
        await setting(connection, name, value)

    monkeypatch.setattr(knowledge_indexes, "configure", note)
    await rebuild_index(urls.admin, INDEX)
    await admin.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = $1::text::regclass", INDEX
    )
    given.append({})
    await mend_indexes(urls.admin)
    assert given[0] == given[1]
    assert int(given[0]["maintenance_work_mem"].removesuffix("kB")) >= 1024
    with pytest.raises(InvalidValueError, match=r"memory_bytes is 0; at least 1,048,576"):
        await rebuild_index(urls.admin, INDEX, memory_bytes=0)
    with pytest.raises(InvalidValueError, match="at most 2,197,949,513,728 are required"):
        await rebuild_index(urls.admin, INDEX, memory_bytes=3 * 1024**4)


async def test_failed_build_is_named(
    db: Database, urls: Urls, tenants: TenantPair, admin: asyncpg.Connection, connect: Connect
) -> None:
    """A build that PostgreSQL ends is one of our errors, and the index stays in use."""
    await fill(db, tenants, 5)
    other = await connect(urls.admin)
    cancel = (
        "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_progress_create_index"
        " WHERE datname = current_database() AND phase LIKE 'waiting for writers%'"
    )

    async def interfere() -> None:
        while not await admin.fetchval(cancel):  # noqa: ASYNC110 - it is the server that waits
            await asyncio.sleep(0.02)

    async with other.transaction():
        await other.execute("LOCK TABLE knowledge_chunks IN ROW EXCLUSIVE MODE")
        with pytest.raises(MigrationError, match="REINDEX INDEX CONCURRENTLY .*SQLSTATE 57014"):
            await asyncio.wait_for(
                asyncio.gather(rebuild_index(urls.admin, INDEX), interfere()), 30
            )
    found = {each.name: each.is_valid for each in await list_indexes(urls.admin)}
    assert found[INDEX]


async def test_index_is_warmed_with_the_extension_and_without(
    db: Database, urls: Urls, tenants: TenantPair, admin: asyncpg.Connection
) -> None:
    """pg_prewarm reads all; without it searches read a vector index, and no other can be."""
    await fill(db, tenants, 20)
    warmed = await warm_index(urls.admin, INDEX)
    assert (warmed.method, warmed.does_fit) == ("searches", True)
    scans = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = $1"
    await admin.execute("SELECT pg_stat_force_next_flush()")
    assert await admin.fetchval(scans, INDEX) >= 20
    with pytest.raises(ConfigurationError, match="CREATE EXTENSION pg_prewarm"):
        await warm_index(urls.admin, "knowledge_documents_content_trgm_idx")
    part = "knowledge_chunks_embedding_part_0_idx"
    await admin.execute(
        f"CREATE INDEX {part} ON knowledge_chunks USING hnsw"
        " ((l2_normalize(embedding)::halfvec(1024)) halfvec_ip_ops)"
        " WHERE tenantry.search_part(tenant_id) = 0"
    )
    with pytest.raises(ConfigurationError, match="CREATE EXTENSION pg_prewarm"):
        await warm_index(urls.admin, part)  # a search may ask another one
    await admin.execute("CREATE EXTENSION pg_prewarm")
    for name in (INDEX, part, "knowledge_documents_content_trgm_idx"):
        warmed = await warm_index(urls.admin, name)
        assert (warmed.method, warmed.does_fit) == ("pg_prewarm", True)
        assert warmed.size_bytes > 0
    # Where services keep extensions, the owner may have no business.
    await admin.execute("CREATE SCHEMA apart; DROP EXTENSION pg_prewarm")
    await admin.execute("CREATE EXTENSION pg_prewarm SCHEMA apart")
    assert (await warm_index(urls.admin, INDEX)).method == "pg_prewarm"


async def test_advice_counts_what_is_there(db: Database, urls: Urls, tenants: TenantPair) -> None:
    """All tenants' vectors count, and those without one do not."""
    await fill(db, tenants, 7)
    async with db.tenant(tenants.b.id) as tx:
        await add_document(tx, title="t", content="c", chunks=["x", Chunk("y", vector(0))])
    documents, chunks = await advise(urls.admin)
    assert (documents.table, documents.vectors) == ("knowledge_documents", 0)
    assert (chunks.table, chunks.vectors) == ("knowledge_chunks", 8)
    assert chunks.needed_bytes == 8 * 5500
    assert chunks.is_enough
    assert chunks.given_bytes >= 1024**2
    assert "which is enough" in chunks.sentence


async def test_locked_table_is_an_error_of_ours(
    urls: Urls, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for ever, and the message says for what to wait."""
    monkeypatch.setattr(index_catalog, "_LOCK_TIMEOUT_MS", 50)
    async with admin.transaction():
        await admin.execute("LOCK TABLE knowledge_chunks IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(ConflictError, match="A table of the knowledge base is locked"):
            await advise(urls.admin)
        with pytest.raises(ConflictError, match="is being built, or a table vacuumed"):
            await mend_indexes(urls.admin)


async def test_advice_says_what_to_set() -> None:
    """Too little is said with the value to set, and more than the machine has with a warning."""
    mb = 1024**2
    little = BuildAdvice("knowledge_chunks", 100_000, 550 * mb + 1, 64 * mb, 1024 * mb)
    assert (little.is_enough, little.setting) == (False, "551MB")
    assert little.sentence.endswith("maintenance_work_mem is 64 MB. Set it to 551MB for the build.")
    much = BuildAdvice("knowledge_chunks", 1_000_000, 5500 * mb, 64 * mb, 1024 * mb)
    assert "it can spare 1,024 MB" in much.sentence
