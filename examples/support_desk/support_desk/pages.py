"""What a signed-in user sees: conversations, widgets, knowledge, costs, saved replies."""

from __future__ import annotations

import re
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Form
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_core import PydanticCustomError
from sqlalchemy import Date, cast, func, select
from sqlalchemy.orm import selectinload
from starlette.responses import HTMLResponse, Response

from support_desk.models import SavedReply
from support_desk.plots import bars
from support_desk.rendering import CurrentDesk, Desk, go_to
from tenantry.fastapi import require_role
from tenantry.schema import (
    ConversationSession,
    CostEvent,
    KnowledgeDocument,
    Message,
    Widget,
    WidgetConfig,
)
from tenantry.search import keyword_search

routes = APIRouter(default_response_class=HTMLResponse)


def _with_short_breaks(text: object) -> object:
    """Count a line break as the browser's field does, which then sends it as two characters."""
    return text.replace("\r\n", "\n") if isinstance(text, str) else text


_TITLE_BYTES: Final = 200

Text = Annotated[str, BeforeValidator(_with_short_breaks), Form(min_length=1, max_length=2000)]


@routes.get("/")
async def conversations(desk: CurrentDesk) -> Response:
    """List the newest conversations."""
    newest = (
        select(ConversationSession)
        .options(
            selectinload(ConversationSession.widget), selectinload(ConversationSession.messages)
        )
        .order_by(ConversationSession.started_at.desc())
        .limit(50)
    )
    return desk.page("conversations.html", conversations=await desk.tx.scalars(newest))


@routes.get("/conversations/{conversation_id}")
async def conversation(conversation_id: UUID, desk: CurrentDesk) -> Response:
    """Show what was said, and a form to answer."""
    found = await desk.tx.get_one(
        ConversationSession,
        conversation_id,
        options=[
            selectinload(ConversationSession.widget),
            selectinload(ConversationSession.messages),
        ],
    )
    replies = await desk.tx.scalars(select(SavedReply).order_by(SavedReply.title))
    return desk.page("conversation.html", conversation=found, replies=replies)


@routes.post("/conversations/{conversation_id}/messages", status_code=303)
async def answer(conversation_id: UUID, content: Text, desk: CurrentDesk) -> Response:
    """Answer in a conversation."""
    found = await desk.tx.get_one(ConversationSession, conversation_id)
    desk.tx.add(Message(session_id=found.id, role="assistant", content=content))
    return go_to(f"/conversations/{found.id}")


@routes.get("/replies")
async def replies(desk: CurrentDesk) -> Response:
    """List the saved replies."""
    return await _replies(desk)


async def _replies(desk: Desk, *, status: int = 200, **form: str) -> Response:
    found = await desk.tx.scalars(select(SavedReply).order_by(SavedReply.title))
    return desk.page("replies.html", status=status, replies=found, **form)


@routes.post("/replies", status_code=303)
async def save_reply(title: Text, content: Text, desk: CurrentDesk) -> Response:
    """Save a reply, or show what of the form is wrong."""
    # The column counts bytes, and a browser's field letters, of which a Chinese one has three.
    if len(title.encode()) > _TITLE_BYTES:
        error = "Write a shorter title: 100 letters with accents, or 66 Chinese ones, have room."
        return await _replies(desk, status=422, title=title, content=content, error=error)
    desk.tx.add(SavedReply(title=title, content=content))
    return go_to("/replies")


def _origin(text: str) -> str:
    if not re.fullmatch(r"https?://[a-z0-9.:-]+", text):
        raise PydanticCustomError("origin", "Write each as https://shop.example, without a path.")
    return text


class WidgetForm(WidgetConfig):
    """What the form of a widget is to hold: its configuration, and its name."""

    name: str = Field(min_length=1, max_length=50)
    greeting: str | None = Field(default=None, max_length=200)
    allowed_origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = ()


@routes.get("/widgets")
async def widgets(desk: CurrentDesk) -> Response:
    """List the widgets."""
    found = await desk.tx.scalars(select(Widget).order_by(Widget.name))
    return desk.page("widgets.html", widgets=found)


@routes.get("/widgets/{widget_id}")
async def widget(widget_id: UUID, desk: CurrentDesk) -> Response:
    """Show the form of a widget."""
    found = await desk.tx.get_one(Widget, widget_id)
    shown = {"name": found.name, **found.config.model_dump()}
    return desk.page("widget.html", shown=shown, errors={})


@routes.post("/widgets/{widget_id}", status_code=303, dependencies=[require_role("admin")])
async def configure(
    widget_id: UUID,
    desk: CurrentDesk,
    name: Annotated[str, Form()] = "",
    theme: Annotated[str, Form()] = "",
    greeting: Annotated[str, Form()] = "",
    allowed_origins: Annotated[str, Form()] = "",
) -> Response:
    """Change a widget, or show what of the form is wrong."""
    # The form's fields are parameters, so that it has come whole before the transaction begins.
    found = await desk.tx.get_one(Widget, widget_id)
    given = {"name": name, "theme": theme, "greeting": greeting}
    shown = {**given, "allowed_origins": allowed_origins.split()}
    try:
        checked = WidgetForm.model_validate(shown)
    except ValidationError as error:
        errors = {each["loc"][0]: each["msg"] for each in error.errors()}
        return desk.page("widget.html", status=422, shown=shown, errors=errors)
    found.name = checked.name
    # A copy, so that keys stay that this form does not know.
    changed = checked.model_dump(exclude={"name"})
    found.config = found.config.model_copy(update=changed)
    return go_to("/widgets")


@routes.get("/knowledge")
async def knowledge(desk: CurrentDesk, q: str = "") -> Response:
    """Find passages of the tenant's documents."""
    hits = await keyword_search(desk.tx, q, k=5) if q.strip() else []
    titles = await desk.tx.scalars(
        select(KnowledgeDocument.title).order_by(KnowledgeDocument.title)
    )
    return desk.page("knowledge.html", q=q, hits=hits, titles=titles)


@routes.get("/costs")
async def costs(desk: CurrentDesk) -> Response:
    """Plot what models have cost, by day, and list it by model."""
    day = cast(func.timezone("UTC", CostEvent.created_at), Date)
    total = func.sum(CostEvent.cost)
    by_day = await desk.tx.execute(select(day, total).group_by(day).order_by(day.desc()).limit(30))
    by_model = await desk.tx.execute(
        select(CostEvent.model, func.sum(CostEvent.tokens), total)
        .group_by(CostEvent.model)
        .order_by(total.desc())
    )
    plot = bars(dict(by_day.all()))
    return desk.page("costs.html", plot=plot, models=by_model.all())
