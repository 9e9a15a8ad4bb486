"""A tenant whose vectors are enough for the index, and a crowd that is in its way."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from sqlalchemy import text

from tenantry.search import planning
from tenantry.tenancy.sessions import TenantSession
from tests.conftest import Server
from tests.search.library import Library, library_on, vector

__all__ = [
    "AROUND",
    "BOTH",
    "INDEXES",
    "MANY",
    "as_tenant",
    "asked_by_index",
    "large_library",
    "numbered",
]

MANY, CROWD = 450, 100
AROUND = 10
"""So many times k are compared one by one at least, however the database is tuned."""

# Tenant large: similarity falls with the number, from 0.98, along an arc. Its neighbour's are all
# nearer to the question than any of its own. Every 150th is "rare".
FILL = """
    INSERT INTO {table} (tenant_id, id, {columns}, embedding)
    SELECT $1::uuid, md5('{table}' || $1::uuid || n)::uuid, {values},
           ('[' || s || ',' || sqrt(1 - s * s) || repeat(',0', 1022) || ']')::vector
      FROM generate_series(1, $2::integer) n, LATERAL (SELECT $3::float8 - n / $4::float8 AS s) s
"""
DOCUMENTS = FILL.format(
    table="knowledge_documents",
    columns="title, content, metadata",
    values="'t', 'document ' || n, jsonb_build_object('n', n, 'rare', n % 150 = 0)",
)
CHUNKS = FILL.format(
    table="knowledge_chunks",
    columns="document_id, position, content",
    values="md5('knowledge_documents' || $1::uuid || n)::uuid, 0, 'chunk ' || n",
)
INDEXES = ("knowledge_chunks_embedding_idx", "knowledge_documents_embedding_idx")


@asynccontextmanager
async def large_library(server: Server, template: str) -> AsyncIterator[Library]:
    """A library with a tenant of many vectors, whose neighbour's are nearer, and a small one."""
    async with library_on(server, template) as library:
        definitions = [
            await library.admin.fetchval("SELECT pg_get_indexdef($1::text::regclass)", each)
            for each in INDEXES
        ]
        for index in INDEXES:
            await library.admin.execute(f"DROP INDEX {index}")
        for name, rows, first, steps in (("large", MANY, 0.98, 1e3), ("crowd", CROWD, 1.0, 1e4)):
            tenant = await library.tenant(name)
            await library.admin.execute(DOCUMENTS, tenant, rows, first, steps)
            await library.admin.execute(CHUNKS, tenant, rows, first, steps)
        for definition in definitions:
            await library.admin.execute(definition)
        await library.add(
            "small",
            *("far", "near", "twin", "twin", "opposite", "not embedded"),
            vectors=[vector(0.1), vector(0.9), vector(0.5), vector(0.5), vector(-1.0), None],
            embedding=vector(0.3),
        )
        await library.add("small", "without", embedding=None)
        await library.admin.execute("ANALYZE knowledge_chunks, knowledge_documents")
        yield library


def as_tenant(
    library: Library, name: str = "large"
) -> AbstractAsyncContextManager[TenantSession, bool | None]:
    return library.db.tenant(library.tenants[name])


def numbered(name: str, *numbers: int) -> list[str]:
    return [f"{name} {number}" for number in numbers]


BOTH = pytest.mark.parametrize("documents", [False, True], ids=["chunks", "documents"])


async def asked_by_index(tx: TenantSession, ef_search: int = 400) -> None:
    """Have the index asked wherever there are more candidates than ten times k."""
    planning._plans.clear()  # or what was planned before would hold for a minute
    tuned = {"roots": 0, "least": 0, "ef_search": {"0.97": ef_search}}
    await tx.execute(
        text("SELECT set_config('tenantry.vector_search', :setting, true)"),
        {"setting": json.dumps({"whole": tuned, "part": tuned})},
    )
