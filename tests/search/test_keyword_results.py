"""What a search by words gives: its order, its highlights, and what can be stored to be found."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from html.parser import HTMLParser

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tenantry.search import Hit, hybrid_search, keyword_search
from tests.conftest import Server
from tests.search.library import QUESTION, Library, contents, library_on, vector

pytestmark = pytest.mark.untraced


@pytest.fixture(scope="module")
async def library(server: Server, template: str) -> AsyncIterator[Library]:
    async with library_on(server, template) as library:
        await library.add(
            "a",
            *("common words about refunds", "common words about cats", "common rare words"),
            *("common words about dogs", "common common common words", "cats and dogs, no more"),
            vectors=[vector(0.1), vector(0.2)],
        )
        await library.add("b", "common secret of tenant b", "rare secret of tenant b")
        yield library


async def found(library: Library, text: str, *, tenant: str = "a", k: int = 10) -> list[Hit]:
    async with library.db.tenant(library.tenants[tenant]) as tx:
        return await keyword_search(tx, text, k=k)


# Order


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("common rare", "common rare words"),
        ("rare common common common", "common rare words"),
        ("cats dogs", "cats and dogs, no more"),
        ("refunds about common", "common words about refunds"),
        ("common", "common common common words"),
    ],
)
async def test_order(library: Library, text: str, first: str) -> None:
    """Rarer words, more of the words and more occurrences come first; scores fall."""
    hits = await found(library, text)
    assert hits[0].content == first
    assert hits[0].score > hits[1].score
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


@pytest.mark.parametrize("k", [1, 2, 5, 1000])
async def test_k(library: Library, k: int) -> None:
    """As many as asked for, the best of them, and no more than there are."""
    hits = await found(library, "common", k=k)
    assert len(hits) == min(k, 5)
    assert contents(hits) == contents(await found(library, "common"))[:k]


@pytest.mark.parametrize("text", ["common", "comon", "ommo"])
async def test_no_hit_twice(library: Library, text: str) -> None:
    """However a text is looked for, each chunk comes once, and scores fall."""
    hits = await found(library, text, k=5)
    assert len({hit.id for hit in hits}) == len(hits) == 5
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert min(hit.score for hit in hits) >= 0


async def test_language_of_the_text(library: Library) -> None:
    """A language that is named takes the place of those that the chunks are in."""
    await library.add("lingual", "die Häuser stehen", "der Hund bellt", language="german")
    async with library.db.tenant(library.tenants["lingual"]) as tx:
        assert contents(await keyword_search(tx, "Haus", language="german")) == [
            "die Häuser stehen"
        ]
        assert contents(await keyword_search(tx, "Haus")) == ["die Häuser stehen"]
        # English words have other forms: nothing but its letters is left to find.
        assert await keyword_search(tx, "stehend", language="simple") == []


# In a knowledge base that is large enough to have common words


MANY = """
    INSERT INTO knowledge_chunks (tenant_id, id, document_id, position, content)
    SELECT $1, gen_random_uuid(), $2, n, 'company number' || n
           || CASE WHEN n <= 2 THEN ' refund' ELSE '' END
           || CASE WHEN n % 3 = 0 THEN ' spam' ELSE '' END
      FROM generate_series(1, $3::integer) n
