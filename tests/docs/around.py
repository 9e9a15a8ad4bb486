"""What stands around the Python of a page: what a reader has before it, and what is true after.

At the first ``PAGE`` comes the first block of the page, and so on; at the last come all others.
The page sees ``db``, ``tenant_id`` and what is put into ``given``; what follows on a block sees its
names too. A page that is not here needs no more than these two.
"""

from __future__ import annotations

__all__ = ["AROUND", "PAGE"]

PAGE = "# ---- the page\n"

AROUND = {
    "README.md": """
from tenantry.auth import STANDARD, Auth
from tenantry.knowledge import hash_embedding

password = "seven ducks crossed a bridge"
ada = await Auth(db).register(tenant_id, "ada@acme.example", password)
given.update(password=password, address="192.0.2.7", vector=hash_embedding(["refund"])[0])
# ---- the page
assert principal.user_id == ada.id
assert hits == []
""",
    "background-jobs.md": """
from types import SimpleNamespace
from tenantry.auth import Auth
from tenantry.schema import ConversationSession

ada = await Auth(db).register(tenant_id, "ada@acme.example", None, role="owner")
jobs = []
queue = SimpleNamespace(put=lambda name, **ids: jobs.append((name, ids)))
given.update(user_id=ada.id, queue=queue)
# ---- the page
assert allowed
async with db.tenant(tenant_id) as tx:
    tx.add(conversation := ConversationSession())
context = {}
await WorkerSettings.on_startup(context)
(job,) = WorkerSettings.functions
assert await job(context, str(tenant_id), str(conversation.id)) == "answered"
await WorkerSettings.on_shutdown(context)
assert len(jobs) == 2
assert ("bill", {"tenant_id": str(tenant_id), "month": "2026-11"}) in jobs
""",
    "embedded-server.md": """
# ---- the page
assert server.started
assert not list(server.data_dir.rglob("postmaster.pid"))
""",
    "fastapi.md": """
import httpx
# ---- the page
transport = httpx.ASGITransport(app)
site = "https://app.example.com"
async with (
    app.router.lifespan_context(app),
    httpx.AsyncClient(transport=transport, base_url=site, headers={"Origin": site}) as client,
):
    ada = {"email": "ada@acme.example", "password": "seven ducks crossed"}
    await app.state.tenantry.auth.register(tenant_id, *ada.values(), role="owner")
    assert (await client.post("/sign-in", data=ada)).headers["Location"] == "/"
    await client.post("/widgets", params={"name": "Support"})
    assert (await client.get("/export")).text == "Support\\n"
    assert (await client.post("/sign-out")).headers["Location"] == "/sign-in"
    assert (await client.get("/export")).status_code == 401

# The last block: another origin of the same site, as a browser on it asks.
async with (
    api.router.lifespan_context(api),
    httpx.AsyncClient(
        transport=httpx.ASGITransport(api),
        base_url="https://api.example.com",
        headers={"Origin": site, "Sec-Fetch-Site": "same-site"},
    ) as client,
):
    ada["tenant"] = "acme"
    asked = {"Access-Control-Request-Method": "POST"}
    assert (await client.options("/auth/sign-in", headers=asked)).status_code == 200
    stranger = await client.get("/auth/session")
    assert stranger.status_code == 401
    assert stranger.headers["Access-Control-Allow-Origin"] == site
    assert stranger.headers["Access-Control-Allow-Credentials"] == "true"
    assert (await client.post("/auth/sign-in", json=ada)).status_code == 200
    assert (await client.get("/auth/session")).status_code == 200
    elsewhere = {"Origin": "https://example.net", "Sec-Fetch-Site": "cross-site"}
    refused = await client.post("/auth/sign-out", headers=elsewhere)
    assert refused.status_code == 403
    assert "Access-Control-Allow-Origin" not in refused.headers
""",
    "index.md": """
from tenantry.schema import Widget

async with db.tenant(tenant_id) as tx:
    tx.add(Widget(name="Support"))
# ---- the page
assert [each.name for each in widgets] == ["Support"]
""",
    "knowledge.md": """
import functools
from pathlib import Path
import httpx
from sqlalchemy import select
from tenantry.schema import KnowledgeDocument

Path("handbook").mkdir()
Path("handbook/refunds.md").write_text("# Refunds\\n\\nWithin thirty days.\\n")
# ---- the page
await import_handbook(db, tenant_id)
async with db.tenant(tenant_id) as tx:
    assert await tx.scalar(select(KnowledgeDocument.title)) == "Refunds"

def server(request):
    assert request.url == "http://localhost:8080/embed"
    return httpx.Response(200, json=[[1.0] * 1024])

httpx.AsyncClient = functools.partial(httpx.AsyncClient, transport=httpx.MockTransport(server))
assert await embed(["Refunds"]) == [[1.0] * 1024]
""",
    "migrations.md": """
from pathlib import Path
import alembic.op
from alembic.autogenerate import compare_metadata
from alembic.operations import Operations
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from sqlalchemy import select, text
from tenantry.ops.connections import migration_connection
from tenantry.ops.environment import configuration, load_scripts
from tenantry.ops.migrations import migrate
from tenantry.ops.project import load_project
from tenantry.ops.revisions import revision
from tenantry.schema import Base, Widget

Path("pyproject.toml").write_text('[tool.tenantry]\\nmodels = ["shop.py"]\\n')
Path("shop.py").write_text('''
from uuid import UUID
from sqlalchemy.orm import Mapped
from tenantry.schema import Base, TenantScoped

class Note(TenantScoped, Base):
    __tablename__ = "notes"
    widget_id: Mapped[UUID | None]
''')
admin = db.settings.admin_url
await revision(admin, message="notes", project=load_project())
await migrate(admin, project=load_project())
async with db.tenant(tenant_id) as tx:
    tx.add(Widget(name=" Support "))

def run(connection):
    with Operations.context(MigrationContext.configure(connection)):
        upgrade()

async def name_after_upgrade():
    async with migration_connection(admin) as connection:
        await connection.run_sync(run)
        await connection.commit()
    async with db.tenant(tenant_id) as tx:
        return await tx.scalar(select(Widget.name))

given.update(op=alembic.op)
# ---- the page
assert await name_after_upgrade() == " Support "
# ---- the page
assert await name_after_upgrade() == "Support"
# ---- the page
await name_after_upgrade()
keys = text("SELECT count(*) FROM pg_constraint WHERE conrelid = to_regclass('notes')"
            " AND confrelid = 'widgets'::regclass AND convalidated")
async with db.operator(reason="test") as tx:
    assert await tx.scalar(keys) == 1
# ---- the page
async with db.operator(reason="test") as tx:
    assert await tx.scalar(text("SELECT to_regclass('notes')")) is None
held = await stack.enter_async_context(migration_connection(admin))
context = EnvironmentContext(configuration(load_project()), load_scripts(load_project()))
given.update(
    context=context, connection=held.sync_connection, target_metadata=Base.metadata
)
# ---- the page
found = await held.run_sync(lambda _: compare_metadata(context.get_context(), Base.metadata))
assert ("create_policy", "notes") in {each[:2] for each in found}
""",
    "moving-from-lucia.md": """
from types import SimpleNamespace
from sqlalchemy import func, select

given["old_users"] = [
    SimpleNamespace(email="Ada@acme.example", name="Ada", password_hash=None),
    SimpleNamespace(email="bob@acme.example", name="Bob", password_hash=None),
]
# ---- the page
async with db.tenant(tenant_id) as tx:
    assert await tx.scalar(select(User.name).where(User.email == "ada@acme.example")) == "Ada"
""",
    "opentelemetry.md": """
# ---- the page
async with app.router.lifespan_context(app):
    assert app.state.tenantry.auth
""",
    "own-tables.md": """
from sqlalchemy import select, text
from sqlalchemy.orm import joinedload
from tenantry.errors import PrivilegeError
from tenantry.ops.drift import push
# ---- the page
assert await push(db.settings.admin_url) > 0
async with db.operator(reason="test") as tx:
    tx.add(Plan(name="small", cents=900))
async with db.tenant(tenant_id) as tx:
    tx.add(AuditEntry(what="read the page"))
    tx.add(note := Note(body="Send it back."))
    await tx.flush()
    tx.add(Reminder(note_id=note.id))
async with db.tenant(tenant_id) as tx:
    assert await tx.scalar(select(Plan.cents)) == 900
    reminder = await tx.scalar(select(Reminder).options(joinedload(Reminder.note)))
    assert reminder.note.body == "Send it back."
for refused in ("DELETE FROM audit_entries", "UPDATE plans SET cents = 0"):
    try:
        async with db.tenant(tenant_id) as tx:
            await tx.execute(text(refused))
    except PrivilegeError:
        pass
    else:
        raise AssertionError(refused)
""",
    "passwords.md": """
from tenantry.auth import Auth
# ---- the page
assert Auth(db, profile=profile)
""",
    "search.md": """
from tenantry.knowledge import add_document
from tenantry.search import keyword_search

async with db.tenant(tenant_id) as tx:
    for author in ("Ada", "Draft of Ada"):
        metadata = {"language": "de", "year": 2026, "tags": ["faq"], "author": {"name": author}}
        await add_document(
            tx, title=author, content="Lamps", metadata=metadata, chunks=["Lamps"]
        )
# ---- the page
async with db.tenant(tenant_id) as tx:
    (hit,) = await keyword_search(tx, "lamps", where=where)
assert hit.title == "Ada"
""",
    "sessions.md": """
from types import SimpleNamespace
from sqlalchemy import select
from tenantry.schema import ConversationSession, Message, Widget

async with db.tenant(tenant_id) as tx:
    tx.add(conversation := ConversationSession())
    tx.add(widget := Widget(name="Shop"))

class Model:
    async def complete(self, history):
        return "We are open from nine to five."

given.update(session_id=conversation.id, widget_id=widget.id, model=Model())
# ---- the page
assert one.name == "Shop"
assert {each.name for each in widgets} == {"Shop", "Support"}
assert [each.slug for each in tenants] == ["acme", "globex"]
async with db.tenant(tenant_id) as tx:
    assert await tx.scalar(select(Message.content)) == "We are open from nine to five."
""",
    "signing-in.md": """
from tenantry.auth import Auth

await Auth(db).register(tenant_id, "ada@acme.example", None)
# ---- the page
assert latest.all()
""",
    "tables.md": """
from tenantry.schema import Widget

async with db.tenant(tenant_id) as tx:
    tx.add(widget := Widget(name="Support"))
given.update(widget=widget)
# ---- the page
assert widget.config.theme == "dark"
""",
    "tenants.md": """
from tenantry.auth import Auth
from tenantry.errors import AuthenticationError

auth, password = Auth(db), "seven ducks crossed a bridge"
await auth.register(tenant_id, "ada@acme.example", password, role="owner")
token = (await auth.sign_in(tenant_id, "ada@acme.example", password)).token
key = (await auth.issue_api_key(tenant_id)).key
given.update(auth=auth)
# ---- the page
# ---- the page
for refused in (
    auth.validate(token),
    auth.authenticate_api_key(key),
    auth.sign_in(tenant_id, "ada@acme.example", password),
):
    try:
        await refused
    except AuthenticationError:
        pass
    else:
        raise AssertionError(refused)
""",
    "testing.md": """
import json
from functools import partial
from tempfile import mkdtemp
from typing import Literal
from uuid import UUID
from fastapi import FastAPI, WebSocket
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from sqlalchemy import CheckConstraint, select
from sqlalchemy.orm import Mapped
from tenantry.auth import Auth
from tenantry.auth.profiles import TESTING
from tenantry.fastapi import CurrentDoor, CurrentPrincipal, DoorSettings, TenantTx, install
from tenantry.fastapi import lifespan
from tenantry.ops.drift import push
from tenantry.schema import Base, TenantScoped, Widget
from tenantry.testing import Workbench, assert_isolated

class Note(TenantScoped, Base):
    __tablename__ = "notes"
    body: Mapped[str]

class Order(TenantScoped, Base):
    __tablename__ = "orders"
    __table_args__ = (CheckConstraint("status IN ('open', 'sent')", name="status"),)
    status: Mapped[str]

class NewOrder(BaseModel):
    currency: str

async def notes(tx: TenantTx) -> list[UUID]:
    return list(await tx.scalars(select(Note.id)))

async def order(tx: TenantTx, given: NewOrder) -> str:
    assert given.currency == "EUR"
    tx.add(Order(status="open"))
    return "ordered"

async def live(socket: WebSocket, caller: CurrentPrincipal, door: CurrentDoor) -> None:
    await socket.accept()
    async for message in socket.iter_json():
        async with door.db.tenant(caller.tenant_id) as tx:
            widget = await tx.get(Widget, UUID(message["watch"]))
        await socket.send_json({"name": widget.name if widget else None})

def make_app():
    app = FastAPI(lifespan=lifespan)
    install(app, DoorSettings(database=db.settings, profile=TESTING))
    return app

async def anything() -> None:
    raise AssertionError("it is to be skipped")

await push(db.settings.admin_url)
bench = Workbench(db, Auth(db, profile=TESTING, validation_connections=1))
stack.push_async_callback(bench.close)
app = make_app()
app.get("/notes")(notes)
app.post("/orders")(order)
app.post("/webhooks/{name}")(anything)
app.get("/public/{widget_id}")(anything)
other = make_app()
other.websocket("/live")(live)
other.mount("/static", StaticFiles(directory=mkdtemp()))
given.update(
    app=app,
    assert_isolated=partial(assert_isolated, bench=bench),
    make_user=bench.make_user,
    client_of=partial(bench.client_of, app=app),
)
# ---- the page
given.update(app=other)
# ---- the page
await test_one_query_for_the_list(given["client_of"], given["make_user"])
""",
}
