"""The desk's pages in this process: what they show, to whom, and what they say when it fails."""

from __future__ import annotations

import asyncio
import re
import tomllib
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import replace
from html import escape
from typing import Any, cast
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import MetaData, Table, delete, select, update

from support_desk import demo
from support_desk.models import SavedReply
from tenantry.auth import Auth
from tenantry.auth.profiles import TESTING
from tenantry.knowledge import add_document, delete_document
from tenantry.ops import drift
from tenantry.ops.project import Project
from tenantry.schema import Base, ConversationSession, CostEvent, Message, Tenant, User, Widget
from tests.conftest import Urls
from tests.example.conftest import EXAMPLE, NOW, TABLE, Desk, desk_app, sign_in

PAGES = {
    "/": "Conversations",
    "/widgets": "Widgets",
    "/knowledge?q=refund": "Knowledge",
    "/costs": "Costs",
    "/replies": "Saved replies",
    "/sessions": "Sessions",
}


async def tenant_id(desk: Desk, slug: str) -> Any:
    async with desk.db.operator(reason="test") as tx:
        return await tx.scalar(select(Tenant.id).where(Tenant.slug == slug))


async def one(desk: Desk, slug: str, model: Any) -> Any:
    """The oldest row of a company."""
    async with desk.db.tenant(await tenant_id(desk, slug)) as tx:
        return await tx.scalar(select(model).order_by(model.id).limit(1))


async def every_page(desk: Desk, client: httpx.AsyncClient) -> dict[str, str]:
    """What every page says, those of single conversations and widgets too."""
    shown = {}
    waiting = list(PAGES)
    while waiting:
        path = waiting.pop()
        response = await client.get(path)
        assert response.status_code == 200, path
        shown[path] = response.text
        found = [
            part.partition('"')[0]
            for part in response.text.split('href="')[1:]
            if part.startswith(("/conversations/", "/widgets/"))
        ]
        waiting += [each for each in found if each not in shown and each not in waiting]
    return shown


@pytest.mark.parametrize("path", PAGES)
async def test_each_page_is_shown_to_who_is_signed_in(desk: Desk, path: str) -> None:
    """With its title, the company's name, and headers that let no script run and nobody store."""
    client = await desk.signed_in()
    response = await client.get(path)
    assert response.status_code == 200
    assert f"<title>{PAGES[path]}" in response.text
    assert "Acme Bicycles" in response.text
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "script" not in response.headers["content-security-policy"]
    assert response.headers["cache-control"] == "no-store"


async def test_nobody_else_is_shown_anything(desk: Desk) -> None:
    """Browsers are sent to the sign-in page, programs are told in JSON."""
    client = await desk.client()
    for path in PAGES:
        response = await client.get(path)
        assert (response.status_code, response.headers["location"]) == (303, "/sign-in")
        told = await client.get(path, headers={"Accept": "application/json"})
        assert told.status_code == 401
        assert told.headers["content-type"] == "application/problem+json"


async def test_companies_never_see_each_others_data(desk: Desk) -> None:
    """No page of one holds a word of the other's, and the other's ids are as good as made up."""
    shown = {
        slug: await every_page(desk, await desk.signed_in(email))
        for slug, email in (("acme", "ada@acme.example"), ("globex", "gil@globex.example"))
    }
    assert [len(pages) for pages in shown.values()] == [6 + 5 + 2, 6 + 2 + 1]
    for mine, other in (("acme", "globex"), ("globex", "acme")):
        text = "\n".join(shown[mine].values())
        assert all(reply["title"] in text for reply in demo.COMPANIES[mine]["replies"])
        for each in ("documents", "replies"):
            for row in demo.COMPANIES[other][each]:
                assert row["title"] not in text
        for path in set(shown[other]) - set(PAGES):
            client = await desk.signed_in(f"{'ada' if mine == 'acme' else 'gil'}@{mine}.example")
            assert (await client.get(path)).status_code == 404


