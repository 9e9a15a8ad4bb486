"""Requests that schemathesis makes up from the documentation, sent for two tenants.

`TENANTRY_SCHEMATHESIS_EXAMPLES` says how many of each kind for each operation.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.fastapi.conftest import Site

schemathesis = pytest.importorskip("schemathesis")

EXAMPLES = int(os.environ.get("TENANTRY_SCHEMATHESIS_EXAMPLES", "3"))
SECRET = "a name that Globex must not read"
# The first two end the session with which the others are asked; the others do as a test says.
LEFT_OUT = {"/auth/sign-out", "/auth/password", "/api/stream", "/api/fails"}
CHOSEN = settings(
    max_examples=EXAMPLES,
    database=None,
    deadline=None,
    derandomize=EXAMPLES < 10,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


async def ask(client: httpx.AsyncClient, case: Any) -> None:
    """Send what was made up with the client's own credential, and judge the answer."""
    sent = case.as_transport_kwargs(base_url=str(client.base_url))
    headers = {
        name: str(value)
        for name, value in (sent.get("headers") or {}).items()
        if name.lower() not in {"authorization", "x-api-key", "cookie"}
    }
    response = await client.request(
        sent["method"],
        sent["url"],
        params=sent.get("params"),
        json=sent.get("json"),
        content=sent.get("data"),
        headers=headers,
    )
    case.validate_response(
        response,
        checks=[
            schemathesis.checks.not_a_server_error,
            schemathesis.checks.CHECKS.get_one("status_code_conformance"),
            schemathesis.checks.CHECKS.get_one("content_type_conformance"),
            schemathesis.checks.CHECKS.get_one("response_schema_conformance"),
        ],
    )
    assert "globex" not in str(client.headers) or SECRET not in response.text


async def test_no_request_finds_a_defect_or_the_other_tenant(site: Site) -> None:
    """As documented or not: no 500, no answer that is not documented, nothing of the other's."""
    ada, bob = await site.signed_in(), await site.signed_in("bob@globex.example", tenant="globex")
    bob.headers["User-Agent"] = "globex"
    assert (await ada.post("/api/widgets", json={"name": SECRET})).status_code == 201
    schema = schemathesis.openapi.from_dict(site.app.openapi())
    loop = asyncio.get_running_loop()

    def attempt(case: Any) -> None:
        for client in (ada, bob):
            asyncio.run_coroutine_threadsafe(ask(client, case), loop).result(30)

    def attempt_all() -> int:
        count = 0
        for found in schema.get_all_operations():
            operation = found.ok()
            if operation.path not in LEFT_OUT:
                for mode in schemathesis.GenerationMode:
                    if mode.is_positive or operation.body or operation.path_parameters:
                        strategy = operation.as_strategy(generation_mode=mode)
                        CHOSEN(given(case=strategy)(attempt))()
                        count += 1
        return count

    assert await asyncio.to_thread(attempt_all) > 15
