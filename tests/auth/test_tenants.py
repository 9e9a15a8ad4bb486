"""The tenant of a sign-in: found as the application's role, by whoever asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import asyncpg
import pytest

from tenantry import Database, Settings
from tenantry.auth.tenants import TenantFinder
from tenantry.errors import SchemaMissingError, TenantUnknownError
from tenantry.ops.tenants import find_tenant
from tenantry.schema import Tenant
from tests.conftest import Server, TenantPair, Urls
from tests.pgbouncer import pgbouncer


@pytest.fixture(params=["direct", "behind PgBouncer"])
async def finder(
    request: pytest.FixtureRequest, server: Server, urls: Urls, tenants: TenantPair
) -> AsyncIterator[TenantFinder]:
    """Of a database that has no administrator's URL."""
    if request.param == "direct":
        async with Database.connect(urls.app) as db:
            yield TenantFinder(db)
        return
    async with pgbouncer(server.url, connections=2) as url:
        pooled = url.set(username=urls.app.username, database=urls.app.database)
        async with Database.connect(settings=Settings(database_url=pooled)) as db:
            assert db.settings.pooler is True
            yield TenantFinder(db)


async def test_everybody_gets_their_own_answer(finder: TenantFinder, tenants: TenantPair) -> None:
    """Alone, and among hundreds of whom a third go away: their tenant, or none."""
    expected: dict[str | None, UUID | None] = {
        "acme": tenants.a.id,
        "globex": tenants.b.id,
        "nope": None,
        "x" * 63: None,
        None: None,
    }
    for slug, tenant in expected.items():
        assert await finder.find(slug) == tenant
    asked = list(expected) * 60
    tasks = [asyncio.create_task(finder.find(slug)) for slug in asked]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    for slug, answer in zip(asked, answers, strict=True):
        assert answer == expected[slug] or isinstance(answer, asyncio.CancelledError)


async def test_a_slug_is_one_in_any_case(
    finder: TenantFinder, db: Database, tenants: TenantPair
) -> None:
    """As host names are, wherever people type it; letters that fold to a slug's are others."""
    for spelled in ("ACME", "Acme", "aCmE"):
        assert await finder.find(spelled) == tenants.a.id
        assert (await find_tenant(db, spelled)).id == tenants.a.id
    assert await finder.find(str(tenants.b.id).upper()) == tenants.b.id
    async with db.operator() as tx:
        tx.add(Tenant(name="Kit", slug="kit"))
    for odd in ("\u212ait", "k\u0131t", "K\u0130T"):
        assert await finder.find(odd) is None
        with pytest.raises(TenantUnknownError):
            await find_tenant(db, odd)


async def test_what_is_no_slug_is_not_asked_for(
    finder: TenantFinder, admin: asyncpg.Connection
) -> None:
    """Where the function is gone a slug fails, and what cannot be one is answered all the same."""
    await admin.execute("DROP FUNCTION tenantry.find_tenant")
    with pytest.raises(SchemaMissingError, match="tenantry db migrate"):
        await finder.find("acme")
    for text in ("", "acme\n", "acme.", "%", "a_b", "-a", "é", "\0", "x" * 64, "x" * 10**6):
        assert await finder.find(text) is None
    unknown = uuid4()
    assert await finder.find(str(unknown)) == unknown


async def test_a_slug_of_hexadecimal_digits_is_a_slug(
    finder: TenantFinder, tenants: TenantPair, admin: asyncpg.Connection
) -> None:
    """An id is one with dashes alone: 32 digits without are a slug like any other."""
    digits = tenants.b.id.hex
    assert await finder.find(digits) is None
    await admin.execute("UPDATE tenants SET slug = $1 WHERE id = $2", digits, tenants.a.id)
    assert await finder.find(digits) == tenants.a.id
    dashed = str(tenants.b.id)
    assert await finder.find(dashed) == tenants.b.id
    for odd in (f"{dashed[:-1]}-{dashed[-1]}", f"{digits[:4]}-{digits[4:]}"):
        assert await finder.find(odd) is None


async def test_commands_tell_ids_from_slugs_alike(
    db: Database, tenants: TenantPair, admin: asyncpg.Connection
) -> None:
    """With dashes, in any case, it is an id."""
    digits = tenants.b.id.hex
    await admin.execute("UPDATE tenants SET slug = $1 WHERE id = $2", digits, tenants.a.id)
    assert (await find_tenant(db, digits)).id == tenants.a.id
    assert (await find_tenant(db, str(tenants.b.id).upper())).id == tenants.b.id
