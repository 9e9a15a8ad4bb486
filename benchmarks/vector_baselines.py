"""What `vector_search` is compared with: the same rows, found by the owner past row security.

Each connection has one plan, forced: comparing every chunk of the tenant; the required index, which
is over everybody's vectors; the index of the tenant's part. Statements are prepared and their
generic plans kept, which is the fastest that a driver can do. All run in an open transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Self
from uuid import UUID

import asyncpg
import numpy as np
from numpy.typing import NDArray
from pgvector import Vector
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from benchmarks.estate import Filled, connect
from tenantry.tenancy.connecting import create_engine

__all__ = ["EXACT", "SETTINGS", "Baselines", "K", "Question", "Setting"]

K: Final = 10

Kind = Literal["exact", "whole", "part"]


@dataclass(frozen=True)
class Question:
    """A vector that a tenant asks for."""

    tenant: UUID
    data: bytes
    """In pgvector's binary form."""
    numbers: list[float]
    array: NDArray[np.float32]


@dataclass(frozen=True)
class Setting:
    """One way of finding the nearest chunks.

    Args:
        kind: Which plan.
        ef_search: Of the index.
        many: So many times k rows are taken from the index, and the nearest of them kept.
    """

    kind: Kind
    ef_search: int = 0
    many: int = 1

    @property
    def label(self) -> str:
        if self.kind == "exact":
            return "exact"
        return f"{self.kind} ef {self.ef_search}" + (f", {self.many}k" if self.many > 1 else "")


EXACT: Final = Setting("exact")
SETTINGS: Final = (
    *(Setting("part", ef, 2) for ef in (40, 60, 100, 150, 200, 300, 400, 600, 1000)),
    *(
        Setting("whole", ef, many)
        for ef in (40, 60, 100, 200, 300, 400, 600, 800, 1000)
        for many in (1, 4, 10)
    ),
)
"""What is tried beside `EXACT`."""

_INNER: Final[dict[Kind, str]] = {
    "exact": """
        SELECT c.id, c.document_id, c.content, (c.embedding <=> {vector}) + 0 AS distance
          FROM knowledge_chunks c
         WHERE c.tenant_id = {tenant} AND c.embedding IS NOT NULL
         ORDER BY distance LIMIT {k}""",
    "whole": """
        SELECT c.id, c.document_id, c.content, c.embedding <=> {vector} AS distance
          FROM knowledge_chunks c
         WHERE c.tenant_id = {tenant}
         ORDER BY c.embedding <=> {vector} LIMIT {limit}""",
    "part": """
        SELECT c.id, c.document_id, c.content, c.embedding <=> {vector} AS distance
          FROM knowledge_chunks c
         WHERE c.tenant_id = {tenant} AND tenantry.search_part(c.tenant_id) = {part}
         ORDER BY l2_normalize(c.embedding)::halfvec(1024)
                  <#> l2_normalize({vector})::halfvec(1024) LIMIT {limit}""",
}
_OUTER: Final = """
    WITH c AS MATERIALIZED ({inner}
    ), nearest AS MATERIALIZED (SELECT * FROM c ORDER BY c.distance, c.id LIMIT {k})
    SELECT n.id, n.document_id, d.title, n.content, 1 - n.distance AS score
      FROM nearest n
      JOIN knowledge_documents d ON d.tenant_id = {tenant} AND d.id = n.document_id
     ORDER BY n.distance, n.id
"""
_COMMON: Final = {
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    "max_parallel_workers_per_gather": "0",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}
# An ordered scan of the tenant's rows through a sort is what keeps an HNSW index from being taken.
_BY_INDEX: Final = {
    **_COMMON,
    "enable_sort": "off",
    "enable_bitmapscan": "off",
    "hnsw.iterative_scan": "relaxed_order",
}
_FORCED: Final[dict[Kind, dict[str, str]]] = {
    "exact": _COMMON,
    "whole": _BY_INDEX,
    "part": _BY_INDEX,
}


