"""Splitting texts into passages."""

from __future__ import annotations

from time import thread_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.errors import InvalidValueError
from tenantry.knowledge import split
from tenantry.knowledge.splitting import MAX_CHARACTERS

UNICODE = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize("markdown", [True, False])
@given(text=UNICODE, max_characters=st.integers(1, 50))
def test_no_passage_is_too_long_and_nothing_is_lost(
    markdown: bool, text: str, max_characters: int
) -> None:
    """Passages fit, hold text, and together hold everything but white space."""
    passages = split(text, markdown=markdown, max_characters=max_characters)
    assert all(0 < len(passage) <= max_characters and passage.strip() for passage in passages)
    assert "".join("".join(passages).split()) == "".join(text.split())


def test_markdown_breaks_at_headings() -> None:
    """A heading begins a passage when not everything fits in one."""
    text = "# One\n\nFirst text.\n\n# Two\n\nSecond text."
    assert split(text, markdown=True, max_characters=25) == [
        "# One\n\nFirst text.",
        "# Two\n\nSecond text.",
    ]
    assert split(text, markdown=True) == [text]


@pytest.mark.parametrize("text", ["", " ", "\n\n\t"])
def test_white_space_alone_gives_nothing(text: str) -> None:
    """There is no empty passage."""
    assert split(text, markdown=True) == split(text, markdown=False) == []


def test_large_markdown_is_split_in_linear_time() -> None:
    """Five megabytes of Markdown take seconds, not minutes, and stay whole."""
    text = "## Heading\n\nHello world. This is a text.\n\n" * 120_000
    passages = split(text, markdown=True)
    assert sum(passage.count("Heading") for passage in passages) == 120_000


def _seconds(text: str, *, markdown: bool) -> float:
    started = thread_time()
    split(text, markdown=markdown)
    return thread_time() - started


@pytest.mark.parametrize("markdown", [True, False])
@pytest.mark.parametrize("unit", ["y", "A word, then. ", "A line.\n"])
def test_text_without_an_empty_line_is_split_in_linear_time(unit: str, markdown: bool) -> None:
    """A megabyte of one line takes eight times as long as an eighth of it, and not 64 times."""
    text = unit * (1_000_000 // len(unit))
    eighth = min(_seconds(text[: len(text) // 8], markdown=markdown) for _ in range(3))
    assert _seconds(text, markdown=markdown) < 24 * eighth
    passages = split(text, markdown=markdown)
    assert "".join("".join(passages).split()) == "".join(text.split())
    assert max(map(len, passages)) <= MAX_CHARACTERS


@pytest.mark.parametrize("markdown", [True, False])
def test_lone_surrogate_is_refused(markdown: bool) -> None:
    """Text that is no Unicode is refused with the place."""
    with pytest.raises(InvalidValueError, match="lone surrogate at character 1"):
        split("a\ud800b", markdown=markdown)


@pytest.mark.parametrize("max_characters", [0, -1])
def test_impossible_length_is_refused(max_characters: int) -> None:
    """A passage has at least one character."""
    with pytest.raises(InvalidValueError, match="max_characters is"):
        split("text", markdown=False, max_characters=max_characters)
