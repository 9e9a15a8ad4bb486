"""Seeds, on a real server."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from uuid import UUID

import pytest
from sqlalchemy import func, select, update

from tenantry import Database
from tenantry.errors import ConflictError, InvalidValueError
from tenantry.ops.seed import (
    SeedPlan,
    SeedProgress,
    TableRows,
    load_corpus,
    seed,
    tenant_rows,
)
from tenantry.schema import (
    Base,
    CostEvent,
    KnowledgeChunk,
    KnowledgeDocument,
    Meeting,
    Tenant,
    TenantSettings,
    User,
)

SMALL = SeedPlan(users=9, chunks=60)


def tables(plan: SeedPlan) -> Iterator[TableRows]:
    for tenant in plan.tenant_plans():
        yield from tenant_rows(tenant, load_corpus())


def digest(plan: SeedPlan) -> str:
    found = hashlib.sha256()
    for table in tables(plan):
        for row in table.rows:
            found.update(repr((table.table.name, row)).encode())
    return found.hexdigest()


async def count(db: Database) -> dict[str, int]:
    async with db.operator(reason="test") as tx:
        return {
            table.name: await tx.scalar(select(func.count()).select_from(table)) or 0
            for table in Base.metadata.sorted_tables
        }


async def everything(db: Database) -> list[str]:
    """The text of every row, as PostgreSQL shows it."""
    found = []
    async with db.operator(reason="test") as tx:
        for table in Base.metadata.sorted_tables:
            rows = await tx.scalars(select(func.to_jsonb(table.table_valued())))
            found += sorted(f"{table.name} {row}" for row in rows)
    return found


def test_same_plan_makes_the_same_bytes_in_another_process() -> None:
    """The same plan makes the same rows, whatever PYTHONHASHSEED says."""
    code = "from tests.ops.test_seed import SMALL, digest; print(digest(SMALL))"
    printed = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    ]
    assert printed == [digest(SMALL)] * 2
    assert digest(replace(SMALL, seed=8)) != printed[0]


def test_every_table_has_as_many_rows_as_announced() -> None:
    """A table's count is known before its rows are made, so progress can be shown."""
    for plan in (SMALL, SeedPlan(tenants=1, users=1, chunks=1), SeedPlan(tenants=7, chunks=1000)):
        for table in tables(plan):
            assert sum(1 for _ in table.rows) == table.count, table.table.name


def test_totals_are_those_of_the_plan() -> None:
    """Users and chunks are totals over all tenants, and the first tenant is the largest."""
    plans = SeedPlan(tenants=50, users=1234, chunks=56_789).tenant_plans()
    assert sum(plan.users for plan in plans) == 1234
    assert sum(plan.chunks for plan in plans) == 56_789
    assert [plan.slug for plan in plans[:3]] == ["acme", "globex", "initech"]
    assert len({plan.slug for plan in plans}) == 50
    assert plans[0].chunks == max(plan.chunks for plan in plans)
    assert min(plan.users for plan in plans) >= 1


def test_names_of_thousands_of_tenants_are_distinct() -> None:
    """Every tenant has a slug of its own, and every user of a tenant an address."""
    plans = SeedPlan(tenants=10_000, users=10_000, chunks=10_000).tenant_plans()
    assert len({plan.slug for plan in plans}) == 10_000
    users = next(t for t in tables(SeedPlan(tenants=1, users=5000)) if t.table.name == "users")
    assert len({row[2] for row in users.rows}) == 5000


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tenants", 0),
        ("tenants", -1),
        ("tenants", 10**9),
        ("users", 0),
        ("users", 2),
        ("chunks", -5),
        ("chunks", 10**12),
        ("chunks", 1.5),
        ("seed", -1),
        ("seed", True),
    ],
)
def test_absurd_plan_is_refused(field: str, value: object) -> None:
    """A number that makes no sense is refused with the option's name and its range."""
    with pytest.raises(InvalidValueError, match=f"--{field} is"):
        SeedPlan(**{field: value})  # type: ignore[arg-type]


def test_ids_are_uuid7_in_order_of_time() -> None:
    """Ids have UUIDv7's form, and sort as their rows were created."""
    chunks = next(t for t in tables(SMALL) if t.table.name == "knowledge_chunks")
    ids = [row[1] for row in chunks.rows]
    assert all(isinstance(each, UUID) and each.version == 7 for each in ids)
    assert len(set(ids)) == len(ids)
    assert sorted(ids) == ids


