"""How a vector search goes about it, and why."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID
from weakref import WeakKeyDictionary

from tenantry.search.checking import checked_flag, checked_k, checked_session, checked_share
from tenantry.search.filters import Filter, filter_path
from tenantry.tenancy.fetching import fetch
from tenantry.tenancy.sessions import TenantSession

__all__ = [
    "DEFAULT_RECALL",
    "VectorPlan",
    "VectorSearch",
    "exact_query",
    "explain_vector_search",
    "planned",
]

DEFAULT_RECALL: Final = 0.97

PLANS_KEPT: Final = 10_000
PLANS_KEPT_SECONDS: Final = 60.0
"""A tenant that has outgrown its plan meanwhile is searched more slowly, and not less well."""

# What the search functions do for a tenant of few rows, in a statement of its own: it needs none of
# their rights, and a function called and its settings made would cost as much again. The sum keeps
# every index out that orders by distance. The tenant is hidden from the planner, whose plan for any
# tenant is then as good to it as one for this: it plans once, and not each time.
_EXACT: Final = """
    SELECT {columns}, c.content, 1 - c.distance
      FROM (
        SELECT {inner}, c.content, (c.embedding OPERATOR(public.<=>) {{vector}}) + 0 AS distance
          FROM public.{table} c
         WHERE c.tenant_id = (SELECT $2::pg_catalog.uuid) AND c.embedding IS NOT NULL
         ORDER BY distance, c.id LIMIT {{k}}
      ) c
    {titles}
     ORDER BY c.distance, c.id
"""
# By a join, whose row security is tested once, and not for each title. The condition is true of
# every row, and the planner takes it to leave one, so that it looks documents up for each hit and
# does not join all the tenant's. Where it expects one document of a tenant, both columns of the key
# are worth no more to it than the tenant alone, and it may read all of the tenant's for each hit.
_TITLES: Final = """
      JOIN public.knowledge_documents d ON d.tenant_id = $2 AND d.id = c.document_id
     WHERE c.distance + 0 = c.distance"""
_EXACT_CHUNKS: Final = _EXACT.format(
    columns="c.id, c.document_id, d.title",
    inner="c.id, c.document_id",
    table="knowledge_chunks",
    titles=_TITLES,
)
_EXACT_DOCUMENTS: Final = _EXACT.format(
    columns="c.id, c.id, c.title", inner="c.id, c.title", table="knowledge_documents", titles=""
)

_EXPLAIN: Final = """
    SELECT plan, candidates, exact_up_to, ef_search
      FROM tenantry.explain_vector_search($1, CAST($2 AS pg_catalog.jsonpath), $3, $4)
"""


@dataclass(frozen=True, slots=True)
class VectorPlan:
    """What a vector search does.

    Args:
        plan: ``"exact"``: every candidate is compared; ``"part"``: the index of the tenant's part
            is asked; ``"whole"``: the index of all tenants' vectors.
        candidates: The tenant's rows that the filter lets through, counted up to one more than
            ``exact_up_to``; those without a vector among them, unless an index would be asked.
        exact_up_to: So many candidates are compared at most where an index can reach the recall.
        ef_search: How far the index looks around; None where no setting of it has reached the
            recall that is wanted.
    """

    plan: Literal["exact", "part", "whole"]
    candidates: int
    exact_up_to: int
    ef_search: int | None

    @property
    def reason(self) -> str:
        """Why, in a sentence."""
        if self.candidates <= self.exact_up_to:
            return (
                f"{self.candidates:,} candidates: to compare each is faster up to "
                f"{self.exact_up_to:,} in a database of this size."
            )
        more = f"More than {self.exact_up_to:,} candidates"
        if self.plan == "exact" and self.ef_search is not None:
            return (
                f"{more}, but there is no valid index: `tenantry knowledge mend` rebuilds one that "
                "is invalid, `tenantry db check` names what is missing."
            )
        if self.plan == "exact":
            return f"{more}, but no setting of the index has reached the recall that is wanted."
        which = "the tenant's part" if self.plan == "part" else "all tenants' vectors"
        return (
            f"{more}: the index of {which} is asked, with ef_search {self.ef_search}; if it has "
            "too few, each is compared."
        )


class VectorSearch(NamedTuple):
    """The arguments that a plan depends on, checked."""

    k: int
    filter: str | None
    recall: float
    documents: bool


@cache
def exact_query(k: int, *, documents: bool) -> str:
    """Return the query of an exact search without a filter; ``{vector}`` stands in it."""
    return (_EXACT_DOCUMENTS if documents else _EXACT_CHUNKS).replace("{k}", str(k))


async def explain_vector_search(
    tx: TenantSession,
    *,
    k: int = 10,
    where: Filter | None = None,
    recall: float = DEFAULT_RECALL,
    documents: bool = False,
) -> VectorPlan:
    """Return how `vector_search` with these arguments would go about it.

    Raises:
        InvalidValueError: An argument is out of its range.
        TenantRequiredError: ``tx`` is not bound to a tenant.
        ConfigurationError: The setting ``tenantry.vector_search`` cannot be used.
    """
    return await _plan(
        checked_session(tx),
        VectorSearch(
            checked_k(k),
            filter_path(where),
            checked_share(recall, "recall", least=0.5),
            checked_flag(documents, "documents"),
        ),
    )


async def _plan(tx: TenantSession, search: VectorSearch) -> VectorPlan:
    (row,) = await fetch(tx, _EXPLAIN, *search)
    return VectorPlan(*row)


_Kept = OrderedDict[tuple[UUID, VectorSearch], tuple[float, VectorPlan]]
_plans: WeakKeyDictionary[Any, _Kept] = WeakKeyDictionary()


async def planned(tx: TenantSession, search: VectorSearch) -> VectorPlan:
    """Return the plan of a search without a filter, up to a minute old."""
    bind = tx.sync_session.bind
    if (kept := _plans.get(bind)) is None:
        kept = _plans[bind] = OrderedDict()
    key = (tx.tenant_id, search)
    now = time.monotonic()
    found = kept.get(key)
    if found is not None and found[0] > now:
        return found[1]
    plan = await _plan(tx, search)
    kept[key] = (now + PLANS_KEPT_SECONDS, plan)
    kept.move_to_end(key)
    if len(kept) > PLANS_KEPT:
        kept.popitem(last=False)
    return plan
