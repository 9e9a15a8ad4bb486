"""Attacks that row security itself has to stop: reading and writing rows."""

from __future__ import annotations

import csv
import io

import asyncpg
import pytest

from tenantry.tenancy.catalog import quote
from tests.isolation.attack import (
    Connection,
    answer,
    attack,
    changeable,
    changes,
    count,
    default_tenant,
    may,
    no_row_security,
    open_policy,
    refuses,
)
from tests.isolation.rows import Row, Table, World

# Without a tenant


@attack(bound=False, down=open_policy)
async def nothing_is_read_without_a_tenant(app: Connection, world: World, table: Table) -> None:
    """No tenant, no rows."""
    assert await app.fetchval(f"SELECT count(*) FROM {table.sql}") == 0


@attack(bound=False, down=open_policy)
async def nothing_is_inserted_without_a_tenant(app: Connection, world: World, table: Table) -> None:
    """No tenant, no new rows, not even for a tenant that exists."""
    statement, values = table.insert(world.fresh_row(table, world.a))
    await refuses(app, statement, *values)


@attack(bound=False, down=default_tenant)
async def the_default_tenant_is_refused_without_one(
    app: Connection, world: World, table: Table
) -> None:
    """An INSERT that leaves the tenant to its default fails."""
    row = world.fresh_row(table, world.a)
    del row[table.tenant_column]
    statement, values = table.insert(row)
    assert (await answer(app, statement, *values))[0] in {"42501", "23502"}


@attack(bound=False, down=open_policy)
async def nothing_is_updated_without_a_tenant(app: Connection, world: World, table: Table) -> None:
    """No tenant: UPDATE touches nothing, or is not allowed at all."""
    await changes(app, table, f"UPDATE {table.sql} SET {changeable(table)}", 0)


@attack(bound=False, down=open_policy)
async def nothing_is_deleted_without_a_tenant(app: Connection, world: World, table: Table) -> None:
    """No tenant: DELETE touches nothing, or is not allowed at all."""
    told = await answer(app, f"DELETE FROM {table.sql}")
    assert told[0] == ("DELETE 0" if await may(app, table, "DELETE") else "42501")


# As tenant A, against B


@attack(down=open_policy)
async def only_own_rows_are_read(app: Connection, world: World, table: Table) -> None:
    """A sees its row and not B's, by key, by tenant or by looking at all."""
    found = await app.fetch(f"SELECT {table.tenant_column} AS t FROM {table.sql}")
    assert [row["t"] for row in found] == [world.a]
    theirs = table.where(table.rows[world.b])
    assert await app.fetch(f"SELECT FROM {table.sql} WHERE {theirs}") == []
    by_tenant = f"SELECT FROM {table.sql} WHERE {table.tenant_column} = $1"
    assert await app.fetch(by_tenant, world.b) == []


@attack(down=open_policy)
async def no_row_is_inserted_for_another_tenant(
    app: Connection, world: World, table: Table
) -> None:
    """A cannot make a row of B's."""
    statement, values = table.insert(world.fresh_row(table, world.b))
    await refuses(app, statement, *values)


@attack(down=open_policy)
async def rows_of_another_tenant_are_not_updated(
    app: Connection, world: World, table: Table
) -> None:
    """UPDATE by B's key touches nothing; one without a condition, only A's own row."""
    head = f"UPDATE {table.sql} SET {changeable(table)}"
    await changes(app, table, f"{head} WHERE {table.where(table.rows[world.b])}", 0)
    await changes(app, table, head, 1)


@attack(down=open_policy)
async def rows_of_another_tenant_are_not_deleted(
    app: Connection, world: World, table: Table
) -> None:
    """DELETE by B's key touches nothing; one without a condition, only A's own row."""
    by_key = f"DELETE FROM {table.sql} WHERE {table.where(table.rows[world.b])}"
    if await may(app, table, "DELETE"):
        assert (await answer(app, by_key))[0] == "DELETE 0"
        # Rows of A's own may refer to its row and keep it.
        told = await answer(app, f"DELETE FROM {table.sql}")
        assert told[0] in {"DELETE 1", "23503"}
    else:
        await refuses(app, by_key)


@attack(down=open_policy)
async def a_row_is_not_moved_to_another_tenant(app: Connection, world: World, table: Table) -> None:
    """UPDATE of the tenant is refused, for own rows; B's are not found."""
    theirs, own = (table.where(table.rows[tenant]) for tenant in (world.b, world.a))
    move = f"UPDATE {table.sql} SET {table.tenant_column} = '{world.b}'"
    told = await answer(app, f"{move} WHERE {own}")
    assert told[0] == "42501", told
    if await may(app, table, "UPDATE"):
        assert count(await app.execute(f"{move} WHERE {theirs}")) == 0


@attack(down=open_policy)
async def merge_does_not_reach_another_tenant(app: Connection, world: World, table: Table) -> None:
    """MERGE on B's key matches nothing, and its INSERT for B is refused."""
    theirs = table.where(table.rows[world.b], alias="t")
    head = f"MERGE INTO {table.sql} AS t USING (SELECT 1) AS s ON {theirs}"
    if await may(app, table, "DELETE"):
        assert count(await app.execute(f"{head} WHEN MATCHED THEN DELETE")) == 0
    await changes(app, table, f"{head} WHEN MATCHED THEN UPDATE SET {changeable(table)}", 0)
    statement, values = table.insert(world.fresh_row(table, world.b))
    row = statement.removeprefix(f"INSERT INTO {table.sql} ")
    await refuses(app, f"{head} WHEN NOT MATCHED THEN INSERT {row}", *values)


@attack(down=open_policy)
async def upsert_does_not_reach_another_tenant(app: Connection, world: World, table: Table) -> None:
    """ON CONFLICT on B's key changes nothing of B's, and does not tell that it exists."""
    key = ", ".join(map(quote, table.key))
    same = f"{quote(table.key[-1])} = excluded.{quote(table.key[-1])}"
    for action in (f"({key}) DO UPDATE SET {same}", f"({key}) DO NOTHING", "DO NOTHING"):
        told = []
        for row in (table.rows[world.b], world.fresh_row(table, world.b)):
            statement, values = table.insert(row)
            told.append(await answer(app, f"{statement} ON CONFLICT {action}", *values))
        assert told[0] == told[1]
        assert told[0][0] == "42501"


@attack(down=open_policy)
async def copy_to_gives_only_own_rows(app: Connection, world: World, table: Table) -> None:
    """COPY … TO is under row security like SELECT."""
    out = io.BytesIO()
    await app.copy_from_query(f"SELECT {table.tenant_column} FROM {table.sql}", output=out)
    assert out.getvalue().decode().split() == [str(world.a)]
    whole = io.BytesIO()
    await app.copy_from_table(table.name, columns=[table.tenant_column], output=whole)
    assert whole.getvalue().decode().split() == [str(world.a)]


@attack(down=no_row_security)
async def copy_from_is_refused(app: Connection, world: World, table: Table) -> None:
    """COPY … FROM cannot be checked by row security, so PostgreSQL does not let it run."""
    with pytest.raises((asyncpg.FeatureNotSupportedError, asyncpg.InsufficientPrivilegeError)):
        row = world.fresh_row(table, world.b)
        row = {name: row[name] for name in row if name in (table.insertable or row)}
        await app.copy_to_table(
            table.name, columns=list(row), source=io.BytesIO(as_csv(row)), format="csv"
        )


def as_csv(row: Row) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerow(["" if value is None else value for value in row.values()])
    return out.getvalue().encode()
