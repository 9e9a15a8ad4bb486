"""256 searches at once, of 50 tenants and of all three kinds: whose rows are found, and how fast.

Every hit of ours is looked up in what the superuser knows of the table: one that belongs to another
tenant, or fewer hits than there must be, is a miss. The look-up is on our clock.

The throughput is told beside that of bare asyncpg, as the same role, on as many connections: for
each search a transaction of its own with SET LOCAL, and the very statement that the library sends,
its arguments made beforehand. Of questions in words those are asked that have 10 hits, so that the
library's one statement is all that it sends, and none with something demanded in quotes.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID

import asyncpg
import numpy as np

from benchmarks.corpus import binary, from_binary, slug
from benchmarks.estate import Filled, connect
from benchmarks.lanes import save, verdict
from tenantry import Database
from tenantry.schema.row_security import APP_ROLE
from tenantry.search import (
    Hit,
    explain_vector_search,
    hybrid_search,
    keyword_search,
    vector_search,
)
from tenantry.search.planning import DEFAULT_RECALL, exact_query
from tenantry.search.queries import Query
from tenantry.search.searching import _CHUNKS, _HYBRID, _KEYWORDS, DEFAULT_VECTOR_WEIGHT, POOL

if TYPE_CHECKING:
    from argparse import Namespace

    from benchmarks.estate import Estate

AT_ONCE: Final = 256
SEARCHES: Final = 1_024
TENANTS: Final = 50
CONNECTIONS: Final = 10
LEAST_CHUNKS: Final = 20
K: Final = 10

Kind = Literal["vectors", "keywords", "both"]

_OWNERS: Final = "SELECT id, tenant_id FROM knowledge_chunks WHERE tenant_id = ANY ($1)"
_STORED: Final = "SELECT embedding FROM knowledge_chunks WHERE tenant_id = $1 ORDER BY id LIMIT 50"


@dataclass(frozen=True)
class Search:
    """One search, for either side."""

    kind: Kind
    tenant: UUID
    title: str
    text: str
    numbers: list[float]
    statement: str
    arguments: tuple[Any, ...]


@dataclass
class Found:
    """What our searches have returned, judged.

    Args:
        owners: Whose each chunk is, of the tenants that ask.
    """

    owners: dict[UUID, UUID]
    searches: int = 0
    hits: int = 0
    strays: int = 0
    incomplete: int = 0

    def check(self, search: Search, hits: Sequence[Hit]) -> None:
        self.searches += 1
        self.hits += len(hits)
        self.incomplete += len({hit.id for hit in hits}) != K or len(hits) != K
        for hit in hits:
            own = self.owners.get(hit.id) == search.tenant and hit.title.startswith(search.title)
            self.strays += not own

    @property
    def kept(self) -> bool:
        return self.hits > 0 and self.strays == self.incomplete == 0

    def told(self) -> list[str]:
        counted = f"{self.hits:,} hits of {self.searches:,} searches"
        return [
            f"- {counted}, {self.strays} of another tenant: {verdict(self.strays == 0)}",
            f"- searches without {K} hits: {self.incomplete}: {verdict(self.incomplete == 0)}",
        ]


async def run(options: Namespace) -> bool:
    """Print the figures; return whether no tenant has seen another's row."""
    estate: Estate = options.estate
    filled = await estate.of(options.vectors)
    connection = await connect(filled)
    settings = filled.settings(pool_size=CONNECTIONS)
    try:
        async with Database.connect(settings=settings) as db, _pool(filled) as pool:
            ranks = _ranks(filled)
            tenants = [filled.corpus.tenants[rank] for rank in ranks]
            owners = {row[0]: row[1] for row in await connection.fetch(_OWNERS, tenants)}
            searches = await _searches(db, pool, connection, filled, ranks)

            found = Found(owners)

            async def ours(search: Search) -> None:
                found.check(search, await _ours(db, search))

            async def bare(search: Search) -> None:
                await _bare(pool, search)

            speeds: dict[str, list[float]] = {"ours": [], "bare": []}
            for search in searches[: 2 * TENANTS]:  # statements prepared, plans made
                await ours(search)
                await bare(search)
            for turn in range(max(3, options.rounds)):
                lanes = [("ours", ours), ("bare", bare)]
                for name, ask in lanes if turn % 2 == 0 else reversed(lanes):
                    speeds[name].append(await _speed(ask, searches))
    finally:
        await connection.close()
    mine, theirs = (statistics.median(speeds[name]) for name in ("ours", "bare"))
    smallest, largest = filled.corpus.sizes[ranks[-1]], filled.corpus.sizes[ranks[0]]
    compared = f"ours {mine:,.0f} searches/s, bare asyncpg with the same SQL {theirs:,.0f}"
    lines = [
        f"{AT_ONCE} at once, {CONNECTIONS} connections, {len(tenants)} tenants.",
        f"They have {smallest:,} to {largest:,} chunks.",
        f"Medians of {len(speeds['ours'])} times {len(searches):,} searches.",
    ]
    lines += ["", f"- {compared}: {mine / theirs:.2f} of it", *found.told()]
    print(*lines, sep="\n", flush=True)
    if options.save:
        save("concurrent_search", "Concurrent searches", filled.title, lines)
    return found.kept


