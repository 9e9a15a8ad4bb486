"""Databases in which tenants A and B have a row in every table."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tenantry.schema.row_security import APP_ROLE
from tests.conftest import Server, open_connection
from tests.isolation.rows import World, read_tables


@asynccontextmanager
async def world_on(server: Server, database: str) -> AsyncIterator[World]:
    """Populate a migrated database for attacks on it."""
    admin = await open_connection(server.at(database))
    app = await open_connection(server.at(database, user=APP_ROLE))
    try:
        world = World(app=app, admin=admin, database=database, tables=await read_tables(admin))
        await world.populate()
        yield world
    finally:
        await app.close()
        await admin.close()


@pytest.fixture(scope="module")
async def world(server: Server, template: str) -> AsyncIterator[World]:
    """The two tenants' database; tests of a module share it and roll back what they do."""
    name = await server.create_database(template=template)
    async with world_on(server, name) as world:
        yield world
    await server.drop_database(name)
