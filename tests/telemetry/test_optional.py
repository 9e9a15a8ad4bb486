"""Without OpenTelemetry."""

from __future__ import annotations

import asyncio
import os
import sys

from tenantry.settings import url_text
from tests.conftest import TenantPair, Urls

_PROGRAM = """
import asyncio, sys
sys.modules["opentelemetry"] = None  # importing it fails, as where it is not installed

from tenantry import Database
from tenantry.auth import Auth
from tenantry.auth.profiles import TESTING
from tenantry.errors import ConfigurationError
from tenantry.opentelemetry import instrument, uninstrument
from tenantry.search import keyword_search

async def main():
    async with Database.connect() as db:
        try:
            instrument(db)
        except ConfigurationError as error:
            print(error)
        assert db.observer is None
        uninstrument(db)
        auth = Auth(db, profile=TESTING)
        await auth.register(sys.argv[1], "ada@acme.example", "correct horse battery staple")
        opened = await auth.sign_in(
            sys.argv[1], "ada@acme.example", "correct horse battery staple"
        )
        principals = await asyncio.gather(*(auth.validate(opened.token) for _ in range(9)))
        async with db.tenant(principals[0].tenant_id) as tx:
            print(await keyword_search(tx, "nothing"))
    print([name for name in sys.modules if name.split(".")[0] == "opentelemetry"])

asyncio.run(main())
"""


async def test_without_the_extra_all_works_and_instrument_says_what_to_install(
    urls: Urls, tenants: TenantPair
) -> None:
    """Nothing of OpenTelemetry is imported, and nobody misses it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", _PROGRAM, str(tenants.a.id)),
        env={**os.environ, "TENANTRY_DATABASE_URL": url_text(urls.app)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    assert out.decode().splitlines() == [
        "OpenTelemetry is not installed (opentelemetry is missing). Run pip install "
        "'tenantry[opentelemetry]'.",
        "[]",
        "['opentelemetry']",
    ]
