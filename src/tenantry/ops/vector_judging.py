"""What follows from the recalls and times that vector searches were measured with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, median, pstdev
from typing import Final
from uuid import UUID

from tenantry.ops.vector_tuning import IndexTuning, built_in

__all__ = ["GRID", "RECALLS", "IndexMeasured", "K", "TenantMeasured", "judge"]

RECALLS: Final = (0.9, 0.95, 0.97, 0.99)
"""The recalls that an ``ef_search`` is looked for."""

GRID: Final = (40, 60, 100, 150, 200, 300, 400, 600, 800, 1000)
"""Each ``ef_search`` that is tried."""

K: Final = 10
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
    """

    kind: str
    tenants: tuple[TenantMeasured, ...]
    judged: tuple[TenantMeasured, ...]
    exact_up_to: int | None
    tuning: IndexTuning

    @property
    def questions(self) -> int:
        """How many were asked."""
        return sum(len(each.exact_ms) for each in self.tenants)

    def recall(self, ef_search: int) -> tuple[float, float]:
        """Return the mean recall of the tenants that were judged, and its standard error."""
        return _recall(self.judged, ef_search)


def judge(kind: str, rows: int, tenants: Sequence[TenantMeasured]) -> IndexMeasured:
    """Return what follows from what was measured."""
    judged = tuple(tenants)
    reached = _reached(judged)
    limit = _crossing(tenants, reached)
    if limit is not None:
        # Recalls count where the index is asked, and so on the tenants above the limit.
        judged = tuple(each for each in tenants if each.chunks > limit) or (tenants[0],)
        reached = _reached(judged)
        limit = _crossing(tenants, reached)
    before = built_in().indexes[kind]
    roots = before.roots if limit is None else limit / math.sqrt(K * max(rows, 1))
    return IndexMeasured(
        kind,
        tuple(tenants),
        judged,
        None if limit is None else max(before.least, round(limit)),
        IndexTuning(roots, before.least, reached),
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
