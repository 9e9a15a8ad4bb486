"""`tenantry search` from the command line."""

from __future__ import annotations

import importlib
import io
import json
import re
from pathlib import Path

import asyncpg
import pytest
from rich.console import Console

from tenantry import Database
from tenantry.cli.console import THEME
from tenantry.knowledge import Chunk, add_document, hash_embedding
from tenantry.search import Highlight, Hit
from tenantry.settings import url_text
from tests.cli.conftest import Command
from tests.cli.hostile import HOSTILE
from tests.conftest import TenantPair, Urls

# The package has the command by this name, and not the module.
command_search = importlib.import_module("tenantry.cli.search")

TEXTS = {
    "Refunds": "A refund is paid within thirty days after the goods have come back.",
    "Shipping": "Parcels are shipped within two days by a carrier of our choice.",
    "Opening hours": "The shop is open from monday to friday, from nine to five.",
}


@pytest.fixture
async def library(db: Database, tenants: TenantPair) -> TenantPair:
    """Three documents of Acme's; Globex has one, on refunds too."""
    for tenant, texts in (
        (tenants.a, TEXTS),
        (tenants.b, {"Secret": "A refund of Globex is paid in gold."}),
    ):
        async with db.tenant(tenant.id) as tx:
            for number, (title, content) in enumerate(texts.items()):
                (vector,) = hash_embedding([content])
                await add_document(
                    tx,
                    title=title,
                    content=content,
                    embedding=vector,
                    metadata={"number": number},
                    chunks=[Chunk(content, vector)],
                )
    return tenants


pytestmark = pytest.mark.usefixtures("library")
ACME = ("--tenant", "acme")


@pytest.mark.parametrize("mode", ["hybrid", "keywords", "vectors"])
def test_hits_are_on_stdout_and_the_time_on_stderr(tenantry: Command, mode: str) -> None:
    """Rank, score, title and text of each hit, of one tenant; how long it took is no result."""
    result = tenantry("search", "refund within thirty days", *ACME, "--mode", mode)
    assert result.code == 0, result
    first, second = result.out.splitlines()[:2]
    assert re.fullmatch(r" +1 +\d\.\d{3}  Refunds", first)
    assert "within thirty days" in second
    assert "Globex" not in result.out
    assert re.search(r"[123] hits? in \d+\.\d ms", result.err)
    assert ("the question's vector took" in result.err) is (mode != "keywords")


def test_json_is_one_document(tenantry: Command) -> None:
    """What a program reads: each hit with all its fields, the time, and the plan if asked for."""
    result = tenantry("search", "refund", *ACME, "--json", "--explain")
    assert (result.code, result.err) == (0, "")
    value = json.loads(result.out)
    assert list(value) == ["mode", "hits", "search_ms", "embedding_ms", "plan"]
    hit = value["hits"][0]
    fields = ["rank", "id", "document_id", "title", "content", "score", "highlight"]
    assert list(hit) == fields
    assert (hit["rank"], hit["title"], hit["content"]) == (1, "Refunds", TEXTS["Refunds"])
    assert ["refund", True] in hit["highlight"]
    assert value["search_ms"] > 0 < value["embedding_ms"]
    assert (value["plan"]["plan"], value["plan"]["tuned"]) == ("exact", False)


def test_options_reach_the_search(tenantry: Command) -> None:
    """k, the filter, the least similarity, the language and whole documents."""

    def titles(*options: str) -> list[str]:
        result = tenantry("search", "refund parcels shop", *ACME, "--json", *options)
        return [hit["title"] for hit in json.loads(result.out)["hits"]]

    assert len(titles()) == 3
    assert len(titles("--k", "1")) == 1
    assert titles("--where", '{"number": {"$gte": 2}}') == ["Opening hours"]
    vectors = ("--mode", "vectors")
    assert len(titles(*vectors, "--min-similarity", "-1")) == 3
    assert titles(*vectors, "--min-similarity", "0.99") == []
    assert titles("--min-similarity", "0.99") == []
    assert sorted(titles("--documents")) == sorted(TEXTS)


