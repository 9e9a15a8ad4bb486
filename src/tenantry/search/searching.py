"""The three searches. Each runs in the database, as a function that sees one tenant's rows only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Final

from tenantry.search.checking import (
    MAX_K,
    checked_flag,
    checked_k,
    checked_languages,
    checked_session,
    checked_share,
    checked_text,
)
from tenantry.search.filters import Filter, filter_path
from tenantry.search.hits import Highlight, Hit
from tenantry.search.observing import observed
from tenantry.search.planning import (
    DEFAULT_RECALL,
    VectorSearch,
    exact_query,
    planned,
)
from tenantry.search.queries import Query, composed, without_accents
from tenantry.tenancy.fetching import fetch, fetch_by_vector
from tenantry.tenancy.sessions import TenantSession
from tenantry.tenancy.vectors import Embedding, wire_direction

__all__ = ["hybrid_search", "keyword_search", "vector_search"]

DEFAULT_VECTOR_WEIGHT: Final = 0.5
POOL: Final = 50
"""Chunks that a hybrid search takes from either search, or twice k where that is more."""

_DEMANDING_POOL: Final = 1_000

LONGEST_LETTERS: Final = 200
"""Characters of a text that is looked for letter by letter; a longer one is a question, and no part
of a word."""

_SIMILAR_ENOUGH: Final = 0.75
"""Of `difflib`: two letters of six changed places, one of four differs."""

_SIMILAR_THOUGH_ELSE: Final = 0.82
"""Where one of the first three letters differs: one of six. A house is no mouse."""

_VECTORS: Final = """
    SELECT id, document_id, title, content, score
      FROM tenantry.{function}({{vector}}, $2, CAST($3 AS pg_catalog.jsonpath), $4)
"""
_CHUNKS: Final = _VECTORS.format(function="search_vectors")
_DOCUMENTS: Final = _VECTORS.format(function="search_documents")

_KEYWORDS: Final = """
    SELECT id, document_id, title, content, score, excerpt
      FROM tenantry.search_keywords(
               $1, $2, CAST($3 AS pg_catalog.jsonb), $4, $5, $6,
               CAST($7 AS pg_catalog.jsonpath), $8
           )
"""
_HYBRID: Final = """
    SELECT id, document_id, title, content, score, excerpt
      FROM tenantry.search_hybrid(
               {vector}, $2, $3, CAST($4 AS pg_catalog.jsonb), $5, $6, $7,
               CAST($8 AS pg_catalog.jsonpath), $9, $10, $11, $12
           )
"""
_SIMILAR_WORDS: Final = "SELECT word, candidates FROM tenantry.similar_words($1, $2)"
_SUBSTRINGS: Final = """
    SELECT id, document_id, title, content, score
      FROM tenantry.search_substrings($1, $2, CAST($3 AS pg_catalog.jsonpath))
