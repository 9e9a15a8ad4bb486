"""Search by words, as a person types them."""

from __future__ import annotations

import unicodedata
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from tenantry.schema.languages import LANGUAGES
from tenantry.search import Hit, keyword_search
from tests.conftest import Server
from tests.search.library import Library, contents, library_on

REFUND = "A refund takes ten days."
POLICY = "The refund policy is strict."
MONDAY = "On Monday the office refunds nobody."
CAFE = "Das Häuschen der Katzen steht im Garten."
CHEVAL = "Les chevaux mangent du foin."
CHINESE = "客户可以在三十天内申请退款。"
JAPANESE = "返金は三十日以内に行われます。"
HEBREW = "החזר כספי תוך שלושים יום"
ARABIC = "يمكن للعملاء استرداد أموالهم"
THAI = "ลูกค้าสามารถขอเงินคืนได้"
PART = "Spare part AX-4711/b_9 costs 100% more \\ or less."
EMOJI = "Party 🎉 tonight 👩\u200d👩\u200d👧 for all"
COMBINING = "Cafe\u0301 au lait"


@pytest.fixture(scope="module")
async def library(server: Server, template: str) -> AsyncIterator[Library]:
    async with library_on(server, template) as library:
        await library.add("a", REFUND, POLICY, MONDAY, title="Refunds")
        await library.add("a", CAFE, language="german")
        await library.add("a", CHEVAL, language="french")
        await library.add("a", CHINESE, JAPANESE, HEBREW, THAI, language="simple")
        await library.add("a", ARABIC, language="arabic")
        await library.add("a", PART, EMOJI, COMBINING, title="Odds and ends")
        await library.add("b", REFUND, "Zanzibar refund of another tenant.")
        yield library


Search = Callable[..., Awaitable[list[Hit]]]


@pytest.fixture
def search(library: Library) -> Search:
    """Searches as tenant a."""

    async def search(text: str, **options: Any) -> list[Hit]:
        async with library.db.tenant(library.tenants["a"]) as tx:
            return await keyword_search(tx, text, **options)

    return search


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('"refund policy"', {POLICY}),
        ("“refund policy”", {POLICY}),
        ("„refund policy“", {POLICY}),
        ("«refund policy»", {POLICY}),
        ('"policy refund"', set()),
        ("refund -policy", {REFUND, MONDAY}),
        ('refund -"refund policy"', {REFUND, MONDAY}),
        ("refund -policy -monday", {REFUND}),
        ('"refund policy" OR "ten days"', {POLICY, REFUND}),
        ('"refund policy" OR "ten days" OR "office refunds"', {POLICY, REFUND, MONDAY}),
        ('"refund policy" OR monday', {POLICY, MONDAY}),
        ('monday OR "refund policy"', {POLICY, MONDAY}),
        ('monday OR office OR "ten days"', {MONDAY, REFUND}),
        ('"ten days" -policy OR monday', {REFUND}),
        ('"refund policy" "ten days"', set()),
        ('refund "ten days"', {REFUND}),
        ('OR "ten days" OR', {REFUND}),
        ('"ten days', {REFUND}),
        ("-refund", set()),
        ("policy office", {POLICY, MONDAY}),
        ("policy OR office", {POLICY, MONDAY}),
    ],
)
async def test_syntax(search: Search, text: str, found: set[str]) -> None:
    """Quotes ask for neighbours, a minus excludes, OR asks for either; nothing else is found."""
    assert set(contents(await search(text))) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("REFUNDING", REFUND),
        ("Häuser Katze", CAFE),
        ("cheval", CHEVAL),
        ("mange", CHEVAL),
        ("退款", CHINESE),
        ("申请退款", CHINESE),
        ("返金", JAPANESE),
        ("כספי", HEBREW),
        ("أموالهم", ARABIC),
        ("เงินคืน", THAI),
        ("Häuschens", CAFE),
    ],
)
async def test_languages(search: Search, text: str, found: str) -> None:
    """Each language's words are found in other forms, also where PostgreSQL knows none."""
    assert found in contents(await search(text))


COMPOSED = [
    ("german", "Die Stühle für große Räume", "Stuhl -Bücher", "Stühle"),
    ("french", "La crème brûlée du café", '"crème brûlée"', "crème"),
    ("russian", "Мой ёжик пришёл", "ёжика -ёлка", "ёжик"),
    ("simple", "환불 정책 안내", "환불 -정", "환불"),
    ("simple", "返金ガイドとデポジット", "ガイド -返礼", "ガイ"),
    ("simple", "Nguyễn Văn Việt", "-Hòa Việt", "Việt"),
]


def composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("typed", ["NFC", "NFD"])
async def test_accents_of_either_form(
    server: Server, template: str, stored: Any, typed: Any
) -> None:
    """A letter and its accent are one sign or two, as a keyboard, a file's name or a PDF has it."""
    async with library_on(server, template) as library:
        for language, content, _, _ in COMPOSED:
            written = unicodedata.normalize(stored, content)
            await library.add("a", written, "0 " * 2_500 + written, language=language)
        async with library.db.tenant(library.tenants["a"]) as tx:
            for _, content, question, marked in COMPOSED:
                hits = await keyword_search(tx, unicodedata.normalize(typed, question))
                found = [composed(hit.content).removeprefix("0 " * 2_500) for hit in hits]
                assert found == [content, content], question
                parts = [hit.highlight.parts if hit.highlight else () for hit in hits]
                for each in parts:
                    assert marked in {composed(piece) for piece, matches in each if matches}
                without = f"0 -{content.split()[-1]}"
                left = await keyword_search(tx, unicodedata.normalize(typed, without), k=100)
                assert len(left) == len(COMPOSED) - 1, without


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("refnud", REFUND),
        ("polciy", POLICY),
        ("erfund", REFUND),
        ("plicy", POLICY),
        ("AX-4711/b_9", PART),
        ("4711", PART),
        ("100%", PART),
        ("b_9", PART),
        ("\\", PART),
        ("🎉", EMOJI),
        ("👩\u200d👩\u200d👧", EMOJI),
        ("Cafe\u0301", COMBINING),
        ("efun", REFUND),
    ],
)
async def test_what_is_no_word(search: Search, text: str, found: str) -> None:
    """Typing errors, parts of words, numbers of parts and signs are found."""
    assert found in contents(await search(text))


@pytest.mark.parametrize("text", ["x%d", "r_fund", "f%ys", "a\\", "%\\%"])
async def test_wildcards_are_letters(search: Search, text: str) -> None:
    """Per cent, underscore and backslash stand for themselves."""
    assert await search(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \t\n",
        "the of and",
        '"the of"',
        "-the",
        "--",
        '"',
        '""',
        '-""',
        "!!! ??? ...",
        "\u202e\u200f",
        "\0",
        "\ud800",
        "'; DROP TABLE knowledge_chunks; --",
        "$1 $$ :name %(x)s {0}",
    ],
)
async def test_nothing_to_find(search: Search, text: str) -> None:
    """No words, or none that says anything, find nothing, without an error."""
    assert await search(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "refund & | ! <-> <2> :* ( ) 'x",
        "refund:*ABCD",
        "refund\0policy",
        "refund \ud800\udfff",
        "refund' || 'policy",
        "refund \\' \\\\",
        "refund" + " x" * 500_000,
        "refund " + "-a" * 1990,
        "refund " + "x" * 3990,
        "refund " + " -the" * 790,
        "refund <b>http://x/y?z=1 a@b.c 1e99 -5.5 /usr/lib</b> &amp;",
        "refund " + "😀" * 3000,
    ],
    ids=lambda text: ascii(text[:30]),
)
async def test_whatever_else_is_typed(search: Search, text: str) -> None:
    """Syntax of other languages, sizes and oddities are no errors, and the words between count."""
    assert REFUND in contents(await search(text))


@pytest.mark.parametrize(
    "text",
    [
        '"' + "refund " * 560 + '"',
        ('"a b" OR ' * 400)[:3990],
        ("-x" + " -yz" * 990)[:3990],
        " ".join(f'"{n} {n}"' for n in range(350)),
        " ".join(f"-{chr(0x4E00 + n)}{chr(0x4E01 + n)}" for n in range(900)),
        "".join(chr(0x4E00 + n) for n in range(3990)),
        '"' + "".join(chr(0x4E00 + n) for n in range(3980)) + '"',
        " ".join(chr(0x20000 + n) for n in range(1990)),
    ],
    ids=lambda text: ascii(text[:20]),
)
@pytest.mark.parametrize("tenant", ["a", "polyglot"])
async def test_much_syntax(library: Library, text: str, tenant: str) -> None:
    """Thousands of operators are no error, also where they are asked in all languages."""
    if "polyglot" not in library.tenants:
        for language in LANGUAGES:
            await library.add("polyglot", "refund", language=language)
    async with library.db.tenant(library.tenants[tenant]) as tx:
        assert isinstance(await keyword_search(tx, text), list)
