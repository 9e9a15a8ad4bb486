"""What `keyword_search` takes beside the same query of the owner, and which index it uses.

Ours is `keyword_search` as the application's role, under row security, in a tenant's transaction.
Theirs is what its function does, written out as one prepared statement: the same terms, weights,
ranking and excerpts, for a tenant that it is told, as the superuser, past row security. Through
bare asyncpg, and beside it through SQLAlchemy's connection. Asked are questions that people have
asked, of tenants of several sizes; those with fewer than 10 hits are left out, since ours then
looks for misspelt words and letter by letter as well, which the one query does not.

For comparison: what one would write without the library, an OR of the words by ts_rank, under the
policy as the application and past it as the owner; it marks nothing, and so ours without highlights
is told as well.

Which index is used is read from the plan of the query within the function, as the application.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from benchmarks.estate import Filled, connect
from benchmarks.lanes import Lane, in_turns, save, table, verdict
from tenantry import Database, TenantSession
from tenantry.schema.row_security import APP_ROLE
from tenantry.search import keyword_search
from tenantry.search.queries import Query
from tenantry.tenancy.connecting import create_engine

if TYPE_CHECKING:
    from argparse import Namespace

    from benchmarks.estate import Estate

MOST: Final = 1.2
K: Final = 10
RANKS: Final = (1, 3, 10, 33, 134)
INDEX: Final = "knowledge_chunks_lexemes_idx"

# The body of tenantry.search_keywords, with its settings.
_THEIRS: Final = """
    WITH t AS MATERIALIZED (
        SELECT * FROM tenantry.weigh_terms({tenant}, {words}, {pairs}, NULL)
    ), q AS MATERIALIZED (
        SELECT t.*, tenantry.demands(
                   t.languages, CAST({required} AS jsonb), {excluded}
               ) AS demanded FROM t
    )
    SELECT c.id, c.document_id, d.title, c.content, n.score,
           tenantry.excerpt(
               c.language, c.content,
               coalesce(q.everything || q.demanded, q.everything, q.demanded),
               nullif(nullif(querytree(q.demanded), ''), 'T')::tsquery
           ) AS excerpt
      FROM q
     CROSS JOIN LATERAL tenantry.matching_chunks(
               {tenant}, q.everything, q.rare, q.terms, q.weights, q.demanded, 10,
               tenantry.filtered_documents({tenant}, NULL)
           ) WITH ORDINALITY n (chunk_id, score, number)
      JOIN knowledge_chunks c ON c.tenant_id = {tenant} AND c.id = n.chunk_id
      JOIN knowledge_documents d ON d.tenant_id = {tenant} AND d.id = c.document_id
     ORDER BY n.number
"""
_NAMES: Final = ("tenant", "words", "pairs", "required", "excluded")
_TYPES: Final = ("uuid", "text", "text[]", "text", "text[]")
_BARE: Final = _THEIRS.format(
    **{
        name: f"${n}::{type_}"
        for n, (name, type_) in enumerate(zip(_NAMES, _TYPES, strict=True), 1)
    }
)
_STACKED: Final = _THEIRS.format(
    **{name: f"CAST(:{name} AS {kind})" for name, kind in zip(_NAMES, _TYPES, strict=True)}
)
_PLAIN: Final = """
    WITH q AS MATERIALIZED (
        SELECT replace(plainto_tsquery('english', $2)::text, '&', '|')::tsquery AS q
    )
    SELECT c.id, c.document_id, d.title, c.content, ts_rank(c.lexemes, q.q) AS score
      FROM q CROSS JOIN knowledge_chunks c
      JOIN knowledge_documents d ON d.tenant_id = $1 AND d.id = c.document_id
     WHERE c.tenant_id = $1 AND c.lexemes @@ q.q
     ORDER BY score DESC LIMIT 10
"""
_SETTINGS: Final = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "join_collapse_limit": "1",
    "jit": "off",
}
_KEYWORDS: Final = """
    SELECT id, document_id, title, content, score, excerpt
      FROM tenantry.search_keywords($1, $2, $3::jsonb, $4, NULL, 10, NULL, true)
