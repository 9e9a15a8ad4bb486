"""Finding a tenant's knowledge: by vectors, by words, and by both."""

from __future__ import annotations

from tenantry.search.filters import Filter
from tenantry.search.hits import Highlight, Hit
from tenantry.search.planning import VectorPlan, explain_vector_search
from tenantry.search.searching import hybrid_search, keyword_search, vector_search

__all__ = [
    "Filter",
    "Highlight",
    "Hit",
    "VectorPlan",
    "explain_vector_search",
    "hybrid_search",
    "keyword_search",
    "vector_search",
]
