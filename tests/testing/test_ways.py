"""`assert_isolated` finds ways that are no endpoint of JSON, and leaves alone those mended."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tenantry import Database
from tenantry.auth import Auth
from tenantry.auth.profiles import TESTING
from tenantry.testing import IsolationError, IsolationReport, Workbench, assert_isolated
from tests.conftest import Server, Urls
from tests.testing.ways import COOKIE, HOST, WAYS, Ways


def cookie(token: str) -> dict[str, str]:
    return {"Cookie": f"{COOKIE}={token}"}


@pytest.fixture(scope="module")
async def bench(server: Server, template: str) -> AsyncIterator[Workbench]:
    name = await server.create_database(template=template)
    urls = Urls(app=server.at(name, user="tenantry_app"), admin=server.at(name))
    async with Database.connect(settings=urls.settings) as db:
        auth = Auth(db, profile=TESTING, validation_connections=1)
        bench = Workbench(db, auth, credentials=cookie)
        yield bench
        await bench.close()
    await server.drop_database(name)


async def walked(bench: Workbench, *, leaks: bool) -> IsolationReport:
    app: Any = Ways(bench.db, bench.auth, leaks=leaks).app
    try:
        return await assert_isolated(app, bench=bench, host=HOST)
    except IsolationError as error:
        return error.report


@pytest.fixture(scope="module")
async def report(bench: Workbench) -> IsolationReport:
    return await walked(bench, leaks=True)


@pytest.mark.parametrize("operation", WAYS)
def test_a_way_is_found(operation: str, report: IsolationReport) -> None:
    """The report names the operation, the parameter, and what came of it."""
    parameter, what = WAYS[operation]
    fitting = [
        leak
        for leak in report.leaks
        if leak.operation == operation and parameter in leak.parameter and what in leak.what
    ]
    assert fitting, str(report)


async def test_the_same_mended_pass(bench: Workbench) -> None:
    """All of it is carried out, and nothing of it is reported."""
    report = await walked(bench, leaks=False)
    assert report.ok, str(report)
    assert report.operations == len(WAYS) + 3
