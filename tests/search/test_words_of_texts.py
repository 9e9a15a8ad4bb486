"""Words in texts as they are: with brackets, accents, numbers, far apart, and in two languages."""

from __future__ import annotations

import unicodedata
from collections.abc import AsyncIterator

import pytest

from tenantry.search import Hit, hybrid_search, keyword_search
from tests.conftest import Server
from tests.search.library import QUESTION, Library, contents, library_on

pytestmark = pytest.mark.untraced


@pytest.fixture(scope="module")
async def library(server: Server, template: str) -> AsyncIterator[Library]:
    async with library_on(server, template) as library:
        yield library


async def found(library: Library, tenant: str, text: str, *, k: int = 10) -> list[Hit]:
    async with library.db.tenant(library.tenants[tenant]) as tx:
        return await keyword_search(tx, text, k=k)


async def found_by_both(library: Library, tenant: str, text: str) -> list[Hit]:
    async with library.db.tenant(library.tenants[tenant]) as tx:
        return await hybrid_search(tx, text=text, embedding=QUESTION)


# Brackets

INEQUALITY = "If x<y then the zeppelin rule applies when z>3."
CODE = 'A List<Quokka> within <div class="gizmo">, and \ue002 & &lt;'


@pytest.mark.parametrize(
    ("text", "content", "marked"),
    [
        ("zeppelin", INEQUALITY, ["zeppelin"]),
        ('"zeppelin rule"', INEQUALITY, ["zeppelin", "rule"]),
        ('"x<y then"', INEQUALITY, ["x", "y"]),
        ("rule -gizmo", INEQUALITY, ["rule"]),
        ('"list<quokka>"', CODE, ["List", "Quokka"]),
        ("gizmo", CODE, ["gizmo"]),
    ],
)
async def test_words_between_brackets(
    library: Library, text: str, content: str, marked: list[str]
) -> None:
    """What stands between < and > is text, as of an inequality or of a program's types."""
    if "brackets" not in library.tenants:
        await library.add("brackets", INEQUALITY, CODE)
    (hit,) = await found(library, "brackets", text)
    assert hit.content == content
    assert hit.highlight is not None
    assert [part for part, matches in hit.highlight.parts if matches] == marked
    assert str(hit.highlight) == content.replace("\ue002", "")


# Long questions


