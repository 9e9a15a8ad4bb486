"""The application: the door, the pages, and what every answer has."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from support_desk import pages, signing_in
from support_desk.rendering import Pages
from tenantry.fastapi import DoorSettings, install, lifespan


def create_app(settings: DoorSettings | None = None) -> FastAPI:
    """Return the application; without settings, as it runs in production, behind HTTPS."""
    app = FastAPI(title="Support desk", lifespan=lifespan)
    install(app, settings)
    app.add_middleware(Pages)  # after the door, so that it is around it
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    app.include_router(signing_in.routes)
    app.include_router(pages.routes)
    return app
