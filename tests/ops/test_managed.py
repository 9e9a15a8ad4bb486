"""What an administrator can do who is no superuser, as on managed PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import uuid4

import asyncpg
import pytest

from tenantry.errors import ConflictError, DatabaseUnavailableError
from tenantry.ops.doctor import examine
from tenantry.ops.index_catalog import connection_as
from tenantry.ops.knowledge_indexes import (
    BuildProgress,
    Warmed,
    list_indexes,
    mend_indexes,
    rebuild_index,
    warm_index,
)
from tenantry.ops.vector_parts import drop_parts, make_parts
from tests.conftest import Connect, Server, Urls

INDEX = "knowledge_chunks_embedding_idx"
WORDS = "knowledge_documents_content_trgm_idx"
WRITING = "LOCK TABLE knowledge_chunks IN ROW EXCLUSIVE MODE"
MADE = "SELECT to_regclass('public.mine') IS NOT NULL"
GRANTED = "tenantry_owner, tenantry_auth, tenantry_operator"


@pytest.fixture
async def managed(server: Server, urls: Urls) -> AsyncIterator[Urls]:
    """A migrated database whose owner may make roles and become tenantry's, and no more."""
    role, database = f"managed_{uuid4().hex[:8]}", urls.admin.database
    await server.run(
        f"CREATE ROLE {role} LOGIN CREATEROLE CREATEDB PASSWORD 'x'",
        f"GRANT {GRANTED} TO {role} WITH SET TRUE, INHERIT FALSE",
        f"ALTER DATABASE {database} OWNER TO {role}",
    )
    yield replace(urls, admin=urls.admin.set(username=role, password="x"))
    await server.run(
        f"ALTER DATABASE {database} OWNER TO CURRENT_USER",
        f"REVOKE {GRANTED} FROM {role}",
        f"DROP ROLE {role}",
    )


async def test_the_doctor_finds_the_migrations(managed: Urls) -> None:
    """The schema of the versions is closed to this administrator, who can become the operator."""
    found = {each.name: each for each in await examine(managed.settings)}
    assert {name: each.found for name, each in found.items() if each.state == "problem"} == {}
    assert found["migrations"].found.endswith("none pending")


async def test_an_index_is_warmed_with_pg_prewarm(server: Server, managed: Urls) -> None:
    """Where somebody has installed it: it reads as the owner of the tables."""
    await server.run("CREATE EXTENSION pg_prewarm", database=str(managed.admin.database))
    sizes = {each.name: each.size_bytes for each in await list_indexes(managed.admin)}
    for name in (INDEX, "knowledge_chunks_pkey"):
        assert await warm_index(managed.admin, name) == Warmed(
            name, "pg_prewarm", sizes[name], does_fit=True
        )


async def _none_builds_beside(managed: Urls) -> None:
    for work in (
        rebuild_index(managed.admin, INDEX),
        rebuild_index(managed.admin, WORDS),
        mend_indexes(managed.admin),
        make_parts(managed.admin),
        drop_parts(managed.admin),
    ):
        with pytest.raises(ConflictError, match="is being built"):
            await work


async def test_nobody_builds_beside_a_rebuild(managed: Urls, connect: Connect) -> None:
    """Of two concurrent builds on one table PostgreSQL ends one: the one that has done its work."""
    other = await connect(managed.app)
    waits = asyncio.Event()

    def note(at: BuildProgress) -> None:
        if at.phase.startswith("waiting for writers"):
            waits.set()

    async with other.transaction():
        await other.execute(WRITING)
        building = asyncio.create_task(rebuild_index(managed.admin, INDEX, on_progress=note))
        await asyncio.wait_for(waits.wait(), 20)
        await _none_builds_beside(managed)
    await building
    assert all(each.is_valid for each in await list_indexes(managed.admin))
    await rebuild_index(managed.admin, INDEX)


async def test_nobody_builds_beside_an_index_made_by_hand(
    managed: Urls, admin: asyncpg.Connection, connect: Connect
) -> None:
    """Whoever builds it: locks are seen where statements of other logins are not."""
    other, watching = await connect(managed.app), await connect(managed.admin)
    async with other.transaction():
        await other.execute(WRITING)
        building = asyncio.create_task(
            admin.execute("CREATE INDEX CONCURRENTLY mine ON knowledge_chunks (position)")
        )
        async with asyncio.timeout(20):
            while not await watching.fetchval(MADE):  # noqa: ASYNC110 - it is the server that works
                await asyncio.sleep(0.01)
        await _none_builds_beside(managed)
    await building
    assert await mend_indexes(managed.admin) == []


async def test_before_the_first_migration_the_error_says_to_migrate(managed: Urls) -> None:
    """A role that is not there yet is made by a migration."""
    with pytest.raises(
        DatabaseUnavailableError, match="no role tenantry_other.*`tenantry db migrate`"
    ):
        async with connection_as(managed.admin, role="tenantry_other"):
            pass
