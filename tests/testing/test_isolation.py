"""`assert_isolated` finds what leaks, and leaves alone what does not."""

# No `from __future__ import annotations`: FastAPI could not resolve what is local.
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi import FastAPI, HTTPException, Request
from fastapi.staticfiles import StaticFiles
from sqlalchemy import select

from tenantry import Database
from tenantry.asgi.bodies import SignIn
from tenantry.auth import Auth
from tenantry.auth.profiles import TESTING
from tenantry.errors import ConfigurationError
from tenantry.fastapi import (
    ApiKeyPrincipal,
    CurrentDoor,
    CurrentPrincipal,
    DoorSettings,
    TenantTx,
    install,
    lifespan,
)
from tenantry.schema import Widget
from tenantry.testing import IsolationError, IsolationReport, Workbench, assert_isolated
from tenantry.testing.answers import Answer
from tenantry.testing.judging import INTRUDER
from tenantry.testing.openapi import Operation, Slot
from tenantry.testing.requesting import Rows, candidates
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


async def test_the_door_and_a_sign_in_of_ones_own_pass(bench: Workbench) -> None:
    """The door's routes are left out; problems with a request's id, and counted attempts, pass."""
    app = FastAPI(lifespan=lifespan)
    install(app, DoorSettings(database=bench.db.settings, profile=TESTING))

    @app.get("/widgets/{widget_id}")
    async def widget(widget_id: UUID, tx: TenantTx) -> str:
        return (await tx.get_one(Widget, widget_id)).name

    @app.post("/enter")
    async def enter(request: Request, given: SignIn, door: CurrentDoor) -> None:
        await door.sign_in(
            request,
            tenant=given.tenant,
            email=given.email,
            password=given.password.get_secret_value(),
        )

    skipped = {"POST /enter": {"email": "nobody@acme.example"}}
    report = await failing_only_to_try(app, bench, skipped)
    assert [each.subject for each in report.unexercised] == ["POST /enter"]
    assert (report.operations, report.leaks) == (2, ())


async def test_routes_of_ones_own_below_the_doors_prefix_are_tried(bench: Workbench) -> None:
    """Also where they have its tags: a leak in them is found."""
    app = FastAPI(lifespan=lifespan)
    install(app, DoorSettings(database=bench.db.settings, profile=TESTING))

    @app.get("/auth/widgets/{widget_id}", tags=["sign-in"])
    async def widget(widget_id: UUID, who: CurrentPrincipal, door: CurrentDoor) -> str:
        async with bench.db.operator(reason="a leak") as tx:
            named = select(Widget.name).where(Widget.id == widget_id)
            return (await tx.scalars(named)).one()

    with pytest.raises(IsolationError) as raised:
        await assert_isolated(app, bench=bench)
    report = raised.value.report
    assert report.operations == 1
    assert str(report).startswith("Operations tried: 1, with ")
    assert "\nWays from one tenant to another: 1\n" in str(report)
    assert {each.operation for each in report.leaks} == {"GET /auth/widgets/{widget_id}"}


async def failing_only_to_try(app: FastAPI, bench: Workbench, examples: Any) -> IsolationReport:
    with pytest.raises(IsolationError) as raised:
        await assert_isolated(app, bench=bench, examples=examples)
    return raised.value.report


async def test_what_only_programs_may_use_is_tried_with_keys(bench: Workbench) -> None:
    """Each tenant's own: what is honest passes, and a leak is found."""
    app = FastAPI(lifespan=lifespan)
    install(app, DoorSettings(database=bench.db.settings, profile=TESTING))

    @app.get("/honest")
    async def honest(_: ApiKeyPrincipal, tx: TenantTx) -> list[str]:
        return list(await tx.scalars(select(Widget.name)))

    @app.get("/leaking/{widget_id}")
    async def leaking(widget_id: UUID, _: ApiKeyPrincipal, door: CurrentDoor) -> str | None:
        async with door.db.operator(reason="a leak") as tx:
            return await tx.scalar(select(Widget.name).where(Widget.id == widget_id))

    with pytest.raises(IsolationError) as raised:
        await assert_isolated(app, bench=bench)
    report = raised.value.report
    assert not report.unexercised, str(report)
    assert {(each.operation, each.who) for each in report.leaks} == {
        ("GET /leaking/{widget_id}", INTRUDER)
    }


