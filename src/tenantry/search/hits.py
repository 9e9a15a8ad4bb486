"""What a search returns."""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import dataclass
from typing import Final
from uuid import UUID

__all__ = ["Highlight", "Hit"]

_START: Final = "\ue000"
_STOP: Final = "\ue001"
_JOINER: Final = "\u200d"


@dataclass(frozen=True, slots=True)
class Highlight:
    """An excerpt of a text, with the places that a question matches.

    Args:
        parts: The excerpt in pieces, in order; True for those that match.
    """

    parts: tuple[tuple[str, bool], ...]

    def __str__(self) -> str:
        """Return the excerpt as plain text."""
        return "".join(text for text, _ in self.parts)

    def html(self, tag: str = "mark") -> str:
        """Return the excerpt as HTML: its text escaped, each match within ``<tag>``."""
        return "".join(
            f"<{tag}>{html.escape(text)}</{tag}>" if matches else html.escape(text)
            for text, matches in self.parts
        )

    @classmethod
    def from_marked(cls, marked: str) -> Highlight:
        """Take apart what ``tenantry.excerpt`` has marked."""
        parts: list[tuple[str, bool]] = []
        for number, piece in enumerate(re.split(f"[{_START}{_STOP}]", marked)):
            if piece:
                parts.append((piece, number % 2 == 1))
        return cls(tuple(parts))

    @classmethod
    def of(
        cls, text: str, wanted: re.Pattern[str] | None, *, around: int = 100
    ) -> Highlight | None:
        """Mark what ``text`` has of ``wanted``.

        Args:
            text: The text.
            wanted: What to mark in it; None for nothing.
            around: Characters of it to keep before the first match, and after that four times as
                many.

        Returns:
            None where it has none of it.
        """
        if wanted is None or (first := wanted.search(text)) is None:
            return None
        start = min(first.start(), _between_signs(text, max(0, first.start() - around)))
        cut = text[start : _between_signs(text, first.end() + 4 * around)]
        return cls(((_without_marks(cut), False),)).also(wanted)

    def also(self, wanted: re.Pattern[str] | None) -> Highlight:
        """Return the same excerpt, in which ``wanted`` is marked, too; None for nothing."""
        if wanted is None:
            return self
        parts: list[tuple[str, bool]] = []
        for text, matches in self.parts:
            parts += [(text, True)] if matches else _marked(text, wanted)
        return Highlight(tuple(parts))


def _marked(text: str, wanted: re.Pattern[str]) -> list[tuple[str, bool]]:
    parts: list[tuple[str, bool]] = []
    at = 0
    while match := wanted.search(text, at):
        stop = _between_signs(text, match.end())
        parts += [(text[at : match.start()], False), (text[match.start() : stop], True)]
        at = stop
    return [part for part in (*parts, (text[at:], False)) if part[0]]


def _between_signs(text: str, at: int) -> int:
    """Return the next place where no letter is parted from its accents, nor a joined emoji."""
    while 0 < at < len(text) and (
        unicodedata.category(text[at]).startswith("M") or _JOINER in text[at - 1 : at + 1]
    ):
        at += 1
    return at


def _without_marks(text: str) -> str:
    return text.replace(_START, "").replace(_STOP, "")


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk, or a document, that was found.

    Args:
        id: Of the chunk; of the document where documents were searched.
        document_id: The document it belongs to.
        title: That document's title.
        content: The chunk's text, or the document's.
        score: The higher, the better. Of a vector search: the cosine similarity, -1 to 1. Of a
            hybrid search: 0 to 1, comparable within one result only. Of a keyword search: at least
            0, likewise comparable within one result only.
        highlight: The parts of the content that match the words; None where no words were given,
            none match, or highlights were not asked for.
    """

    id: UUID
    document_id: UUID
    title: str
    content: str
    score: float
    highlight: Highlight | None = None
