"""With the door for FastAPI, as the page on OpenTelemetry shows it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import pytest

import tenantry.opentelemetry
from tenantry.settings import ADMIN_URL, DATABASE_URL, url_text
from tests.conftest import TenantPair, Urls
from tests.docs.test_examples import PYTHON
from tests.telemetry.conftest import EMAIL, PASSWORD, Recording

SITE = "https://app.example.com"


async def test_what_the_page_shows_tells_of_requests(
    record: Callable[..., Recording],
    urls: Urls,
    tenants: TenantPair,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the first sign-in on, though the door has made its `Auth` before; until the end."""
    (block,) = [
        each for each in PYTHON if each.page.stem == "opentelemetry" and "lifespan" in each.code
    ]
    recording = record()
    told = partial(  # and not the process's own providers
        tenantry.opentelemetry.instrument,
        tracer_provider=recording.tracer_provider,
        meter_provider=recording.meter_provider,
    )
    monkeypatch.setattr(tenantry.opentelemetry, "instrument", told)
    monkeypatch.setenv(DATABASE_URL, url_text(urls.app))
    monkeypatch.setenv(ADMIN_URL, url_text(urls.admin))
    shown: dict[str, Any] = {}
    exec(compile(block.code, str(block), "exec"), shown)
    app = shown["app"]
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url=SITE, headers={"Origin": SITE}) as client,
    ):
        db, auth = app.state.tenantry.db, app.state.tenantry.auth
        await auth.register(tenants.a.id, EMAIL, PASSWORD)
        form = {"tenant": "acme", "email": EMAIL, "password": PASSWORD}
        assert (await client.post("/auth/sign-in", json=form)).status_code == 200
        assert (await client.get("/auth/session")).status_code == 200
    assert dict(recording.span("tenantry.sign_in").attributes or {})["tenantry.outcome"] == "ok"
    assert recording.spans("tenantry.validate")
    assert db.observer is None