def test_a_table_that_is_called_like_a_tenant_is_a_table() -> None:
    """``customer_id`` is one of the application's customers first, and may be the tenant."""
    slot = Slot("path", "customer_id", {"format": "uuid"}, required=True)
    rows: Rows = {("tenants", "id"): [uuid4()], ("customers", "id"): [uuid4()]}
    found = candidates(Operation("GET", "/customers/{customer_id}", (slot,)), slot, rows)
    assert [origin for _, origin in found] == [("customers", "id"), ("tenants", "id")]


def test_ids_of_requests_say_nothing() -> None:
    """Whatever digit or letter they begin with."""
    ids = ("0a1b2c3d" * 4, "a0b1c2d3" * 4, "9999ffff" * 4)
    shapes = {Answer(404, "", f"gone {each}", None, "", "").shape for each in ids}
    assert len(shapes) == 1


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


async def test_what_could_not_be_tried_is_no_success(bench: Workbench) -> None:
    """What refuses everything and a folder that is mounted are listed, unless skipped."""
    product = Product(bench.db, bench.auth, complete=False)

    @product.app.get("/orders/{currency}")
    async def orders(who: Who, currency: str) -> str:
        if currency != "EUR":
            raise HTTPException(422, [{"loc": ["path", "currency"], "type": "unknown"}])
        return currency

    product.app.mount("/static", StaticFiles(directory=Path(__file__).parent))
    report = await failing(product, bench)
    assert not report.leaks
    assert [each.subject for each in report.unexercised] == [
        "GET /orders/{currency}",
        "Mount /static",
    ]
    assert "422 path.currency (unknown)" in report.unexercised[0].reason
    examples = {"GET /orders/{currency}": {"currency": "EUR"}}
    await assert_isolated(product.app, bench=bench, skip=["/static"], examples=examples)
    with pytest.raises(ConfigurationError, match="GET /order,"):
        await assert_isolated(product.app, bench=bench, skip=["GET /order"])
    with pytest.raises(ConfigurationError, match="GET /order,"):
        await assert_isolated(product.app, bench=bench, examples={"GET /order": {}})


async def test_a_walk_that_ends_early_says_so(bench: Workbench) -> None:
    """What was not reached within the limits is no success."""
    product = Product(bench.db, bench.auth)
    report = await failing(product, bench, max_requests=20)
    assert report.requests == 20
    assert len(report.unexercised) == report.operations == 11
    assert "raise max_requests" in report.unexercised[0].reason


async def test_an_application_that_knows_no_session_is_told_so(bench: Workbench) -> None:
    """Where every signed-in user gets a 401, the credentials are what is wrong."""
    product = Product(bench.db, bench.auth)
    bench.credentials = lambda token: {"X-Session": token}
    report = await failing(product, bench)
    assert "tenantry_credentials" in report.unexercised[0].reason


async def test_the_lifespan_runs_once(bench: Workbench) -> None:
    """From the first client to the end, and what it puts into the state arrives."""
    product = Product(bench.db, bench.auth, complete=False)

    @product.app.get("/greeting")
    async def greeting(request: Request) -> str:
        return str(request.state.greeting)

    user = await bench.make_user()
    for client in (
        await bench.client_of(user, app=product.app),
        await bench.anonymous_client(app=product.app),
    ):
        assert (await client.get("/greeting")).json() == "hello"
    assert product.lives == ["up"]
    await bench.close()
    assert product.lives == ["up", "down"]