"""


async def of_chunks(library: Library, number: int) -> str:
    """A tenant of so many chunks, all about the company, two about refunds, a third with spam."""
    name = f"of-{number}"
    if name not in library.tenants:
        document = await library.add(name)
        await library.admin.execute(MANY, library.tenants[name], document, number)
    return name


@pytest.mark.parametrize("text", ["company refund", "company", "spam company unheardof"])
@pytest.mark.parametrize("exclusion", ["-spam", '-"company number2"', "-unheardof -spam", "-the"])
async def test_exclusions_cost_no_hits(library: Library, text: str, exclusion: str) -> None:
    """There are as many hits as without the exclusion, in their order, less those that have it."""
    tenant = await of_chunks(library, 600)

    def stays(hit: Hit) -> bool:
        return not ("spam" in exclusion and "spam" in hit.content) and not (
            "number2" in exclusion and hit.content == "company number2 refund"
        )

    async with library.db.tenant(library.tenants[tenant]) as tx:
        everything = await keyword_search(tx, text, k=1000, highlight=False)
        assert len(everything) == 600
        for k in (1, 10, 300, 1000):
            hits = await keyword_search(tx, f"{text} {exclusion}", k=k, highlight=False)
            assert hits == [hit for hit in everything if stays(hit)][:k]


WEIGHED = """
    SELECT everything::text, rare::text, weights, terms::text[] AS terms
      FROM tenantry.weigh_terms($1, 'company refund', '{}', NULL)
