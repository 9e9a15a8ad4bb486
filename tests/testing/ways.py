"""Ways from one tenant to another that are more than an endpoint of JSON: as leaks, and mended."""

# No `from __future__ import annotations`: FastAPI could not resolve what is local.
import asyncio
import io
import zipfile
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import (
    APIRouter,
    Depends,
    FastAPI,
    Form,
    Header,
    HTTPException,
    Request,
    UploadFile,
    WebSocket,
    WebSocketException,
)
from fastapi.requests import HTTPConnection
from pydantic import BaseModel
from sqlalchemy import select
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from tenantry import Database
from tenantry.auth import Auth, Principal
from tenantry.auth.profiles import TESTING
from tenantry.errors import AuthenticationError
from tenantry.fastapi import DoorSettings, install, lifespan
from tenantry.schema import Tenant, Widget

COOKIE = "__Host-session"
HOST = "{slug}.desk.example"

WAYS: dict[str, tuple[str, str]] = {}
"""By operation: a part of what the report says about the parameter, and about what was seen."""

_adding: list[Callable[["Ways"], None]] = []


class Line(BaseModel):
    widget_id: UUID
    count: int = 1


class Order(BaseModel):
    lines: list[Line]


class Draft(BaseModel):
    text: str


class Ways:
    """An application of the door's, whose users have cookies and whose tenants have hosts.

    Args:
        db: The database.
        auth: On it.
        leaks: Whether it is as it was before it was mended.
    """

    def __init__(self, db: Database, auth: Auth, *, leaks: bool) -> None:
        self.db, self.auth, self.leaks = db, auth, leaks
        self.app = FastAPI(lifespan=lifespan)
        self.app.state.auth = auth
        install(self.app, DoorSettings(database=db.settings, profile=TESTING))
        for add in _adding:
            add(self)

    async def names(self, who: Principal, claimed: object = None) -> list[str]:
        """The widgets of whom the request claims to be of, or of who asks."""
        tenant_id = claimed if self.leaks and claimed else who.tenant_id
        async with self.db.tenant(str(tenant_id)) as tx:
            return list(await tx.scalars(select(Widget.name).order_by(Widget.id)))

    async def widget(self, who: Principal, widget_id: UUID) -> Widget:
        async with self.db.operator(reason="a mistake") as tx:
            found = await tx.scalar(select(Widget).where(Widget.id == widget_id))
        if found is None or not (self.leaks or found.tenant_id == who.tenant_id):
            raise HTTPException(404, "There is no such widget.")
        return found


async def who_asks(connection: HTTPConnection) -> Principal:
    auth: Auth = connection.app.state.auth
    try:
        return await auth.validate(connection.cookies.get(COOKIE, ""))
    except AuthenticationError as error:
        if connection.scope["type"] == "websocket":
            raise WebSocketException(1008) from error
        raise HTTPException(401, "Sign in.") from error


Who = Annotated[Principal, Depends(who_asks)]


Add = Callable[[Ways], None]


def way(operation: str, parameter: str, what: str) -> Callable[[Add], Add]:
    def keep(add: Add) -> Add:
        WAYS[operation] = (parameter, what)
        if add not in _adding:
            _adding.append(add)
        return add

    return keep


@way("POST /form", "body tenant_id = tenants.id", "shows widgets.name")
def a_form(ways: Ways) -> None:
    @ways.app.post("/form")
    async def form(who: Who, tenant_id: Annotated[UUID, Form()]) -> list[str]:
        return await ways.names(who, tenant_id)


@way("POST /files", "body widget_ids = widgets.id", "shows widgets.name")
def a_form_with_files(ways: Ways) -> None:
    @ways.app.post("/files")
    async def files(
        who: Who, files: list[UploadFile], widget_ids: Annotated[list[UUID], Form()]
    ) -> list[str]:
        assert (await files[0].read()).startswith(b"qz")
        return [(await ways.widget(who, each)).name for each in widget_ids]


@way("POST /orders", "body lines.0.widget_id = widgets.id", "shows widgets.name")
def a_list_in_a_body(ways: Ways) -> None:
    @ways.app.post("/orders")
    async def order(who: Who, given: Order) -> list[str]:
        return [(await ways.widget(who, each.widget_id)).name for each in given.lines]


@way("GET /cookie", "undeclared cookies tenant_id", "shows widgets.name")
def a_second_cookie(ways: Ways) -> None:
    @ways.app.get("/cookie")
    async def cookie(who: Who, request: Request) -> list[str]:
        return await ways.names(who, request.cookies.get("tenant_id"))


@way("GET /header", "header x-workspace = tenants.id", "shows widgets.name")
def a_header(ways: Ways) -> None:
    @ways.app.get("/header")
    async def header(who: Who, x_workspace: Annotated[UUID | None, Header()] = None) -> list[str]:
        return await ways.names(who, x_workspace)


