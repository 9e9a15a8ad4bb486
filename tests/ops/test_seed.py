"""Seeds, on a real server."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import func, select, update

from tenantry import Database
from tenantry.errors import ConflictError, InvalidValueError, MigrationError
from tenantry.ops import drift
from tenantry.ops.seed import (
    SeedPlan,
    SeedProgress,
    TableRows,
    indexes,
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
from tenantry.settings import url_text
from tests.conftest import Urls
from tests.forked import Forked

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
    """After a seed every table has rows, as many as reported, but for those of signing in."""
    seen: list[SeedProgress] = []
    report = await seed(db, SMALL, on_progress=seen.append)
    of_signing_in = (
        "sessions",
        "known_devices",
        "security_events",
        "sign_in_throttles",
        "single_use_tokens",
    )
    assert await count(db) == dict.fromkeys(of_signing_in, 0) | report.rows
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


@pytest.fixture
def _worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `SMALL` so large that indexes are dropped for it."""
    monkeypatch.setattr(indexes, "LEAST_CHUNKS", 50)


large = pytest.mark.usefixtures("_worth_it")

COSTLY = [
    "knowledge_chunks_embedding_idx",
    "knowledge_chunks_lexemes_idx",
    "knowledge_documents_content_trgm_idx",
    "knowledge_documents_embedding_idx",
    "knowledge_documents_lower_content_trgm_idx",
    "knowledge_documents_metadata_idx",
]


async def index_ids(admin: asyncpg.Connection) -> dict[str, int]:
    """The oid of every index of ours, by name; one that was rebuilt has another."""
    rows = await admin.fetch(
        "SELECT relname, oid FROM pg_class WHERE relkind = 'i'"
        " AND relnamespace = 'public'::regnamespace"
    )
    return {row["relname"]: row["oid"] for row in rows}


async def test_small_seed_leaves_the_indexes_alone(db: Database, admin: asyncpg.Connection) -> None:
    """A seed of the default size drops and builds no index."""
    before = await index_ids(admin)
    await seed(db, SMALL)
    assert await index_ids(admin) == before


@large
async def test_large_seed_rebuilds_the_costly_indexes(
    db: Database, urls: Urls, admin: asyncpg.Connection
) -> None:
    """A large seed builds the dear indexes at its end, says so, and all is as declared."""
    before = await index_ids(admin)
    seen: list[SeedProgress] = []
    await seed(db, SMALL, on_progress=seen.append)
    after = await index_ids(admin)
    assert after.keys() == before.keys()
    assert [name for name in sorted(after) if after[name] != before[name]] == COSTLY
    steps = [each.table for each in seen if not each.tenant]
    assert steps[0] == "dropping indexes"
    assert sorted(steps[1:]) == [f"rebuilding indexes: {name}" for name in COSTLY]
    assert seen[-1].done == seen[-1].total
    assert await drift.check(urls.admin) == []


@large
async def test_rebuilding_is_weighed_against_what_is_there(db: Database) -> None:
    """Indexes over many rows are not built anew for a few."""
    await seed(db, SMALL)
    assert not await indexes._is_worth_it(db, 49)
    assert await indexes._is_worth_it(db, 50)
    async with db.operator(reason="test") as tx:
        chunk = (await tx.scalars(select(KnowledgeChunk).limit(1))).one()
        for position in range(1000, 1040):
            tx.add(
                KnowledgeChunk(
                    tenant_id=chunk.tenant_id,
                    document_id=chunk.document_id,
                    content="x",
                    position=position,
                )
            )
    assert not await indexes._is_worth_it(db, 50)
    assert await indexes._is_worth_it(db, 51)