"""


@pytest.mark.parametrize("number", [2, 3, 255, 256, 257, 300, 511])
async def test_each_chunk_counts_once(library: Library, number: int) -> None:
    """Weights are those of the formula over all of the tenant's chunks, however few they are; and
    so few are no large knowledge base, whose common words are looked for last."""
    tenant = library.tenants[await of_chunks(library, number)]
    row = await library.admin.fetchrow(WEIGHED, tenant)
    assert row is not None
    assert row["everything"] == row["rare"]
    weights = dict(zip(row["terms"], row["weights"], strict=True))
    for term, having in (("'compani'", number), ("'refund'", 2)):
        assert weights[term] == pytest.approx(
            math.log(1 + (number - having + 0.5) / (having + 0.5))
        )


@pytest.mark.parametrize("number", [512, 600, 1200])
async def test_the_oldest_and_the_newest_count(library: Library, number: int) -> None:
    """512 of either end are the sample; from 512 on, a common word is looked for last."""
    tenant = library.tenants[await of_chunks(library, number)]
    row = await library.admin.fetchrow(WEIGHED, tenant)
    assert row is not None
    assert row["rare"] == "'refund'"
    assert min(row["weights"]) == pytest.approx(math.log(1 + 0.5 / (min(number, 1024) + 0.5)))


@pytest.mark.parametrize("k", [1, 3, 10])
async def test_the_best_of_what_contains_the_letters(library: Library, k: int) -> None:
    """Of many chunks with the text in them, the nearest to it come, and not any k."""
    best = ("a marmala", "marmala", "marmala jar")
    if "letters" not in library.tenants:
        await library.add("letters", *(f"xxmarmalazz{n}" for n in range(60)), *best)
    hits = await found(library, "armala", tenant="letters", k=k)
    assert len(hits) == k
    if k == 1:
        assert hits[0].content in best
        return
    assert {hit.content for hit in hits[:3]} == set(best)
    assert all(hit.score < hits[0].score for hit in hits[3:])


# Highlights


class _Parsed(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


HOSTILE = (
    "<script>alert('word')</script>",
    "<b onclick=\"x('word')\">word</b> & <i>",
    "\ue000faked\ue001 word",
    "word \ue001\ue000\ue000 word \ue001",
    "&lt;mark&gt; word </mark><mark>not</mark>",
    "word <!-- comment -->",
    "StartSel=<x> word, FragmentDelimiter",
    "退款 <b>word</b> \ue000退\ue001款",
)


@pytest.mark.parametrize("question", ["word", "wor", '"word"', "退款", "ord<", "\ue000word"])
async def test_highlights_of_hostile_content(library: Library, question: str) -> None:
    """Nothing in the content becomes markup or a match, however it is found."""
    if "hostile" not in library.tenants:
        await library.add("hostile", *HOSTILE)
    hits = await found(library, question, tenant="hostile")
    assert hits
    for hit in hits:
        assert hit.highlight is not None or question == '"word"'
        if hit.highlight is None:
            continue
        parsed = _Parsed()
        parsed.feed(hit.highlight.html())
        parsed.close()
        assert set(parsed.tags) <= {"mark"}
        assert parsed.text == str(hit.highlight)
        matched = {part.lower() for part, matches in hit.highlight.parts if matches}
        assert matched <= {"word", "wor", "退款", "ord<", "退", "款"}, hit.content
        assert not {"\ue000", "\ue001"} & set(str(hit.highlight))


async def test_highlights_mark_a_sign_that_stands_alone(library: Library) -> None:
    """One character of Chinese is a word that can be looked for, and so is marked."""
    await library.add("alone", "客户可以在三十天内申请退款。", language="simple")
    for question in ("退", '"退" -货'):
        (hit,) = await found(library, question, tenant="alone")
        assert hit.highlight is not None
        assert ("退", True) in hit.highlight.parts


async def test_highlights_mark_words_and_signs_of_one_question(library: Library) -> None:
    """Where both are looked for, both are marked."""
    await library.add("mixed", "Our policy: 客户可以申请退款, says the policy.", language="simple")
    (hit,) = await found(library, "policy 退款", tenant="mixed")
    assert hit.highlight is not None
    assert hit.highlight.html() == (
        "Our <mark>policy</mark>: 客户可以申请<mark>退款</mark>, says the <mark>policy</mark>."
    )


async def test_highlights_mark_the_forms(library: Library) -> None:
    """A word is marked in whatever form it stands; without the wish there is no highlight."""
    async with library.db.tenant(library.tenants["a"]) as tx:
        (hit, *_) = await keyword_search(tx, "refunding", k=1)
        (bare, *_) = await keyword_search(tx, "refunding", k=1, highlight=False)
        (letters,) = await keyword_search(tx, "efund", k=1)
    assert hit.highlight is not None
    assert hit.highlight.html("em") == "common words about <em>refunds</em>"
    assert bare.highlight is None
    assert letters.highlight is not None
    assert letters.highlight.html() == "common words about r<mark>efund</mark>s"


async def test_highlights_of_letters_are_no_pattern(library: Library) -> None:
    """What is syntax of a regular expression is marked as it stands."""
    await library.add("syntax", "The price (n.e.) fell.")
    (hit,) = await found(library, "ice (n", tenant="syntax")
    assert hit.highlight is not None
    assert hit.highlight.html() == "The pr<mark>ice (n</mark>.e.) fell."


@pytest.mark.parametrize("text", ["univresity", "niversity", "uinversities"])
async def test_corrections_are_in_their_basic_form_already(library: Library, text: str) -> None:
    """`univers`, of universities, is not cut to `univer`, which nothing has."""
    if "learned" not in library.tenants:
        await library.add("learned", "All about the universities.")
    assert contents(await found(library, text, tenant="learned")) == ["All about the universities."]


async def test_words_that_begin_alike_are_not_crowded_out(library: Library) -> None:
    """However many words resemble a typing error more, the one that begins as it does is found."""
    letters = "bcdfghklmp"
    crowd = " ".join(f"{a}{b}efnud" for a in letters for b in letters)
    await library.add("crowded", crowd, "about a refund")
    assert contents(await found(library, "refnud", tenant="crowded")) == ["about a refund"]


async def test_a_short_word_is_not_taken_for_one_that_begins_otherwise(library: Library) -> None:
    """One letter of five is too much where it is one of the first three."""
    await library.add("house", "the house is for sale")
    assert await found(library, "mouse", tenant="house") == []


# Anything


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    text=st.text(max_size=60)
    | st.lists(
        st.sampled_from(
            [
                *(
                    '"',
                    "-",
                    "OR",
                    "common",
                    "secret",
                    "rare",
                    " ",
                    "&",
                    "|",
                    "!",
                    "(",
                    ":*",
                    "\\",
                    "'",
                )
            ]
        ),
        max_size=20,
    ).map("".join)
    | st.text(
        st.characters(codec=None, categories=["Cs", "Cc", "Co", "Mn", "Lo", "Zs"]), max_size=30
    )
)
async def test_any_text(library: Library, text: str) -> None:
    """No text is an error, and none finds what is another tenant's."""
    async with library.db.tenant(library.tenants["a"]) as tx:
        hits = await keyword_search(tx, text)
        hits += await hybrid_search(tx, text=text, embedding=QUESTION)
    assert not [hit for hit in hits if "tenant b" in hit.content]


