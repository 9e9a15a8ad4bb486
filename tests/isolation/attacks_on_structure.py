"""Attacks that row security does not see: keys, locks, and what the application could make."""

from __future__ import annotations

from tenantry.tenancy.catalog import quote
from tests.isolation.attack import (
    ATTACKS,
    Attack,
    Connection,
    answer,
    attack,
    may,
    open_policy,
    refuses,
)
from tests.isolation.rows import ForeignKey, Table, World


def single_column_keys(world: World, table: Table) -> list[str]:
    statements = []
    for key in own_keys(table):
        parent, mine, theirs = world.tables[key.parent].sql, key.columns[1], key.referred[1]
        statements += [
            f"ALTER TABLE {parent} ADD UNIQUE ({quote(theirs)})",
            f"ALTER TABLE {table.sql} ADD FOREIGN KEY ({quote(mine)}) REFERENCES {parent}"
            f" ({quote(theirs)})",
            f"ALTER TABLE {table.sql} DROP CONSTRAINT {quote(key.name)}",
        ]
    return statements


def uniques_without_tenant(world: World, table: Table) -> list[str]:
    return [
        f"ALTER TABLE {table.sql} ADD UNIQUE ({', '.join(map(quote, columns))})"
        for columns in (without_tenant(table, each) for each in table.uniques)
    ]


def without_tenant(table: Table, columns: list[str]) -> list[str]:
    return [name for name in columns if name != table.tenant_column] or columns


def own_keys(table: Table) -> list[ForeignKey]:
    """Foreign keys to other tenant tables."""
    return [key for key in table.foreign_keys if len(key.columns) > 1]


# What is not subject to row security


@attack(down=single_column_keys)
async def foreign_keys_do_not_point_at_another_tenant(
    app: Connection, world: World, table: Table
) -> None:
    """A's row cannot refer to B's, and the answer is the one for a row that exists nowhere."""
    await app.execute("SET CONSTRAINTS ALL IMMEDIATE")
    for key in own_keys(table):
        assert key.columns[0] == key.referred[0] == table.tenant_column
        parent = world.tables[key.parent]
        number = next(world.numbers)
        nowhere = {name: parent.columns[name].makes[0](number) for name in key.referred}
        told = []
        for target in (parent.rows[world.b], nowhere):
            row = world.fresh_row(table, world.a)
            row |= {m: target[t] for m, t in zip(key.columns[1:], key.referred[1:], strict=True)}
            statement, values = table.insert(row)
            told.append(await answer(app, statement, *values))
        assert told[0][0] == "23503", told
        assert told[0] == told[1]


@attack(down=uniques_without_tenant)
async def unique_keys_do_not_tell_of_another_tenant(
    app: Connection, world: World, table: Table
) -> None:
    """A may use the very values that B has in its keys, and gets the answer that new ones get."""
    for columns in table.uniques:
        told = []
        for values_of in (table.rows[world.b], world.fresh_row(table, world.b)):
            row = world.fresh_row(table, world.a)
            taken = [
                name
                for name in without_tenant(table, columns)
                if name in values_of and name not in {c for k in own_keys(table) for c in k.columns}
            ]
            row |= {name: values_of[name] for name in taken}
            statement, values = table.insert(row)
            told.append(await answer(app, statement, *values))
        assert told[0] == told[1]


@attack(down=lambda w, t: ["GRANT TRUNCATE ON ALL TABLES IN SCHEMA public TO tenantry_app"])
async def truncate_is_refused(app: Connection, world: World, table: Table) -> None:
    """TRUNCATE would pass by row security, so the application does not have it."""
    await refuses(app, f"TRUNCATE {table.sql} CASCADE")


