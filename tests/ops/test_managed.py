"""What an administrator can do who is no superuser, as on managed PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import uuid4

import pytest

from tenantry.ops.doctor import examine
from tenantry.ops.knowledge_indexes import Warmed, list_indexes, warm_index
from tests.conftest import Server, Urls

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
    for name in ("knowledge_chunks_embedding_idx", "knowledge_chunks_pkey"):
        assert await warm_index(managed.admin, name) == Warmed(
            name, "pg_prewarm", sizes[name], does_fit=True
        )
