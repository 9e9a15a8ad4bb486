"""SQL of every shape, written by hand as tenant A: what of B's comes out of it?

Each statement runs twice, with the policies and with policies that let everything through. In the
second world it has to tell something of B's, or it would prove nothing in the first.
"""

from __future__ import annotations

import contextlib

import asyncpg
import pytest

from tests.conftest import bind
from tests.isolation.conftest import Stage
from tests.isolation.rows import World

SHAPES: dict[str, str] = {
    "table": "TABLE widgets",
    "only": "SELECT * FROM ONLY widgets",
    "whole row": "SELECT w FROM widgets AS w",
    "row as json": "SELECT row_to_json(w), to_jsonb(w) FROM widgets AS w",
    "row as text": "SELECT w::text FROM widgets AS w",
    "record": "SELECT ROW(w.*) FROM widgets AS w",
    "aggregates": "SELECT string_agg(name, ','), max(name), array_agg(id) FROM widgets",
    "ordered set": "SELECT mode() WITHIN GROUP (ORDER BY name DESC) FROM widgets",
    "grouping sets": "SELECT name, count(*) FROM widgets GROUP BY GROUPING SETS ((name), ())",
    "windows": "SELECT last_value(name) OVER (ORDER BY tenant_id RANGE BETWEEN UNBOUNDED PRECEDING"
    " AND UNBOUNDED FOLLOWING), lag(name) OVER (), lead(name) OVER () FROM widgets",
    "distinct on": "SELECT DISTINCT ON (tenant_id) name FROM widgets",
    "self join": "SELECT o.name FROM widgets w JOIN widgets o ON o.tenant_id <> w.tenant_id",
    "join on the id alone": "SELECT m.content FROM messages m JOIN conversation_sessions c"
    " ON c.id = m.session_id",
    "full join": "SELECT w.name, o.name FROM widgets w FULL JOIN widgets o USING (id)",
    "lateral": "SELECT o.name FROM generate_series(1, 1) AS g, LATERAL (TABLE widgets) AS o",
    "anti-join": "SELECT name FROM widgets WHERE NOT EXISTS (SELECT FROM tenants"
    " WHERE id = tenant_id AND id = tenantry.current_tenant())",
    "scalar subquery": "SELECT (SELECT max(name) FROM widgets WHERE tenant_id"
    " <> tenantry.current_tenant())",
    "array subquery": "SELECT ARRAY(SELECT name FROM widgets)",
    "union": "SELECT name FROM widgets UNION ALL SELECT content FROM messages",
    "except": "SELECT name FROM widgets EXCEPT ALL SELECT name FROM widgets"
    " WHERE tenant_id = tenantry.current_tenant()",
    "recursive": "WITH RECURSIVE r AS (SELECT name, 1 AS n FROM widgets UNION ALL"
    " SELECT w.name, n + 1 FROM r, widgets w WHERE n < 3) SELECT * FROM r",
    "materialized": "WITH w AS MATERIALIZED (TABLE widgets) SELECT * FROM w",
    "sample by page": "SELECT name FROM widgets TABLESAMPLE SYSTEM (100)",
    "sample by row": "SELECT name FROM widgets TABLESAMPLE BERNOULLI (100) REPEATABLE (1)",
    "by ctid": "SELECT ctid, name FROM widgets WHERE ctid = ANY (ARRAY(SELECT"
    " format('(0,%s)', n)::tid FROM generate_series(1, 100) AS n))",
    "by range of ctid": "SELECT xmin, ctid, name FROM widgets WHERE ctid >= '(0,0)'",
    "by table": "SELECT tableoid, xmax, cmin, name FROM widgets"
    " WHERE tableoid = 'widgets'::regclass",
    "for update": "SELECT name FROM widgets FOR UPDATE SKIP LOCKED",
    "update returning": "UPDATE widgets SET name = name RETURNING *",
    "update from": "UPDATE widgets w SET name = o.name FROM widgets o"
    " WHERE o.tenant_id <> w.tenant_id RETURNING w.name",
    "delete returning": "DELETE FROM messages RETURNING *",
    "delete using": "DELETE FROM messages m USING widgets w"
    " WHERE w.tenant_id <> m.tenant_id RETURNING w.*",
    "insert select": "INSERT INTO widgets (name) SELECT name FROM widgets"
    " WHERE tenant_id <> tenantry.current_tenant() RETURNING name",
    "modifying query": "WITH gone AS (DELETE FROM messages RETURNING *),"
    " changed AS (UPDATE widgets SET name = name RETURNING name)"
    " SELECT gone.content, changed.name FROM gone, changed",
    "do block": "DO $$ BEGIN PERFORM set_config('my.loot',"
    " (SELECT string_agg(name, ',') FROM widgets), true); END $$",
    "query in a function": "SELECT ts_stat('SELECT to_tsvector(''simple'', name) FROM widgets')",
    "rewritten query": "SELECT ts_rewrite('a'::tsquery, 'SELECT ''a''::tsquery,"
    " plainto_tsquery(''simple'', name) FROM widgets WHERE tenant_id"
    " <> tenantry.current_tenant()')",
    "nearest": "SELECT content FROM knowledge_chunks ORDER BY embedding <=> embedding LIMIT 9",
    "by trigram": "SELECT content FROM knowledge_documents WHERE content ILIKE '%word%'",
}
VERSIONED: dict[str, tuple[int, str]] = {
    "merge returning": (
        17,
        "MERGE INTO widgets w USING (SELECT 1) AS s ON true"
        " WHEN MATCHED THEN UPDATE SET name = w.name RETURNING w.*",
    ),
    "old and new": (18, "UPDATE widgets SET name = name RETURNING old.*, new.name"),
    "old of a delete": (18, "DELETE FROM messages RETURNING old.content, new.content"),
    "old of an upsert": (
        18,
        "INSERT INTO widgets (tenant_id, id, name) SELECT tenant_id, id, 'taken' FROM widgets"
        " ON CONFLICT (tenant_id, id) DO UPDATE SET name = excluded.name RETURNING old.name",
    ),
}


