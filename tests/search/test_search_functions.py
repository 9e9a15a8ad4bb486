"""The search functions, asked with SQL of one's own beside a tenant with the same ids.

They see the rows of all tenants, and each condition on the tenant in them is a wall. All answers
have to be those that the tenant would get if nobody else were there: texts, order, scores, plans.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest

from tenantry.schema.row_security import APP_ROLE
from tenantry.tenancy.functions import FUNCTIONS, SqlFunction
from tests.conftest import Connect, Server, bind, open_connection
from tests.search.library import QUESTION

pytestmark = pytest.mark.untraced

# Both in the same part, so that they share its index.
A, B = UUID("a0000000-0000-4000-8000-000000000005"), UUID("b0000000-0000-4000-8000-000000000015")
ASKED = f"'{QUESTION}'::public.vector"
WORDS = "'apple häuser', '{}', '[]', '{}', NULL"

QUESTIONS = [
    *(
        f"SELECT * FROM tenantry.{function}({ASKED}, {k}, {where}, {recall})"
        for function in ("search_vectors", "search_documents")
        for k in (1, 5)
        for where in ("NULL", "'$.n == 2'", "'$.n > 0'")
        for recall in (0.97, 1)
    ),
    *(
        f"SELECT * FROM tenantry.search_keywords({WORDS}, {k}, {where}, true)"
        for k in (5, 50)
        for where in ("NULL", "'$.n == 2'")
    ),
    "SELECT * FROM tenantry.search_keywords('appel', '{}', '[[\"apple\"]]', '{four}', NULL, 50,"
    " NULL, true)",
    f"SELECT * FROM tenantry.search_hybrid({ASKED}, {WORDS}, 50, NULL, 50, 0.5, 1, true)",
    f"SELECT * FROM tenantry.search_hybrid({ASKED}, '', '{{}}', '[]', '{{nearest}}', NULL, 50,"
    " NULL, 1, 0.5, 1, true)",
    # More words than count, of which B alone has some: they displace none of A's.
    "SELECT * FROM tenantry.search_keywords("
    "'apple mine secret ' || (SELECT string_agg(n::text, ' ') FROM generate_series(1, 40) n),"
    " '{}', '[]', '{}', NULL, 50, NULL, true)",
    "SELECT * FROM tenantry.similar_words('appel häuser', NULL)",
    "SELECT * FROM tenantry.search_substrings('pple', 50, NULL)",
    "SELECT * FROM tenantry.search_substrings('pple', 50, '$.n == 2')",
    *(
        f"SELECT * FROM tenantry.explain_vector_search({k}, {where}, 0.97, {documents})"
        for k in (1, 2, 20)
        for where in ("NULL", "'$.n == 2'", "'$.n > 0'")
        for documents in ("false", "true")
    ),
]

# A tenant's rows: as many ids of documents and chunks as asked for, the same for every tenant.
FILL = (
    "INSERT INTO knowledge_documents (tenant_id, id, title, content, metadata, embedding)"
    " SELECT $1, md5('d' || n)::uuid, $2, $2 || ' apple ' || n, jsonb_build_object('n', n % $4),"
    "  ('[' || s || ',' || sqrt(1 - s * s) || repeat(',0', 1022) || ']')::vector"
    " FROM generate_series(1, $3::integer) n, LATERAL (SELECT $5::float8 - n / 100.0 AS s) s",
    "INSERT INTO knowledge_chunks (tenant_id, id, document_id, position, content, language,"
    "  embedding)"
    " SELECT $1, md5('c' || n)::uuid, md5('d' || n)::uuid, 0, $2 || ' apple ' || n, $4,"
    "  ('[' || s || ',' || sqrt(1 - s * s) || repeat(',0', 1022) || ']')::vector"
    " FROM generate_series(1, $3::integer) n, LATERAL (SELECT $5::float8 - n / 100.0 AS s) s",
)
TUNED = '{"roots": 0, "least": 0, "ef_search": {"0.97": 40}}'
PART = (
    "CREATE INDEX knowledge_chunks_embedding_part_5_idx ON knowledge_chunks USING hnsw"
    " ((l2_normalize(embedding)::halfvec(1024)) halfvec_ip_ops)"
    " WHERE tenantry.search_part(tenant_id) = 5"
)


# Other rows, in the order of their ids: some of the tenant's lack a vector. Of 205, 128 have one:
# 200 are compared, if 20 are wanted. {a} says which of A's lack it, {b} which of B's {rows}.
LACKING = """
    DELETE FROM knowledge_chunks; DELETE FROM knowledge_documents;
    CREATE TEMPORARY TABLE made ON COMMIT DROP AS
    SELECT tenant::uuid, ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid AS id,
           CASE WHEN NOT lacks THEN
               ('[' || s || ',' || sqrt(1 - s * s) || repeat(',0', 1022) || ']')::vector
           END AS embedding
      FROM (SELECT '{tenant_a}' AS tenant, n, n BETWEEN {a} AS lacks, 0.99 - n / 1000.0 AS s
              FROM generate_series(1, 205) n
            UNION ALL
            SELECT '{tenant_b}', n, {b}, 0.5 - n / 1000.0 FROM generate_series(1, 300) n
             WHERE {rows}) made;
    INSERT INTO knowledge_documents (tenant_id, id, title, content, metadata, embedding)
    SELECT tenant, id, 't', 'c', '{{"n": 1}}', embedding FROM made;
    INSERT INTO knowledge_chunks (tenant_id, id, document_id, position, content, embedding)
    SELECT tenant, id, id, 0, 'c', embedding FROM made;
    ANALYZE knowledge_documents, knowledge_chunks;
    DROP TABLE made
