"""The knowledge base of a seeded tenant: the documentation, then as much like it as is asked for.

Documents beyond the documentation are composed of its sentences. Each of their chunks stays close
to one passage, in its words and in its vector, so a search over millions of them still finds
neighbours that have to do with the question.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from operator import add
from typing import TYPE_CHECKING, Any, Final

from tenantry.ops.seed.chance import Source, pick, whole
from tenantry.schema import EMBEDDING_DIMENSIONS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random
    from uuid import UUID

    from tenantry.ops.seed.corpus import Corpus, Passage
    from tenantry.ops.seed.plan import TenantPlan

__all__ = ["KnowledgeRows"]

# Chunks of the composed documents, one after the other and over again.
_LENGTHS: Final = (5, 8, 3, 6, 4, 7)

# A passage's vector plus noise of this length has a cosine of 1/sqrt(1 + 0.6²) = 0.86 with it.
_NOISE_LENGTH: Final = 0.6
_NOISES: Final = 32
_TURNS: Final = 24


@dataclass(slots=True)
class KnowledgeRows:
    """Documents and chunks of one tenant, made anew each time they are asked for.

    Args:
        plan: The tenant.
        tenant_id: Its id.
        source: Its chance.
        corpus: The documentation.
    """

    plan: TenantPlan
    tenant_id: UUID
    source: Source
    corpus: Corpus
    _passages: tuple[Passage, ...] = field(init=False)
    _blends: dict[tuple[int, int], array[float]] = field(init=False, default_factory=dict)
    _originals: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self._passages = self.corpus.passages
        self._originals = tuple(self._fitting())

    def _fitting(self) -> Iterator[int]:
        """Yield which pages the tenant gets: whole ones, from another start for each tenant."""
        pages, room = self.corpus.documents, self.plan.chunks
        for step in range(len(pages)):
            page = (self.plan.ordinal + step) % len(pages)
            if len(pages[page].passages) <= room:
                room -= len(pages[page].passages)
                yield page

    @property
    def _composed_chunks(self) -> int:
        pages = self.corpus.documents
        return self.plan.chunks - sum(len(pages[page].passages) for page in self._originals)

    @property
    def document_count(self) -> int:
        """Number of documents."""
        rounds, rest = divmod(self._composed_chunks, sum(_LENGTHS))
        count = rounds * len(_LENGTHS)
        for length in _LENGTHS:
            if rest <= 0:
                break
            rest -= length
            count += 1
        return len(self._originals) + count

    def documents(self) -> Iterator[tuple[Any, ...]]:
        """Yield tenant_id, id, title, content, embedding, metadata, created_at."""
        for number, page in enumerate(self._originals):
            document = self.corpus.documents[page]
            vector = _mean_direction([passage.vector for passage in document.passages])
            yield self._document(number, document.title, document.content, vector, "documentation")
        for number, size in self._composed():
            random = self.source.random("document", number)
            topic = int(random.random() * len(self._passages))
            texts = [self._text(random, topic + position) for position in range(size)]
            title = _title(texts[0])
            content = "\n\n".join(texts)
            yield self._document(number, title, content, self._vector(random, topic), "composed")

    def chunks(self) -> Iterator[tuple[Any, ...]]:
        """Yield tenant_id, id, document_id, content, embedding, position, created_at."""
        chunk = 0
        for number, page in enumerate(self._originals):
            for position, passage in enumerate(self.corpus.documents[page].passages):
                yield self._chunk(chunk, number, passage.text, passage.vector, position)
                chunk += 1
        for number, size in self._composed():
            random = self.source.random("document", number)
            topic = int(random.random() * len(self._passages))
            texts = [self._text(random, topic + position) for position in range(size)]
            for position, text in enumerate(texts):
                vector = self._vector(random, topic + position)
                yield self._chunk(chunk, number, text, vector, position)
                chunk += 1

    def _composed(self) -> Iterator[tuple[int, int]]:
        left, number = self._composed_chunks, 0
        while left > 0:
            size = min(left, _LENGTHS[number % len(_LENGTHS)])
            yield len(self._originals) + number, size
            left -= size
            number += 1

    def _document(
        self, number: int, title: str, content: str, vector: array[float], origin: str
    ) -> tuple[Any, ...]:
        created = self.source.when(number, self.document_count)
        identity = self.source.uuid("document", number, created)
        return (self.tenant_id, identity, title, content, vector, {"origin": origin}, created)

    def _chunk(
        self, chunk: int, document: int, text: str, vector: array[float], position: int
    ) -> tuple[Any, ...]:
        written = self.source.when(document, self.document_count)
        parent = self.source.uuid("document", document, written)
        created = written + timedelta(milliseconds=position)
        identity = self.source.uuid("chunk", chunk, created)
        return (self.tenant_id, identity, parent, text, vector, position, created)

    def _text(self, random: Random, topic: int) -> str:
        """Return sentences of one passage, with one of another in between."""
        own = self._passages[topic % len(self._passages)].sentences
        start = int(random.random() * len(own))
        count = whole(random, 2, 4)
        sentences = [own[(start + step) % len(own)] for step in range(min(count, len(own)))]
        sentences.insert(count // 2, pick(random, pick(random, self._passages).sentences))
        return " ".join(sentences)

    def _vector(self, random: Random, topic: int) -> array[float]:
        """Return a vector near the topic's: a blend with noise, turned in some planes.

        Blends are few and kept; turning is cheap, makes each vector its own, and keeps its length
        of 1. Doing all of it for each vector would take ten times as long.
        """
        passage = topic % len(self._passages)
        vector = self._blend(passage, int(random.random() * _NOISES))[:]
        for _ in range(_TURNS):
            i = int(random.random() * EMBEDDING_DIMENSIONS)
            j = (i + 1 + int(random.random() * (EMBEDDING_DIMENSIONS - 1))) % EMBEDDING_DIMENSIONS
            half_angle = random.random() - 0.5
            # Cosine and sine from the tangent of the half angle: no platform's own sin() is used.
            scale = 1.0 + half_angle * half_angle
            cosine, sine = (2.0 - scale) / scale, 2.0 * half_angle / scale
            x, y = vector[i], vector[j]
            vector[i], vector[j] = cosine * x - sine * y, sine * x + cosine * y
        return vector

    def _blend(self, passage: int, noise: int) -> array[float]:
        kept = self._blends.get((passage, noise))
        if kept is None:
            if len(self._blends) >= 8192:  # noqa: PLR2004 - 32 MB; the oldest goes
                del self._blends[next(iter(self._blends))]
            kept = _unit(
                list(map(add, self._passages[passage].vector, _noises(self.plan.seed)[noise]))
            )
            self._blends[passage, noise] = kept
        return kept


@lru_cache(maxsize=2)
def _noises(seed: int) -> list[list[float]]:
    random = Source("noise", seed).random("noise", 0)
    return [_noise(random) for _ in range(_NOISES)]


def _noise(random: Random) -> list[float]:
    numbers = [random.random() - 0.5 for _ in range(EMBEDDING_DIMENSIONS)]
    return [_NOISE_LENGTH * x for x in _unit(numbers)]


def _unit(numbers: list[float]) -> array[float]:
    length = math.sqrt(math.fsum(x * x for x in numbers))
    return array("f", [x / length for x in numbers])


def _mean_direction(vectors: list[array[float]]) -> array[float]:
    return _unit([math.fsum(components) for components in zip(*vectors, strict=True)])


def _title(text: str) -> str:
    words = text.split()[:8]
    return " ".join(words).strip("#*`.,:; ")[:120] or "Notes"