async def test_what_is_sent_to_the_others_ids_changes_nothing(desk: Desk) -> None:
    """Not to their conversations, their widgets, or their sessions."""
    conversation = await one(desk, "globex", ConversationSession)
    widget = await one(desk, "globex", Widget)
    theirs = await desk.signed_in("gil@globex.example")
    auth = Auth(desk.db, profile=TESTING)
    user = await auth.find_user(await tenant_id(desk, "globex"), "gil@globex.example")
    assert user is not None
    sessions = await auth.sessions(user.tenant_id, user.id)
    client = await desk.signed_in()
    for path, form in (
        (f"/conversations/{conversation.id}/messages", {"content": "From Acme"}),
        (f"/widgets/{widget.id}", {"name": "From Acme", "theme": "dark"}),
        (f"/sessions/{sessions[0].id}/sign-out", {}),
    ):
        response = await client.post(path, data=form)
        assert response.status_code == 404, path
    assert "From Acme" not in "".join((await every_page(desk, theirs)).values())
    assert (await one(desk, "globex", Widget)).config == widget.config


PLANTED = "<script>alert(1)</script>\"'><img src=x>"


async def test_markup_in_data_is_text(desk: Desk) -> None:
    """Wherever visitors and colleagues can write, on every page that shows it."""
    globex = await tenant_id(desk, "globex")
    async with desk.db.tenant(globex) as tx:
        document = await add_document(
            tx, title=PLANTED, content=f"A refund {PLANTED}", chunks=[f"A refund {PLANTED}"]
        )
        widget = Widget(name=PLANTED, config={"greeting": PLANTED, "allowed_origins": (PLANTED,)})
        tx.add(widget)
        await tx.flush()
        talk = ConversationSession(widget_id=widget.id)
        tx.add(talk)
        await tx.flush()
        tx.add(Message(session_id=talk.id, role="user", content=PLANTED))
        tx.add(SavedReply(title=PLANTED, content=PLANTED))
        tx.add(CostEvent(provider="x", model=PLANTED, tokens=1, cost=0, created_at=NOW))
        await tx.execute(
            update(User).where(User.email == "mia@globex.example").values(name=PLANTED)
        )
    client = await desk.client()
    client.headers["User-Agent"] = PLANTED
    await sign_in(client, email="mia@globex.example")
    shown = await every_page(desk, client)
    shown["a form"] = (
        await client.post(
            "/sign-in", data={"email": PLANTED, "password": "x", "workspace": PLANTED}
        )
    ).text
    try:
        for path, text in shown.items():
            assert "<script" not in text, path
            assert "<img" not in text, path
            assert path == "a form" or "&lt;script&gt;" in text, path
    finally:
        async with desk.db.tenant(globex) as tx:
            for model in (ConversationSession, Widget, SavedReply, CostEvent):
                name = {"Widget": "name", "SavedReply": "title", "CostEvent": "model"}
                column = getattr(model, name.get(model.__name__, ""), None)
                where = model.id == talk.id if column is None else column == PLANTED
                await tx.execute(delete(model).where(where))
            await delete_document(tx, document)
            await tx.execute(
                update(User).where(User.email == "mia@globex.example").values(name="Mia Tanaka")
            )


async def test_errors_are_pages_that_people_can_read(desk: Desk, desk_urls: Urls) -> None:
    """With the status, a sentence, and the request's id; programs are told the same in JSON."""
    client = await desk.signed_in(raises=False)
    member = await desk.signed_in("ben@acme.example")
    widget = await one(desk, "acme", Widget)
    reply = demo.COMPANIES["acme"]["replies"][0]
    responses = [
        (404, await client.get("/nothing")),
        (404, await client.get(f"/conversations/{uuid4()}")),
        (404, await client.post(f"/conversations/{uuid4()}/messages", data={"content": "x"})),
        (422, await client.get("/conversations/none")),
        (422, await client.post("/replies", data={"title": "Only a title"})),
        (409, await client.post("/replies", data=reply)),
        (403, await member.post(f"/widgets/{widget.id}", data={"name": "Mine"})),
        (403, await client.post("/sign-out", headers={"Sec-Fetch-Site": "cross-site"})),
        (413, await client.post("/replies", headers={"Content-Length": "99999999999"})),
    ]
    for status, response in responses:
        assert response.status_code == status, response.url
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        assert response.headers["x-request-id"] in response.text
        assert "Back to the desk" in response.text
        assert "default-src 'none'" in response.headers["content-security-policy"]
    told = await client.get("/nothing", headers={"Accept": "*/*"})
    assert told.json()["status"] == 404


