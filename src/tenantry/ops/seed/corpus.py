"""The seeds' text: tenantry's own documentation, which is in the package."""

from __future__ import annotations

import hashlib
import re
from array import array
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Final

from tenantry.errors import ConfigurationError
from tenantry.knowledge import hash_embedding, split

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.resources.abc import Traversable

__all__ = ["Corpus", "Document", "Passage", "load_corpus"]

_PROSE: Final = re.compile(r"^(?![#|>`~<!\-\[\s]).+", re.MULTILINE)
_FENCED: Final = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+(?=[A-Z`])")
_SHORTEST_SENTENCE: Final = 25


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk of the documentation.

    Args:
        text: As it is stored.
        vector: Its embedding, of length 1.
        sentences: The sentences of its prose; the text itself if it has none.
    """

    text: str
    vector: array[float]
    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A page of the documentation."""

    title: str
    content: str
    passages: tuple[Passage, ...]


@dataclass(frozen=True, slots=True)
class Corpus:
    """The documentation, split and embedded.

    Args:
        documents: Its pages, by name.
        digest: Changes with any text or vector in it.
    """

    documents: tuple[Document, ...]
    digest: str

    @property
    def passages(self) -> tuple[Passage, ...]:
        """Every passage of every page."""
        return tuple(passage for each in self.documents for passage in each.passages)


@cache
def load_corpus() -> Corpus:
    """Return the documentation that is in the package.

    Raises:
        ConfigurationError: It is not there.
    """
    folder = resources.files("tenantry.ops.seed") / "documentation"
    pages = list(_pages(folder)) if folder.is_dir() else []
    documents = tuple(filter(None, map(_document, pages)))
    if not documents:
        raise ConfigurationError(
            "The documentation that the seeds are made of is not in this installation of "
            "tenantry. Install it anew."
        )
    digest = hashlib.sha256()
    for document in documents:
        digest.update(repr((document.title, document.content)).encode())
        for passage in document.passages:
            digest.update(repr((passage.text, passage.vector.tolist())).encode())
    return Corpus(documents, digest.hexdigest())


def _pages(folder: Traversable) -> Iterator[str]:
    # Not its folders: they are for the documentation's site alone, and not in the package.
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".md"):
            yield entry.read_text(encoding="utf-8").replace("\r\n", "\n")


def _document(page: str) -> Document | None:
    texts = split(page, markdown=True)
    if not texts:
        return None
    passages = tuple(
        Passage(text, array("f", vector), _sentences(text))
        for text, vector in zip(texts, hash_embedding(texts), strict=True)
    )
    heading = re.search(r"^#+\s+(.+)$", page, re.MULTILINE)
    return Document(heading[1].strip() if heading else "Documentation", page, passages)


def _sentences(text: str) -> tuple[str, ...]:
    paragraphs = re.split(r"\n\s*\n", _FENCED.sub("\n\n", text))
    prose = (" ".join(_PROSE.findall(paragraph)) for paragraph in paragraphs)
    found = tuple(
        sentence
        for paragraph in prose
        for sentence in _SENTENCE_END.split(paragraph)
        if len(sentence) >= _SHORTEST_SENTENCE and sentence.endswith((".", "!", "?"))
    )
    return found or (text,)