def test_the_language_is_that_of_the_text(tenantry: Command) -> None:
    """In English "shipping" is a form of "shipped"; in German it is another word."""
    run = ("search", "shipping", *ACME, "--mode", "keywords", "--json", "--language")
    found = {
        language: json.loads(tenantry(*run, language).out)["hits"]
        for language in ("english", "german")
    }
    assert [hit["title"] for hit in found["english"]] == ["Shipping"]
    assert found["german"] == []


def test_explain_says_what_ran_and_why(tenantry: Command) -> None:
    """The plan of the vectors with its reason, where its limits are from, and the words."""
    text = 'refund parcels "thirty days" OR "two days" -gold'
    result = tenantry("search", text, *ACME, "--explain")
    said = " ".join(result.err.split())
    assert "vectors: exact. 3 candidates: to compare each is faster up to 10,000" in said
    assert "assumed: `tenantry knowledge tune` measures them here" in said
    assert "words: any of refund parcels thirty days two days" in said
    assert 'required: "thirty days" OR "two days" excluded: "gold"' in said
    keywords = tenantry("search", "refund", *ACME, "--explain", "--mode", "keywords").err
    assert "vectors:" not in keywords
    assert "any of refund" in keywords
    vectors = tenantry("search", "refund", *ACME, "--explain", "--mode", "vectors").err
    assert "any of" not in vectors


def test_an_embedder_of_ones_own_makes_the_vector(tenantry: Command, tmp_path: Path) -> None:
    """`--embedder` is what turns the question into a vector, as with `knowledge import`."""
    (tmp_path / "mine.py").write_text(
        "from tenantry.knowledge import hash_embedding\n"
        f"def always(texts):\n    return hash_embedding([{TEXTS['Shipping']!r}])\n"
        "def fails(texts):\n    raise ValueError('no model')\n"
    )
    run = ("search", "refund", *ACME, "--mode", "vectors", "--embedder")
    assert "Shipping" in tenantry(*run, "mine:always").out.splitlines()[0]
    assert "no model" in tenantry(*run, "mine:fails").error
    assert "module:function" in tenantry(*run, "mine").error
    assert "no missing" in tenantry(*run, "mine:missing").error
    # Words need none, so that one that is missing does not matter.
    assert tenantry("search", "refund", *ACME, "--mode", "keywords", "--embedder", "x").code == 0


REFUSED = [
    ([""], "text is empty"),
    ([" \t\n"], "text is empty"),
    (["x", "--k", "0"], "k is 0; a whole number from 1"),
    (["x", "--k", "-1"], "k is -1"),
    (["x", "--k", "9" * 30], "a whole number from 1"),
    (["x", "--language", "klingon"], "language is 'klingon'"),
    (["x", "--documents", "--language", "german"], "--language is for words: leave it out"),
    (["x", "--mode", "vectors", "--language", "klingon"], "--language is for words: leave it out"),
    (["x", "--mode", "keywords", "--recall", "0.9"], "--recall is for vectors: leave it out"),
    (["x", "--recall", "2"], "recall is 2.0"),
    (["x", "--recall", "nan"], "recall is nan"),
    (["x", "--mode", "vectors", "--min-similarity", "-2"], "min_similarity is -2.0"),
    (["x", "--mode", "hybrid", "--min-similarity", "0"], "--min-similarity is for vectors"),
    (["x", "--mode", "keywords", "--documents"], "--documents is for vectors"),
    (["x", "--where", "{"], "--where is no JSON"),
    (["x", "--where", "[1]"], "--where is a JSON list"),
    (["x", "--where", "[" * 100_000], "nested too deep"),
    (["x", "--where", '{"$not": ' * 40 + "{}" + "}" * 40], "nested deeper than"),
    (["x", "--where", '{"a": {"$where": 1}}'], "is no operator"),
    (["x", "--where", '{"a": NaN}'], "finite number"),
    (["x", "--where", '{"a": "\\u0000"}'], "NUL"),
    (["x", "--where", '{"a": ' + "9" * 5_000 + "}"], "--where is no JSON"),
    (["x", "--tenant", "nobody"], "no tenant 'nobody'"),
    (["x", "--tenant", "'; DROP TABLE tenants; --"], "no tenant"),
    (["x", "--embedder", "no_such:thing"], "no module no_such"),
]