"""
AMONG_THE_OLDEST = LACKING.format(tenant_a=A, tenant_b=B, a="1 AND 77", b="false", rows="n <= 80")
IN_THE_MIDDLE = LACKING.format(
    tenant_a=A, tenant_b=B, a="65 AND 141", b="true", rows="n <= 64 OR n > 236"
)
FIRST_OF_SAMPLES, FIRST_OF_COUNTS = 3, 7
"""Numbers of conditions in plan_vector_search.sql."""


@pytest.fixture(scope="module")
async def database(server: Server, template: str) -> AsyncIterator[str]:
    name = await server.create_database(template=template)
    admin = await open_connection(server.at(name))
    for tenant, slug in ((A, "a"), (B, "b")):
        await admin.execute(
            "INSERT INTO tenants (id, name, slug) VALUES ($1, $2, $2)", tenant, slug
        )
    await admin.execute(FILL[0], A, "mine apple", 25, 5, 0.5)
    await admin.execute(FILL[1], A, "mine apple", 25, "english", 0.5)
    await admin.execute(
        "UPDATE knowledge_chunks SET content = content || ' nearest' WHERE id = md5('c1')::uuid"
    )
    await admin.execute(FILL[0], B, "SECRET appel apples appeal Häuser", 40, 3, 0.95)
    await admin.execute(FILL[1], B, "SECRET appel apples appeal Häuser", 40, "german", 0.95)
    await admin.execute("ANALYZE knowledge_documents, knowledge_chunks")
    await admin.close()
    yield name
    await server.drop_database(name)


@pytest.fixture
async def admin(
    server: Server, database: str, connect: Connect
) -> AsyncIterator[asyncpg.Connection]:
    """The superuser in a transaction, which is rolled back."""
    connection = await connect(server.at(database))
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()


def rounded(row: asyncpg.Record) -> list[object]:
    """The last digit depends on the order in which a plan adds up."""
    return [round(value, 12) if isinstance(value, float) else value for value in row]


async def told(admin: asyncpg.Connection, tenant: UUID | None = A) -> list[str]:
    """The answers to all questions, as the application's role."""
    answers = []
    await admin.execute(f"SET LOCAL ROLE {APP_ROLE}")
    if tenant:
        await bind(admin, tenant)
    for tuned in ("", f'{{"whole": {TUNED}, "part": {TUNED}}}'):
        await admin.execute(f"SET LOCAL tenantry.vector_search = '{tuned}'")
        answers += [str([rounded(row) for row in await admin.fetch(each)]) for each in QUESTIONS]
    await admin.execute("RESET ROLE")
    return answers


_ALONE: dict[tuple[str, ...], list[str]] = {}


async def alone(admin: asyncpg.Connection, *before: str) -> list[str]:
    """The same, were tenant A alone; asked for once."""
    if before not in _ALONE:
        _ALONE[before] = await _alone(admin, *before)
    return _ALONE[before]


