from __future__ import annotations

import math
import random
from uuid import UUID, uuid4

import asyncpg

from tests.conftest import bind


def near(direction: list[float], *, spread: float, chance: random.Random) -> str:
    """A unit vector around `direction`, as text."""
    vector = [x + chance.gauss(0, spread) for x in direction]
    length = math.sqrt(sum(x * x for x in vector))
    return str([round(x / length, 5) for x in vector])


async def test_a_tenants_documents_do_not_push_anothers_out(
    app: asyncpg.Connection, admin: asyncpg.Connection
) -> None:
    """HNSW returns the nearest of all tenants before the policy filters them; it must go on."""
    chance = random.Random(7)
    direction = [1.0] + [0.0] * 1023
    a, b = uuid4(), uuid4()
    await admin.executemany(
        "INSERT INTO tenants (id, name, slug) VALUES ($1, 'x', $2)", [(a, a.hex), (b, b.hex)]
    )

    async def fill(tenant: UUID, count: int, spread: float) -> None:
        rows = [(tenant, near(direction, spread=spread, chance=chance)) for _ in range(count)]
        await admin.executemany(
            "INSERT INTO knowledge_documents (tenant_id, title, content, embedding)"
            " VALUES ($1, 't', 'c', $2::text::vector)",
            rows,
        )

    await fill(a, 60, 0.05)
    await fill(b, 120, 0.005)  # all of them nearer than any of A's
    query = (
        "SELECT tenant_id FROM knowledge_documents"
        f" ORDER BY embedding <=> '{direction}'::vector LIMIT 20"
    )
    async with app.transaction():
        await bind(app, a)
        await app.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off")
        plan = await app.fetchval(f"EXPLAIN (FORMAT JSON) {query}")
        assert "knowledge_documents_embedding_idx" in plan
        found = [row["tenant_id"] for row in await app.fetch(query)]
        assert found == [a] * 20
        await app.execute("SET LOCAL hnsw.iterative_scan = off")
        assert await app.fetch(query) == []  # what happens without
