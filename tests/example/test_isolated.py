"""The desk's tenants stay apart on every page and form, as `assert_isolated` sees it."""

from __future__ import annotations

import pytest
from sqlalchemy import MetaData

from tenantry import Database
from tenantry.auth import Auth
from tenantry.auth.profiles import TESTING
from tenantry.ops.migrations import migrate
from tenantry.ops.project import load_project
from tenantry.schema import Base
from tenantry.testing import Workbench, assert_isolated
from tests.conftest import Urls
from tests.example.conftest import EXAMPLE, TABLE, desk_app


def with_cookie(token: str) -> dict[str, str]:
    return {"Cookie": f"__Host-session={token}"}


@pytest.mark.untraced
async def test_the_desk_is_isolated(urls: Urls) -> None:
    """Every page and form is carried out with the session's cookie, and shows no other tenant's."""
    await migrate(urls.admin, project=load_project(EXAMPLE))
    metadata = MetaData()
    for table in (*Base.metadata.sorted_tables, TABLE):
        table.to_metadata(metadata)
    async with Database.connect(settings=urls.settings) as db:
        auth = Auth(db, profile=TESTING, validation_connections=1)
        bench = Workbench(db, auth, credentials=with_cookie)
        try:
            report = await assert_isolated(
                desk_app(urls),
                bench=bench,
                metadata=metadata,
                skip=["Mount /static"],
                examples={"POST /widgets/{widget_id}": {"name": "Shop", "theme": "dark"}},
            )
        finally:
            await bench.close()
    assert report.operations == 15