async def _alone(admin: asyncpg.Connection, *before: str) -> list[str]:
    savepoint = admin.transaction()
    await savepoint.start()
    for statement in before:
        await admin.execute(statement)
    await admin.execute("DELETE FROM knowledge_chunks WHERE tenant_id = $1", B)
    await admin.execute("DELETE FROM knowledge_documents WHERE tenant_id = $1", B)
    answers = await told(admin)
    await savepoint.rollback()
    return answers


@pytest.mark.parametrize(
    "before",
    [[], [PART], [AMONG_THE_OLDEST], [IN_THE_MIDDLE]],
    ids=["whole", "part", "lacking among the oldest", "lacking in the middle"],
)
async def test_answers_are_those_of_a_tenant_alone(
    admin: asyncpg.Connection, before: list[str]
) -> None:
    """Nothing of another tenant's is in an answer: no row, no word, no score, no count."""
    expected = await alone(admin, *before)
    for statement in before:
        await admin.execute(statement)
    answers = await told(admin)
    assert answers == expected
    assert not [answer for answer in answers if "SECRET" in answer]
    assert len([answer for answer in answers if answer == "[]"]) < len(answers) / 3


CONDITION = re.compile(r"\b\w\.tenant_id = (tenant\b|\$1)")
WALLS = [
    (function, number)
    for function in FUNCTIONS
    if "knowledge_" in function.sql
    for number in range(len(CONDITION.findall(function.sql)))
]


def without(function: SqlFunction, number: int) -> str:
    """The function with one of its conditions on the tenant taken out."""
    found = list(CONDITION.finditer(function.sql))[number]
    return function.as_owner(function.sql[: found.start()] + "true" + function.sql[found.end() :])


@pytest.mark.parametrize(
    ("function", "number"), WALLS, ids=[f"{f.file.removesuffix('.sql')}-{n}" for f, n in WALLS]
)
async def test_each_condition_is_a_wall(
    admin: asyncpg.Connection, function: SqlFunction, number: int
) -> None:
    """Each condition on the tenant, taken out, shows in an answer: the test above would fail."""
    before = []
    if function.file == "nearest_chunks.sql" and number == 0:
        before = [PART]
    elif function.file == "plan_vector_search.sql" and number >= FIRST_OF_SAMPLES:
        before = [AMONG_THE_OLDEST if number >= FIRST_OF_COUNTS else IN_THE_MIDDLE]
    expected = await alone(admin, *before)
    for statement in before:
        await admin.execute(statement)
    await admin.execute("SET LOCAL ROLE tenantry_owner")
    await admin.execute(without(function, number))
    await admin.execute("RESET ROLE")
    assert await told(admin) != expected


async def test_without_a_tenant_there_is_nothing(admin: asyncpg.Connection) -> None:
    """No function gives a row, or a plan, where no tenant is bound."""
    assert set(await told(admin, None)) == {"[]"}


INTERNAL = [
    each
    for each in FUNCTIONS
    if each.owner == "tenantry_auth" and "SECURITY DEFINER" not in each.sql
]


async def test_internal_functions_are_out_of_reach(admin: asyncpg.Connection) -> None:
    """What takes a tenant as an argument is not for the application, nor for the operator."""
    assert len(INTERNAL) >= 8
    rows = await admin.fetch(
        "SELECT p.proname, has_function_privilege(r.rolname, p.oid, 'EXECUTE') AS may"
        "  FROM pg_proc p, pg_roles r WHERE p.pronamespace = 'tenantry'::regnamespace"
        "   AND p.proname = ANY ($1) AND r.rolname IN ('tenantry_app', 'tenantry_operator')",
        [each.file.removesuffix(".sql") for each in INTERNAL],
    )
    assert len(rows) == 2 * len(INTERNAL)
    assert not [row["proname"] for row in rows if row["may"]]


async def test_no_search_function_writes(admin: asyncpg.Connection) -> None:
    """All are STABLE or IMMUTABLE, and run where nothing may be written."""
    await admin.execute("SET TRANSACTION READ ONLY")
    assert await told(admin)
    volatile = await admin.fetch(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'tenantry'::regnamespace"
        " AND proname ~ '^(search|similar|explain|nearest|matching|weigh|plan|filtered|demands)'"
        " AND provolatile = 'v'"
    )
    assert volatile == []