# What can be stored


BIG = 100_000
PATHOLOGICAL = {
    "words": lambda: " ".join(f"{n:x}" for n in range(20_000)),
    "ideographs": lambda: "".join(chr(0x4E00 + n % 20_900) for n in range(BIG)),
    "rare-ideographs": lambda: " ".join(chr(0x20000 + n % 40_000) for n in range(BIG // 2)),
    "hyphens": lambda: " ".join(
        f"{chr(0x20000 + n % 40_000)}-{chr(0x20001 + n // 40_000)}" for n in range(BIG // 4)
    ),
    "compounds": lambda: " ".join(
        "-".join(chr(0x20000 + (n * 250 + m) % 40_000) * 400 for m in range(1)) + f"-{n}"
        for n in range(BIG // 405)
    ),
    "addresses": lambda: " ".join(f"{n:x}.de/{n:x}" for n in range(BIG // 12)),
    "mail": lambda: " ".join(f"{n:x}@{n:x}.de" for n in range(BIG // 12)),
    "paths": lambda: "/" + "/".join(f"{n:x}" for n in range(BIG // 6)),
    "one-word": lambda: "x" * BIG,
    "one-wide-word": lambda: "\U0001d400" * BIG,
    "hyphens-only": lambda: "-" * BIG,
    "long-hyphenated": lambda: "a-" * (BIG // 2),
    "dots": lambda: "1." * (BIG // 2),
    "brackets": lambda: "<" * BIG,
    "marks": lambda: "e\u0301" * (BIG // 2),
    "lower": lambda: "\u0130\u023a " * (BIG // 3),
    "xml": lambda: "<a b='" * (BIG // 6),
    "same": lambda: "needle " * (BIG // 7),
}


@pytest.mark.parametrize("kind", PATHOLOGICAL)
@pytest.mark.parametrize("language", ["english", "turkish"])
async def test_pathological_contents(library: Library, kind: str, language: str) -> None:
    """Whatever a text consists of, it can be stored, and found by its first words, marked."""
    tenant = f"{kind}-{language}"
    await library.add(tenant, f"needle {PATHOLOGICAL[kind]()}", language=language)
    for question in ("needle", '"needle"'):
        (hit,) = await found(library, question, tenant=tenant)
        assert hit.highlight is not None
        assert hit.highlight.parts[0][0].lower().startswith("needle")


async def test_highlight_far_into_a_text(library: Library) -> None:
    """A match beyond the first thousands of characters is what the highlight shows."""
    await library.add("far", "plain text " * 6000 + "a needle in it " + "plain text " * 500)
    for question in (
        "needle",
        '"a needle"',
        "needle -pin",
        'needle -"a pin"',
        '"needle" OR x -pin',
    ):
        (hit,) = await found(library, question, tenant="far")
        assert hit.highlight is not None
        assert ("needle", True) in hit.highlight.parts


async def test_the_largest_chunk(library: Library) -> None:
    """16 MB can be stored; words are found in the first 100,000 characters, letters anywhere."""
    text = "early " + "x " * ((16 * 1024 * 1024 - 20) // 2) + "late7Z"
    await library.add("largest", text)
    for question in ("early", "late7Z"):
        (hit,) = await found(library, question, tenant="largest")
        assert hit.content == text
        assert hit.highlight is not None
        assert question in [part for part, matches in hit.highlight.parts if matches]
        assert len(str(hit.highlight)) < 1000
