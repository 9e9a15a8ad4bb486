"""`python -m benchmarks.http_apps KIND PORT URL`: one of the applications that are compared."""

# No `from __future__ import annotations`: FastAPI could not resolve what is local.
import sys
from collections.abc import AsyncIterator
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI
from sqlalchemy import make_url, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from benchmarks.filling import token
from tenantry import Settings
from tenantry.fastapi import DoorSettings, TenantTx, install, lifespan
from tenantry.schema import Widget
from tenantry.schema.row_security import APP_ROLE

POOL = 10


def ours(url: str) -> FastAPI:
    """Cookie, validation, and the query as the application's role in the caller's tenant."""
    admin = make_url(url)
    database = Settings(database_url=admin.set(username=APP_ROLE), pool_size=POOL, max_overflow=0)
    app = FastAPI(lifespan=lifespan)
    install(app, DoorSettings(database=database))

    @app.get("/widgets")
    async def widgets(tx: TenantTx) -> list[dict[str, str]]:
        query = select(Widget.id, Widget.name).order_by(Widget.id).limit(10)
        return [{"id": str(id_), "name": name} for id_, name in await tx.execute(query)]

    return app


def plain(url: str) -> FastAPI:
    """The same query as the superuser, with nobody signed in and no tenant bound."""
    driver = make_url(url).set(drivername="postgresql+asyncpg")
    engine = create_async_engine(driver, pool_size=POOL, max_overflow=0)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    tenant = token(0).partition(".")[0]
    app = FastAPI()

    async def session() -> AsyncIterator[AsyncSession]:
        async with sessions() as opened:
            yield opened

    @app.get("/widgets")
    async def widgets(tx: Annotated[AsyncSession, Depends(session)]) -> list[dict[str, str]]:
        query = select(Widget.id, Widget.name).order_by(Widget.id).limit(10)
        query = query.where(Widget.tenant_id == tenant)
        return [{"id": str(id_), "name": name} for id_, name in await tx.execute(query)]

    return app


if __name__ == "__main__":
    made = {"ours": ours, "plain": plain}[sys.argv[1]](sys.argv[3])
    uvicorn.run(
        made, port=int(sys.argv[2]), log_level="warning", access_log=False,
        loop="uvloop", http="httptools",
    )  # fmt: skip
