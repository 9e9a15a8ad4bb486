"""The page on PgBouncer: its settings are settings, and what it says of them happens."""

from __future__ import annotations

from configparser import ConfigParser

import pytest
from sqlalchemy import text

from tenantry import Database, Settings
from tenantry.errors import DatabaseUnavailableError
from tests.conftest import Server, TenantPair, Urls
from tests.docs.test_examples import blocks
from tests.pgbouncer import pgbouncer


async def test_the_settings_of_the_page(server: Server, urls: Urls, tenants: TenantPair) -> None:
    """A PgBouncer starts with them and is noticed; who waits for a connection too long is told."""
    (block,) = [each for each in blocks() if each.file == "pgbouncer.ini"]
    page = ConfigParser()
    page.read_string(block.code)
    ours = {
        name: value
        for name, value in page["pgbouncer"].items()
        if not name.startswith(("listen_", "auth_", "default_pool_size"))
    }
    assert ours["pool_mode"] == "transaction"
    ours["query_wait_timeout"] = "1"  # so as not to wait for ten seconds
    options = "\n".join(f"{name} = {value}" for name, value in ours.items())
    async with pgbouncer(server.url, connections=1, options=options) as bouncer:
        url = bouncer.set(username=urls.app.username, database=urls.app.database)
        async with Database.connect(settings=Settings(database_url=url)) as db:
            assert db.settings.pooler is True
            async with db.tenant(tenants.a.id) as tx:
                await tx.execute(text("SELECT 1"))
                with pytest.raises(DatabaseUnavailableError):
                    async with db.tenant(tenants.b.id) as other:
                        await other.execute(text("SELECT 1"))
