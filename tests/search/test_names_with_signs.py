"""Names of technologies that are told apart by their signs: C++, C#, F#, .NET, node.js."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tenantry.search import Hit, hybrid_search, keyword_search
from tests.conftest import Server
from tests.search.library import QUESTION, Library, contents, library_on, vector

LONE = "The language C is older."
CPP = "A C++ compiler comes with it."
CPP_17 = "C/C++17 or later: ask the vendor."
GPP = "Call g++ on the file."
CSHARP = "Write C#, not Java."
FSHARP = "F# is for the functional."
SPELLED = "tagged csharp by somebody"
DOTNET = "It needs .NET 8 to run."
LOWER = "our apps are on .net and azure"
BOTH = "Made with C#/.NET in Köln"
NET = "A net catches fish."
HOST = "See example.net for more."
NODE = "node.js runs it."
TEXTS = (
    *(LONE, CPP, CPP_17, GPP, CSHARP, FSHARP, SPELLED, DOTNET),
    *(LOWER, BOTH, NET, HOST, NODE),
)


@pytest.fixture(scope="module")
async def library(server: Server, template: str) -> AsyncIterator[Library]:
    async with library_on(server, template) as library:
        await library.add("a", *TEXTS, vectors=[vector(0.5)] * len(TEXTS))
        await library.add("german", CPP, CSHARP, LONE, language="german")
        await library.add("simple", CPP, CSHARP, LONE, language="simple")
        await library.add(
            "chinese", "我们使用C++和.NET开发软件。", "使用C语言。", language="simple"
        )
        await library.add("korean", "C#을 쓴다", "C를 쓴다", language="simple")
        await library.add("sharp", "sharp edges", "a knife", "a surplus", "dotted")
        yield library


async def found(library: Library, text: str, *, tenant: str = "a") -> list[Hit]:
    async with library.db.tenant(library.tenants[tenant]) as tx:
        return await keyword_search(tx, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("C++", {CPP, CPP_17}),
        ("c++", {CPP, CPP_17}),
        ("C#", {CSHARP, SPELLED, BOTH}),
        ("c# f#", {CSHARP, SPELLED, BOTH, FSHARP}),
        ("f#", {FSHARP}),
        ("g++", {GPP}),
        ('"C++ compiler"', {CPP}),
        ('"compiler C++"', set()),
        ('"C++17"', {CPP_17}),
        ('"C/C++"', {CPP_17}),
        ('"c#"', {CSHARP, SPELLED, BOTH}),
        ('"C++ compiler" OR F#', {CPP, FSHARP}),
        ("C++ OR g++", {CPP, CPP_17, GPP}),
        ("C++ -compiler", {CPP_17}),
        ("compiler -C++", set()),
        ("compiler -C", {CPP}),
        ("compiler -C#", {CPP}),
        ("C# -.NET", {CSHARP, SPELLED}),
        ("net -.net", {NET}),
        ('".NET 8"', {DOTNET}),
        ('"C# .NET"', {BOTH}),
        ("csharp -x", {CSHARP, SPELLED, BOTH}),
        ("dotnet", {DOTNET, LOWER, BOTH}),
        ("node.js", {NODE}),
    ],
)
async def test_signs_tell_names_apart(library: Library, text: str, expected: set[str]) -> None:
    """What has the name with its signs is found, and not what has the letter alone."""
    assert set(contents(await found(library, text))) == expected


@pytest.mark.parametrize("text", [".NET", ".net", ".Net"])
async def test_dot_net(library: Library, text: str) -> None:
    """`.NET` comes first however it is written; what has its letters only comes after it."""
    hits = contents(await found(library, text))
    assert set(hits[:3]) == {DOTNET, LOWER, BOTH}
    assert NET not in hits


async def test_a_letter_alone_comes_first(library: Library) -> None:
    """Who looks for C finds the language, and what has its letter in other words after that."""
    hits = contents(await found(library, "C"))
    assert set(hits[:2]) == {LONE, CPP_17}


@pytest.mark.parametrize("tenant", ["german", "simple"])
async def test_in_every_language(library: Library, tenant: str) -> None:
    """Word forms of other languages leave the names as they are."""
    assert contents(await found(library, "C++", tenant=tenant)) == [CPP]
    assert contents(await found(library, "-C++ C#", tenant=tenant)) == [CSHARP]


@pytest.mark.parametrize(
    ("tenant", "text", "marked"),
    [
        ("chinese", "C++", "我们使用<mark>C++</mark>和.NET开发软件。"),
        ("chinese", ".net开发", "我们使用C++和<mark>.NET</mark><mark>开发</mark>软件。"),
        ("chinese", '"使用c++"', "我们<mark>使用</mark><mark>C++</mark>和.NET开发软件。"),
        ("korean", "C#", "<mark>C#</mark>을 쓴다"),
    ],
)
async def test_beside_other_scripts(library: Library, tenant: str, text: str, marked: str) -> None:
    """A name ends where another script begins, without a space."""
    (hit,) = await found(library, text, tenant=tenant)
    assert hit.highlight is not None
    assert hit.highlight.html() == marked


async def test_in_a_hybrid_search(library: Library) -> None:
    """Where all are as near, the names decide."""
    async with library.db.tenant(library.tenants["a"]) as tx:
        hits = await hybrid_search(tx, text="C++", embedding=QUESTION, k=2)
        (hit,) = await hybrid_search(tx, text='"C++ compiler"', embedding=QUESTION)
    assert set(contents(hits)) == {CPP, CPP_17}
    assert hit.content == CPP


@pytest.mark.parametrize(
    ("text", "expected"), [("C#", []), ("C++", []), (".NET", []), ("C# knives", ["a knife"])]
)
async def test_a_name_is_no_misspelt_word(library: Library, text: str, expected: list[str]) -> None:
    """No `sharp` is found for C# where nothing has C#."""
    assert contents(await found(library, text, tenant="sharp")) == expected


@pytest.mark.parametrize(
    ("text", "content", "marked"),
    [
        ("C++", CPP, "A <mark>C++</mark> compiler comes with it."),
        ("c++ compilers", CPP, "A <mark>C++</mark> <mark>compiler</mark> comes with it."),
        ('"c++ compiler"', CPP, "A <mark>C++</mark> <mark>compiler</mark> comes with it."),
        ("C#", CSHARP, "Write <mark>C#</mark>, not Java."),
        ("csharp", CSHARP, "Write <mark>C#</mark>, not Java."),
        ("c#", SPELLED, "tagged <mark>csharp</mark> by somebody"),
        (".net c#", BOTH, "Made with <mark>C#</mark>/<mark>.NET</mark> in Köln"),
    ],
)
async def test_highlights_mark_the_signs(
    library: Library, text: str, content: str, marked: str
) -> None:
    """A name is marked with its signs, beside other words and alone."""
    (hit,) = [hit for hit in await found(library, text) if hit.content == content]
    assert hit.highlight is not None
    assert hit.highlight.html() == marked


async def test_only_the_name_is_marked(library: Library) -> None:
    """Not what ends, or begins, with the same letters and signs; also far into a long text."""
    text = "word " * 1000 + "ABC++ uses C++ and .NET, and .network or example.net not."
    await library.add("long", text)
    (hit,) = await found(library, "C++ .net", tenant="long")
    assert hit.highlight is not None
    assert [part for part, matches in hit.highlight.parts if matches] == ["C++", ".NET"]
