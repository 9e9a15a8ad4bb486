"""What follows from the recalls and times that vector searches were measured with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, median, pstdev
from typing import Final
from uuid import UUID

from tenantry.ops.vector_tuning import IndexTuning

__all__ = ["GRID", "LEAST_QUESTIONS", "RECALLS", "IndexMeasured", "K", "TenantMeasured", "judge"]

RECALLS: Final = (0.9, 0.95, 0.97, 0.99)
"""The recalls that an ``ef_search`` is looked for."""

GRID: Final = (40, 60, 100, 150, 200, 300, 400, 600, 800, 1000)
"""Each ``ef_search`` that is tried."""

LEAST_QUESTIONS: Final = 20
"""From so many on, a mean and its standard error say something."""

K: Final = 10
_ERRORS: Final = 2  # a mean is below the truth by more standard errors once in forty times
_MAIN_RECALL: Final = 0.97  # what a search wants unless it is told


@dataclass(slots=True)
class TenantMeasured:
    """What was measured on one tenant's chunks.

    Args:
        tenant_id: The tenant.
        slug: Its name.
        chunks: How many it has with a vector.
        kind: Which index is asked for it: ``whole`` or ``part``.
        exact_ms: Milliseconds of each search that has compared every chunk.
        hnsw_ms: The same by ``ef_search``, where the index was asked.
        recalls: The share of the true nearest that was found, likewise.
    """

    tenant_id: UUID
    slug: str
    chunks: int
    kind: str = ""
    exact_ms: list[float] = field(default_factory=list)
    hnsw_ms: dict[int, list[float]] = field(default_factory=lambda: {ef: [] for ef in GRID})
    recalls: dict[int, list[float]] = field(default_factory=lambda: {ef: [] for ef in GRID})


@dataclass(frozen=True, slots=True)
class IndexMeasured:
    """What was found out about one kind of index.

    Args:
        kind: As in `VectorTuning`.
        tenants: What was measured, the largest tenant first.
        judged: The tenants among them that recalls were judged on: those the index is for.
        exact_up_to: Up to so many chunks comparing was faster; None where no recall was reached.
        tuning: What follows from it.
        in_doubt: The recalls of which the questions do not tell whether they are reached. For them,
            what held before is in ``tuning``; all of it, where there were too few questions.
    """

    kind: str
    tenants: tuple[TenantMeasured, ...]
    judged: tuple[TenantMeasured, ...]
    exact_up_to: int | None
    tuning: IndexTuning
    in_doubt: tuple[float, ...]

    @property
    def questions(self) -> int:
        """How many were asked."""
        return sum(len(each.exact_ms) for each in self.tenants)

    @property
    def evidence(self) -> int:
        """On how many of them recalls were judged."""
        return sum(len(each.exact_ms) for each in self.judged)

    def recall(self, ef_search: int) -> tuple[float, float]:
        """Return the mean recall of the tenants that were judged, and its standard error."""
        return _recall(self.judged, ef_search)


def judge(
    kind: str, rows: int, tenants: Sequence[TenantMeasured], held: IndexTuning
) -> IndexMeasured:
    """Return what follows from what was measured.

    Args:
        kind: As in `VectorTuning`.
        rows: Of the table.
        tenants: What was measured, the largest first; at least one question of each.
        held: What held before. It stays where the questions are too few to tell.
    """
    judged = tuple(tenants)
    reached = _reached(judged)
    limit = _crossing(tenants, reached)
    if limit is not None:
        # Recalls count where the index is asked, and so on the tenants above the limit.
        judged = tuple(each for each in tenants if each.chunks > limit) or (tenants[0],)
        reached = _reached(judged)
        limit = _crossing(tenants, reached)
    if sum(len(each.exact_ms) for each in judged) < LEAST_QUESTIONS:
        return IndexMeasured(kind, tuple(tenants), judged, None, held, RECALLS)
    in_doubt = tuple(
        recall for recall in RECALLS if recall not in reached and not _is_missed(judged, recall)
    )
    # A search takes the least ef_search of all recalls from its own on: none may look less far than
    # those below it.
    furthest = max(reached.values(), default=0)
    stays = {
        recall: max(held.ef_search[recall], furthest)
        for recall in in_doubt
        if recall in held.ef_search
    }
    roots = held.roots if limit is None else limit / math.sqrt(K * max(rows, 1))
    return IndexMeasured(
        kind,
        tuple(tenants),
        judged,
        None if limit is None else max(held.least, round(limit)),
        IndexTuning(roots, held.least, {**reached, **stays}),
        in_doubt,
    )


def _recall(tenants: Sequence[TenantMeasured], ef_search: int) -> tuple[float, float]:
    found = [share for each in tenants for share in each.recalls[ef_search]]
    return fmean(found), pstdev(found) / math.sqrt(len(found))


def _reached(tenants: Sequence[TenantMeasured]) -> dict[float, int]:
    """Return the least ``ef_search`` for each recall that was reached on average."""
    means = {ef_search: _recall(tenants, ef_search)[0] for ef_search in GRID}
    least = {
        recall: next((ef for ef, mean in means.items() if mean >= recall), None)
        for recall in RECALLS
    }
    return {recall: ef for recall, ef in least.items() if ef is not None}


def _is_missed(tenants: Sequence[TenantMeasured], recall: float) -> bool:
    """Return whether no ``ef_search`` reaches ``recall``, by more than chance."""
    found = (_recall(tenants, ef_search) for ef_search in GRID)
    return all(mean + _ERRORS * error < recall for mean, error in found)


def _crossing(tenants: Sequence[TenantMeasured], reached: dict[float, int]) -> float | None:
    """Return up to how many chunks comparing is faster than the index at the usual recall.

    None where no recall was reached at all. Comparing costs the same for each chunk and the index
    about the same for each tenant, from which follows what lies beyond the measured sizes.
    """
    if not reached:
        return None
    usual = min(reached, key=lambda recall: (abs(recall - _MAIN_RECALL), -recall))
    ef_search = reached[usual]
    by_size = sorted(tenants, key=lambda each: each.chunks)
    ratios = [median(each.hnsw_ms[ef_search]) / median(each.exact_ms) for each in by_size]
    if ratios[0] <= 1:
        return by_size[0].chunks * ratios[0]
    for place in range(1, len(by_size)):
        if ratios[place] <= 1:
            below, above = by_size[place - 1].chunks, by_size[place].chunks
            share = math.log(ratios[place - 1]) / math.log(ratios[place - 1] / ratios[place])
            return float(below * (above / below) ** share)
    return by_size[-1].chunks * ratios[-1]
