"""The application: the door, the pages, and what every answer has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles

from support_desk import pages, signing_in
from support_desk.rendering import HEADERS, problem_page
from tenantry.fastapi import DoorSettings, host_or_body, install, lifespan


def create_app(settings: DoorSettings | None = None) -> FastAPI:
    """Return the application; without settings, as it runs in production, behind HTTPS."""
    # Without Swagger UI: HEADERS let no script run.
    app = FastAPI(title="Support desk", lifespan=lifespan, docs_url=None, redoc_url=None)
    settings = replace(
        settings or DoorSettings(),
        resolve_tenant=host_or_body(signing_in.DOMAIN),
        sign_in_page="/sign-in",
        page=problem_page,
    )
    install(app, settings)
    app.middleware("http")(_with_headers)  # after the door, so that it is around it
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    app.include_router(signing_in.routes)
    app.include_router(pages.routes)
    return app


async def _with_headers(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    response = await call_next(request)
    response.headers.update(HEADERS)
    return response
