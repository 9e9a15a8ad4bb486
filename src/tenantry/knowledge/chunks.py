"""What chunks are made of, and how they are read, checked and gathered into batches."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias
from uuid import UUID

from tenantry.errors import DocumentUnknownError, InvalidValueError
from tenantry.schema.types import CONTENT_MAX_BYTES, check_text
from tenantry.tenancy.vectors import Embedding, Matrix, wire_vector

__all__ = ["Batch", "Chunk", "ChunkSource", "Reader", "as_document_id", "shown"]

POSITION_MAX: Final = 2**31 - 1

_SHOWN_BITS: Final = 128

_BATCH_CHARACTERS: Final = 4 * 1024 * 1024
"""A batch ends here too, so that long passages need no more memory than short ones."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage of a document, as it is stored.

    Args:
        content: The text.
        embedding: A sequence or one-dimensional array of `EMBEDDING_DIMENSIONS` numbers; None: not
            embedded, so that vector search does not find it.
        document_id: Whose passage it is, where chunks of several documents are loaded at once.
        position: Its place in the document, from 0; None: the next one that is free.
    """

    content: str
    embedding: Embedding | None = None
    document_id: UUID | str | None = None
    position: int | None = None


ChunkSource: TypeAlias = Iterable[Chunk | str] | AsyncIterable[Chunk | str]
"""Chunks, or texts alone."""


@dataclass(slots=True)
class Batch:
    """Rows that go into the table together, column by column.

    Args:
        first: Number of its first row, counted from 0 over the whole load.
    """

    first: int
    documents: list[UUID] = field(default_factory=list)
    contents: list[str] = field(default_factory=list)
    embeddings: list[bytes | None] = field(default_factory=list)
    positions: list[int | None] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)
    characters: int = 0

    def __len__(self) -> int:
        return len(self.documents)

    def is_full(self, size: int) -> bool:
        """Return whether it is to be sent, having ``size`` rows or much text."""
        return len(self.documents) >= size or self.characters >= _BATCH_CHARACTERS


def as_document_id(value: object) -> UUID:
    """Return a document's id as a UUID.

    Raises:
        DocumentUnknownError: It is neither a UUID nor the text of one, so no document has it.
    """
    if isinstance(value, UUID):
        return UUID(int=value.int)
    if isinstance(value, str):
        try:
            return UUID(value)
        except ValueError:
            pass
    found = f"a str of {len(value)} characters" if isinstance(value, str) else repr(value)[:40]
    raise DocumentUnknownError(
        f"A document's id is a UUID or its text; found {found}. No document has it."
    )


def shown(number: int) -> str:
    """Return a number for a message; Python refuses to write those of more than 4,300 digits."""
    return str(number) if number.bit_length() <= _SHOWN_BITS else "an int of many digits"


class Reader:
    """Reads chunks one after the other, and checks each.

    Args:
        document_id: Whose chunks they are, where a chunk does not say so itself.
        embeddings: Their vectors, where they do not hold them themselves.
    """

    def __init__(self, *, document_id: UUID | None, embeddings: object) -> None:
        self._document_id = document_id
        self._matrix = None if embeddings is None else Matrix(embeddings)
        self._count = 0

    def add(self, given: Chunk | str, batch: Batch) -> None:
        """Add the next chunk to ``batch``.

        Raises:
            InvalidValueError: It cannot be stored. The message names the row.
            DocumentUnknownError: Its document's id is no UUID.
        """
        where = f"knowledge_chunks, row {self._count}"
        chunk = Chunk(given) if isinstance(given, str) else given
        if not isinstance(chunk, Chunk):
            raise InvalidValueError(
                f"{where} is a {type(given).__name__}; a Chunk, or a str, is required."
            )
        document = self._document(chunk, where)
        content = check_text(chunk.content, max_bytes=CONTENT_MAX_BYTES, where=f"{where}: content")
        embedding = self._embedding(chunk, where)
        position = _position(chunk.position, where)
        batch.documents.append(document)
        batch.contents.append(content)
        batch.embeddings.append(embedding)
        batch.positions.append(position)
        batch.characters += len(content)
        self._count += 1

    def end(self) -> None:
        """Raise where embeddings are left.

        Raises:
            InvalidValueError: There are more of them than chunks.
        """
        if self._matrix is not None:
            self._matrix.require_end(self._count)

    def _document(self, chunk: Chunk, where: str) -> UUID:
        own = chunk.document_id
        if own is None:
            if self._document_id is None:
                raise InvalidValueError(
                    f"{where}: its document is not given. Give document_id, to load_chunks or to "
                    "each Chunk."
                )
            return self._document_id
        if type(own) is not UUID:
            own = as_document_id(own)
        if self._document_id not in {None, own}:
            raise InvalidValueError(
                f"{where}: its document_id is {own}, and all are loaded for "
                f"{self._document_id}. Leave one of the two out."
            )
        return own

    def _embedding(self, chunk: Chunk, where: str) -> bytes | None:
        where = f"{where}: embedding"
        if self._matrix is None:
            return None if chunk.embedding is None else wire_vector(chunk.embedding, where=where)
        if chunk.embedding is not None:
            raise InvalidValueError(
                f"{where} is given twice, by the Chunk and by embeddings. Leave one of them out."
            )
        return self._matrix.take(where=where)


def _position(value: object, where: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidValueError(
            f"{where}: position is a {type(value).__name__}; an int is required."
        )
    if not 0 <= value <= POSITION_MAX:
        raise InvalidValueError(
            f"{where}: position is {shown(value)}; 0 to {POSITION_MAX:,} are required."
        )
    return value
