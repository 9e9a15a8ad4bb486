"""What the desk answers is in its OpenAPI document."""

from __future__ import annotations

from collections import defaultdict
from typing import Any
from uuid import uuid4

from sqlalchemy import delete

from support_desk.demo import COMPANIES
from tenantry.schema import ConversationSession, Message, Widget
from tests.example.conftest import Desk, sign_in
from tests.example.test_pages import one

ANSWER = "To see how that is answered."
FORMS: dict[str, dict[str, str]] = {
    "/sign-in": {"workspace": "acme", "email": "who@acme.example", "password": "x"},
    "/conversations/{conversation_id}/messages": {"content": ANSWER},
    "/replies": COMPANIES["acme"]["replies"][0],
    "/widgets/{widget_id}": {"name": "Shop", "theme": "pink"},
}


def operations(desk: Desk) -> dict[tuple[str, str], dict[str, Any]]:
    """The desk's own, by method and path."""
    return {
        (method, path): operation
        for path, item in desk.app.openapi()["paths"].items()
        for method, operation in item.items()
        if "x-tenantry-door" not in operation
    }


async def test_every_answer_is_documented(desk: Desk) -> None:
    """To an admin, a member, a stranger and a program, with forms that are right and wrong."""
    conversation, widget = [await one(desk, "acme", each) for each in (ConversationSession, Widget)]
    known = {"conversation_id": str(conversation.id), "widget_id": str(widget.id)}
    seen: dict[tuple[str, str], set[int]] = defaultdict(set)
    for method, path in operations(desk):
        others = [dict.fromkeys(known, each) for each in (str(uuid4()), "none")]
        for ids in (known, *(others if "{" in path else ())):
            clients = [
                await desk.signed_in(),
                await desk.signed_in("ben@acme.example"),
                await desk.client(),
                await desk.client(),
            ]
            clients[-1].headers["Accept"] = "application/json"
            for client in clients:
                for form in (FORMS.get(path), {"x": "y"}) if method == "post" else (None,):
                    at = path.format(**ids, session_id="none")
                    response = await client.request(method, at, data=form)
                    seen[method, path].add(response.status_code)
    async with desk.db.tenant(conversation.tenant_id) as tx:
        await tx.execute(delete(Message).where(Message.content == ANSWER))
    for operation, statuses in seen.items():
        documented = {int(each) for each in operations(desk)[operation]["responses"]}
        assert statuses <= documented, operation
    assert len(seen) == 15
    assert seen["post", "/sign-in"] >= {401, 422}


async def test_forms_answer_as_documented(desk: Desk) -> None:
    """With a redirect and never with 200; a sign-in that is throttled with 429."""
    forms = {path: each for (method, path), each in operations(desk).items() if method == "post"}
    for path, operation in forms.items():
        assert "303" in operation["responses"], path
        assert "200" not in operation["responses"], path
    client = await desk.client()
    statuses = [
        (await sign_in(client, email="throttled@acme.example")).status_code for _ in range(11)
    ]
    assert statuses == [401] * 10 + [429]
    assert {"401", "429"} <= forms["/sign-in"]["responses"].keys()
    for status in ("401", "429"):
        assert list(forms["/sign-in"]["responses"][status]["content"]) == ["text/html"]


async def test_no_page_is_blank_for_its_policy(desk: Desk) -> None:
    """Swagger UI is a script from elsewhere, which the desk's pages let nobody run."""
    client = await desk.client(raises=False)
    for path in ("/docs", "/redoc"):
        assert (await client.get(path)).status_code == 404, path
