"""`assert_isolated` finds what leaks, and leaves alone what does not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from fastapi import HTTPException

from tenantry import Database
from tenantry.auth import Auth
from tenantry.auth.profiles import TESTING
from tenantry.errors import ConfigurationError
from tenantry.testing import IsolationError, IsolationReport, Workbench, assert_isolated
from tests.testing.applications import Product, Who
from tests.testing.leaks import CASES


@pytest.fixture
async def bench(db: Database) -> AsyncIterator[Workbench]:
    bench = Workbench(db, Auth(db, profile=TESTING, validation_connections=1))
    yield bench
    await bench.close()


async def failing(product: Product, bench: Workbench, **options: object) -> IsolationReport:
    with pytest.raises(IsolationError) as raised:
        await assert_isolated(product.app, bench=bench, **options)  # type: ignore[arg-type]
    return raised.value.report


async def test_an_honest_application_passes(bench: Workbench) -> None:
    """Every operation was carried out, and nothing is reported."""
    report = await assert_isolated(Product(bench.db, bench.auth).app, bench=bench)
    assert report.ok
    assert report.operations == 11


@pytest.mark.parametrize("name", CASES)
async def test_a_leak_is_found(name: str, bench: Workbench) -> None:
    """The report names the operation, who has asked, the parameter, and what came of it."""
    case, product = CASES[name], Product(bench.db, bench.auth, complete=False)
    case.add(product)
    report = await failing(product, bench)
    assert not report.unexercised
    fitting = [
        leak
        for leak in report.leaks
        if (leak.operation, leak.who) == (case.operation, case.who)
        and case.parameter in leak.parameter
        and case.what in leak.what
    ]
    assert fitting, str(report)