@way("GET /host", "the other tenant's host name", "shows widgets.name")
def a_host(ways: Ways) -> None:
    @ways.app.get("/host")
    async def host(who: Who, request: Request) -> list[str]:
        slug = request.headers["host"].partition(".")[0]
        async with ways.db.operator(reason="a mistake") as tx:
            found = await tx.scalar(select(Tenant.id).where(Tenant.slug == slug))
        if found is None:
            raise HTTPException(404, "Nobody lives here.")
        return await ways.names(who, found)


@way("GET /events", "query widget_id = widgets.id", "shows widgets.name")
def a_stream_that_never_ends(ways: Ways) -> None:
    @ways.app.get("/events")
    async def events(who: Who, widget_id: UUID) -> StreamingResponse:
        widget = await ways.widget(who, widget_id)

        async def stream() -> AsyncIterator[str]:
            yield f"data: {widget.name}\n\n"
            await asyncio.sleep(3600)

        return StreamingResponse(stream(), media_type="text/event-stream")


@way("GET /pages", "query offset", "shows widgets.name")
def a_later_page(ways: Ways) -> None:
    @ways.app.get("/pages")
    async def pages(who: Who, offset: int = 0) -> list[str]:
        async with ways.db.operator(reason="a mistake") as tx:
            all_ = (await tx.scalars(select(Widget).order_by(Widget.id))).all()
        own = [each for each in all_ if each.tenant_id == who.tenant_id]
        page = (all_ if ways.leaks and offset else own)[offset : offset + 50]
        return [each.name for each in page]


@way("GET /go/{widget_id}", "path widget_id = widgets.id", "shows widgets.name")
@way("GET /archive/{widget_id}", "path widget_id = widgets.id", "shows widgets.name")
@way("GET /table/{widget_id}", "path widget_id = widgets.id", "shows widgets.name")
def what_leads_elsewhere_and_files(ways: Ways) -> None:
    @ways.app.get("/go/{widget_id}")
    async def go(who: Who, widget_id: UUID) -> Response:
        widget = await ways.widget(who, widget_id)
        landing[link := uuid4().hex] = widget.name
        return RedirectResponse(f"/landed?link={link}", 303)

    landing: dict[str, str] = {}

    @ways.app.get("/landed")
    async def landed(link: str = "") -> str:
        return landing.get(link, "")

    @ways.app.get("/archive/{widget_id}")
    async def archive(who: Who, widget_id: UUID) -> Response:
        widget, file = await ways.widget(who, widget_id), io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("widget.txt", widget.name)
        return Response(file.getvalue(), media_type="application/zip")

    @ways.app.get("/table/{widget_id}")
    async def table(who: Who, widget_id: UUID) -> Response:
        widget = await ways.widget(who, widget_id)
        return Response(widget.name.encode("utf-16"), media_type="text/csv")


@way("PUT /drafts/{draft_id}", "path draft_id = drafts.id", "puts what it is sent into")
@way("DELETE /drafts/{draft_id}", "one of many requests", "takes away what GET /drafts/{draft_id}")
def what_is_in_no_table(ways: Ways) -> None:
    drafts: dict[str, tuple[UUID, str]] = {}

    def of(who: Principal, draft_id: str, *, checked: bool) -> str:
        tenant_id, text = drafts.get(draft_id, (None, ""))
        if tenant_id is None or (checked and tenant_id != who.tenant_id):
            raise HTTPException(404, "There is no such draft.")
        return text

    @ways.app.post("/drafts", status_code=201)
    async def add(who: Who, given: Draft) -> dict[str, str]:
        drafts[made := str(uuid4())] = (who.tenant_id, given.text)
        return {"id": made}

    @ways.app.get("/drafts/{draft_id}")
    async def read(who: Who, draft_id: str) -> str:
        return of(who, draft_id, checked=True)

    @ways.app.put("/drafts/{draft_id}", status_code=204)
    async def write(who: Who, draft_id: str, given: Draft) -> None:
        of(who, draft_id, checked=not ways.leaks)
        drafts[draft_id] = (drafts[draft_id][0], given.text)

    @ways.app.delete("/drafts/{draft_id}", status_code=204)
    async def remove(who: Who, draft_id: str) -> None:
        of(who, draft_id, checked=not ways.leaks)
        del drafts[draft_id]


@way("GET /page/{widget_id}", "path widget_id = widgets.id", "shows widgets.name")
@way("POST /page/{widget_id}", "path widget_id = widgets.id", "changed widgets.name")
@way("GET /plain/{widget_id}", "path widget_id = widgets.id", "shows widgets.name")
def pages_outside_the_document(ways: Ways) -> None:
    pages = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

    @pages.get("/page/{widget_id}")
    async def page(who: Who, widget_id: UUID) -> HTMLResponse:
        return HTMLResponse(f"<h1>{(await ways.widget(who, widget_id)).name}</h1>")

    @pages.post("/page/{widget_id}")
    async def rename(who: Who, widget_id: UUID, name: Annotated[str, Form()]) -> RedirectResponse:
        widget = await ways.widget(who, widget_id)
        async with ways.db.tenant(widget.tenant_id) as tx:
            (await tx.get_one(Widget, widget_id)).name = name
        return RedirectResponse("/landed", 303)

    async def plain(request: Request) -> Response:
        return HTMLResponse((await ways.widget(*await asked(request))).name)

    ways.app.include_router(pages)
    ways.app.add_route("/plain/{widget_id}", plain)


