"""Chunks of many tenants of very different sizes, made from real paragraphs and their embeddings.

A chunk's vector mixes those of two or three paragraphs, mostly of one article, with noise, and is
turned into 1,024 dimensions; its text is that of the paragraph it is most like, and the next. What
a tenant has does not depend on what it is about. Everything follows from a seed, block by block, so
that a million vectors never are in memory at once.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias
from uuid import UUID

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from benchmarks.squad import Floats, Squad, unit
from tenantry.schema import EMBEDDING_DIMENSIONS

Integers: TypeAlias = NDArray[np.int64]

TENANTS: Final = 1_000
CHUNKS_OF_TENANT: Final = 25
"""On average, at least: of fewer than 25,000 chunks there are fewer tenants."""

BLOCK: Final = 1_000
CHUNKS_OF_DOCUMENT: Final = 50
RECIPE: Final = 1
"""Raised when the same number of chunks would have other contents."""

_SEED: Final = 7
_REAL_DIMENSIONS: Final = 384
_NOISE: Final = 0.35
_PERTURBED: Final = 0.5
_SAME_ARTICLE: Final = 0.8
_CHARACTERS: Final = 800
_HEAD: Final = EMBEDDING_DIMENSIONS.to_bytes(2, "big") + b"\0\0"

CHUNK_COLUMNS: Final = ("tenant_id", "id", "document_id", "content", "embedding", "position")
DOCUMENT_COLUMNS: Final = ("tenant_id", "id", "title", "content")


@dataclass(frozen=True)
class Corpus:
    """So many chunks, of `TENANTS` tenants whose sizes fall as 1 over their rank."""

    size: int
    squad: Squad = field(default_factory=Squad.read)

    def __post_init__(self) -> None:
        chance = np.random.default_rng(_SEED)
        turned = np.linalg.qr(chance.standard_normal((EMBEDDING_DIMENSIONS, _REAL_DIMENSIONS)))[0]
        shares = 1 / np.arange(1, min(TENANTS, self.size // CHUNKS_OF_TENANT) + 1)
        sizes = np.maximum(1, np.round(self.size * shares / shares.sum())).astype(np.int64)
        sizes[0] += self.size - sizes.sum()
        if len(sizes) < 50:
            raise SystemExit(f"{self.size} chunks are too few; take 3000 at least.")
        object.__setattr__(self, "rotation", turned.T.astype(np.float32))
        object.__setattr__(self, "sizes", tuple(int(each) for each in sizes))
        object.__setattr__(
            self, "tenants", tuple(_uuid(chance, number) for number in range(len(sizes)))
        )

    rotation: Floats = field(init=False)
    sizes: tuple[int, ...] = field(init=False)
    """Of the tenants, the largest first."""
    tenants: tuple[UUID, ...] = field(init=False)

    def tenant_rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield id, name and slug."""
        for number, tenant in enumerate(self.tenants):
            yield tenant, f"Tenant {number}", slug(number)

    def document_rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield the values of `DOCUMENT_COLUMNS`; each text is one paragraph."""
        texts = self.squad.paragraphs
        for number, chunks in enumerate(self.sizes):
            for document in range(-(-chunks // CHUNKS_OF_DOCUMENT)):
                yield (
                    self.tenants[number],
                    _document_id(number, document),
                    f"{slug(number)} document {document}",
                    texts[(number * 31 + document) % len(texts)],
                )

    def chunk_rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield the values of `CHUNK_COLUMNS`, with vectors in pgvector's binary form."""
        order = np.random.default_rng([_SEED, 1])
        owners = order.permutation(np.repeat(np.arange(len(self.sizes)), self.sizes))
        had = [0] * len(self.sizes)
        for start in range(0, self.size, BLOCK):
            chance = np.random.default_rng([_SEED, 2, start])
            count = min(BLOCK, self.size - start)
            vectors, first = self._block(chance, count)
            for place in range(count):
                owner, number = int(owners[start + place]), start + place
                yield (
                    self.tenants[owner],
                    _uuid(chance, number),
                    _document_id(owner, had[owner] // CHUNKS_OF_DOCUMENT),
                    self._text(number, int(first[place])),
                    binary(vectors[place]),
                    had[owner] % CHUNKS_OF_DOCUMENT,
                )
                had[owner] += 1

    def _block(self, chance: Generator, count: int) -> tuple[Floats, Integers]:
        """Return vectors, and of each the paragraph it has most of its text from."""
        real = self.squad.paragraph_vectors
        members = _members(self.squad.articles)
        first = chance.integers(len(real), size=count)
        others = chance.integers(len(real), size=(count, 2))
        same = chance.random((count, 2)) < _SAME_ARTICLE
        for row in range(count):
            mates = members[self.squad.articles[first[row]]]
            picked = mates[chance.integers(len(mates), size=2)]
            others[row] = np.where(same[row], picked, others[row])
        shares = chance.dirichlet((1, 1, 1), size=count).astype(np.float32)
        shares[chance.random(count) < 0.5, 2] = 0
        mixed = shares[:, :1] * real[first]
        for column in (0, 1):
            mixed = mixed + shares[:, column + 1 : column + 2] * real[others[:, column]]
        noisy = unit(mixed) + _noise(chance, (count, _REAL_DIMENSIONS), _NOISE)
        return unit(unit(noisy) @ self.rotation), first

    def _text(self, number: int, paragraph: int) -> str:
        texts = self.squad.paragraphs
        both = f"{texts[paragraph]} {texts[(paragraph + 1) % len(texts)]}"
        return f"{number} {both[:_CHARACTERS]}"

    def questions(self, chance: Generator, stored: Floats, count: int) -> Floats:
        """Return vectors to ask with: every other one a real question's, the rest a stored one's.

        A stored one's with noise, which leads away from it: it would be found too easily.
        """
        real = unit(self.squad.question_vectors @ self.rotation)
        asked = real[chance.integers(len(real), size=count)]
        odd = len(asked[1::2])
        away = _noise(chance, (odd, _REAL_DIMENSIONS), _PERTURBED) @ self.rotation
        asked[1::2] = unit(stored[chance.integers(len(stored), size=odd)] + away)
        return asked


def slug(number: int) -> str:
    """Return the slug of the tenant with this number; titles of its documents begin with it."""
    return f"tenant-{number:04}"


def binary(vector: Floats) -> bytes:
    """Return a vector in pgvector's binary form."""
    return _HEAD + vector.astype(">f4").tobytes()


def from_binary(data: bytes) -> Floats:
    """Return the vector that is in pgvector's binary form."""
    return np.array(struct.unpack(f">{EMBEDDING_DIMENSIONS}f", data[4:]), dtype=np.float32)


def _noise(chance: Generator, shape: tuple[int, int], length: float) -> Floats:
    drawn: Floats = chance.standard_normal(shape, dtype=np.float32)
    scaled: Floats = drawn * np.float32(length / shape[1] ** 0.5)
    return scaled


def _members(articles: tuple[str, ...]) -> dict[str, Integers]:
    titles = np.array(articles)
    return {title: np.flatnonzero(titles == title) for title in set(articles)}


def _uuid(chance: Generator, number: int) -> UUID:
    """Return a UUID of version 7, its time that of its number."""
    time = (0x0190 << 32) + number
    low = int(chance.integers(1 << 62))
    return UUID(
        int=(time << 80) | (7 << 76) | (int(chance.integers(1 << 12)) << 64) | (2 << 62) | low
    )


def _document_id(tenant: int, document: int) -> UUID:
    return UUID(int=(0x0180 << 112) | (tenant << 80) | (7 << 76) | (2 << 62) | document)
