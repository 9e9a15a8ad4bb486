"""How much of a question is sent, and what is looked for at all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import pytest
from asyncpg.connection import LoggedQuery

from tenantry.search import keyword_search
from tenantry.search.queries import MAX_CHARACTERS, Query
from tests.conftest import Server
from tests.search.library import Library, contents, library_on

LONG = "lamp " * 39 + "lamps"  # 200 characters


@pytest.fixture(scope="module")
async def library(server: Server, template: str) -> AsyncIterator[Library]:
    async with library_on(server, template) as library:
        await library.add("a", f"xx{LONG}xx", f"xx{LONG} more", "office words")
        yield library


def ideographs(number: int) -> str:
    return "".join(chr(0x4E00 + n) for n in range(number))


CROWDS: dict[str, Callable[[int], str]] = {
    "exclusions": lambda n: " ".join(f"-w{m}" for m in range(n)),
    "excluded phrases": lambda n: " ".join(f'-"w{m} x"' for m in range(n)),
    "demands": lambda n: " ".join(f'"w{m}"' for m in range(n)),
    "alternatives": lambda n: " OR ".join(f'"w{m}"' for m in range(n)),
    "pairs": lambda n: ideographs(n + 1),
    "all of them": lambda n: (
        " ".join(f'-w{m} "w{m}" OR "x{m}"' for m in range(n)) + f" {ideographs(n + 1)}"
    ),
}


def sizes(query: Query) -> list[int]:
    """How many alternatives are demanded, how many demands, exclusions and pairs there are."""
    return [
        max(map(len, query.required), default=0),
        *(len(query.required), len(query.excluded), len(query.pairs)),
    ]


@pytest.mark.parametrize("kind", CROWDS)
async def test_what_is_sent_is_bounded(library: Library, kind: str) -> None:
    """Of thousands of demands, exclusions and pairs, 16, 16 and 128 are sent, the first ones: each
    is looked for in every chunk. PostgreSQL makes a condition of them that is as bounded."""
    few, most, many = (Query.parse(CROWDS[kind](number)) for number in (2, 16, 1000))
    assert max(sizes(few)) == 2
    for bounded, found in zip((16, 16, 16, 128), sizes(many), strict=True):
        assert found <= bounded
    assert many.excluded == most.excluded
    assert many.required[: len(most.required)] == most.required
    assert max(sizes(many)) == (128 if "pairs" in kind else 16) or kind == "all of them"
    nodes = "SELECT coalesce(numnode(tenantry.demands('{english,simple}', $1, $2)), 0)"
    at_most = await library.admin.fetchval(nodes, many.required_json, many.excluded)
    assert at_most <= 2 * (2 * 16 * 16 + 4 * 2 * 16)


def test_no_text_sends_more() -> None:
    """Nor does any mixture, to the last character that counts."""
    for text in (kind(5000)[: MAX_CHARACTERS + cut] for kind in CROWDS.values() for cut in (-1, 9)):
        query = Query.parse(text)
        assert all(len(group) <= 16 for group in query.required)
        assert len(query.required) <= 16
        assert len(query.excluded) <= 16
        assert len(query.pairs) <= 128
        assert len(json.dumps([query.words, query.required, query.excluded])) < 4 * MAX_CHARACTERS


async def test_the_first_exclusions_hold(library: Library) -> None:
    """What stands among the first 16 is still excluded when hundreds follow."""
    async with library.db.tenant(library.tenants["a"]) as tx:
        many = " ".join(f"-no{n}" for n in range(500))
        assert contents(await keyword_search(tx, f"lamp office -more -lamps {many}")) == [
            "office words"
        ]
        assert await keyword_search(tx, f"office -words {many}") == []
        assert len(await keyword_search(tx, f"office lamp {many}")) == 3


async def sent_by(library: Library, text: str) -> tuple[list[str], list[str]]:
    """Return what a search found, and what it sent."""
    sent: list[LoggedQuery] = []
    async with library.db.tenant(library.tenants["a"]) as tx:
        with (await tx.driver()).query_logger(sent.append):
            found = contents(await keyword_search(tx, text))
            await asyncio.sleep(0)  # the driver tells with the loop's next turn
    return found, [each.query for each in sent]


@pytest.mark.parametrize(
    ("text", "by_letters"),
    [
        ("p lam", True),
        (LONG[1:], True),
        (f"  {LONG}  ", True),
        (f"{LONG}x", False),
        (LONG * 19, False),
        ("-office", False),
        ('"p lam"', False),
        ("", False),
    ],
    ids=lambda value: str(value)[:12],
)
async def test_what_is_looked_for_letter_by_letter(
    library: Library, text: str, by_letters: bool
) -> None:
    """A part of a word is, up to 200 characters; what is longer is a question, and would be looked
    for in vain in all that the tenant has."""
    found, sent = await sent_by(library, text)
    assert any("search_keywords" in each for each in sent)
    assert any("search_substrings" in each for each in sent) is by_letters
    if by_letters:
        assert len(found) == 2