@large
@pytest.mark.parametrize("at", ["dropping indexes", "users", "knowledge_chunks"])
@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_interrupted_large_seed_rebuilds_the_indexes(
    db: Database, urls: Urls, at: str, is_cancelled: bool
) -> None:
    """After Ctrl-C or an error the indexes are there, and the tenant at hand is not."""
    task: asyncio.Task[object]

    def interrupt(progress: SeedProgress) -> None:
        if progress.table == at:
            if not is_cancelled:
                raise RuntimeError("no more")
            task.cancel()

    task = asyncio.create_task(seed(db, SMALL, on_progress=interrupt))
    with pytest.raises(asyncio.CancelledError if is_cancelled else RuntimeError):
        await task
    assert await drift.check(urls.admin) == []
    assert (await count(db))["tenants"] == 0


@large
async def test_cancelled_while_rebuilding(db: Database, urls: Urls) -> None:
    """A first Ctrl-C while indexes are built lets them be finished; a second one does not."""
    seen: list[str] = []
    task: asyncio.Task[object]

    def interrupt(progress: SeedProgress) -> None:
        if progress.table.startswith("rebuilding"):
            if not seen:
                task.cancel()
            seen.append(progress.table)

    task = asyncio.create_task(seed(db, SMALL, on_progress=interrupt))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(seen) == len(COSTLY)
    assert await drift.check(urls.admin) == []
    assert (await count(db))["knowledge_chunks"] == 60


@large
async def test_second_cancellation_ends_the_rebuilding(
    db: Database, urls: Urls, admin: asyncpg.Connection
) -> None:
    """Who presses Ctrl-C twice is let go at once, and the next seed builds what is missing."""
    await slow_down_index_builds(admin)
    rebuilding = asyncio.Event()

    def told(progress: SeedProgress) -> None:
        if progress.table.startswith("rebuilding"):
            rebuilding.set()

    task = asyncio.create_task(seed(db, SMALL, on_progress=told))
    await asyncio.wait_for(rebuilding.wait(), 10)
    for _ in range(2):
        await asyncio.sleep(0.1)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)
    await admin.execute("DROP EVENT TRIGGER on_index; DROP FUNCTION on_index")
    assert await drift.check(urls.admin) != []
    await seed(db, SMALL)
    assert await drift.check(urls.admin) == []


async def on_index_build(admin: asyncpg.Connection, body: str) -> None:
    """Run PL/pgSQL before each CREATE INDEX."""
    await admin.execute(
        f"CREATE FUNCTION on_index() RETURNS event_trigger LANGUAGE plpgsql AS $$ {body} $$;"
        "CREATE EVENT TRIGGER on_index ON ddl_command_start WHEN TAG IN ('CREATE INDEX')"
        " EXECUTE FUNCTION on_index()"
    )


async def slow_down_index_builds(admin: asyncpg.Connection) -> None:
    await on_index_build(admin, "BEGIN PERFORM pg_sleep(60); END")


@pytest.mark.parametrize("how", ["seed", "push"])
async def test_killed_seed_leaves_no_index_missing_for_long(
    db: Database, urls: Urls, tmp_path: Path, how: str
) -> None:
    """After kill -9 `check` names the missing indexes; the next seed makes them, or `push`."""
    code = """if True:
        import asyncio, os, signal, sys
        from tenantry import Database, Settings
        from tenantry.ops.seed import indexes, seed
        from tenantry.settings import parse_url
        from tests.ops.test_seed import SMALL

        def die(progress):
            if (progress.tenant, progress.table) == ("globex", "knowledge_chunks"):
                os.kill(os.getpid(), signal.SIGKILL)

        async def main():
            url = parse_url(sys.stdin.read())
            async with Database.connect(settings=Settings(
                database_url=url.set(username="tenantry_app"), admin_url=url
            )) as db:
                await seed(db, SMALL, on_progress=die)

        indexes.LEAST_CHUNKS = 50
        asyncio.run(main())
    """
    (tmp_path / "killed.py").write_text(code)
    ended = Forked(
        "killed.py",
        environment=dict(os.environ),
        folder=tmp_path,
        stdin=url_text(urls.admin),
    ).result()
    assert ended.code == -signal.SIGKILL
    missing = "\n".join(await drift.check(urls.admin))
    assert all(name in missing for name in COSTLY)
    if how == "push":
        await drift.push(urls.admin)
    else:
        report = await seed(db, SMALL)
        assert [tenant.loaded for tenant in report.tenants] == [False, True, True]
    assert await drift.check(urls.admin) == []


