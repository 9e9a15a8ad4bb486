"""How a vector search goes about it, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import text

from tenantry.search.checking import checked_k, checked_session, checked_share
from tenantry.search.filters import Filter, filter_path
from tenantry.search.searching import DEFAULT_RECALL
from tenantry.tenancy.sessions import TenantSession

__all__ = ["VectorPlan", "explain_vector_search"]

_EXPLAIN: Final = text("""
    SELECT plan, candidates, exact_up_to, ef_search
      FROM tenantry.explain_vector_search(:k, CAST(:filter AS jsonpath), :recall, :documents)
""")


@dataclass(frozen=True, slots=True)
class VectorPlan:
    """What a vector search does.

    Args:
        plan: ``"exact"``: every candidate is compared; ``"hnsw"``: the index is asked.
        candidates: The tenant's rows that the filter lets through, counted up to one more than
            ``exact_up_to``.
        exact_up_to: So many candidates are compared at most where the index can reach the recall.
        ef_search: How far the index looks around; None where no setting of it has reached the recall
            that is wanted.
    """

    plan: Literal["exact", "hnsw"]
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
        if self.plan == "hnsw":
            return f"{more}: the index finds them, with ef_search {self.ef_search}."
        return f"{more}, but no setting of the index has reached the recall that is wanted."


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
    """
    parameters = {
        "k": checked_k(k),
        "filter": filter_path(where),
        "recall": checked_share(recall, "recall", least=0.5),
        "documents": documents,
    }
    rows = await checked_session(tx).execute(_EXPLAIN, parameters)
    return VectorPlan(*rows.one())
