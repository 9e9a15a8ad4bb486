"""How good the three searches are: 1,000 real questions, each answered by one of 913 paragraphs.

One tenant, its documents 24 articles. For each question the rank of the paragraph that answers it,
among the first 10 that are found: MRR@10 is the mean of 1 / rank, recall@k the share of questions
for which it is among the first k. Reciprocal rank fusion, what others do, is computed from the
first 50 of our own two lists.

To show that nothing is fitted to these questions: the figures of each half of the articles and of
each half of the questions, and those of other weights. Squeezed similarities, as of models whose
cosines are all between 0.7 and 0.9, would change nothing: both scores are measured in standard
deviations from their mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

import numpy as np
from sqlalchemy import select

from benchmarks.lanes import save, table, verdict
from benchmarks.server import running_server
from benchmarks.squad import Squad
from tenantry import Database, Settings, TenantSession
from tenantry.knowledge import Chunk, load_chunks
from tenantry.schema import EMBEDDING_DIMENSIONS, KnowledgeChunk, KnowledgeDocument, Tenant
from tenantry.schema.row_security import APP_ROLE
from tenantry.search import hybrid_search, keyword_search, vector_search
from tenantry.search.searching import DEFAULT_VECTOR_WEIGHT

if TYPE_CHECKING:
    from argparse import Namespace
LEAST_KEYWORD_MRR: Final = 0.85
LEAST_HYBRID_MRR: Final = 0.88
LEAST_HYBRID_RECALL: Final = 0.975
K: Final = 10
POOL: Final = 50
FUSION: Final = 60
"""The constant of reciprocal rank fusion (Cormack, Clarke and Büttcher, 2009)."""

WEIGHTS: Final = tuple(
    weight for weight in (0.3, 0.4, 0.5, 0.6, 0.7) if weight != DEFAULT_VECTOR_WEIGHT
)
DEFAULT: Final = f"hybrid, {DEFAULT_VECTOR_WEIGHT}"
"""As it is, with its own weight of vectors."""


@dataclass
class Quality:
    """The rank of each question's answer, 1 and up; 0 where it was not among the first 10."""

    ranks: list[int]

    def of(self, chosen: Sequence[bool] | None = None) -> tuple[float, float, float]:
        """Return MRR@10, recall@10 and recall@1 of the chosen questions."""
        kept = self.ranks
        if chosen is not None:
            kept = [rank for rank, wanted in zip(self.ranks, chosen, strict=True) if wanted]
        count = len(kept)
        return (
            sum(1 / rank for rank in kept if rank) / count,
            sum(rank > 0 for rank in kept) / count,
            sum(rank == 1 for rank in kept) / count,
        )


async def run(options: Namespace) -> bool:
    """Print the figures; return whether the limits are kept."""
    squad = Squad.read()
    with running_server() as server:
        name = await server.create()
        admin = server.at(name)
        settings = Settings(database_url=admin.set(username=APP_ROLE), admin_url=admin)
        async with Database.connect(settings=settings) as db:
            tenant, paragraphs = await _load(db, squad)
            await server.run("ANALYZE", database=name)
            async with db.tenant(tenant) as tx:
                methods = await _ask(tx, squad, paragraphs)
        await server.drop(name)
    lines, kept = _told(squad, methods)
    print(*lines, sep="\n", flush=True)
    if options.save:
        save("search_quality", "Quality of search", f"{len(squad.questions):,} questions", lines)
    return kept


async def _load(db: Database, squad: Squad) -> tuple[UUID, dict[UUID, int]]:
    """Load the corpus; return its tenant, and which paragraph each chunk is."""
    async with db.operator(reason="benchmark") as tx:
        tenant = Tenant(name="Readers", slug="readers")
        tx.add(tenant)
    numbers: dict[UUID, int] = {}
    async with db.tenant(tenant.id) as tx:
        for title in dict.fromkeys(squad.articles):
            of_it = [n for n, article in enumerate(squad.articles) if article == title]
            texts = [squad.paragraphs[n] for n in of_it]
            document = KnowledgeDocument(title=title, content="\n\n".join(texts))
            tx.add(document)
            await tx.flush()
            chunks = [
                Chunk(text, _padded(squad.paragraph_vectors[n]))
                for n, text in zip(of_it, texts, strict=True)
            ]
            await load_chunks(tx, chunks, document_id=document.id)
            found = await tx.execute(
                select(KnowledgeChunk.id)
                .where(KnowledgeChunk.document_id == document.id)
                .order_by(KnowledgeChunk.position)
            )
            numbers.update(zip(found.scalars(), of_it, strict=True))
    return tenant.id, numbers


