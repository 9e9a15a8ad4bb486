"""`assert_isolated` finds ways that are no endpoint of JSON, and leaves alone those mended."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tenantry import Database
from tenantry.auth import Auth
from tenantry.auth.profiles import TESTING
from tenantry.testing import IsolationError, Workbench, assert_isolated
from tests.testing.ways import COOKIE, HOST, WAYS, Ways


def cookie(token: str) -> dict[str, str]:
    return {"Cookie": f"{COOKIE}={token}"}


@pytest.fixture
async def bench(db: Database) -> AsyncIterator[Workbench]:
    auth = Auth(db, profile=TESTING, validation_connections=1)
    bench = Workbench(db, auth, credentials=cookie)
    yield bench
    await bench.close()


# All at once: a walk for each would cost some seconds, and each is an operation of its own.
async def test_each_way_is_found(bench: Workbench) -> None:
    """The report names the operation, the parameter, and what came of it."""
    app = Ways(bench.db, bench.auth, leaks=True).app
    with pytest.raises(IsolationError) as raised:
        await assert_isolated(app, bench=bench, host=HOST)
    report = raised.value.report
    missed = [
        operation
        for operation, (parameter, what) in WAYS.items()
        if not any(
            leak.operation == operation and parameter in leak.parameter and what in leak.what
            for leak in report.leaks
        )
    ]
    assert not missed, str(report)
    assert not report.unexercised


async def test_the_same_mended_pass(bench: Workbench) -> None:
    """All of it is carried out, and nothing of it is reported."""
    app = Ways(bench.db, bench.auth, leaks=False).app
    report = await assert_isolated(app, bench=bench, host=HOST)
    assert report.operations == len(WAYS) + 3