XML: dict[str, str] = {
    "query as xml": "SELECT query_to_xml('SELECT * FROM widgets', true, false, '')",
    "table as xml": "SELECT table_to_xml('widgets', true, false, '')",
    "schema as xml": "SELECT schema_to_xml('public', true, false, '')",
}


async def ask(connection: asyncpg.Connection, statement: str) -> list[object]:
    """All that a statement answers, DO blocks included."""
    rows = [tuple(row.values()) for row in await connection.fetch(statement)]
    return [*rows, await connection.fetchval("SELECT current_setting('my.loot', true)")]


@pytest.mark.parametrize("shape", SHAPES)
async def test_no_shape_of_sql_tells_of_others(
    stage: Stage, as_a: asyncpg.Connection, shape: str
) -> None:
    """Whatever the statement looks like, only rows of the bound tenant take part in it."""
    stage.judge(await ask(as_a, SHAPES[shape]))


@pytest.mark.parametrize("shape", VERSIONED)
async def test_no_newer_shape_of_sql_tells_of_others(
    stage: Stage, as_a: asyncpg.Connection, shape: str
) -> None:
    """The same for what newer versions of PostgreSQL can say; older ones do not parse it."""
    since, statement = VERSIONED[shape]
    if as_a.get_server_version().major < since:
        with pytest.raises((asyncpg.PostgresSyntaxError, asyncpg.UndefinedTableError)):
            await as_a.fetch(statement)
    else:
        stage.judge(await ask(as_a, statement))


@pytest.mark.parametrize("shape", XML)
async def test_xml_does_not_tell_of_others(
    stage: Stage, as_a: asyncpg.Connection, shape: str
) -> None:
    """Functions that run a query inside are no way around; some servers are built without them."""
    with contextlib.suppress(asyncpg.FeatureNotSupportedError):
        stage.judge(await ask(as_a, XML[shape]))


@pytest.mark.parametrize("scan", ["seqscan", "indexscan", "indexonlyscan", "bitmapscan"])
async def test_no_way_of_scanning_tells_of_others(
    stage: Stage, as_a: asyncpg.Connection, scan: str
) -> None:
    """The policy holds in every plan: by sequence, by index, by the index alone, by bitmap."""
    for other in ("seqscan", "indexscan", "indexonlyscan", "bitmapscan"):
        if other != scan:
            await as_a.execute(f"SET LOCAL enable_{other} = off")
    stage.judge(await ask(as_a, "SELECT tenant_id, id FROM meetings WHERE tenant_id IS NOT NULL"))


