"""A small product, honest; the leaks that tests add to it are each an endpoint of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Depends, FastAPI, Header, HTTPException, Request
from pydantic import BaseModel, Field
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from tenantry import Database
from tenantry.auth import Auth, Principal
from tenantry.errors import AuthenticationError
from tenantry.schema import ConversationSession, Message, Tenant, Widget


class WidgetIn(BaseModel):
    name: str = Field(min_length=1, max_length=200)
    theme: Literal["light", "dark"] = "light"


class WidgetOut(BaseModel):
    id: UUID
    name: str
    created_at: datetime


class ConversationIn(BaseModel):
    widget_id: UUID | None = None


class MessageIn(BaseModel):
    role: Literal["user", "assistant"]
    content: str


async def who_asks(request: Request, authorization: Annotated[str, Header()] = "") -> Principal:
    auth: Auth = request.app.state.auth
    try:
        return await auth.validate(authorization.removeprefix("Bearer "))
    except AuthenticationError as error:
        raise HTTPException(401, "Sign in.") from error


Who = Annotated[Principal, Depends(who_asks)]


class Product:
    """The application, and what endpoints are made of."""

    def __init__(self, db: Database, auth: Auth, *, complete: bool = True) -> None:
        self.db, self.auth = db, auth
        self.lives: list[str] = []
        self.app = FastAPI(lifespan=self._lifespan)
        self.app.state.auth = auth
        if complete:
            self._add_widgets()
            self._add_conversations()

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[dict[str, str]]:
        self.lives.append("up")
        yield {"greeting": "hello"}
        self.lives.append("down")

    def _add_widgets(self) -> None:
        app, db = self.app, self.db

        @app.get("/widgets")
        async def widgets(who: Who) -> list[WidgetOut]:
            async with db.tenant(who.tenant_id) as tx:
                return [out(each) for each in await tx.scalars(select(Widget))]

        @app.post("/widgets", status_code=201)
        async def add_widget(who: Who, given: WidgetIn) -> WidgetOut:
            async with db.tenant(who.tenant_id) as tx:
                widget = Widget(name=given.name)
                tx.add(widget)
                await tx.flush()
                return out(widget)

        @app.get("/widgets/{widget_id}")
        async def widget(who: Who, widget_id: UUID) -> WidgetOut:
            async with db.tenant(who.tenant_id) as tx:
                return out(found(await tx.get(Widget, widget_id), widget_id))

        @app.patch("/widgets/{widget_id}")
        async def rename_widget(who: Who, widget_id: UUID, given: WidgetIn) -> WidgetOut:
            async with db.tenant(who.tenant_id) as tx:
                widget = found(await tx.get(Widget, widget_id), widget_id)
                widget.name = given.name
                return out(widget)

        @app.delete("/widgets/{widget_id}", status_code=204)
        async def delete_widget(who: Who, widget_id: UUID) -> None:
            async with db.tenant(who.tenant_id) as tx:
                await tx.delete(found(await tx.get(Widget, widget_id), widget_id))

        @app.post("/sign-out", status_code=204)
        async def sign_out(authorization: Annotated[str, Header()], who: Who) -> None:
            await self.auth.sign_out(authorization.removeprefix("Bearer "))

    def _add_conversations(self) -> None:
        app, db = self.app, self.db

        @app.post("/conversations", status_code=201)
        async def converse(who: Who, given: ConversationIn) -> dict[str, UUID]:
            conversation = ConversationSession(widget_id=given.widget_id)
            try:
                async with db.tenant(who.tenant_id) as tx:
                    tx.add(conversation)
            except IntegrityError as error:
                raise HTTPException(404, "There is no such widget.") from error
            return {"id": conversation.id}

        @app.post("/conversations/{conversation_id}/messages", status_code=201)
        async def say(who: Who, conversation_id: UUID, given: MessageIn) -> dict[str, UUID]:
            async with db.tenant(who.tenant_id) as tx:
                found(await tx.get(ConversationSession, conversation_id), conversation_id)
                message = Message(session_id=conversation_id, **given.model_dump())
                tx.add(message)
            return {"id": message.id}

        @app.get("/conversations/{conversation_id}/messages")
        async def messages(who: Who, conversation_id: UUID, limit: int = 50) -> list[str]:
            async with db.tenant(who.tenant_id) as tx:
                found(await tx.get(ConversationSession, conversation_id), conversation_id)
                of_it = select(Message.content).where(Message.session_id == conversation_id)
                return list(await tx.scalars(of_it.limit(limit)))

        @app.get("/conversations/{conversation_id}/messages/{message_id}")
        async def message(who: Who, conversation_id: UUID, message_id: UUID) -> str:
            async with db.tenant(who.tenant_id) as tx:
                return str(found(await tx.get(Message, message_id), message_id).content)

        @app.get("/statistics")
        async def statistics(who: Who) -> dict[str, Any]:
            async with db.tenant(who.tenant_id) as tx:
                count = await tx.scalar(select(func.count()).select_from(Widget))
                tenant = (await tx.scalars(select(Tenant))).one()
                return {"tenant": tenant.name, "widgets": count}


def out(widget: Widget) -> WidgetOut:
    return WidgetOut(id=widget.id, name=widget.name, created_at=widget.created_at)


def found(row: Any, id_: UUID) -> Any:
    if row is None:
        raise HTTPException(404, f"There is no {id_}.")
    return row