async def test_a_defect_is_a_page_too(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a word of what went wrong."""
    monkeypatch.setattr("support_desk.pages.bars", lambda _: 1 / 0)
    client = await desk.signed_in(raises=False)
    response = await client.get("/costs")
    assert response.status_code == 500
    assert "Something went wrong" in response.text
    assert "division" not in response.text


async def test_the_form_of_a_widget_says_what_is_wrong(desk: Desk) -> None:
    """Beside each field, with what was typed still there; and nothing is changed."""
    client = await desk.signed_in()
    widget = await one(desk, "acme", Widget)
    form = {"name": "", "theme": "pink", "greeting": "g" * 201, "allowed_origins": "ftp://x y"}
    response = await client.post(f"/widgets/{widget.id}", data=form)
    assert response.status_code == 422
    for message in ("at least 1 character", "&#39;light&#39;, &#39;dark&#39;", "at most 200"):
        assert message in response.text
    assert "Write each as https://shop.example" in response.text
    assert response.text.count('role="alert"') == 4
    assert "ftp://x\ny" in response.text
    assert (await one(desk, "acme", Widget)).config == widget.config


async def test_the_form_of_a_widget_changes_it(desk: Desk) -> None:
    """What it has no field for stays."""
    client = await desk.signed_in()
    widget = await one(desk, "acme", Widget)
    async with desk.db.tenant(widget.tenant_id) as tx:
        kept = widget.config.model_copy(update={"position": "left"})
        await tx.execute(update(Widget).where(Widget.id == widget.id).values(config=kept))
    form = {"name": "Shop", "theme": "dark", "greeting": "", "allowed_origins": "https://a.example"}
    response = await client.post(f"/widgets/{widget.id}", data=form)
    assert (response.status_code, response.headers["location"]) == (303, "/widgets")
    changed = await one(desk, "acme", Widget)
    assert changed.name == "Shop"
    assert changed.config.model_dump() == {
        "theme": "dark",
        "greeting": "",
        "allowed_origins": ("https://a.example",),
        "position": "left",
    }
    async with desk.db.tenant(widget.tenant_id) as tx:
        old = {"name": widget.name, "config": widget.config}
        await tx.execute(update(Widget).where(Widget.id == widget.id).values(**old))


async def test_members_see_the_form_of_a_widget_and_cannot_use_it(desk: Desk) -> None:
    """It is disabled, and what is sent all the same is refused."""
    client = await desk.signed_in("ben@acme.example")
    widget = await one(desk, "acme", Widget)
    assert "<fieldset disabled>" in (await client.get(f"/widgets/{widget.id}")).text
    response = await client.post(f"/widgets/{widget.id}", data={"name": "Mine", "theme": "dark"})
    assert response.status_code == 403
    assert (await one(desk, "acme", Widget)).name == widget.name


async def test_a_form_has_come_before_its_transaction_begins(desk: Desk) -> None:
    """Else whoever sends one slowly would hold a connection for as long as they like."""
    client = await desk.signed_in()
    cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    pool = desk.db._app.sync_engine.pool
    conversation, widget = (
        await one(desk, "acme", ConversationSession),
        await one(desk, "acme", Widget),
    )
    for path in (
        "/sign-in",
        "/replies",
        f"/conversations/{conversation.id}/messages",
        f"/widgets/{widget.id}",
    ):
        held: list[str] = []
        sent: list[Any] = []

        async def receive(held: list[str] = held) -> dict[str, Any]:
            # What is asked for may still be on its way: whatever was to begin has had its time.
            await asyncio.sleep(0.05 if held else 0)
            held.append(pool.status() if pool.checkedout() else "")  # type: ignore[attr-defined]
            return {"type": "http.request", "body": b"x=1&", "more_body": len(held) < 3}

        async def send(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message)

        headers = {
            "cookie": cookie,
            "host": "desk.example.com",
            "sec-fetch-site": "same-origin",
            "content-type": "application/x-www-form-urlencoded",
        }
        scope = {
            "type": "http", "method": "POST", "path": path, "query_string": b"", "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "scheme": "https", "http_version": "1.1", "server": ("x", 443),
            "client": ("192.0.2.1", 1),
        }  # fmt: skip
        await desk.app(scope, receive, send)
        assert sent[0]["status"] == 422, path
        assert held[:3] == ["", "", ""], path


async def test_sessions_take_one_connection_at_a_time(desk_urls: Urls) -> None:
    """Else as many requests as the pool has connections would each wait for a second one."""
    small = replace(desk_urls.settings, pool_size=1, max_overflow=0)
    app = desk_app(desk_urls, database=small)
    async with app.router.lifespan_context(app), AsyncExitStack() as stack:
        desk = Desk(app, stack)
        here, there = await desk.signed_in(), await desk.signed_in()
        async with asyncio.timeout(10):
            pages = await asyncio.gather(*(here.get("/sessions") for _ in range(3)))
            assert [page.status_code for page in pages] == [200, 200, 200]
            path = pages[0].text.split('action="/sessions/')[1].partition('"')[0]
            ended = await here.post(f"/sessions/{path}")
            assert (ended.status_code, ended.headers["location"]) == (303, "/sessions")
            assert (await here.post(f"/sessions/{path}")).status_code == 404
        assert (await there.get("/")).headers["location"] == "/sign-in"


async def test_the_form_signs_in_as_the_door_does(desk: Desk) -> None:
    """A flood of workspaces that there are not gets a small part of the queue for hashing."""
    client = await desk.client(raises=False)
    forms = (sign_in(client, workspace="initech") for _ in range(100))
    statuses = Counter(response.status_code for response in await asyncio.gather(*forms))
    assert statuses.keys() == {401, 503}
    assert statuses[503] > statuses[401]
    assert (await sign_in(await desk.client())).status_code == 303


async def test_a_new_sign_in_ends_the_browsers_old_session(desk: Desk) -> None:
    """By the form as by the route; the device is known again, and the form's answer is stored by
    nobody."""
    client = await desk.signed_in()
    old = dict(client.cookies)
    again = await sign_in(client)
    assert again.headers["cache-control"] == "no-store"
    assert client.cookies["__Host-session"] != old["__Host-session"]
    kept = await desk.client()
    kept.headers["Cookie"] = f"__Host-session={old['__Host-session']}"
    assert (await kept.get("/")).headers["location"] == "/sign-in"


@pytest.mark.parametrize(
    "wrong",
    [{"password": "nine herons"}, {"workspace": "initech"}, {"workspace": ""}, {"email": "ada"}],
)
async def test_a_failed_sign_in_does_not_say_what_was_wrong(
    desk: Desk, wrong: dict[str, str]
) -> None:
    """Company, account and password fail with the same page."""
    client = await desk.client()
    response = await sign_in(client, **wrong)
    assert response.status_code == 401
    assert "Email and password do not match an account." in response.text
    assert response.headers["cache-control"] == "no-store"
    assert "set-cookie" not in response.headers


async def test_the_host_names_the_company(desk: Desk) -> None:
    """Then the form has no field for it, and one that is sent all the same counts for nothing."""
    client = await desk.client(base="https://globex.localhost")
    page = (await client.get("/sign-in")).text
    assert "to the workspace <strong>globex</strong>" in page
    assert 'name="workspace"' not in page
    assert (await sign_in(client, email="ada@acme.example")).status_code == 401
    assert (await sign_in(client, email="gil@globex.example", workspace="acme")).is_redirect


async def test_the_plot_has_a_bar_for_each_day(desk: Desk) -> None:
    """Days without costs too, and the highest reaches no further than the top line."""
    from datetime import date
    from decimal import Decimal

    from support_desk.plots import HEIGHT, WIDTH, bars

    plot = bars({date(2026, 5, 1): Decimal(3), date(2026, 5, 4): Decimal("5.5")})
    assert [(bar.day.day, bar.height) for bar in plot.bars] == [
        (1, 100),
        (2, 0),
        (3, 0),
        (4, 183.3),
    ]
    assert [value for _, value in plot.lines] == [0, Decimal("1.5"), 3, Decimal("4.5"), 6]
    assert plot.total == Decimal("8.5")
    assert max(bar.y + bar.height for bar in plot.bars) == HEIGHT
    assert plot.bars[-1].x + plot.bars[-1].width < WIDTH
    assert bars({}).bars == []
    sparse = bars({date(2020, 1, 1): Decimal(9), date(2026, 5, 4): Decimal(1)})
    assert (len(sparse.bars), sparse.total) == (30, Decimal(1))
    page = (await (await desk.signed_in()).get("/costs")).text
    assert page.count("<rect") == 21


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("0", "0"),
        ("0.00025", "0.00025"),
        ("37.5", "37.5"),
        ("2500", "2.5k"),
        ("20000000000", "20B"),
        ("1000000000000", "1T"),
    ],
)
def test_a_label_has_room_beside_the_plot(value: str, label: str) -> None:
    """Whatever a day has cost."""
    from decimal import Decimal

    from support_desk.plots import short

    assert short(Decimal(value)) == label


async def test_round_numbers_of_tokens_are_written_out(desk: Desk) -> None:
    """PostgreSQL's driver reads a sum of 20,000 as 2E+4."""
    async with desk.db.tenant(await tenant_id(desk, "acme")) as tx:
        event = CostEvent(provider="x", model="round", tokens=20_000, cost=0, created_at=NOW)
        tx.add(event)
    page = (await (await desk.signed_in()).get("/costs")).text
    async with desk.db.tenant(await tenant_id(desk, "acme")) as tx:
        await tx.delete(await tx.merge(event))
    assert '<td>round</td><td class="number">20,000</td>' in page


async def test_a_text_may_be_as_long_as_its_field_lets_it_be(desk: Desk) -> None:
    """Browsers count a line break as one character, and send two."""
    client = await desk.signed_in()
    home = (await client.get("/")).text
    path = home.partition('href="/conversations/')[2].partition('"')[0]
    lines = "\r\n".join(["x" * 99] * 20)
    answer = await client.post(f"/conversations/{path}/messages", data={"content": lines})
    assert answer.status_code == 303
    async with desk.db.tenant(await tenant_id(desk, "acme")) as tx:
        sent = await tx.scalars(select(Message).where(Message.content == lines.replace("\r", "")))
        await tx.delete(sent.one())


async def test_a_title_that_the_column_has_no_room_for_is_told_in_the_form(desk: Desk) -> None:
    """With what was typed still there: the column counts bytes, and browsers count letters."""
    client = await desk.signed_in()
    form = {"title": "退" * 67, "content": "<b>We take it back.</b>"}
    response = await client.post("/replies", data=form)
    assert response.status_code == 422
    assert "Write a shorter title" in response.text
    assert f'value="{form["title"]}"' in response.text
    assert ">&lt;b&gt;We take it back.&lt;/b&gt;</textarea>" in response.text
    longest = {**form, "title": "退" * 66 + "ab"}
    assert len(longest["title"].encode()) == 200
    assert (await client.post("/replies", data=longest)).status_code == 303
    async with desk.db.tenant(await tenant_id(desk, "acme")) as tx:
        kept = await tx.scalars(select(SavedReply).where(SavedReply.title == longest["title"]))
        await tx.delete(kept.one())


async def test_each_button_that_signs_out_there_says_where(desk: Desk) -> None:
    """To who hears a page and does not see it, buttons of one name are one button."""
    client = await desk.signed_in("mia@globex.example")
    devices = ("Firefox", "Opera <on> a phone")
    for device in devices:
        other = await desk.client()
        other.headers["User-Agent"] = device
        assert (await sign_in(other, email="mia@globex.example")).is_redirect
    page = (await client.get("/sessions")).text
    names = re.findall(r'<button class="quiet" aria-label="(Sign out there: [^"]+)">', page)
    assert len(names) == page.count("Sign out there<") >= 2
    for device in devices:
        assert any(name.startswith(f"Sign out there: {escape(device)}, ") for name in names)
    for path in (
        "/auth/sessions",
        f"/auth/sessions/{client.cookies['__Host-session'].split('.')[1]}",
    ):
        assert (await client.delete(path)).status_code == 204


async def test_a_second_start_makes_nothing_anew(desk: Desk) -> None:
    """The demo's companies are there once, with their users and rows."""

    async def count() -> list[int]:
        async with desk.db.operator(reason="test") as tx:
            return [
                len((await tx.execute(select(cast("Table", model.__table__).c.id))).all())
                for model in (Tenant, User, Widget, ConversationSession, SavedReply, CostEvent)
            ]

    before = await count()
    await demo.fill(desk.db, Auth(desk.db, profile=TESTING))
    assert await count() == before


async def test_the_migration_makes_what_the_models_declare(desk_urls: Urls) -> None:
    """With its policies and grants, so that nobody needs to push."""
    metadata = MetaData(naming_convention=Base.metadata.naming_convention)
    for table in (*Base.metadata.sorted_tables, TABLE):
        table.to_metadata(metadata).info.update(table.info)
    assert await drift.check(desk_urls.admin, project=Project(metadata=metadata)) == []


def test_the_project_asks_for_what_it_imports() -> None:
    """Its own pyproject.toml names the packages, and where its models are."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())
    assert project["tool"]["tenantry"]["models"] == ["support_desk.models"]