@pytest.mark.parametrize("direction", ["FORWARD ALL", "LAST", "ABSOLUTE -1", "BACKWARD ALL"])
async def test_cursors_do_not_tell_of_others(
    stage: Stage, as_a: asyncpg.Connection, direction: str
) -> None:
    """A cursor goes over the tenant's rows only, in any direction."""
    await as_a.execute(
        "DECLARE c SCROLL CURSOR FOR SELECT name FROM widgets ORDER BY created_at, name"
    )
    if direction.startswith("BACKWARD"):
        await as_a.execute("MOVE FORWARD ALL IN c")
    stage.judge([tuple(row) for row in await as_a.fetch(f"FETCH {direction} FROM c")])


# Errors as an answer

LEAKY: dict[str, str] = {
    "cast to a number": "name::int > 0",
    "cast to a date": "name::date IS NOT NULL",
    "cast to a table": "name::regclass IS NOT NULL",
    "cast to json": "name::jsonb IS NOT NULL",
    "cast to a uuid": "name::uuid IS NOT NULL",
    "name of a setting": "current_setting(name) IS NOT NULL",
    "cast to an interval": "name::interval IS NOT NULL",
    "text search configuration": "to_tsvector(name::regconfig, 'x') IS NOT NULL",
    "encoding": "convert_to('x', name) IS NOT NULL",
}


@pytest.mark.parametrize("where", ["WHERE {0}", "ORDER BY {0}", "GROUP BY {0}", "HAVING"])
@pytest.mark.parametrize("predicate", LEAKY)
async def test_errors_do_not_quote_rows_of_others(
    stage: Stage, as_a: asyncpg.Connection, predicate: str, where: str
) -> None:
    """What would fail on B's row, and quote it, is not evaluated on it, wherever it stands."""
    guarded = f"CASE WHEN tenant_id <> '{stage.world.a}' THEN {LEAKY[predicate]} ELSE true END"
    clause = f"HAVING bool_and({guarded})" if where == "HAVING" else where.format(guarded)
    error = None
    try:
        await as_a.fetch(f"SELECT 1 FROM widgets {clause}")
    except asyncpg.PostgresError as caught:
        error = str(caught)
    stage.judge(error)


@pytest.mark.parametrize(
    "condition",
    [
        "1 / (1 - (name = $1)::int) > 0",
        "sqrt(0.5 - (name = $1)::int) > 0",
        "(ARRAY[1, 2])[1] / (1 - (name = $1)::int) IS NOT NULL",
        "repeat('x', 2000000000 * (name = $1)::int) IS NOT NULL",
        "ln(1 - (name = $1)::int) IS NOT NULL",
        "(CASE WHEN name = $1 THEN 'x' ELSE '1' END)::int = 1",
        "substring('x', 1, 1 - 2 * (name = $1)::int) IS NOT NULL",
        "(SELECT 1 FROM generate_series(1, 1 + (name = $1)::int)) = 1",
    ],
)
async def test_errors_do_not_tell_whether_others_have_a_value(
    stage: Stage, as_a: asyncpg.Connection, condition: str
) -> None:
    """Dividing by "B has this name" does not fail, so A learns nothing from it."""
    secret = stage.world.tables["widgets"].rows[stage.world.b]["name"]
    query = f"SELECT FROM widgets WHERE {condition}"
    failed = False
    try:
        await as_a.fetch(query, secret)
    except asyncpg.PostgresError:
        failed = True
    assert failed is not stage.standing


PEEK = """
CREATE FUNCTION peek(value text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 {leakproof} AS $$
BEGIN
    RAISE NOTICE 'saw %', value;
    RETURN true;
END $$
"""


@pytest.mark.parametrize("leakproof", ["", "LEAKPROOF"], ids=["standing", "down"])
async def test_a_cheap_function_does_not_see_rows_before_the_policy(
    world: World, leakproof: str
) -> None:
    """A function that is cheap enough to come first still comes after; LEAKPROOF ends that."""
    heard: list[str] = []

    def listen(connection: object, message: asyncpg.PostgresLogMessage) -> None:
        heard.append(str(message.message))

    await world.admin.execute(PEEK.format(leakproof=leakproof))
    world.app.add_log_listener(listen)
    try:
        async with world.app.transaction():
            await bind(world.app, world.a)
            await world.app.execute(
                "SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off"
            )
            await world.app.fetch("SELECT FROM widgets WHERE peek(name)")
    finally:
        world.app.remove_log_listener(listen)
        await world.admin.execute("DROP FUNCTION peek(text)")
    own, theirs = (world.tables["widgets"].rows[who]["name"] for who in (world.a, world.b))
    assert f"saw {own}" in heard
    assert (f"saw {theirs}" in heard) is bool(leakproof)
