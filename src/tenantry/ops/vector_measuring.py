"""Measuring what vector searches reach, and what they cost, on the chunks of this database.

How many places the HNSW index has to look at for a wanted recall depends on the vectors, and from
how many chunks on it is faster than comparing depends on the machine: neither can be known before.
Questions are asked through the search functions, as the application's role and for one tenant each,
so what is measured is what users get.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final
from uuid import UUID

from sqlalchemy import func, select, text

from tenantry.database import Database
from tenantry.errors import ConfigurationError, InvalidValueError, SchemaError
from tenantry.ops.vector_judging import (
    GRID,
    LEAST_QUESTIONS,
    IndexMeasured,
    K,
    TenantMeasured,
    judge,
)
from tenantry.ops.vector_tuning import (
    VECTOR_SEARCH,
    IndexTuning,
    VectorTuning,
    built_in,
    current_tuning,
)
from tenantry.schema import KnowledgeChunk, Tenant
from tenantry.search import explain_vector_search, vector_search
from tenantry.tenancy.sessions import TenantSession

__all__ = ["TuningReport", "measure_vector_search"]

_NOBODY: Final = 1_000_000_000  # chunks that no tenant has
_TENANTS: Final = 4
_LOOKED_AT: Final = 24
_QUESTIONS: Final = 200
_PATIENCE: Final = 4
# A session keeps the plans of searches, by their recall among others: nobody else asks with these.
_COMPARED: Final = 1.0
_ASKED: Final = 0.9999
_DRAWN: Final = 0.25  # predicts the recall of real questions best; see _questions
_SAME: Final = 1e-9  # two equal vectors are at the same distance, whichever is returned

_ROWS: Final = text("""
    SELECT reltuples FROM pg_class WHERE oid = 'public.knowledge_chunks'::regclass
