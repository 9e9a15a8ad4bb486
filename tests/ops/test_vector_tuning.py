"""What vector searches go by: measured, kept, and harmless whatever it says."""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.pool import NullPool

from tenantry import Database
from tenantry.cli.knowledge import conclusions
from tenantry.errors import (
    ConfigurationError,
    InvalidValueError,
    MigrationError,
    PrivilegeError,
    SchemaError,
)
from tenantry.ops import vector_judging, vector_measuring
from tenantry.ops.audit import audit
from tenantry.ops.diagnosis.vector_search import diagnose_vector_search
from tenantry.ops.drift import check
from tenantry.ops.tenants import find_tenant
from tenantry.ops.vector_judging import GRID, IndexMeasured, TenantMeasured, judge
from tenantry.ops.vector_measuring import measure_vector_search
from tenantry.ops.vector_parts import PARTS, drop_parts, make_parts
from tenantry.ops.vector_tuning import (
    VECTOR_SEARCH,
    IndexTuning,
    VectorTuning,
    built_in,
    current_tuning,
    keep_tuning,
)
from tenantry.schema.row_security import APP_ROLE
from tenantry.search import explain_vector_search, vector_search
from tenantry.settings import ADMIN_URL, DATABASE_URL, url_text
from tenantry.tenancy.connecting import create_engine
from tests.cli.conftest import Command, command, tenantry
from tests.conftest import Server, Urls, open_connection

__all__ = ["command", "tenantry"]  # fixtures

LARGE, SMALL = 2_200, 60

# Vectors of few numbers around some middle ones, as those of real texts are around their subjects.
FILL = """
    WITH middles AS MATERIALIZED (
        SELECT s, ARRAY(SELECT random() - 0.5 FROM generate_series(1, 1024) WHERE s > 0) AS middle
          FROM generate_series(1, 20) s
    ), document AS (
        INSERT INTO knowledge_documents (tenant_id, title, content)
        SELECT id, name, name FROM tenants WHERE slug = $1 RETURNING tenant_id, id
    )
    INSERT INTO knowledge_chunks (tenant_id, document_id, content, position, embedding)
    SELECT d.tenant_id, d.id, 'chunk ' || n, n, ARRAY(
               SELECT m + 0.6 * (random() - 0.5) FROM unnest(middle) m WHERE n >= 0
           )::vector
      FROM document d, generate_series(1, $2::int) n JOIN middles ON s = n % 20 + 1
"""


# Most chunks of all, and none has a vector.
NOT_EMBEDDED = """
    WITH tenant AS (
        INSERT INTO tenants (name, slug) VALUES ('Words', 'words') RETURNING id
    ), document AS (
        INSERT INTO knowledge_documents (tenant_id, title, content)
        SELECT id, 'words', 'words' FROM tenant RETURNING tenant_id, id
    )
    INSERT INTO knowledge_chunks (tenant_id, document_id, content, position)
    SELECT tenant_id, id, 'chunk ' || n, n FROM document, generate_series(1, $1::int) n
"""


@pytest.fixture(scope="module")
async def filled(server: Server, template: str) -> AsyncIterator[Urls]:
    """A database with a tenant that an index is for, one that is too small, and one without."""
    name = await server.create_database(template=template)
    connection = await open_connection(server.at(name))
    await connection.execute("DROP INDEX knowledge_chunks_embedding_idx")
    for slug, number in (("large", LARGE), ("small", SMALL)):
        await connection.execute("INSERT INTO tenants (name, slug) VALUES (initcap($1), $1)", slug)
        await connection.execute(FILL, slug, number)
    await connection.execute(NOT_EMBEDDED, 2 * LARGE)
    await connection.execute(
        "SET ROLE tenantry_owner;"
        "CREATE INDEX knowledge_chunks_embedding_idx ON knowledge_chunks"
        " USING hnsw (embedding vector_cosine_ops); RESET ROLE;"
        "ANALYZE knowledge_chunks"
    )
    await connection.close()
    yield Urls(app=server.at(name, user=APP_ROLE), admin=server.at(name))
    await server.drop_database(name)


