"""Two tenants with a session and an API key each, for the functions that look them up."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import asyncpg

from tenantry.schema.row_security import APP_ROLE, AUTH_ROLE
from tenantry.tenancy.functions import FUNCTIONS
from tests.conftest import Server, open_connection

ONE = "SELECT * FROM tenantry.validate_session($1, $2, $3)"
MANY = "SELECT * FROM tenantry.validate_sessions($1, $2, $3)"
KEY = "SELECT * FROM tenantry.authenticate_api_key($1, $2)"
KEYS = "SELECT * FROM tenantry.authenticate_api_keys($1, $2)"
FIND = "SELECT tenantry.find_tenant($1)"

OF_AUTH = [each for each in FUNCTIONS if each.owner == AUTH_ROLE]
PROVING = [each for each in OF_AUTH if each.file.startswith(("validate_", "authenticate_"))]
LOOK_UPS = [*PROVING, *(each for each in OF_AUTH if each.file == "find_tenant.sql")]
SEARCHES = [each for each in OF_AUTH if each not in LOOK_UPS]


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


@dataclass
class House:
    """Two tenants with the same ids of sessions, and different secrets."""

    admin: asyncpg.Connection
    app: asyncpg.Connection
    database: str
    a: UUID = field(default_factory=uuid4)
    b: UUID = field(default_factory=uuid4)
    user: UUID = field(default_factory=uuid4)

    def secret(self, tenant: UUID, name: str) -> bytes:
        return digest(f"{tenant} {name}")

    async def build(self) -> None:
        for tenant, slug in ((self.a, "a"), (self.b, "b")):
            await self.admin.execute(
                "INSERT INTO tenants (id, name, slug, api_key, previous_api_key,"
                " previous_api_key_expires_at) VALUES ($1, $2, $3, $4, $5, now() + '1 day')",
                tenant,
                f"Tenant {slug}",
                slug,
                self.secret(tenant, "key"),
                self.secret(tenant, "old key"),
            )
            # The same id in both: only the pair with the tenant is the user's.
            await self.admin.execute(
                "INSERT INTO users (tenant_id, id, email, name, role)"
                " VALUES ($1, $2, 'ada@acme.example', 'Ada', 'admin')",
                tenant,
                self.user,
            )
            await self.add(tenant, "s")

    async def add(self, tenant: UUID, name: str, **columns: str) -> None:
        """A session that has just been used; columns are SQL."""
        given = {
            "expires_at": "now() + interval '24 hours'",
            "absolute_expires_at": "now() + interval '30 days'",
            "created_at": "now() - interval '2 days'",
        } | columns
        await self.admin.execute(
            f"INSERT INTO sessions (tenant_id, id, user_id, secret_hash, {', '.join(given)})"
            f" VALUES ($1, $2, $3, $4, {', '.join(given.values())})",
            tenant,
            name,
            self.user,
            self.secret(tenant, name),
        )

    async def session(self, name: str) -> asyncpg.Record:
        found = await self.admin.fetchrow(
            "SELECT * FROM sessions WHERE tenant_id = $1 AND id = $2", self.a, name
        )
        assert found is not None
        return found

    async def validated(self, tenant: object, name: object, hash_: object) -> list[asyncpg.Record]:
        """What both functions give, which is the same."""
        one = await self.app.fetch(ONE, tenant, name, hash_)
        many = await self.app.fetch(MANY, [tenant], [name], [hash_])
        assert [row["user_id"] for row in one] == [row["user_id"] for row in many]
        return one

    async def opened(self, tenant: object, hash_: object) -> list[asyncpg.Record]:
        one = await self.app.fetch(KEY, tenant, hash_)
        many = await self.app.fetch(KEYS, [tenant], [hash_])
        assert [row["expires_at"] for row in one] == [row["expires_at"] for row in many]
        return one


@asynccontextmanager
async def house_on(server: Server, template: str) -> AsyncIterator[House]:
    """A database with the two tenants in it."""
    name = await server.create_database(template=template)
    admin = await open_connection(server.at(name))
    app = await open_connection(server.at(name, user=APP_ROLE))
    house = House(admin, app, name)
    await house.build()
    yield house
    await app.close()
    await admin.close()
    await server.drop_database(name)