def _query(setting: Setting, tenant: UUID, *, vector: str, bound: str) -> str:
    limit = K * setting.many
    inner = _INNER[setting.kind].format(
        vector=vector, tenant=bound, k=K, limit=limit, part=tenant.bytes[15] & 15
    )
    return _OUTER.format(inner=inner, tenant=bound, k=K)


class Baselines:
    """The connections, two for each plan: a bare one and one of SQLAlchemy's."""

    def __init__(self, filled: Filled) -> None:
        self._filled = filled
        self._open = AsyncExitStack()
        self._bare: dict[Kind, asyncpg.Connection] = {}
        self._stacked: dict[Kind, AsyncConnection] = {}
        self._statements: dict[tuple[Kind, str], Any] = {}
        self._ef_search: dict[object, int] = {}

    async def __aenter__(self) -> Self:
        engine = create_engine(self._filled.admin_url)
        self._open.push_async_callback(engine.dispose)
        for kind, settings in _FORCED.items():
            bare = await connect(self._filled, settings)
            self._open.push_async_callback(bare.close)
            await self._open.enter_async_context(bare.transaction())
            self._bare[kind] = bare
            stacked = await self._open.enter_async_context(engine.connect())
            await stacked.execute(text("SELECT CAST('[1]' AS vector)"))
            for name, value in settings.items():
                await stacked.exec_driver_sql(f"SET {name} = '{value}'")
            self._stacked[kind] = stacked
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._open.aclose()

    async def set(self, setting: Setting) -> None:
        """Give the connections of a plan the ``ef_search`` of a setting; not on the clock."""
        if setting.kind == "exact" or self._ef_search.get(setting.kind) == setting.ef_search:
            return
        statement = f"SET hnsw.ef_search = {setting.ef_search}"
        await self._bare[setting.kind].execute(statement)
        await self._stacked[setting.kind].exec_driver_sql(statement)
        self._ef_search[setting.kind] = setting.ef_search

    async def bare(self, setting: Setting, question: Question) -> Sequence[Any]:
        """Ask through the driver, by a statement that is prepared."""
        query = _query(setting, question.tenant, vector="$1", bound="$2")
        key = (setting.kind, query)
        if key not in self._statements:
            self._statements[key] = await self._bare[setting.kind].prepare(query)
        rows: Sequence[Any] = await self._statements[key].fetch(question.data, question.tenant)
        return rows

    async def of_array(self, setting: Setting, question: Question) -> Sequence[Any]:
        """Ask through the driver, from the same array that ours gets."""
        return await self._converted(setting, question, question.array)

    async def of_list(self, setting: Setting, question: Question) -> Sequence[Any]:
        """Ask through the driver, from the same list of numbers that ours gets."""
        return await self._converted(setting, question, question.numbers)

    async def _converted(self, setting: Setting, question: Question, given: Any) -> Sequence[Any]:
        return await self.bare(setting, replace(question, data=Vector(given).to_binary()))

    async def stacked(self, setting: Setting, question: Question) -> Sequence[Any]:
        """Ask through SQLAlchemy, with the vector as text, as pgvector's type sends it."""
        query = _query(setting, question.tenant, vector="CAST(:v AS vector)", bound=":t")
        vector = str(question.numbers)
        connection = self._stacked[setting.kind]
        found = await connection.execute(text(query), {"v": vector, "t": question.tenant})
        return found.all()

    async def check(self, question: Question) -> None:
        """Make sure that each plan is the one that it is called after."""
        part = f"knowledge_chunks_embedding_part_{question.tenant.bytes[15] & 15}_idx"
        wanted = {"exact": "", "whole": "knowledge_chunks_embedding_idx", "part": part}
        for setting in (EXACT, Setting("whole", 40), Setting("part", 40, 2)):
            await self.set(setting)
            query = _query(setting, question.tenant, vector="$1", bound="$2")
            rows = await self._bare[setting.kind].fetch(
                f"EXPLAIN (COSTS OFF) {query}", question.data, question.tenant
            )
            plan = "\n".join(row[0] for row in rows)
            index = wanted[setting.kind]
            if index not in plan or (not index and "_embedding_" in plan):
                raise AssertionError(f"The baseline {setting.label!r} has another plan:\n{plan}")
