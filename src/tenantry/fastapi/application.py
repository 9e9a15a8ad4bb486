"""The door put into an application: lifespan, middleware, routes, answers to errors, OpenAPI."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from tenantry.asgi import Door, DoorSettings, Exchanges, Problem, answer, problem_of
from tenantry.asgi.openapi import document
from tenantry.asgi.problems import ERRORS, invalid_request, refused
from tenantry.errors import ConfigurationError
from tenantry.fastapi.router import Routes, health, mailing, sign_up, signing_in

__all__ = ["install", "lifespan"]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the database while the application runs.

    Give it to FastAPI as it is, or write ``async with lifespan(app):`` in a lifespan of your own.

    Raises:
        ConfigurationError: `install` was not called.
        TenantryError: As `Database.connect` says.
    """
    door = getattr(app.state, "tenantry", None)
    if not isinstance(door, Door):
        raise ConfigurationError("The application has no door yet. Call install(app) after it.")
    async with door.opened():
        yield


def install(app: FastAPI, settings: DoorSettings | None = None) -> None:
    """Put the door into an application.

    Call it once, before middleware that has to be outside of it, such as CORS.

    Args:
        app: The application, made with `lifespan`.
        settings: None: the defaults.

    Raises:
        ConfigurationError: A setting cannot be used.
    """
    settings = settings or DoorSettings()
    app.state.tenantry = door = Door(settings)
    app.add_middleware(Exchanges, door=door, left=(ClientDisconnect, WebSocketDisconnect))
    for error in (HTTPException, RequestValidationError, *ERRORS):
        app.add_exception_handler(error, _answer)
    routes = Routes()
    routes.starts = (f"{settings.prefix}/", "/healthz", "/readyz")
    routes.include_router(health)
    routes.include_router(signing_in, prefix=settings.prefix)
    if settings.send is not None:
        routes.include_router(mailing, prefix=settings.prefix)
    if settings.sign_up:
        routes.include_router(sign_up, prefix=settings.prefix)
    app.include_router(routes)
    plain = app.openapi
    app.openapi = lambda: document(plain(), door)  # type: ignore[method-assign]


async def _answer(connection: HTTPConnection, error: Exception) -> Any:
    if isinstance(error, RequestValidationError):
        problem: Problem | None = invalid_request(error.errors())
    elif isinstance(error, HTTPException):
        problem = refused(error.status_code, error.detail, headers=error.headers)
    else:
        problem = problem_of(error)
    if problem is None:
        raise error
    status, headers, body = answer(connection.scope, problem, cause=error)
    if isinstance(connection, WebSocket):
        return await connection.close(1008)
    return Response(body, status, headers)
