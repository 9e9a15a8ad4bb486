"""Signing in and out by forms, and the list of the user's sessions."""

from __future__ import annotations

import os
from typing import Annotated, Any, Final

from fastapi import APIRouter, Form, HTTPException, Request
from starlette.responses import HTMLResponse, Response

from support_desk.rendering import CurrentDesk, go_to, templates
from tenantry.auth.tenants import slug_of_host
from tenantry.errors import InvalidCredentialsError, ThrottledError
from tenantry.fastapi import CurrentDoor, OptionalPrincipal

routes = APIRouter(default_response_class=HTMLResponse)

DOMAIN = os.environ.get("SUPPORT_DESK_DOMAIN", "localhost")


@routes.get("/sign-in", responses={303: {"description": "To the desk, for who is signed in."}})
async def sign_in_page(request: Request, principal: OptionalPrincipal) -> Response:
    """Show the form."""
    return go_to("/") if principal else _form(request)


def _form(request: Request, *, error: str | None = None, status: int = 200) -> Response:
    context = {"workspace": _workspace(request), "error": error}
    return templates.TemplateResponse(request, "sign_in.html", context, status_code=status)


def _workspace(request: Request) -> str | None:
    return slug_of_host(request.headers.get("host", ""), base_domain=DOMAIN)


_FORM_AGAIN: Final[dict[int | str, dict[str, Any]]] = {
    status: {"description": f"{what}. The form again.", "content": {"text/html": {}}}
    for status, what in ((401, "Not an account"), (429, "Too many attempts"))
}


@routes.post("/sign-in", status_code=303, responses=_FORM_AGAIN)
async def sign_in(
    request: Request,
    door: CurrentDoor,
    email: Annotated[str, Form()],
    password: Annotated[str, Form()],
    workspace: Annotated[str | None, Form()] = None,
) -> Response:
    """Sign in, on a new session; the one that the browser had before ends."""
    try:
        await door.sign_in(request, tenant=workspace, email=email, password=password)
    except InvalidCredentialsError as error:
        return _form(request, error=str(error), status=401)
    except ThrottledError as error:
        return _form(request, error=str(error), status=429)
    return go_to("/")


@routes.post("/sign-out", status_code=303)
async def sign_out(request: Request, door: CurrentDoor) -> Response:
    """End this session."""
    await door.sign_out(request)
    return go_to("/sign-in")


@routes.get("/sessions")
async def sessions(desk: CurrentDesk, door: CurrentDoor) -> Response:
    """List the devices on which the user is signed in."""
    await desk.tx.commit()  # gives its connection back: auth takes one of the same pool
    found = await door.auth.sessions(desk.tenant.id, desk.user.id)
    return desk.page("sessions.html", sessions=found)


@routes.post("/sessions/{session_id}/sign-out", status_code=303)
async def sign_out_there(session_id: str, desk: CurrentDesk, door: CurrentDoor) -> Response:
    """End another of the user's sessions."""
    await desk.tx.commit()
    if not await door.auth.revoke(desk.tenant.id, desk.user.id, session_id):
        raise HTTPException(404, "You have no such session. It may have ended by itself.")
    return go_to("/sessions")
