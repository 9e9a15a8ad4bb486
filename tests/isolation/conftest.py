"""Databases in which tenants A and B have a row in every table."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from tenantry.schema.row_security import APP_ROLE
from tests.conftest import Server, bind, open_connection
from tests.isolation.attack import open_policy
from tests.isolation.rows import World, read_tables
from tests.tracing import UNTRACED


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


@dataclass(frozen=True)
class Stage:
    """A world in which the policies stand, or in which they let every row through."""

    world: World
    standing: bool

    @property
    def theirs(self) -> set[str]:
        """What only B's rows hold: ids, names, contents."""
        a, b = (
            {value for table in self.world.tables.values() for value in table.rows[who].values()}
            for who in (self.world.a, self.world.b)
        )
        # Short values, as numbers are, occur by chance.
        return {value for value in b - a if value is not None and len(value) > 5}

    def leaked(self, told: object) -> set[str]:
        """What of B's rows is in an answer."""
        text = str(told)
        return {value for value in self.theirs if value in text}

    def judge(self, told: object) -> None:
        """Nothing of B's may be in an answer; with the walls down, something must be."""
        assert bool(self.leaked(told)) is not self.standing, told


@pytest.fixture(scope="module", params=[True, False], ids=["standing", "down"])
async def stage(
    request: pytest.FixtureRequest, server: Server, template: str
) -> AsyncIterator[Stage]:
    """Both worlds in turn: what holds in the one must not hold in the other."""
    name = await server.create_database(template=template)
    async with world_on(server, name) as world:
        if not request.param:
            for table in world.tables.values():
                for statement in open_policy(world, table):
                    await world.admin.execute(statement)
        yield Stage(world, request.param)
    await server.drop_database(name)


@pytest.fixture
async def as_a(stage: Stage) -> AsyncIterator[asyncpg.Connection]:
    """The application's connection in a transaction of tenant A, rolled back at the end."""
    transaction = stage.world.app.transaction()
    await transaction.start()
    await bind(stage.world.app, stage.world.a)
    yield stage.world.app
    await transaction.rollback()


# The walls are PostgreSQL's and have no line of ours to cover; tracing would take half the time.
_NOT_COVERED = {
    "test_look_ups",
    "test_look_ups_inside",
    "test_mixups",
    "test_not_kept_apart",
    "test_powers",
    "test_reading",
    "test_renewal",
    "test_state",
    "test_statistics",
    "test_walls",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave coverage out where there is nothing to cover."""
    for item in items:
        if item.path.parent == Path(__file__).parent and item.path.stem in _NOT_COVERED:
            item.stash[UNTRACED] = True
