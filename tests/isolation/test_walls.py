"""Every attack of `attacks` on every table, as the application's role.

The tables come from the catalog: one that is added tomorrow is attacked tomorrow.
"""

from __future__ import annotations

import pytest

from tenantry.schema import Base
from tests.conftest import Server
from tests.isolation.attacks import ATTACKS
from tests.isolation.conftest import world_on
from tests.isolation.rows import World

TABLES = sorted(table.name for table in Base.metadata.tables.values())


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("name", ATTACKS)
async def test_the_wall_stands(world: World, name: str, table: str) -> None:
    """No attack succeeds on any table; what each tries is in its docstring."""
    await ATTACKS[name](world, world.tables[table])


@pytest.mark.parametrize("name", ATTACKS)
async def test_each_attack_notices_that_its_wall_is_down(
    server: Server, template: str, name: str
) -> None:
    """An attack that could not succeed would prove nothing."""
    database = await server.create_database(template=template)
    try:
        async with world_on(server, database) as world:
            table = world.tables["knowledge_chunks"]
            for statement in ATTACKS[name].down(world, table):
                await world.admin.execute(statement)
            with pytest.raises((AssertionError, pytest.fail.Exception)):
                await ATTACKS[name](world, table)
    finally:
        await server.drop_database(database)


async def test_every_table_of_the_database_is_attacked(world: World) -> None:
    """A table that is in the database and not in these tests fails here."""
    assert sorted(world.tables) == TABLES
    assert all({world.a, world.b} == set(table.rows) for table in world.tables.values())


async def test_every_table_forces_row_security(world: World) -> None:
    """Row security is on and forced for each, with a policy for the application."""
    rows = await world.admin.fetch(
        "SELECT relname::text, relrowsecurity AND relforcerowsecurity AS walled,"
        " EXISTS (SELECT FROM pg_policy WHERE polrelid = c.oid) AS has_policy"
        " FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
    )
    assert rows
    assert all(row["walled"] and row["has_policy"] for row in rows)