def test_what_cannot_be_searched_for_is_one_error(tenantry: Command) -> None:
    """What was found and what is required, exit code 1, no traceback."""
    for arguments, message in REFUSED:
        tenant = () if "--tenant" in arguments else ACME
        assert message in tenantry("search", *arguments, *tenant).error, arguments


TYPED = [
    "the of and",
    "!!! ??? ...",
    "'; DROP TABLE knowledge_chunks; --",
    "refund & | ! ( <-> :* \\",
    '"unfinished phrase',
    "OR OR",
    "😀 👩‍👩‍👧",
    "\u202eاسترداد المال\u202c",  # noqa: RUF001 - Arabic
    "[/] [bold red]refund[/bold red]",
    "\x1b[2Jrefund",
    "退款",
    "x" * 100_000,
    "\udcff\udcfe refund",
]


@pytest.mark.parametrize("mode", ["hybrid", "keywords"])
def test_no_text_is_an_error(tenantry: Command, mode: str) -> None:
    """Whatever somebody types is a question; the answer may be empty. No control character."""
    for text in TYPED:
        result = tenantry("search", text, *ACME, "--mode", mode, "--explain")
        assert result.code == 0, (ascii(text)[:40], result)
        shown = result.out + result.err
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", shown), ascii(text)


def test_a_long_text_comes_by_stdin(tenantry: Command) -> None:
    """`-` reads the text: a megabyte, which is too long for an argument, and NUL."""
    long = tenantry("search", "-", *ACME, stdin="refund " + "gold\0 " * 200_000)
    assert long.code == 0, long
    assert "Refunds" in long.out
    assert "text is empty" in tenantry("search", "-", *ACME, stdin="\0 \n").error


def test_a_text_that_begins_with_a_hyphen_follows_two(tenantry: Command) -> None:
    """As with every program, `--` ends the options."""
    result = tenantry("search", *ACME, "--mode", "keywords", "--json", "--", "-parcels refund")
    assert [hit["title"] for hit in json.loads(result.out)["hits"]] == ["Refunds"]


@pytest.mark.parametrize("hostile", HOSTILE, ids=range(len(HOSTILE)))
def test_what_a_hit_holds_moves_no_cursor(hostile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Titles and texts are a stranger's: neither markup nor control characters get through."""
    hit = Hit(
        id=None,  # type: ignore[arg-type]
        document_id=None,  # type: ignore[arg-type]
        title=hostile,
        content=hostile,
        score=0.5,
        highlight=Highlight(((hostile, False), (hostile, True))),
    )
    terminal = Console(
        file=io.StringIO(), force_terminal=True, theme=THEME, width=200, soft_wrap=True
    )
    monkeypatch.setattr(command_search, "out", terminal)
    command_search._print_hit(1, hit)
    shown = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b[1;33m" in shown, "matches are bold"
    plain = re.sub("\x1b\\[[0-9;]*m", "", shown)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u202e\u2060-\u2069]", plain)
    assert plain.count("\n") == 2
    if hostile.isprintable():
        assert plain.count(hostile) == 3, "markup is text"


async def test_a_setting_that_nobody_can_use_is_said(tenantry: Command, urls: Urls) -> None:
    """A wrong value of tenantry.vector_search is one error that says how to mend it."""
    url = url_text(urls.app.update_query_dict({"tenantry.vector_search": '{"whole": 1}'}))
    result = tenantry("search", "refund", *ACME, TENANTRY_DATABASE_URL=url)
    assert "The setting tenantry.vector_search cannot be used: 'whole' is no object" in result.error
    assert "`tenantry knowledge tune`" in result.error


async def test_what_postgresql_refuses_is_one_error(
    tenantry: Command, admin: asyncpg.Connection
) -> None:
    """An error of the server's during the search has its SQLSTATE and no traceback."""
    await admin.execute("DROP FUNCTION tenantry.search_keywords")
    said = tenantry("search", "refund", *ACME, "--mode", "keywords").error
    assert re.search(r"PostgreSQL could not search: .*search_keywords.*\(SQLSTATE 42883\)", said)