async def test_seed_with_nothing_to_load_restores_indexes(
    db: Database, urls: Urls, admin: asyncpg.Connection
) -> None:
    """An index that an earlier seed left missing is made, also when every tenant is there."""
    await seed(db, SMALL)
    await admin.execute("DROP INDEX knowledge_chunks_embedding_idx")
    report = await seed(db, SMALL)
    assert not any(tenant.loaded for tenant in report.tenants)
    assert await drift.check(urls.admin) == []


@large
async def test_tables_in_use_keep_their_indexes(
    db: Database, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where somebody reads the tables for long, the seed loads with the indexes in place."""
    monkeypatch.setattr(indexes, "LOCK_TIMEOUT_MS", 50)
    before = await index_ids(admin)
    async with admin.transaction():
        await admin.execute("LOCK TABLE knowledge_chunks IN ACCESS SHARE MODE")
        await seed(db, SMALL)
    assert await index_ids(admin) == before
    assert (await count(db))["knowledge_chunks"] == 60


@large
async def test_two_large_seeds_at_once(db: Database, urls: Urls) -> None:
    """The second waits until the first has rebuilt its indexes, and finds all done."""
    seen: list[tuple[int, str]] = []
    reports = await asyncio.gather(
        *(
            seed(db, SMALL, on_progress=lambda at, n=n: seen.append((n, at.table)))  # type: ignore[misc]
            for n in range(2)
        )
    )
    assert sorted(any(each.loaded for each in report.tenants) for report in reports) == [
        False,
        True,
    ]
    loaders = {n for n, step in seen if step.startswith("rebuilding")}
    waiting = {n for n, step in seen if step == "waiting for another seed"}
    assert len(loaders) == 1
    assert waiting == {0, 1} - loaders
    assert await drift.check(urls.admin) == []


@large
async def test_index_that_somebody_made_anew_is_kept(
    db: Database, admin: asyncpg.Connection
) -> None:
    """An index with parameters of one's own is not replaced by the declared one."""
    name = "knowledge_chunks_embedding_idx"
    await admin.execute(
        f"DROP INDEX {name}; CREATE INDEX {name} ON knowledge_chunks"
        " USING hnsw (embedding vector_cosine_ops) WITH (m = 8)"
    )
    before = await index_ids(admin)
    await seed(db, SMALL)
    after = await index_ids(admin)
    assert after[name] == before[name]
    assert (
        after["knowledge_documents_content_trgm_idx"]
        != before["knowledge_documents_content_trgm_idx"]
    )


@large
async def test_index_is_built_alone_where_workers_find_no_memory(
    db: Database, admin: asyncpg.Connection
) -> None:
    """A container whose /dev/shm is too small for a parallel build gets its indexes."""
    await on_index_build(
        admin,
        "BEGIN IF current_setting('max_parallel_maintenance_workers') <> '0' THEN"
        " RAISE 'could not resize shared memory segment' USING ERRCODE = '53100'; END IF; END",
    )
    await seed(db, SMALL)
    assert set(COSTLY) <= set(await index_ids(admin))


@large
async def test_index_that_cannot_be_built_is_named(db: Database, admin: asyncpg.Connection) -> None:
    """A rebuild that fails says which index is missing and what to do; the rows stay."""
    await on_index_build(admin, "BEGIN RAISE 'disk full' USING ERRCODE = '53100'; END")
    with pytest.raises(MigrationError, match=r"_idx could not be built.*db push"):
        await seed(db, SMALL)
    assert (await count(db))["knowledge_chunks"] == 60
    await admin.execute("DROP EVENT TRIGGER on_index")
    await seed(db, SMALL)
    assert set(COSTLY) <= set(await index_ids(admin))