def _pool(filled: Filled) -> asyncpg.Pool:
    async def prepare(connection: asyncpg.Connection) -> None:
        await connection.set_type_codec(
            "vector", schema="public", encoder=bytes, decoder=bytes, format="binary"
        )

    url = filled.admin_url.set(username=APP_ROLE)
    return asyncpg.create_pool(
        url.render_as_string(hide_password=False),
        min_size=CONNECTIONS,
        max_size=CONNECTIONS,
        init=prepare,
    )


def _ranks(filled: Filled) -> list[int]:
    """Return the places of tenants of all sizes from the largest on, evenly over the ranks."""
    sizes = filled.corpus.sizes
    count = sum(size >= LEAST_CHUNKS for size in sizes)
    return sorted({int(place) for place in np.linspace(0, count - 1, min(TENANTS, count))})


async def _searches(
    db: Database,
    pool: asyncpg.Pool,
    connection: asyncpg.Connection,
    filled: Filled,
    ranks: Sequence[int],
) -> list[Search]:
    """Return the searches, in an order in which tenants and kinds are mixed."""
    chance = random.Random(3)
    texts = filled.corpus.squad.questions
    searches: list[Search] = []
    each_has = SEARCHES // len(ranks) + 1
    for rank in ranks:
        tenant = filled.corpus.tenants[rank]
        async with db.tenant(tenant) as tx:
            exact = (await explain_vector_search(tx, k=K)).plan == "exact"
        stored = np.stack([from_binary(row[0]) for row in await connection.fetch(_STORED, tenant)])
        vectors = filled.corpus.questions(np.random.default_rng(rank), stored, each_has)
        for number, vector in enumerate(vectors):
            kind: Kind = ("vectors", "keywords", "both")[number % 3]
            while True:
                text = chance.choice(texts)
                if not Query.parse(text).is_plain:
                    continue  # what is demanded in quotes few chunks have, or none
                statement, arguments = _statement(kind, tenant, text, binary(vector), exact=exact)
                title = f"{slug(rank)} "
                search = Search(kind, tenant, title, text, vector.tolist(), statement, arguments)
                if kind != "keywords" or len(await _bare(pool, search)) == K:
                    break
            searches.append(search)
    chance.shuffle(searches)
    return searches


def _statement(
    kind: Kind, tenant: UUID, text: str, vector: bytes, *, exact: bool
) -> tuple[str, tuple[Any, ...]]:
    """Return what the library sends for a search, and the arguments."""
    query = Query.parse(text)
    words = (query.words, query.pairs, query.required_json, query.excluded, None, K, None)
    if kind == "keywords":
        return _KEYWORDS, (*words, True)
    if kind == "both":
        arguments = (vector, *words, POOL, DEFAULT_VECTOR_WEIGHT, DEFAULT_RECALL, True)
        return _HYBRID.replace("{vector}", "$1"), arguments
    if exact:
        return exact_query(K, documents=False).replace("{vector}", "$1"), (vector, tenant)
    return _CHUNKS.replace("{vector}", "$1"), (vector, K, None, DEFAULT_RECALL)


async def _bare(pool: asyncpg.Pool, search: Search) -> Sequence[Any]:
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(f"SET LOCAL tenantry.tenant_id = '{search.tenant}'")
        rows: Sequence[Any] = await connection.fetch(search.statement, *search.arguments)
        return rows


async def _ours(db: Database, search: Search) -> list[Hit]:
    async with db.tenant(search.tenant) as tx:
        if search.kind == "keywords":
            return await keyword_search(tx, search.text, k=K)
        if search.kind == "both":
            return await hybrid_search(tx, text=search.text, embedding=search.numbers, k=K)
        return await vector_search(tx, search.numbers, k=K)


async def _speed(ask: Callable[[Search], Awaitable[None]], searches: Sequence[Search]) -> float:
    """Return how many are answered in a second, `AT_ONCE` of them always waiting."""
    left = iter(searches)

    async def work() -> None:
        for search in left:
            await ask(search)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(work())
    return len(searches) / (time.perf_counter() - started)