async def asked(connection: HTTPConnection) -> tuple[Principal, UUID]:
    try:
        return await who_asks(connection), UUID(connection.path_params["widget_id"])
    except ValueError as error:
        raise HTTPException(404, "There is no such widget.") from error


@way("GET /admin/widgets/{widget_id}", "path widget_id = widgets.id", "shows widgets.name")
@way("GET /inside/widgets/{widget_id}", "path widget_id = widgets.id", "shows widgets.name")
def applications_that_are_mounted(ways: Ways) -> None:
    admin = FastAPI()
    admin.state.auth = ways.auth

    @admin.get("/widgets/{widget_id}")
    async def widget(who: Who, widget_id: UUID) -> str:
        return (await ways.widget(who, widget_id)).name

    async def plain(request: Request) -> Response:
        return HTMLResponse((await ways.widget(*await asked(request))).name)

    inside = Starlette(routes=[Route("/widgets/{widget_id}", plain)])
    inside.state.auth = ways.auth
    ways.app.mount("/admin", admin)
    ways.app.mount("/inside", Wrapped(inside))


class Wrapped:
    """A middleware around an application."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


@way("WEBSOCKET /live/{widget_id}", "path widget_id = widgets.id", "shows widgets.name")
@way("WEBSOCKET /ask", "messages with ids of the other tenant", "shows widgets.name")
def web_sockets(ways: Ways) -> None:
    router = APIRouter()

    @router.websocket("/live/{widget_id}")
    async def live(socket: WebSocket, who: Who, widget_id: UUID) -> None:
        widget = await ways.widget(who, widget_id)
        await socket.accept()
        await socket.send_text(widget.name)
        await socket.receive()

    @router.websocket("/ask")
    async def ask(socket: WebSocket, who: Who) -> None:
        await socket.accept()
        async for text in socket.iter_json():
            try:
                widget = await ways.widget(who, UUID(text["widget_id"]))
                await socket.send_json({"name": widget.name})
            except HTTPException as error:
                await socket.send_json({"error": error.detail})

    ways.app.include_router(router)


@way("WEBSOCKET /whisper", "messages with ids of the other tenant", "in other words")
@way("WEBSOCKET /rename", "messages with ids of the other tenant", "changed widgets.name")
def web_sockets_that_say_little(ways: Ways) -> None:
    @ways.app.websocket("/whisper")
    async def whisper(socket: WebSocket, who: Who) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            async with ways.db.operator(reason="a mistake") as tx:
                owners = {str(e.id): e.tenant_id for e in await tx.scalars(select(Widget))}
            if owners.get(text) != who.tenant_id:
                await socket.close(4403 if ways.leaks and text in owners else 4404)
                break
            await socket.send_text("It is yours.")

    @ways.app.websocket("/rename")
    async def rename(socket: WebSocket, who: Who) -> None:
        await socket.accept()
        async for given in socket.iter_json():
            try:
                widget = await ways.widget(who, UUID(given["widget"]))
            except HTTPException:
                await socket.send_text("no")
                continue
            async with ways.db.tenant(widget.tenant_id) as tx:
                (await tx.get_one(Widget, widget.id)).name = given["text"]
            await socket.send_text("done")


class Audience:
    """Whoever listens, and what is told to them."""

    def __init__(self, *, leaks: bool) -> None:
        self._leaks = leaks
        self._there: list[tuple[UUID, asyncio.Queue[str]]] = []

    def tell(self, who: Principal, text: str) -> None:
        for tenant_id, queue in self._there:
            if self._leaks or tenant_id == who.tenant_id:
                queue.put_nowait(text)

    async def listen(self, who: Principal) -> AsyncIterator[str]:
        queue: asyncio.Queue[str] = asyncio.Queue()
        self._there.append((who.tenant_id, queue))
        while True:
            yield await queue.get()


@way("WEBSOCKET /chat", "while the other tenant used", "a text that the tenant has sent")
@way("GET /feed", "while the other tenant used", "a text that the tenant has sent")
def what_is_told_to_all(ways: Ways) -> None:
    audience = Audience(leaks=ways.leaks)

    @ways.app.websocket("/chat")
    async def chat(socket: WebSocket, who: Who) -> None:
        await socket.accept()

        async def pass_on() -> None:
            async for text in audience.listen(who):
                await socket.send_text(text)

        passing = asyncio.create_task(pass_on())
        async for text in socket.iter_text():
            audience.tell(who, text)
        passing.cancel()

    @ways.app.get("/feed")
    async def feed(who: Who) -> StreamingResponse:
        events = (f"data: {text}\n\n" async for text in audience.listen(who))
        return StreamingResponse(events, media_type="text/event-stream")
