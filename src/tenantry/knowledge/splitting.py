"""Splitting a text into passages that are small enough to be embedded and found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from semantic_text_splitter import MarkdownSplitter, TextSplitter

from tenantry.errors import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MAX_CHARACTERS", "split"]

MAX_CHARACTERS: Final = 1200
"""Longest passage, in characters: some 300 tokens of English, within the input of every common
embedding model (256 to 512 word pieces for the small ones)."""

# The splitters' time grows with the square of the text: 31 s for 8 MB of Markdown, a minute for a
# line of 3 MB. Texts longer than this are cut first, at an empty line, or else at the next best
# place before twice as much; the worst that can happen is a code block, or a word, in two passages.
_MAX_PIECE: Final = 100_000
_CUTS: Final = ("\n\n", "\n", " ")


def split(text: str, *, markdown: bool, max_characters: int = MAX_CHARACTERS) -> list[str]:
    """Return the passages of ``text`` in reading order, without surrounding white space.

    Breaks are made at the highest level that fits: headings, then paragraphs, sentences, words.
    Nothing but white space between passages is lost.

    Args:
        text: What to split. White space alone gives no passage.
        markdown: Whether headings, lists and code blocks are recognised as such.
        max_characters: Longest passage, in code points.

    Raises:
        InvalidValueError: ``max_characters`` is below 1, or ``text`` holds a lone surrogate.
    """
    if max_characters < 1:
        raise InvalidValueError(f"max_characters is {max_characters}; at least 1 is required.")
    splitter = (MarkdownSplitter if markdown else TextSplitter)(max_characters)
    try:
        chunks = [chunk for piece in _pieces(text) for chunk in splitter.chunks(piece)]
    except UnicodeEncodeError as error:
        raise InvalidValueError(
            f"The text contains a lone surrogate at character {error.start}, so it is not valid "
            "Unicode. Decode its source with the right encoding."
        ) from None
    return [chunk for chunk in chunks if chunk.strip()]


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > _MAX_PIECE:
        end = _cut(text, start + _MAX_PIECE)
        yield text[start:end]
        start = end
    yield text[start:]


def _cut(text: str, least: int) -> int:
    found = (text.find(mark, least, least + _MAX_PIECE) for mark in _CUTS)
    return next((place for place in found if place >= 0), least)