async def test_seed_loads_what_the_plan_says(db: Database) -> None:
    """After a seed every table but the sessions has rows, as many as reported."""
    seen: list[SeedProgress] = []
    report = await seed(db, SMALL, on_progress=seen.append)
    assert await count(db) == {"sessions": 0} | report.rows
    assert report.rows["users"] == 9
    assert report.rows["knowledge_chunks"] == 60
    assert seen[-1].done == seen[-1].total == sum(report.rows.values())
    async with db.operator(reason="test") as tx:
        assert set(await tx.scalars(select(Meeting.status))) == {"scheduled", "active", "ended"}
        assert set(await tx.scalars(select(User.hashed_password))) == {None}
        assert (await tx.scalar(select(func.min(CostEvent.cost))) or 0) > 0


async def test_seeded_knowledge_is_the_documentation(db: Database) -> None:
    """The knowledge base begins with whole pages of the documentation, word for word."""
    await seed(db, SeedPlan(tenants=1, chunks=max(60, len(load_corpus().passages))))
    async with db.operator(reason="test") as tx:
        contents = set(await tx.scalars(select(KnowledgeDocument.content)))
        lengths = await tx.scalars(select(func.vector_norm(KnowledgeChunk.embedding)))
    assert {page.content for page in load_corpus().documents} <= contents
    assert all(abs(length - 1) < 1e-5 for length in lengths)


async def test_seed_again_changes_nothing(db: Database) -> None:
    """Seeding twice leaves every row as the first time made it."""
    await seed(db, SMALL)
    before = await everything(db)
    report = await seed(db, SMALL)
    assert [tenant.loaded for tenant in report.tenants] == [False] * 3
    assert await everything(db) == before


async def test_another_plan_needs_replace(db: Database) -> None:
    """Tenants of another seed are refused, and replaced when asked for."""
    await seed(db, SMALL)
    before = await everything(db)
    other = replace(SMALL, chunks=90)
    with pytest.raises(ConflictError, match="--replace"):
        await seed(db, other)
    assert await everything(db) == before
    report = await seed(db, other, replace=True)
    assert all(tenant.loaded for tenant in report.tenants)
    assert (await count(db))["knowledge_chunks"] == 90


async def test_tenant_that_no_seed_made_is_never_touched(db: Database) -> None:
    """A tenant of the same name stays, with ``replace`` too, and nothing is loaded beside it."""
    async with db.operator(reason="test") as tx:
        tx.add(Tenant(name="The real Globex", slug="globex"))
    before = await everything(db)
    for asked in (False, True):
        with pytest.raises(ConflictError, match="no seed made"):
            await seed(db, SMALL, replace=asked)
    assert await everything(db) == before


async def test_seeded_tenant_that_was_taken_over_is_kept(db: Database) -> None:
    """Who clears the mark in a seeded tenant's settings keeps the tenant."""
    await seed(db, SMALL)
    async with db.operator(reason="test") as tx:
        await tx.execute(update(Tenant).values(settings=TenantSettings()))
    with pytest.raises(ConflictError, match="no seed made"):
        await seed(db, SMALL, replace=True)


@pytest.mark.parametrize("table", ["users", "messages", "knowledge_chunks"])
async def test_interrupted_seed_leaves_no_half_tenant(db: Database, table: str) -> None:
    """Ctrl-C in the second tenant leaves the first whole, and the next seed does the rest."""
    task: asyncio.Task[object]

    def interrupt(progress: SeedProgress) -> None:
        if progress.tenant == "globex" and progress.table == table:
            task.cancel()

    task = asyncio.create_task(seed(db, SMALL, on_progress=interrupt))
    with pytest.raises(asyncio.CancelledError):
        await task
    async with db.operator(reason="test") as tx:
        assert list(await tx.scalars(select(Tenant.slug))) == ["acme"]
    report = await seed(db, SMALL)
    assert [tenant.loaded for tenant in report.tenants] == [False, True, True]
    assert (await count(db))["knowledge_chunks"] == 60


async def test_two_seeds_at_once(db: Database) -> None:
    """Two seeds at the same moment load each tenant once."""
    reports = await asyncio.gather(seed(db, SMALL), seed(db, SMALL))
    loaded = [tenant.slug for report in reports for tenant in report.tenants if tenant.loaded]
    assert sorted(loaded) == ["acme", "globex", "initech"]
    assert (await count(db))["users"] == 9