@pytest.mark.parametrize(
    "trick",
    [
        "SET LOCAL search_path = pg_temp, public",
        "SET LOCAL search_path = ''",
        "SET LOCAL plan_cache_mode = force_generic_plan",
        "SET LOCAL plan_cache_mode = force_custom_plan",
        "SET LOCAL default_text_search_config = 'pg_catalog.german'",
        "SET LOCAL pg_trgm.word_similarity_threshold = 0",
        "SET LOCAL pg_trgm.similarity_threshold = 0",
        "SET LOCAL enable_sort = off; SET LOCAL enable_indexscan = off",
        "SET LOCAL hnsw.ef_search = 1; SET LOCAL hnsw.max_scan_tuples = 1",
        "SET LOCAL constraint_exclusion = on; SET LOCAL jit = on; SET LOCAL jit_above_cost = 0",
        "SET LOCAL standard_conforming_strings = off",
        "SET LOCAL extra_float_digits = 3",
    ],
)
async def test_settings_open_nothing(admin: asyncpg.Connection, trick: str) -> None:
    """Whatever the application sets, before it first asks, answers stay those of a tenant alone."""
    savepoint = admin.transaction()
    await savepoint.start()
    await admin.execute(trick)
    answers = await told(admin)
    await savepoint.rollback()
    assert "SECRET" not in str(answers)
    if "hnsw" not in trick:
        assert set(answers) == set(await alone(admin))


async def test_row_security_switched_off(admin: asyncpg.Connection) -> None:
    """Who asks to go past the policies gets PostgreSQL's refusal, and no row."""
    await admin.execute(f"SET LOCAL ROLE {APP_ROLE}; SET LOCAL row_security = off")
    await bind(admin, A)
    for question in QUESTIONS:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with admin.transaction():
                await admin.fetch(question)


async def test_nothing_of_the_callers_is_run(admin: asyncpg.Connection) -> None:
    """Functions, operators and tables that stand first in the caller's path are not used."""
    expected = await alone(admin)
    # By the superuser, in a schema of its own: the application could not even make them.
    await admin.execute(
        "CREATE SCHEMA spy; GRANT USAGE ON SCHEMA spy TO PUBLIC;"
        " CREATE FUNCTION spy.left(text, integer) RETURNS text LANGUAGE sql"
        "  AS $$ SELECT 1 / 0 || '' $$;"
        " CREATE FUNCTION spy.word_similarity(text, text) RETURNS real LANGUAGE sql"
        "  AS 'SELECT 1 / 0';"
        " CREATE FUNCTION spy.distance(public.vector, public.vector) RETURNS float8 LANGUAGE sql"
        "  AS 'SELECT 1 / 0';"
        " CREATE OPERATOR spy.<=> (LEFTARG = public.vector, RIGHTARG = public.vector,"
        "  FUNCTION = spy.distance);"
        " CREATE TABLE spy.knowledge_chunks (LIKE public.knowledge_chunks);"
        " CREATE TABLE spy.knowledge_documents (LIKE public.knowledge_documents);"
        " SET LOCAL search_path = spy, public, pg_catalog"
    )
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with admin.transaction():
            await admin.fetchval(f"SELECT {ASKED} <=> {ASKED}")
    assert await told(admin) == expected


@pytest.mark.parametrize(
    "attack",
    [
        "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TABLE public.knowledge_spy ()",
        "CREATE TEMPORARY TABLE knowledge_chunks ()",
        "CREATE OR REPLACE FUNCTION tenantry.excerpt(text, text, tsquery, tsquery) RETURNS text"
        " LANGUAGE sql AS 'SELECT $2'",
        "ALTER FUNCTION tenantry.similar_words(text, text[]) RESET ALL",
        "SET LOCAL ROLE tenantry_auth",
        "SELECT tenantry.filtered_documents('b0000000-0000-4000-8000-000000000015', '$.n > 0')",
        "SELECT lexemes FROM ONLY knowledge_chunks"
        " WHERE tenantry.excerpt('x', content, 'x', NULL) = ''",
    ],
)
async def test_the_application_makes_nothing(
    server: Server, database: str, connect: Connect, attack: str
) -> None:
    """It cannot put anything in the functions' way, change them, or become their owner."""
    app = await connect(server.at(database, user=APP_ROLE))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with app.transaction():
            await bind(app, A)
            await app.execute(attack)