def _padded(vector: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> list[float]:
    numbers: list[float] = vector.tolist()
    return numbers + [0.0] * (EMBEDDING_DIMENSIONS - len(numbers))


async def _ask(tx: TenantSession, squad: Squad, paragraphs: dict[UUID, int]) -> dict[str, Quality]:
    methods: dict[str, Quality] = {}

    def note(method: str, ids: Sequence[UUID], answer: int) -> None:
        found = [paragraphs[each] for each in ids[:K]]
        quality = methods.setdefault(method, Quality([]))
        quality.ranks.append(found.index(answer) + 1 if answer in found else 0)

    for text, answer, vector in zip(
        squad.questions, squad.answers, map(_padded, squad.question_vectors), strict=True
    ):
        vectors = [hit.id for hit in await vector_search(tx, vector, k=POOL)]
        words = [hit.id for hit in await keyword_search(tx, text, k=POOL, highlight=False)]
        first = await keyword_search(tx, text, k=K, highlight=False)
        note("vectors", vectors, answer)
        note("keywords", [hit.id for hit in first], answer)
        note(f"rank fusion, k = {FUSION}", _fused(vectors, words), answer)
        default = await hybrid_search(tx, text=text, embedding=vector, k=K, highlight=False)
        note(DEFAULT, [hit.id for hit in default], answer)
        for weight in WEIGHTS:
            hits = await hybrid_search(
                tx, text=text, embedding=vector, k=K, vector_weight=weight, highlight=False
            )
            note(f"hybrid, weight {weight}", [hit.id for hit in hits], answer)
    return methods


def _fused(*lists: Sequence[UUID]) -> list[UUID]:
    scores: dict[UUID, float] = {}
    for found in lists:
        for rank, each in enumerate(found, 1):
            scores[each] = scores.get(each, 0.0) + 1 / (FUSION + rank)
    return sorted(scores, key=lambda each: -scores[each])


def _told(squad: Squad, methods: dict[str, Quality]) -> tuple[list[str], bool]:
    heading = ("method", "MRR@10", "recall@10", "recall@1")
    rows = [[name, *(f"{each:.3f}" for each in found.of())] for name, found in methods.items()]
    lines = [*table(heading, rows), "", *_parts(squad, methods), ""]
    keyword, hybrid = methods["keywords"].of(), methods[DEFAULT].of()
    limits = (
        ("keyword MRR@10", keyword[0], LEAST_KEYWORD_MRR),
        ("hybrid MRR@10", hybrid[0], LEAST_HYBRID_MRR),
        ("hybrid recall@10", hybrid[1], LEAST_HYBRID_RECALL),
    )
    lines += [
        f"- {name} {found:.4f}, at least {least}: {verdict(found >= least)}"
        for name, found, least in limits
    ]
    return lines, all(found >= least for _, found, least in limits)


def _parts(squad: Squad, methods: dict[str, Quality]) -> list[str]:
    """Return MRR@10 and recall@10 of each half, chosen by what has nothing to do with quality."""
    titles = sorted(set(squad.articles))
    first = set(titles[::2])
    of_articles = [squad.articles[answer] in first for answer in squad.answers]
    halves: dict[str, Callable[[int], bool]] = {
        "every other article": lambda n: of_articles[n],
        "the other articles": lambda n: not of_articles[n],
        "every other question": lambda n: n % 2 == 0,
        "the other questions": lambda n: n % 2 == 1,
    }
    shown = [name for name in methods if "weight" not in name]
    rows = []
    for what, belongs in halves.items():
        chosen = [belongs(n) for n in range(len(squad.questions))]
        figures = (methods[name].of(chosen) for name in shown)
        rows.append([what, str(sum(chosen)), *(f"{a:.3f}, {b:.3f}" for a, b, _ in figures)])
    return ["MRR@10, recall@10:", "", *table(("half", "questions", *shown), rows)]