"""
_EXPLAINING: Final = """
    LOAD 'auto_explain';
    SET auto_explain.log_min_duration = 0;
    SET auto_explain.log_nested_statements = on;
    SET auto_explain.log_level = 'notice';
    SET client_min_messages = 'notice';
"""
_NODE: Final = re.compile(r"Index (?:Only )?Scan (?:Backward )?(?:on|using) (\w+)")


@dataclass(frozen=True)
class Asked:
    """A question that a tenant asks."""

    tenant: UUID
    text: str

    @property
    def parameters(self) -> tuple[Any, ...]:
        query = Query.parse(self.text)
        return self.tenant, query.words, query.pairs, query.required_json, query.excluded


async def run(options: Namespace) -> bool:
    """Print the figures; return whether the limits are kept."""
    estate: Estate = options.estate
    filled = await estate.of(options.vectors)
    rows: list[list[str]] = []
    slow: list[str] = []
    unindexed: list[str] = []
    for rank in RANKS:
        if rank > len(filled.corpus.sizes):
            continue
        chunks = f"{filled.corpus.sizes[rank - 1]:,}"
        lanes, left_out = await _measured(filled, rank, options)
        if not lanes:
            print(f"    {chunks} chunks: no question has {K} hits", flush=True)
            continue
        ours, bare = lanes[0].milliseconds, lanes[1].milliseconds
        indexes = await _indexes(filled, filled.corpus.tenants[rank - 1])
        rows.append(
            [
                chunks,
                str(left_out),
                *(f"{lane.milliseconds:.2f}" for lane in lanes),
                f"{ours / bare:.2f}",
                f"{ours / lanes[2].milliseconds:.2f}",
                "yes" if INDEX in indexes else f"no: {', '.join(sorted(indexes))}",
            ]
        )
        if ours > MOST * bare:
            slow.append(chunks)
        if INDEX not in indexes:
            unindexed.append(chunks)
    heading = (
        *("chunks", "left out", "ours", "owner, bare", "owner, SQLAlchemy"),
        *(
            "ours without highlights",
            "ts_rank, policy",
            "ts_rank, owner",
            "ours / bare",
            "ours / SQLAlchemy",
            "index used",
        ),
    )
    fast = f"at most {MOST} times the owner's, through the bare driver"
    lines = [
        "Medians in milliseconds.",
        "",
        *table(heading, rows),
        "",
        f"- {fast}: {verdict(not slow)}{_for(slow)}",
        f"- {INDEX} is in the plan: {verdict(not unindexed)}{_for(unindexed)}",
    ]
    print(*lines, sep="\n", flush=True)
    if options.save:
        what = f"{filled.title}, {options.questions} questions, {options.rounds} rounds"
        save("keyword_search", "Keyword search", what, lines)
    return bool(rows) and not slow and not unindexed


def _for(chunks: Sequence[str]) -> str:
    return f" for {'; '.join(chunks)} chunks" if chunks else ""


async def _measured(filled: Filled, rank: int, options: Namespace) -> tuple[list[Lane[Asked]], int]:
    """Return the lanes, ours first, none if nothing was asked, and how many were left out."""
    tenant = filled.corpus.tenants[rank - 1]
    async with AsyncExitStack() as opened:
        owner = await _bare(opened, filled, _SETTINGS, role=None)
        db = await opened.enter_async_context(
            Database.connect(settings=filled.settings(pool_size=2))
        )
        tx = await opened.enter_async_context(db.tenant(tenant))
        engine = create_engine(filled.admin_url)
        opened.push_async_callback(engine.dispose)
        stacked = await opened.enter_async_context(engine.connect())
        for name, value in _SETTINGS.items():
            await stacked.exec_driver_sql(f"SET {name} = '{value}'")
        app = await _bare(opened, filled, {}, role=APP_ROLE)
        await app.execute(f"SET LOCAL tenantry.tenant_id = '{tenant}'")
        plain = await _bare(opened, filled, {}, role=None)
        theirs = await owner.prepare(_BARE)
        found = [
            (each, await theirs.fetch(*each.parameters)) for each in _asked(filled, rank, options)
        ]
        asked = [each for each, rows in found if len(rows) == K]
        if not asked:
            return [], len(found)
        await _same(tx, [(each, rows) for each, rows in found if len(rows) == K])
        lanes = [
            Lane("ours", partial(_ours, tx)),
            Lane("bare", partial(_theirs, theirs)),
            Lane("stacked", partial(_stacked, stacked)),
            Lane("unmarked", partial(_unmarked, tx)),
            Lane("policy", partial(_plain, await app.prepare(_PLAIN))),
            Lane("owner", partial(_plain, await plain.prepare(_PLAIN))),
        ]
        await in_turns(lanes, asked, rounds=options.rounds)
    return lanes, len(found) - len(asked)


async def _bare(
    opened: AsyncExitStack, filled: Filled, settings: dict[str, str], *, role: str | None
) -> asyncpg.Connection:
    connection = await connect(filled, settings, role=role)
    opened.push_async_callback(connection.close)
    await opened.enter_async_context(connection.transaction())
    return connection


def _asked(filled: Filled, rank: int, options: Namespace) -> list[Asked]:
    questions = filled.corpus.squad.questions
    count: int = options.questions
    step = max(1, len(questions) // count)
    tenant = filled.corpus.tenants[rank - 1]
    return [Asked(tenant, each) for each in questions[rank % step :: step][:count]]


async def _same(tx: TenantSession, found: Sequence[tuple[Asked, Sequence[Any]]]) -> None:
    """Make sure that both find the same: otherwise their times say nothing."""
    for asked, rows in found:
        hits = await _ours(tx, asked)
        if [hit.id for hit in hits] != [row["id"] for row in rows]:
            raise AssertionError(f"Ours and theirs find different chunks for {asked.text!r}")


async def _ours(tx: TenantSession, asked: Asked) -> Sequence[Any]:
    return await keyword_search(tx, asked.text, k=K)


async def _unmarked(tx: TenantSession, asked: Asked) -> Sequence[Any]:
    return await keyword_search(tx, asked.text, k=K, highlight=False)


async def _theirs(statement: Any, asked: Asked) -> Sequence[Any]:
    rows: Sequence[Any] = await statement.fetch(*asked.parameters)
    return rows


async def _stacked(connection: AsyncConnection, asked: Asked) -> Sequence[Any]:
    parameters = dict(zip(_NAMES, asked.parameters, strict=True))
    parameters["pairs"], parameters["excluded"] = (
        list(parameters["pairs"]),
        list(parameters["excluded"]),
    )
    return (await connection.execute(text(_STACKED), parameters)).all()


async def _plain(statement: Any, asked: Asked) -> Sequence[Any]:
    rows: Sequence[Any] = await statement.fetch(asked.tenant, asked.text)
    return rows


async def _indexes(filled: Filled, tenant: UUID) -> set[str]:
    """Return the indexes in the plans of a keyword search, as the application's role."""
    told: list[str] = []
    connection = await connect(filled)
    try:
        connection.add_log_listener(lambda _, message: told.append(str(message)))
        await connection.execute(_EXPLAINING)
        async with connection.transaction():
            await connection.execute(f"SET LOCAL ROLE {APP_ROLE}")
            await connection.execute(f"SET LOCAL tenantry.tenant_id = '{tenant}'")
            query = Query.parse("Who led the church in the middle of the century?")
            parameters = (query.words, query.pairs, query.required_json, query.excluded)
            await connection.fetch(_KEYWORDS, *parameters)
        # Only the query that looks the words up: others use indexes as well.
        plans = [each for each in told if "lexemes @@ wanted" in each]
        if not plans:
            raise AssertionError("auto_explain told no plan of the query that looks words up")
        return {index for plan in plans for index in _NODE.findall(plan)}
    finally:
        await connection.close()
