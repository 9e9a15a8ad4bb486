"""The page on managed PostgreSQL brings all rows into another database."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from sqlalchemy import func, select

from tenantry import Database
from tenantry.ops import embedded
from tenantry.schema import Tenant, Widget
from tenantry.settings import url_text
from tests.conftest import Server, TenantPair, Urls

PAGE = Path(__file__).parents[2] / "docs" / "managed-postgresql.md"


def shown(program: str) -> str:
    """The line of the page that runs a program."""
    (line,) = re.findall(
        rf"^(?:PGOPTIONS=\S+ \S+ )?{program} --.*$", PAGE.read_text(), re.MULTILINE
    )
    return str(line)


def run(line: str, url: str, folder: Path) -> None:
    programs = Path(embedded.binary("psql")).parent
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "TENANTRY_ADMIN_URL": url,
    }
    done = subprocess.run(
        ["sh", "-ec", line],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


async def test_a_dump_is_restored_as_the_page_says(
    server: Server, template: str, db: Database, urls: Urls, tenants: TenantPair, tmp_path: Path
) -> None:
    """As the operator, and so without a superuser's rights."""
    for tenant in (tenants.a, tenants.b):
        async with db.tenant(tenant.id) as tx:
            tx.add(Widget(name="it's \\ one"))
    run(shown("pg_dump"), url_text(urls.admin), tmp_path)
    name = await server.create_database(template=template)
    other = Urls(app=server.at(name, user="tenantry_app"), admin=server.at(name))
    run(shown("psql"), url_text(other.admin), tmp_path)
    async with (
        Database.connect(settings=other.settings) as restored,
        restored.operator(reason="count what was restored") as tx,
    ):
        assert set(await tx.scalars(select(Tenant.id))) == {tenants.a.id, tenants.b.id}
        assert await tx.scalar(select(func.count()).where(Widget.name == "it's \\ one")) == 2
    await server.drop_database(name)