@attack(down=open_policy)
async def locks_do_not_reach_rows_of_another_tenant(
    app: Connection, world: World, table: Table
) -> None:
    """SELECT … FOR UPDATE of B's row locks nothing."""
    theirs = table.where(table.rows[world.b])
    for strength in ("UPDATE", "NO KEY UPDATE", "SHARE", "KEY SHARE"):
        if await may(app, table, "UPDATE"):
            query = f"SELECT FROM {table.sql} WHERE {theirs} FOR {strength}"
            assert await app.fetch(query) == []
    whole = await answer(app, f"SELECT count(*) FROM (SELECT FROM {table.sql} FOR UPDATE) AS r")
    assert whole[0] in {"SELECT 1", "42501"}
    assert await app.fetchval(f"SELECT count(*) FROM {table.sql}") == 1
    async with world.admin.transaction():
        query = f"SELECT FROM {table.sql} WHERE {theirs} FOR UPDATE NOWAIT"
        assert len(await world.admin.fetch(query)) == 1


# What the application does not make


def grantable(world: World, table: Table) -> list[str]:
    return [f"GRANT SELECT ON {table.sql} TO tenantry_app WITH GRANT OPTION"]


@attack(down=grantable)
async def rights_are_not_passed_on(app: Connection, world: World, table: Table) -> None:
    """GRANT of a right that the application has gives it to nobody: PostgreSQL only warns."""
    await app.execute(f"GRANT SELECT ON {table.sql} TO PUBLIC")
    held = "SELECT has_table_privilege('tenantry_auth', $1, 'SELECT')"
    assert not await app.fetchval(held, table.sql)


_OWNER = "ALTER TABLE {table} OWNER TO tenantry_app"
_CREATE = "GRANT CREATE ON SCHEMA public TO tenantry_app"
MAKING: dict[str, tuple[str, tuple[str, ...]]] = {
    "disables_row_security": ("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY", (_OWNER,)),
    "unforces_row_security": ("ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY", (_OWNER,)),
    "makes_a_policy": ("CREATE POLICY p ON {table} USING (true)", (_OWNER,)),
    "makes_a_rule": ("CREATE RULE r AS ON INSERT TO {table} DO INSTEAD NOTHING", (_OWNER,)),
    "makes_an_index": ("CREATE INDEX ON {table} ({tenant_column})", (_OWNER, _CREATE)),
    "copies_it": ("CREATE TABLE spy AS SELECT * FROM {table}", (_CREATE,)),
    "shadows_it": (
        "CREATE TEMP TABLE {name} (LIKE {table})",
        ("GRANT TEMPORARY ON DATABASE {database} TO tenantry_app",),
    ),
    "makes_a_view": ("CREATE VIEW spy AS SELECT * FROM {table}", (_CREATE,)),
    "makes_a_trigger": (
        "CREATE TRIGGER t BEFORE INSERT ON {table}"
        " EXECUTE FUNCTION pg_catalog.suppress_redundant_updates_trigger()",
        ("GRANT TRIGGER ON {table} TO tenantry_app",),
    ),
    "refers_to_it": (
        "CREATE TABLE spy ({columns}, FOREIGN KEY ({key}) REFERENCES {table} ({key}))",
        ("GRANT REFERENCES ON {table} TO tenantry_app", _CREATE),
    ),
}


def _making(name: str, statement: str, walls: tuple[str, ...]) -> None:
    def fill(text: str, world: World, table: Table) -> str:
        columns = ", ".join(f"{quote(c)} {table.columns[c].type}" for c in table.key)
        return text.format(
            table=table.sql,
            name=quote(table.name),
            tenant_column=table.tenant_column,
            columns=columns,
            key=", ".join(map(quote, table.key)),
            database=quote(world.database),
        )

    async def run(app: Connection, world: World, table: Table) -> None:
        await refuses(app, fill(statement, world, table))

    run.__doc__ = f"The application never {name.replace('_', ' ')}."
    ATTACKS[name] = Attack(
        name, run, lambda world, table: [fill(wall, world, table) for wall in walls]
    )


for _name, (_statement, _walls) in MAKING.items():
    _making(_name, _statement, _walls)