""")
_SET: Final = text("SELECT set_config(:name, :value, true)")


@dataclass(frozen=True, slots=True)
class TuningReport:
    """What was found out.

    Args:
        rows: Chunks of all tenants, as the planner knows it.
        indexes: What was measured, for each kind of index.
        tuning: What follows from it; None where no tenant has so many chunks that an index would be
            asked.
    """

    rows: int
    indexes: tuple[IndexMeasured, ...]
    tuning: VectorTuning | None


async def measure_vector_search(
    db: Database,
    *,
    seconds: float = 60.0,
    on_progress: Callable[[float], None] | None = None,
) -> TuningReport:
    """Measure exact searches and those of the HNSW indexes on tenants of several sizes.

    Nothing is changed. Reads run as the application, one tenant at a time; only the list of
    tenants is read as the operator.

    Args:
        db: With an admin URL.
        seconds: When to stop asking, if means can be taken by then; after four times as long in
            any case. What then is in doubt stays as it is.
        on_progress: Called after each question with the seconds that have gone by.

    Raises:
        InvalidValueError: Too few questions could be asked in this time.
        SchemaError: The index is not there, or it is invalid.
    """
    if not 1 <= seconds <= 86_400:  # noqa: PLR2004 - a day
        raise InvalidValueError(f"seconds is {seconds:g}; a number from 1 to 86,400 is required.")
    started = perf_counter()
    rows, everybody = await _largest(db)
    tenants = await _chosen(db, everybody)
    if not tenants:
        return TuningReport(rows, (), None)
    await _ask(db, tenants, started=started, seconds=seconds, on_progress=on_progress)
    async with db.tenant(tenants[0].tenant_id, read_only=True) as tx:
        held = (await _held(tx)).indexes
    asked = [each for each in tenants if each.exact_ms]
    measured = [
        judge(
            kind,
            rows,
            [each for each in asked if each.kind == kind],
            held.get(kind) or built_in().indexes[kind],
        )
        for kind in sorted({each.kind for each in asked})
    ]
    if all(each.evidence < LEAST_QUESTIONS for each in measured):
        raise InvalidValueError(
            f"Only {sum(each.questions for each in measured)} questions could be asked in "
            f"{seconds:g} seconds; of the tenants that an index is for, at least {LEAST_QUESTIONS} "
            "are required. Nothing was changed. Give more seconds."
        )
    # What was not measured stays as it is: left out, an index would not be asked any more.
    tuning = VectorTuning({**held, **{each.kind: each.tuning for each in measured}})
    return TuningReport(rows, tuple(measured), tuning)


async def _held(tx: TenantSession) -> VectorTuning:
    try:
        return await current_tuning(tx) or built_in()
    except ConfigurationError:
        return built_in()  # what cannot be used is written anew


async def _largest(db: Database) -> tuple[int, list[TenantMeasured]]:
    """Return the number of chunks, and the larger tenants."""
    number = func.count().label("chunks")  # those that have a vector; the others are not searched
    least = min(each.least for each in built_in().indexes.values())
    counts = (
        select(KnowledgeChunk.tenant_id, number)
        .where(KnowledgeChunk.embedding.is_not(None))
        .group_by(KnowledgeChunk.tenant_id)
        .having(func.count() > least)
        .subquery()
    )
    async with db.operator(reason="measure vector searches") as tx:
        found = await tx.execute(
            select(Tenant.id, Tenant.slug, counts.c.chunks)
            .join(counts, counts.c.tenant_id == Tenant.id)
            .order_by(counts.c.chunks.desc(), Tenant.slug)
        )
        tenants = [TenantMeasured(*row) for row in found]
        estimated = int((await tx.execute(_ROWS)).scalar_one())
    # Without ANALYZE the planner, and with it the search, knows nothing of the table's size.
    return max(estimated, 0) or sum(each.chunks for each in tenants), tenants


async def _chosen(db: Database, everybody: Sequence[TenantMeasured]) -> list[TenantMeasured]:
    """Return tenants of several sizes for each kind of index, and note which index is theirs."""
    looked_at = _spread(everybody, _LOOKED_AT)
    for tenant in looked_at:
        async with db.tenant(tenant.tenant_id, read_only=True) as tx:
            await _set(tx, _forced(GRID[0]))
            tenant.kind = str((await explain_vector_search(tx, k=K, recall=_ASKED)).plan)
    if any(each.kind == "exact" for each in looked_at):
        raise SchemaError(
            "The index knowledge_chunks_embedding_idx is missing or invalid, so there is nothing "
            "to measure. Build it first: `tenantry knowledge mend` rebuilds one that is invalid, "
            "`tenantry db check` names what is missing."
        )
    return [
        tenant
        for kind, tuning in built_in().indexes.items()
        for tenant in _spread(
            [each for each in looked_at if each.kind == kind and each.chunks > tuning.least],
            _TENANTS,
        )
    ]


def _forced(ef_search: int | None) -> str:
    """Return the setting with which an index is always asked, or never."""
    # Never: by a limit that no tenant reaches, since then the candidates are counted as well, as in
    # every search that compares.
    least, reached = (_NOBODY, {}) if ef_search is None else (0, {1.0: ef_search})
    forced = IndexTuning(0, least, reached)
    return VectorTuning(dict.fromkeys(built_in().indexes, forced)).json()


def _spread(tenants: Sequence[TenantMeasured], number: int) -> list[TenantMeasured]:
    """Return so many of the tenants, the largest and the smallest among them.

    Between them the sizes fall by the same factor: where comparing and the index cost the same is
    somewhere in between, and nobody knows where.
    """
    if len(tenants) <= number:
        return list(tenants)
    factor = (tenants[-1].chunks / tenants[0].chunks) ** (1 / (number - 1))
    wanted = [tenants[0].chunks * factor**step for step in range(number)]
    places = {
        min(range(len(tenants)), key=lambda place: abs(tenants[place].chunks - size))
        for size in wanted
    }
    return [tenants[place] for place in sorted(places)]


async def _ask(
    db: Database,
    tenants: Sequence[TenantMeasured],
    *,
    started: float,
    seconds: float,
    on_progress: Callable[[float], None] | None,
) -> None:
    questions = {each.tenant_id: await _questions(db, each.tenant_id) for each in tenants}
    for number in range(_QUESTIONS):
        for tenant in tenants:
            if number >= len(questions[tenant.tenant_id]):
                continue
            gone = perf_counter() - started
            # Of each: recalls may come to be judged on one tenant alone.
            if gone > seconds and (number >= LEAST_QUESTIONS or gone > _PATIENCE * seconds):
                return
            async with db.tenant(tenant.tenant_id) as tx:
                await _measure(tx, tenant, questions[tenant.tenant_id][number])
            if on_progress is not None:
                on_progress(perf_counter() - started)


async def _measure(tx: TenantSession, tenant: TenantMeasured, question: list[float]) -> None:
    await _set(tx, _forced(None))
    exact, milliseconds = await _timed(tx, question, recall=_COMPARED)
    if not exact:
        return
    tenant.exact_ms.append(milliseconds)
    for ef_search in GRID:
        await _set(tx, _forced(ef_search))
        found, milliseconds = await _timed(tx, question, recall=_ASKED)
        right = sum(score >= exact[-1] - _SAME for score in found)
        tenant.recalls[ef_search].append(min(right, len(exact)) / len(exact))
        tenant.hnsw_ms[ef_search].append(milliseconds)


async def _set(tx: TenantSession, value: str) -> None:
    await tx.execute(_SET, {"name": VECTOR_SEARCH, "value": value})


async def _timed(
    tx: TenantSession, question: list[float], *, recall: float
) -> tuple[list[float], float]:
    started = perf_counter()
    hits = await vector_search(tx, question, k=K, recall=recall)
    return [hit.score for hit in hits], 1000 * (perf_counter() - started)


async def _questions(db: Database, tenant_id: UUID) -> list[list[float]]:
    """Return vectors to ask with: a chunk's, drawn towards another one of the tenant's.

    A chunk's own vector is found more easily than what people ask, since it is in the graph; noise
    in all directions does not lead away from it. What lies in the middle between two subjects is
    nobody's question and harder to find. See docs/search.md for the comparison with real ones.
    """
    some = (
        select(KnowledgeChunk.id)
        .where(KnowledgeChunk.embedding.is_not(None))
        .order_by(func.random())
        .limit(2 * _QUESTIONS)
    )
    async with db.tenant(tenant_id, read_only=True) as tx:
        ids = (await tx.scalars(some)).all()
        vectors = (
            await tx.scalars(select(KnowledgeChunk.embedding).where(KnowledgeChunk.id.in_(ids)))
        ).all()
    pairs = zip(vectors[::2], vectors[1::2], strict=False)
    return [drawn for one, other in pairs if (drawn := _drawn(one, other)) is not None]


def _drawn(one: Sequence[float] | None, other: Sequence[float] | None) -> list[float] | None:
    """Return a direction between two vectors, nearer to the first; None where they cancel out."""
    if one is None or other is None:
        return None
    near, far = (math.sqrt(math.fsum(x * x for x in each)) for each in (one, other))
    between = [(1 - _DRAWN) * a / near + _DRAWN * b / far for a, b in zip(one, other, strict=True)]
    length = math.sqrt(math.fsum(x * x for x in between))
    return [x / length for x in between] if length > 1e-6 else None  # noqa: PLR2004