@pytest.mark.parametrize("number", [20, 600, 1200])
async def test_words_that_nobody_has_displace_none(library: Library, number: int) -> None:
    """A letter with dozens of words that the knowledge base lacks is answered by those it has."""
    name = f"of-{number}"
    await library.add(name, *(f"chunk {n}" for n in range(number // 2)), "a zebra", "the yachts")
    await library.add(name, *(f"chunk {n}" for n in range(number // 2)))
    text = " ".join(f"qq{n}" for n in range(60)) + " yacht zebra"
    assert sorted(contents(await found(library, name, text))) == ["a zebra", "the yachts"]
    hits = await found_by_both(library, name, text)
    assert sorted(contents(hits)) == ["a zebra", "the yachts"]


# Words that many chunks have

EACH_AN_EIGHTH = """
    INSERT INTO knowledge_chunks (tenant_id, id, document_id, position, content)
    SELECT $1, gen_random_uuid(), $2, n, 'number n' || n
           || (ARRAY[' refund', ' invoice', ' order', '', '', '', '', ''])[n % 8 + 1]
           || CASE n % 40 WHEN 3 THEN ' friday' ELSE '' END
      FROM generate_series(1, 1000) n
"""


@pytest.mark.parametrize("k", [1, 10])
async def test_a_rare_word_does_not_outdo_all_others(library: Library, k: int) -> None:
    """A chunk with three of the words is found, though each of them is in every eighth chunk, and
    the word that it lacks is a rarer one, which others have."""
    best = "a refund of the invoice for an order"
    if "eighths" not in library.tenants:
        document = await library.add("eighths", best)
        await library.admin.execute(EACH_AN_EIGHTH, library.tenants["eighths"], document)
    hits = await found(library, "eighths", "refund invoice order friday", k=k)
    assert hits[0].content == best


# Corrections


@pytest.mark.parametrize("text", ["2020", "invoice 10234", "AX4712"])
async def test_a_number_is_not_misspelt(library: Library, text: str) -> None:
    """Another year, or another part, is not what was meant."""
    if "numbers" not in library.tenants:
        await library.add("numbers", "in 2026", "number 10243", "part AX4721", "an invoice")
    expected = ["an invoice"] if "invoice" in text else []
    assert contents(await found(library, "numbers", text)) == expected


async def test_numbers_within_words_are_found(library: Library) -> None:
    """A year that PostgreSQL takes for a negative number is found by its letters."""
    await library.add("years", "the season 2019-2020", "the season 2021-2026")
    assert contents(await found(library, "years", "2020")) == ["the season 2019-2020"]


async def test_corrections_in_the_second_language(library: Library) -> None:
    """A typing error is looked up in the languages of the oldest and of the newest chunks."""
    await library.add("two", *(f"about refunds {n}" for n in range(600)))
    await library.add("two", "Die Prüfungsordnung gilt.", language="german")
    assert contents(await found(library, "two", "Prüfugnsordnung")) == ["Die Prüfungsordnung gilt."]


@pytest.mark.parametrize("text", ["naive", "naïve", "resume", "ANGSTROM"])
async def test_accents_are_a_typing_error_at_most(library: Library, text: str) -> None:
    """Who types no accents finds words that have them, and the other way round."""
    if "accents" not in library.tenants:
        await library.add("accents", "The naïve résumé of Zoë Ångström", "a naive attempt")
    hits = await found(library, "accents", text)
    assert hits
    assert contents(hits)[0] == {
        "naive": "a naive attempt",
    }.get(text, "The naïve résumé of Zoë Ångström")


# Highlights

PADDING = "lorem ipsum dolor sit amet consectetur "


@pytest.mark.parametrize("before", [3991, 3995, 3999, 4000, 7995])
@pytest.mark.parametrize("text", ["needle", '"needle work"'])
async def test_highlight_where_a_long_text_is_cut(library: Library, before: int, text: str) -> None:
    """A match is marked wherever it stands, across the places where a long text is cut."""
    name = f"cut-{before}"
    if name not in library.tenants:
        start = (PADDING * 300)[: before - 1]
        await library.add(name, f"{start} needle work {PADDING * 100}")
    (hit,) = await found(library, name, text)
    assert hit.highlight is not None
    marked = [part for part, matches in hit.highlight.parts if matches]
    assert marked == (["needle"] if text == "needle" else ["needle", "work"])


APART = "Every refund is slow. " + PADDING * 20 + "A policy, a refund. " + PADDING * 20
QUOTED = "Our refund policy is strict, and the fee is due. "


@pytest.mark.parametrize("before", [APART, APART + PADDING * 300], ids=["near", "far"])
@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ('"refund policy"', ["refund", "policy"]),
        ('fee "refund policy" -pin', ["refund", "policy", "fee"]),
        ('"due refund" OR "refund policy"', ["refund", "policy", "due"]),
    ],
)
async def test_highlight_of_a_phrase(
    library: Library, before: str, text: str, marked: list[str]
) -> None:
    """What is demanded is shown, and not its words where they stand apart."""
    name = f"phrase-{len(before)}"
    if name not in library.tenants:
        await library.add(name, before + QUOTED + PADDING * 20)
    for hits in (
        await found(library, name, text),
        await found_by_both(library, name, text),
    ):
        (hit,) = hits
        assert hit.highlight is not None
        assert "refund policy" in str(hit.highlight)
        assert "slow" not in str(hit.highlight)
        assert [part for part, matches in hit.highlight.parts if matches] == marked


async def test_highlight_of_phrases_far_apart(library: Library) -> None:
    """Where no excerpt can show all that is demanded, it shows some of it."""
    await library.add("phrases", QUOTED + PADDING * 300 + "Refunds take ten days. " + PADDING)
    (hit,) = await found(library, "phrases", '"refund policy" "ten days"')
    assert hit.highlight is not None
    assert ("policy", True) in hit.highlight.parts


def broken(part: str) -> bool:
    """Whether a text begins with what belongs to the sign before it."""
    return unicodedata.category(part[0]).startswith("M") or part[0] == "\u200d"


@pytest.mark.parametrize(
    ("around", "text"),
    [
        ("नमस्ते", "bcXYZd"),
        ("👩\u200d👧", "bcXYZd"),
        (unicodedata.normalize("NFD", "ÿ"), "bcXYZd"),
        ("abक्षि", "abक्ष"),
        ("ที่นี่", "ท"),
        ("xxe\u0301", "xxe"),
    ],
)
@pytest.mark.parametrize("shift", range(4))
async def test_highlights_keep_signs_whole(
    library: Library, around: str, text: str, shift: int
) -> None:
    """No excerpt, and no match, begins or ends between a letter and what is written on it."""
    name = f"signs-{len(library.tenants)}"
    await library.add(name, f"{around * 90}{'a' * shift}bcXYZdef{around * 200}", language="simple")
    (hit,) = await found(library, name, text)
    assert hit.highlight is not None
    assert any(matches for _, matches in hit.highlight.parts)
    assert not [part for part, _ in hit.highlight.parts if broken(part)]