"""


@observed
async def vector_search(
    tx: TenantSession,
    embedding: Embedding,
    *,
    k: int = 10,
    where: Filter | None = None,
    min_similarity: float | None = None,
    recall: float = DEFAULT_RECALL,
    documents: bool = False,
) -> list[Hit]:
    """Find the tenant's chunks nearest to a vector.

    Up to some thousand candidates are compared one by one; of more, the HNSW index finds them. See
    `explain_vector_search` for which, and why.

    Args:
        tx: A tenant's session.
        embedding: 1,024 numbers, a sequence or a one-dimensional array.
        k: How many at most, 1 to 1,000. There are fewer only where the tenant has fewer.
        where: Conditions on the metadata of documents; see `Filter`.
        min_similarity: The least cosine similarity, -1 to 1; None for any.
        recall: Which share of the true k nearest is wanted on average where the index is asked,
            0.5 to 1; with 1 it is not asked.
        documents: Search whole documents by their own embedding, and not chunks.

    Returns:
        Hits by falling cosine similarity.

    Raises:
        InvalidValueError: An argument is out of its range, or ``embedding`` is no vector that
            cosine distance is defined for.
        TenantRequiredError: ``tx`` is not bound to a tenant.
        ConfigurationError: The setting ``tenantry.vector_search`` cannot be used.
        SessionUseError: Another task is using ``tx``.
        DatabaseUnavailableError: The connection was lost.
        sqlalchemy.exc.DBAPIError: PostgreSQL refused, as after a timeout or in a transaction that
            has failed.
    """
    vector = wire_direction(embedding)
    wanted = VectorSearch(
        checked_k(k),
        filter_path(where),
        checked_share(recall, "recall", least=0.5),
        checked_flag(documents, "documents"),
    )
    least = (
        None
        if min_similarity is None
        else checked_share(min_similarity, "min_similarity", least=-1.0)
    )
    checked_session(tx)
    if wanted.filter is None and (await planned(tx, wanted)).plan == "exact":
        rows = await fetch_by_vector(
            tx, exact_query(wanted.k, documents=documents), vector, tx.tenant_id
        )
    else:
        query = _DOCUMENTS if documents else _CHUNKS
        rows = await fetch_by_vector(tx, query, vector, k, wanted.filter, wanted.recall)
    hits = [Hit(*row) for row in rows]
    return hits if least is None else [hit for hit in hits if hit.score >= least]


@observed
async def keyword_search(
    tx: TenantSession,
    text: str,
    *,
    k: int = 10,
    language: str | None = None,
    where: Filter | None = None,
    highlight: bool = True,
) -> list[Hit]:
    """Find the tenant's chunks that match a text's words, in whatever form.

    Chunks with any of the words are found; those with more of them, with rarer ones, and with more
    occurrences come first. ``"two words"`` in quotes have to stand side by side, ``-word`` must
    not be there, and ``OR`` between a quoted phrase and another, or a word, asks for either. Where
    that gives fewer than ``k`` hits, words that the knowledge base does not have are taken for
    misspelt ones, and the text is looked for letter by letter.

    Args:
        tx: A tenant's session.
        text: What a person has typed. No text is an error; the first 4,000 characters count.
        k: How many at most, 1 to 1,000.
        language: The language of the text, of `tenantry.schema.languages.LANGUAGES`; None for
            those of the tenant's 512 oldest and 512 newest chunks.
        where: Conditions on the metadata of documents; see `Filter`.
        highlight: Whether hits have a `Highlight`.

    Returns:
        Hits by falling score.

    Raises:
        InvalidValueError: ``text`` is not a str, or an argument is out of its range.
        TenantRequiredError: ``tx`` is not bound to a tenant.
        SessionUseError: Another task is using ``tx``.
        DatabaseUnavailableError: The connection was lost.
        sqlalchemy.exc.DBAPIError: PostgreSQL refused, as after a timeout or in a transaction that
            has failed.
    """
    search = _KeywordSearch(
        checked_session(tx),
        Query.parse(checked_text(text)),
        k=checked_k(k),
        spoken=checked_languages(language),
        filter=filter_path(where),
        marked=checked_flag(highlight, "highlight"),
    )
    hits = await search.by_words()
    if len(hits) == k or not search.query.is_plain or not search.query.text:
        return hits
    alike, others = await search.similar_words()
    if alike:
        hits = await search.by_words(alike) or hits
    by_letters = await search.by_letters(hits)
    if others and not by_letters and len(hits) < k:
        return await search.by_words(alike + others) or hits
    return hits + by_letters


@dataclass(frozen=True, slots=True)
class _KeywordSearch:
    """The steps of one keyword search."""

    tx: TenantSession
    query: Query
    k: int
    spoken: list[str] | None
    filter: str | None
    marked: bool

    async def by_words(self, more: Sequence[str] = ()) -> list[Hit]:
        """Find what has any of the words, and of ``more``: words in their basic form."""
        rows = await fetch(
            self.tx,
            _KEYWORDS,
            " ".join([self.query.words, *more]),
            # As they are: the basic form of a basic form may be another, as of "univers".
            [*self.query.pairs, *more],
            self.query.required_json,
            self.query.excluded,
            self.spoken,
            self.k,
            self.filter,
            self.marked,
        )
        signs = self.query.signs
        return [_hit(row, signs) for row in rows]

    async def similar_words(self) -> tuple[list[str], list[str]]:
        """Return words that the tenant has for those it has not.

        The second list is for words to which none is similar that begins as they do.
        """
        alike: list[str] = []
        others: list[str] = []
        words = self.query.correctable
        for asked, candidates in await fetch(self.tx, _SIMILAR_WORDS, words, self.spoken):
            word = without_accents(asked)
            known = {each: without_accents(each) for each in candidates}
            begin_alike = [each for each in known.values() if each[:3] == word[:3]]
            close = get_close_matches(word, begin_alike, n=2, cutoff=_SIMILAR_ENOUGH)
            further = get_close_matches(word, known.values(), n=2, cutoff=_SIMILAR_THOUGH_ELSE)
            (alike if close else others).extend(
                each for each, plain in known.items() if plain in (close or further)
            )
        return alike, others

    async def by_letters(self, hits: list[Hit]) -> list[Hit]:
        """Find what contains the text as it is; all of it comes after ``hits``."""
        if len(hits) == self.k or len(self.query.text) > LONGEST_LETTERS:
            return []
        rows = await fetch(self.tx, _SUBSTRINGS, self.query.text, self.k, self.filter)
        known = {hit.id for hit in hits}
        below = hits[-1].score / 2 if hits else 1.0
        return [
            replace(hit, score=hit.score * below, highlight=self._letters_in(hit.content))
            for hit in (Hit(*row) for row in rows)
            if hit.id not in known
        ][: self.k - len(hits)]

    def _letters_in(self, content: str) -> Highlight | None:
        if not self.marked:
            return None
        return Highlight.of(content, re.compile(re.escape(self.query.text), re.IGNORECASE))


@observed
async def hybrid_search(
    tx: TenantSession,
    *,
    text: str,
    embedding: Embedding,
    k: int = 10,
    where: Filter | None = None,
    language: str | None = None,
    vector_weight: float = DEFAULT_VECTOR_WEIGHT,
    recall: float = DEFAULT_RECALL,
    highlight: bool = True,
) -> list[Hit]:
    """Find the tenant's chunks that suit a question best, by its words and by its vector.

    One round trip. The best chunks of either search get both scores, each measured in standard
    deviations from their mean, and are ordered by the weighted sum. On a real corpus this is better
    than either search, and than fusing ranks; see docs/search.md for the numbers.

    Args:
        tx: A tenant's session.
        text: The question as it was typed; as in `keyword_search`. What it excludes, or demands in
            quotes, holds for every hit.
        embedding: The question's vector; as in `vector_search`.
        k: How many at most, 1 to 1,000.
        where: Conditions on the metadata of documents; see `Filter`.
        language: As in `keyword_search`.
        vector_weight: The vector's share of the score, 0 to 1.
        recall: As in `vector_search`.
        highlight: Whether hits have a `Highlight`.

    Returns:
        Hits by falling score.

    Raises:
        InvalidValueError: An argument is out of its range or of another type.
        TenantRequiredError: ``tx`` is not bound to a tenant.
        ConfigurationError: The setting ``tenantry.vector_search`` cannot be used.
        SessionUseError: Another task is using ``tx``.
        DatabaseUnavailableError: The connection was lost.
        sqlalchemy.exc.DBAPIError: PostgreSQL refused, as after a timeout or in a transaction that
            has failed.
    """
    query = Query.parse(checked_text(text))
    vector = wire_direction(embedding)
    rows = await fetch_by_vector(
        checked_session(tx),
        _HYBRID,
        vector,
        query.words,
        query.pairs,
        query.required_json,
        query.excluded,
        checked_languages(language),
        checked_k(k),
        filter_path(where),
        pool_size(k),
        checked_share(vector_weight, "vector_weight"),
        checked_share(recall, "recall", least=0.5),
        checked_flag(highlight, "highlight"),
    )
    signs = query.signs
    return [_hit(row, signs) for row in rows]


def pool_size(k: int) -> int:
    """Return how many chunks a hybrid search takes from either search."""
    return min(max(POOL, 2 * k), MAX_K)


def nearest_wanted(query: Query, k: int) -> int:
    """Return how many of the nearest chunks a hybrid search asks for, to fill its pool from."""
    return pool_size(k) if query.is_plain else max(pool_size(k), _DEMANDING_POOL)


def _hit(row: Any, signs: re.Pattern[str] | None) -> Hit:
    id_, document_id, title, content, score, excerpt = row
    return Hit(id_, document_id, title, content, score, _highlight(content, excerpt, signs))


def _highlight(
    content: str, excerpt: str | None, signs: re.Pattern[str] | None
) -> Highlight | None:
    if excerpt is None:
        return None
    marked = Highlight.from_marked(excerpt)
    # PostgreSQL takes a run of Chinese or Japanese for one word, and C++ for C, and marks neither.
    if any(matches for _, matches in marked.parts):
        return marked.also(signs)
    return Highlight.of(composed(content), signs)