@pytest.fixture
async def large(filled: Urls) -> AsyncIterator[Database]:
    """The same, opened."""
    async with Database.connect(settings=filled.settings) as database:
        yield database


@pytest.fixture
async def forgotten(filled: Urls) -> AsyncIterator[None]:
    """Takes away at the end what the test has kept."""
    yield
    connection = await open_connection(filled.admin)
    await connection.execute(f'ALTER DATABASE "{filled.admin.database}" RESET {VECTOR_SEARCH}')
    await connection.close()


async def test_the_index_is_measured_against_comparing(
    large: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tenant that an index is for is asked; recall rises with ef_search, up to nearly all."""
    monkeypatch.setattr(vector_measuring, "_QUESTIONS", 25)
    gone: list[float] = []
    found = await measure_vector_search(large, on_progress=gone.append)
    (index,) = found.indexes
    (tenant,) = index.tenants
    assert (index.kind, tenant.slug, tenant.chunks) == ("whole", "large", LARGE)
    assert index.questions == len(gone) >= 20
    assert gone == sorted(gone)
    assert found.rows == pytest.approx(3 * LARGE + SMALL, rel=0.02)
    recalls = [index.recall(ef_search)[0] for ef_search in GRID]
    assert 0 < recalls[0] <= recalls[-1] <= 1
    assert recalls[-1] > 0.9
    assert all(0 < each < 5_000 for times in tenant.hnsw_ms.values() for each in times)
    assert found.tuning is not None
    assert set(found.tuning.indexes) == set(built_in().indexes)
    assert found.tuning.indexes["part"] == built_in().indexes["part"], "what was not measured stays"
    async with large.tenant(tenant.tenant_id) as tx:
        assert await current_tuning(tx) is None, "to measure changes nothing"


async def test_questions_are_compared_with_what_is_there(large: Database) -> None:
    """With every chunk compared, as with the index, the same k are found; none is left out."""
    tenant_id = (await find_tenant(large, "large")).id
    questions = await vector_measuring._questions(large, tenant_id)
    assert len(questions) == 200
    assert all(math.isclose(math.fsum(x * x for x in each), 1, rel_tol=1e-6) for each in questions)
    measured = TenantMeasured(tenant_id, "large", LARGE)
    async with large.tenant(tenant_id) as tx:
        await vector_measuring._measure(tx, measured, questions[0])
        await vector_measuring._set(tx, vector_measuring._forced(None))
        exact, _ = await vector_measuring._timed(tx, questions[0], recall=1.0)
        similarity = text(
            "SELECT 1 - (embedding <=> CAST(:question AS vector)) FROM knowledge_chunks"
            " ORDER BY 1 DESC LIMIT 10"
        )
        truth = (await tx.execute(similarity, {"question": str(questions[0])})).scalars().all()
    assert exact == pytest.approx(truth, abs=1e-6)
    assert [len(each) for each in measured.recalls.values()] == [1] * len(GRID)


async def test_where_each_tenant_is_small_there_is_nothing_to_tune(
    db: Database, tenants: object
) -> None:
    """Searches compare all of a small tenant's chunks, tuned or not."""
    found = await measure_vector_search(db, seconds=1)
    assert (found.indexes, found.tuning) == ((), None)


async def test_too_few_questions_are_no_measurement(
    large: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mean of a handful says nothing: it is an error, and more time is asked for."""
    monkeypatch.setattr(vector_measuring, "_QUESTIONS", 3)
    with pytest.raises(InvalidValueError, match=r"Only 3 questions .* 20 are required"):
        await measure_vector_search(large)
    for seconds in (0, -1, math.nan, math.inf):
        with pytest.raises(InvalidValueError, match="from 1 to 86,400"):
            await measure_vector_search(large, seconds=seconds)


async def test_an_invalid_index_is_not_measured(large: Database, filled: Urls) -> None:
    """PostgreSQL sorts instead of using it, which would look like a perfect index."""
    connection = await open_connection(filled.admin)
    mark = (
        "UPDATE pg_index SET indisvalid = $1"
        " WHERE indexrelid = 'knowledge_chunks_embedding_idx'::regclass"
    )
    await connection.execute(mark, False)
    try:
        with pytest.raises(SchemaError, match="missing or invalid.*knowledge mend"):
            await measure_vector_search(large, seconds=1)
    finally:
        await connection.execute(mark, True)
        await connection.close()


async def test_indexes_by_parts_are_made_asked_and_dropped(
    large: Database, filled: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search goes by them and finds what comparing finds; no check takes them for drift."""
    tenant_id = (await find_tenant(large, "large")).id
    question = (await vector_measuring._questions(large, tenant_id))[0]
    before = await check(filled.admin)
    done: list[int] = []
    try:
        assert len(await make_parts(filled.admin, on_progress=done.append)) == PARTS
        assert done == list(range(1, PARTS + 1))
        assert await make_parts(filled.admin) == [], "those that are there stay"
        connection = await open_connection(filled.admin)
        options = await connection.fetch(
            "SELECT reloptions FROM pg_class WHERE relname LIKE 'knowledge_chunks_embedding_part_%'"
        )
        await connection.close()
        assert [each[0] for each in options] == [["ef_construction=200"]] * PARTS, "fewer islands"
        assert await check(filled.admin) == before
        monkeypatch.setattr(vector_measuring, "_QUESTIONS", 25)
        found = await measure_vector_search(large)
        assert [each.kind for each in found.indexes] == ["part"]
        assert found.tuning is not None
        assert found.tuning.indexes["whole"] == built_in().indexes["whole"]
        async with large.tenant(tenant_id) as tx:
            await vector_measuring._set(tx, vector_measuring._forced(1000))
            assert (await explain_vector_search(tx, recall=1)).plan == "part"
            asked = await vector_search(tx, question, recall=0.9999)
            compared = await vector_search(tx, question, recall=1)
            assert {hit.id for hit in asked} == {hit.id for hit in compared}
    finally:
        await drop_parts(filled.admin)
    async with large.tenant(tenant_id) as tx:
        await vector_measuring._set(tx, vector_measuring._forced(1000))
        assert (await explain_vector_search(tx, recall=1)).plan == "whole"


async def test_a_part_whose_build_failed_is_built_again(large: Database, filled: Urls) -> None:
    """An invalid index is asked by no search, and the next run replaces it."""
    await make_parts(filled.admin)
    connection = await open_connection(filled.admin)
    try:
        await connection.execute(
            "UPDATE pg_index SET indisvalid = false"
            " WHERE indexrelid = 'knowledge_chunks_embedding_part_3_idx'::regclass"
        )
        assert await make_parts(filled.admin) == ["knowledge_chunks_embedding_part_3_idx"]
    finally:
        await connection.close()
        await drop_parts(filled.admin)


async def test_a_part_that_cannot_be_built_is_an_error(filled: Urls) -> None:
    """It says which statement, and that searches go on."""
    connection = await open_connection(filled.admin)
    try:
        await connection.execute("ALTER FUNCTION tenantry.search_part(uuid) RENAME TO gone")
        with pytest.raises(MigrationError, match="CREATE INDEX .* failed .*42883"):
            await make_parts(filled.admin)
    finally:
        await connection.execute("ALTER FUNCTION tenantry.gone(uuid) RENAME TO search_part")
        await connection.close()


def made_up(
    sizes: dict[int, tuple[float, float]],
    recalls: dict[int, float],
    *,
    questions: int = 20,
    spread: float = 0.0,
) -> list[TenantMeasured]:
    """Tenants with the milliseconds of comparing and of the index, and recalls by ef_search.

    Half of the questions find `spread` more, and half as much less.
    """
    signs = [1 if number % 2 else -1 for number in range(questions)]
    found = {ef: recalls.get(ef, max(recalls.values())) for ef in GRID}
    return [
        TenantMeasured(
            uuid4(),
            f"t{chunks}",
            chunks,
            "whole",
            [exact] * questions,
            {ef: [hnsw] * questions for ef in GRID},
            {ef: [found[ef] + sign * spread for sign in signs] for ef in GRID},
        )
        for chunks, (exact, hnsw) in sizes.items()
    ]


HELD = IndexTuning(5.0, built_in().indexes["whole"].least, {0.9: 111, 0.97: 777})
RECALLS = {40: 0.8, 60: 0.85, 100: 0.92, 150: 0.94, 200: 0.96, 300: 0.975, 400: 0.98}


def test_each_recall_gets_the_least_ef_search_that_has_reached_it() -> None:
    """And none where none has; then the search compares."""
    found = judge("whole", 100_000, made_up({10_000: (40.0, 4.0)}, RECALLS), HELD)
    assert found.tuning.ef_search == {0.9: 100, 0.95: 300 - 100, 0.97: 300}
    assert found.in_doubt == ()


def measured(sizes: dict[int, tuple[float, float]]) -> IndexMeasured:
    return judge("whole", 100_000, made_up(sizes, RECALLS), HELD)


def test_the_limit_is_where_both_cost_the_same() -> None:
    """Between two tenants; below the smallest or above the largest, as costs go on."""
    between = measured({8_000: (32.0, 4.0), 500: (2.0, 8.0)})
    assert between.exact_up_to == max(built_in().indexes["whole"].least, between.exact_up_to or 0)
    root = math.sqrt(10 * 100_000)
    # The ratio is 4 at 500 and 1/8 at 8,000: 1 is at two fifths of the way, by logarithm.
    assert between.tuning.roots == pytest.approx(500 * 16**0.4 / root)
    assert measured({8_000: (32.0, 4.0)}).tuning.roots == pytest.approx(1_000 / root)
    assert measured({8_000: (32.0, 64.0)}).tuning.roots == pytest.approx(16_000 / root)
    assert [each.chunks for each in between.judged] == [8_000], "where the index is asked"


def test_an_index_that_reaches_nothing_is_not_asked() -> None:
    """No ef_search is kept, and the limit is left as it was."""
    found = judge("whole", 100_000, made_up({10_000: (40.0, 4.0)}, {40: 0.5}), HELD)
    assert (found.tuning.ef_search, found.exact_up_to) == ({}, None)
    assert found.tuning.roots == HELD.roots


@pytest.mark.parametrize("recall", [0.5, 0.98])
def test_few_questions_change_nothing(recall: float) -> None:
    """Neither is an index switched off for them, nor made to look less far."""
    few = made_up({10_000: (40.0, 4.0), 2_500: (10.0, 4.0)}, {40: recall}, questions=9)
    found = judge("whole", 100_000, few, HELD)
    assert (found.tuning, found.exact_up_to) == (HELD, None)
    assert found.in_doubt == vector_judging.RECALLS


def test_the_command_says_what_few_questions_change() -> None:
    """A line for each recall, with what holds for it as before."""
    few = made_up({10_000: (40.0, 4.0)}, {40: 0.5}, questions=3)
    lines = conclusions(judge("whole", 100_000, few, HELD))
    assert lines == [
        "recall 0.9: too few questions to tell, so ef_search 111 stays",
        "recall 0.95: too few questions to tell, so ef_search 777 stays",
        "recall 0.97: too few questions to tell, so ef_search 777 stays",
        "recall 0.99: too few questions to tell, so all are compared as before",
        "more --seconds ask more questions",
    ]


def test_only_questions_to_those_that_the_index_is_for_count() -> None:
    """However many were asked of tenants whose chunks are compared in any case."""
    many = made_up({10_000: (40.0, 4.0)}, RECALLS, questions=5)
    many += made_up({2_000: (2.0, 8.0), 1_900: (1.9, 8.0)}, RECALLS, questions=60)
    found = judge("whole", 100_000, many, HELD)
    assert [each.chunks for each in found.judged] == [10_000]
    assert found.tuning == HELD


@pytest.mark.parametrize(("questions", "is_told"), [(20, False), (200, True)])
def test_a_recall_that_chance_may_have_missed_stays_as_it_was(
    questions: int, is_told: bool
) -> None:
    """0.955 is less than 0.97 by less than two standard errors of 20 questions, not of 200."""
    missed = made_up({10_000: (40.0, 4.0)}, {40: 0.955}, questions=questions, spread=0.045)
    found = judge("whole", 100_000, missed, HELD)
    assert found.tuning.ef_search == {0.9: 40, 0.95: 40} | ({} if is_told else {0.97: 777})
    assert found.in_doubt == (() if is_told else (0.97,))


def test_what_stays_looks_no_less_far_than_what_was_reached() -> None:
    """A search takes the least ef_search of its recall and those above it."""
    missed = {40: 0.9, 1000: 0.965}
    found = judge("whole", 100_000, made_up({10_000: (40.0, 4.0)}, missed, spread=0.03), HELD)
    assert found.tuning.ef_search == {0.9: 40, 0.95: 60, 0.97: 777}
    held = IndexTuning(HELD.roots, HELD.least, {0.97: 50})
    found = judge("whole", 100_000, made_up({10_000: (40.0, 4.0)}, missed, spread=0.03), held)
    assert found.tuning.ef_search == {0.9: 40, 0.95: 60, 0.97: 60}


def test_tenants_of_all_sizes_are_chosen() -> None:
    """The largest, the smallest, and some between them whose sizes fall by the same factor."""
    tenants = [TenantMeasured(uuid4(), str(n), 10_000 // n) for n in range(1, 101)]
    chosen = [each.chunks for each in vector_measuring._spread(tenants, 4)]
    assert (chosen[0], chosen[-1], len(chosen)) == (10_000, 100, 4)
    assert chosen[1] == pytest.approx(2_154, rel=0.25)
    assert chosen[2] == pytest.approx(464, rel=0.25)


TUNED = VectorTuning(
    {"whole": IndexTuning(1.25, 100, {0.9: 40, 0.97: 120}), "part": IndexTuning(1, 9, {})}
)


def test_a_tuning_is_read_as_it_was_written() -> None:
    """And the JSON is what the SQL function reads."""
    assert VectorTuning.parse(TUNED.json()) == TUNED
    assert json.loads(TUNED.json())["whole"] == {
        "roots": 1.25,
        "least": 100,
        "ef_search": {"0.9": 40, "0.97": 120},
    }


async def test_what_is_built_in_is_what_the_function_has(large: Database) -> None:
    """With the built-in figures a search is planned as without any."""
    tenant_id = (await find_tenant(large, "large")).id
    async with large.tenant(tenant_id) as tx:
        for recall in (0.5, 0.9, 0.97, 0.99):
            before = await explain_vector_search(tx, recall=recall)
            await vector_measuring._set(tx, built_in().json())
            assert await explain_vector_search(tx, recall=recall) == before
            await vector_measuring._set(tx, "")


async def test_what_is_kept_reaches_new_connections(
    large: Database, filled: Urls, forgotten: None
) -> None:
    """The search goes by it, in connections that are opened afterwards."""
    tenant_id = (await find_tenant(large, "large")).id
    async with large.tenant(tenant_id) as tx:
        before = await explain_vector_search(tx)
    await keep_tuning(filled.admin, TUNED)
    async with large.tenant(tenant_id) as tx:
        assert await explain_vector_search(tx) == before, "this connection is an old one"
    async with (
        Database.connect(settings=filled.settings) as database,
        database.tenant(tenant_id) as tx,
    ):
        assert await current_tuning(tx) == TUNED
        plan = await explain_vector_search(tx, recall=0.97)
        assert (plan.plan, plan.ef_search) == ("whole", 120)
        assert plan.exact_up_to == pytest.approx(
            1.25 * math.sqrt(10 * (3 * LARGE + SMALL)), rel=0.02
        )
        assert (await explain_vector_search(tx, recall=0.99)).plan == "exact", "not reached"


async def test_nobody_takes_it_for_a_binding_of_tenants(filled: Urls, forgotten: None) -> None:
    """Neither the audit nor the check for drift finds fault with it; with a tenant they do."""
    before = await check(filled.admin)
    await keep_tuning(filled.admin, TUNED)
    assert await check(filled.admin) == before
    report = await audit(filled.admin, live=False)
    assert not [each for each in report.findings if each.check.startswith("setting")]


@pytest.fixture
async def managed(server: Server, filled: Urls) -> AsyncIterator[Urls]:
    """The same with an administrator who is no superuser."""
    role, granted = f"keeper_{uuid4().hex[:8]}", "tenantry_owner, tenantry_operator"
    await server.run(f"CREATE ROLE {role} LOGIN PASSWORD 'x'", f"GRANT {granted} TO {role}")
    yield Urls(app=filled.app, admin=filled.admin.set(username=role, password="x"))
    await server.run(f"REVOKE {granted} FROM {role}", f"DROP ROLE {role}")


async def test_who_may_not_keep_it_is_told_what_to_do(managed: Urls) -> None:
    """PostgreSQL lets superusers only; anybody can give it in the application's URL."""
    with pytest.raises(PrivilegeError, match="ALTER DATABASE .* SET tenantry.vector_search") as no:
        await keep_tuning(managed.admin, TUNED)
    given = re.search(r"[?]tenantry\.vector_search=\S+", str(no.value))
    assert given is not None
    url = managed.app.update_query_dict(make_url(f"postgresql:///x{given[0]}").query)
    async with Database.connect(url) as database, database.tenant(uuid4()) as tx:
        assert await current_tuning(tx) == TUNED


def test_what_cannot_be_kept_is_printed_all_the_same(command: Command, managed: Urls) -> None:
    """Measuring takes a minute or more; the exit code and the error say that it was not kept."""
    given = {DATABASE_URL: url_text(managed.app), ADMIN_URL: url_text(managed.admin)}
    result = command("knowledge", "tune", "--seconds", "2", "--json", **given)
    assert "PostgreSQL lets superusers keep such a setting" in result.err
    value = json.loads(result.out)
    assert (result.code, value["kept"]) == (1, False)
    assert VectorTuning.parse(json.dumps(value["setting"])).indexes["whole"].ef_search


WRONG = [
    ("{", "no JSON"),
    ("[" * 100_000, "no JSON"),
    ("[]", "a JSON list, and no object"),
    ('"x"', "a JSON str, and no object"),
    ('{"whole": 1}', "'whole' is no object"),
    ('{"whole": {"least": 1, "ef_search": {}}}', "roots of 'whole'"),
    ('{"whole": {"roots": "5", "least": 1, "ef_search": {}}}', "roots of 'whole'"),
    ('{"whole": {"roots": true, "least": 1, "ef_search": {}}}', "roots of 'whole'"),
    ('{"whole": {"roots": NaN, "least": 1, "ef_search": {}}}', "roots of 'whole'"),
    ('{"whole": {"roots": -1, "least": 1, "ef_search": {}}}', "roots of 'whole'"),
    ('{"whole": {"roots": 1e300, "least": 1, "ef_search": {}}}', "roots of 'whole'"),
    ('{"whole": {"roots": 1, "least": 1.5, "ef_search": {}}}', "least of 'whole'"),
    ('{"whole": {"roots": 1, "least": -1, "ef_search": {}}}', "least of 'whole'"),
    ('{"whole": {"roots": 1, "least": 1}}', "ef_search of 'whole'"),
    ('{"whole": {"roots": 1, "least": 1, "ef_search": {"x": 1}}}', "recall 'x'"),
    ('{"whole": {"roots": 1, "least": 1, "ef_search": {"2": 1}}}', "recall '2'"),
    ('{"whole": {"roots": 1, "least": 1, "ef_search": {"1": 0}}}', "ef_search for 1"),
    ('{"whole": {"roots": 1, "least": 1, "ef_search": {"1": 1001}}}', "ef_search for 1"),
    ('{"whole": {"roots": 1, "least": 1, "ef_search": {"1": "40"}}}', "ef_search for 1"),
]


@pytest.mark.parametrize(("value", "why"), WRONG, ids=range(len(WRONG)))
def test_a_value_that_no_search_can_use_is_refused(value: str, why: str) -> None:
    """The error names what is wrong with it, and how to write it anew."""
    with pytest.raises(ConfigurationError, match="knowledge tune") as refused:
        VectorTuning.parse(value)
    assert f"{VECTOR_SEARCH} cannot be used" in str(refused.value)
    assert why in str(refused.value)


async def test_whatever_it_says_a_search_sees_one_tenant(large: Database) -> None:
    """A wrong value fails the search or changes its plan; it never shows another's rows."""
    async with large.operator() as tx:
        ids = {row.slug: row.id for row in await tx.execute(text("SELECT slug, id FROM tenants"))}
        own = set(
            (
                await tx.execute(
                    text("SELECT id FROM knowledge_chunks WHERE tenant_id = :id"),
                    {"id": ids["small"]},
                )
            ).scalars()
        )
    failed = 0
    for value in [each for each, _ in WRONG] + ['{"part": {}}', "{}", "null"]:
        async with large.tenant(ids["small"]) as tx:
            nested = await tx.begin_nested()
            await vector_measuring._set(tx, value)
            try:
                hits = await vector_search(tx, [1.0] * 1024, k=SMALL)
            except ConfigurationError:
                failed += 1
                await nested.rollback()
            else:
                assert len(hits) == SMALL
                assert {hit.id for hit in hits} == own
            assert len((await tx.execute(text("SELECT id FROM knowledge_chunks"))).all()) == SMALL
    assert failed, "what is no JSON cannot be read"


async def test_the_command_measures_and_keeps(
    command: Command, filled: Urls, forgotten: None
) -> None:
    """A dry run prints the table and changes nothing; without, the database has it."""
    given = {DATABASE_URL: url_text(filled.app), ADMIN_URL: url_text(filled.admin)}
    dry = command("knowledge", "tune", "--seconds", "2", "--dry-run", **given)
    assert (dry.code, "nothing was kept" in dry.err) == (0, True), dry
    assert re.search(r"^ *exact +1\.000 +\d+\.\d ms *$", dry.out, re.MULTILINE)
    assert [int(each) for each in re.findall(r"^ *(\d+) +[01]\.\d{3} ", dry.out, re.MULTILINE)] == [
        *GRID
    ]
    assert "recall 0.97: " in dry.out
    result = command("knowledge", "tune", "--seconds", "2", "--json", **given)
    assert "connections that are opened from now on" in " ".join(result.err.split())
    value = json.loads(result.out)
    assert value["kept"] is True
    (measured,) = value["measured"]
    assert (measured["index"], measured["tenants"][0]["slug"]) == ("whole", "large")
    async with Database.connect(settings=filled.settings) as database:
        tenant_id = (await find_tenant(database, "large")).id
        async with database.tenant(tenant_id) as tx:
            kept = await current_tuning(tx)
    assert kept == VectorTuning.parse(json.dumps(value["setting"]))
    explained = command("search", "x", "--tenant", "large", "--explain", **given)
    assert "measured by `tenantry knowledge tune`" in explained.err


def test_the_command_says_when_there_is_nothing_to_tune(tenantry: Command) -> None:
    """An empty database is no error; bad options are one."""
    result = tenantry("knowledge", "tune")
    assert (result.code, result.out) == (0, "")
    assert "nothing to tune" in result.err
    assert json.loads(tenantry("knowledge", "tune", "--json").out)["setting"] is None
    assert "from 1 to 86,400" in tenantry("knowledge", "tune", "--seconds", "0").error
    assert "without --parts" in tenantry("knowledge", "tune", "--parts", "--dry-run").error


async def test_the_doctor_says_what_was_never_measured(urls: Urls) -> None:
    """Many chunks without a measurement are a warning; a value of no use is a problem."""

    async def found() -> tuple[str, str]:
        engine = create_engine(urls.app, pool_class=NullPool)
        async with engine.connect() as connection:
            (diagnosis,) = await diagnose_vector_search(connection)
        await engine.dispose()
        return diagnosis.state, diagnosis.found

    async def run(statement: str) -> None:
        connection = await open_connection(urls.admin)
        await connection.execute(statement)
        await connection.close()

    assert await found() == ("ok", "not measured, and few chunks")
    await run(
        "UPDATE pg_class SET reltuples = 60000 WHERE oid = 'public.knowledge_chunks'::regclass"
    )
    assert await found() == (
        "warning",
        "60,000 chunks, and how far the vector index has to look was never measured",
    )
    await keep_tuning(urls.admin, TUNED)
    assert await found() == ("ok", "searches go by what was measured")
    await run(f"ALTER DATABASE \"{urls.admin.database}\" SET {VECTOR_SEARCH} = '[]'")
    state, said = await found()
    assert (state, "cannot be used" in said) == ("problem", True)
