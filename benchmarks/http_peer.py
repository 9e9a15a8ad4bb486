"""`PYTHON http_peer.py PORT URL`: the compared endpoint behind fastapi-users' database strategy.

It runs on an interpreter of its own, which has ``fastapi-users[sqlalchemy]``, asyncpg and
``uvicorn[standard]``, and nothing of tenantry's. Its tables are made beside those of the benchmark;
sessions and users are as many, and the query and the table that it reads are the same.
"""

# mypy: ignore-errors
import contextlib
import sys
import uuid
from collections.abc import AsyncIterator

import uvicorn
from fastapi import Depends, FastAPI
from fastapi_users import BaseUserManager, FastAPIUsers, UUIDIDMixin
from fastapi_users.authentication import AuthenticationBackend, CookieTransport
from fastapi_users.authentication.strategy.db import DatabaseStrategy
from fastapi_users_db_sqlalchemy import SQLAlchemyBaseUserTableUUID, SQLAlchemyUserDatabase
from fastapi_users_db_sqlalchemy.access_token import (
    SQLAlchemyAccessTokenDatabase,
    SQLAlchemyBaseAccessTokenTableUUID,
)
from sqlalchemy import column, select, table, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

PORT, URL = int(sys.argv[1]), sys.argv[2].replace("postgresql://", "postgresql+asyncpg://", 1)
SESSIONS, USERS, POOL = 10_000, 20_000, 10
TENANT = uuid.UUID("cfcd2084-95d5-65ef-66e7-dff9f98764da")  # md5('0'), the first of the benchmark
WIDGETS = table("widgets", column("tenant_id"), column("id"), column("name"))


class Base(DeclarativeBase):
    pass


class User(SQLAlchemyBaseUserTableUUID, Base):
    pass


class AccessToken(SQLAlchemyBaseAccessTokenTableUUID, Base):
    pass


engine = create_async_engine(URL, pool_size=POOL, max_overflow=0)
sessions = async_sessionmaker(engine, expire_on_commit=False)


class UserManager(UUIDIDMixin, BaseUserManager[User, uuid.UUID]):
    reset_password_token_secret = verification_token_secret = "not used"


async def session() -> AsyncIterator[AsyncSession]:
    async with sessions() as opened:
        yield opened


async def users(tx: AsyncSession = Depends(session)):
    yield SQLAlchemyUserDatabase(tx, User)


async def tokens(tx: AsyncSession = Depends(session)):
    yield SQLAlchemyAccessTokenDatabase(tx, AccessToken)


async def manager(db=Depends(users)):
    yield UserManager(db)


def strategy(db=Depends(tokens)):
    return DatabaseStrategy(db, lifetime_seconds=30 * 86_400)


backend = AuthenticationBackend(
    name="db", transport=CookieTransport(cookie_name="auth"), get_strategy=strategy
)
current_user = FastAPIUsers[User, uuid.UUID](manager, [backend]).current_user(active=True)


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(
            text("""
            INSERT INTO "user" (id, email, hashed_password, is_active, is_superuser, is_verified)
            SELECT md5('u' || i)::uuid, 'u' || i || '@x.example', 'x', true, false, true
              FROM generate_series(0, :users - 1) i"""),
            {"users": USERS},
        )
        await connection.execute(
            text("""
            INSERT INTO accesstoken (token, created_at, user_id)
            SELECT 'token-' || i, now(), md5('u' || i)::uuid
              FROM generate_series(0, :sessions - 1) i"""),
            {"sessions": SESSIONS},
        )
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


@app.get("/widgets")
async def widgets(
    user: User = Depends(current_user),  # noqa: ARG001
    tx: AsyncSession = Depends(session),
) -> list[dict[str, str]]:
    query = select(WIDGETS.c.id, WIDGETS.c.name).order_by(WIDGETS.c.id).limit(10)
    query = query.where(WIDGETS.c.tenant_id == TENANT)
    return [{"id": str(id_), "name": name} for id_, name in await tx.execute(query)]


if __name__ == "__main__":
    uvicorn.run(
        app, port=PORT, log_level="warning", access_log=False, loop="uvloop", http="httptools"
    )
