"""``tenantry search``: ask a tenant's knowledge base, and see how long it took and why."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Annotated, Any, Final, Literal, TypeAlias

import typer
from rich.text import Text
from sqlalchemy.exc import DBAPIError

from tenantry.cli import console
from tenantry.cli.console import Json, TenantOption, counted, err, out
from tenantry.cli.escaping import json_text, printable, require_printable_stdout
from tenantry.errors import InvalidValueError
from tenantry.knowledge import HASH_EMBEDDER, Embedder, load_embedder
from tenantry.knowledge.embedders import embed
from tenantry.ops.vector_tuning import current_tuning
from tenantry.search import (
    Filter,
    Hit,
    VectorPlan,
    explain_vector_search,
    hybrid_search,
    keyword_search,
    vector_search,
)
from tenantry.search.planning import DEFAULT_RECALL
from tenantry.search.queries import Query
from tenantry.search.searching import nearest_wanted
from tenantry.tenancy.sessions import TenantSession

__all__ = ["search"]

Mode: TypeAlias = Literal["hybrid", "keywords", "vectors"]

_LONGEST_TEXT: Final = 64 * 1024 * 1024
_SHOWN_CHARACTERS: Final = 300
_BELOW_RANK_AND_SCORE: Final = 13


@dataclass(frozen=True, slots=True)
class _Question:
    """What was asked for, read from the arguments."""

    text: str
    mode: Mode
    k: int
    language: str | None
    where: Filter | None
    documents: bool
    min_similarity: float | None
    recall: float
    embedder: Embedder | None
    embedder_name: str


@dataclass(frozen=True, slots=True)
class _Answer:
    """What came of it, and how long it took."""

    hits: list[Hit]
    search_ms: float
    embedding_ms: float | None
    plan: VectorPlan | None
    tuned: bool


def search(
    text: Annotated[str, typer.Argument(help="What to look for; - reads it from stdin.")],
    *,
    tenant: TenantOption,
    k: Annotated[int, typer.Option("--k", "-k", help="How many hits at most.")] = 10,
    language: Annotated[
        str | None, typer.Option(help="The text's. Default: those of the tenant's chunks.")
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="A filter on the metadata of documents."),
    ] = None,
    mode: Annotated[
        Mode | None,
        typer.Option(help="Default: hybrid; vectors with --documents or --min-similarity."),
    ] = None,
    documents: Annotated[
        bool, typer.Option("--documents", help="Whole documents, by their own vectors.")
    ] = False,
    embedder: Annotated[
        str, typer.Option(help="The module:function that the knowledge was imported with.")
    ] = HASH_EMBEDDER,
    min_similarity: Annotated[
        float | None, typer.Option(metavar="X", help="The least cosine similarity of a vector.")
    ] = None,
    recall: Annotated[
        float | None,
        typer.Option(
            metavar="X", help=f"Share of the true nearest that is wanted; {DEFAULT_RECALL}."
        ),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say what ran, and why.")] = False,
    as_json: Json = False,
) -> None:
    """Search a tenant's knowledge base: by words, by vectors, or both."""
    chosen = _mode(mode, documents=documents, min_similarity=min_similarity)
    if chosen == "vectors" and language is not None:
        raise InvalidValueError("--language is for words: leave it out where vectors are searched.")
    if chosen == "keywords" and recall is not None:
        raise InvalidValueError("--recall is for vectors: leave it out with --mode keywords.")
    question = _Question(
        text=_text(text),
        mode=chosen,
        k=k,
        language=language,
        where=_filter(where),
        documents=documents,
        min_similarity=min_similarity,
        recall=DEFAULT_RECALL if recall is None else recall,
        embedder=None if chosen == "keywords" else load_embedder(embedder),
        embedder_name=embedder,
    )
    answer = console.run(_ask(question, tenant, explain=explain))
    if as_json:
        _print_json(question, answer)
        return
    for rank, hit in enumerate(answer.hits, start=1):
        _print_hit(rank, hit)
    _print_timing(answer)
    if explain:
        _print_explanation(question, answer)


def _mode(mode: Mode | None, *, documents: bool, min_similarity: float | None) -> Mode:
    if mode is None:
        return "vectors" if documents or min_similarity is not None else "hybrid"
    for given, option in (
        (documents, "--documents"),
        (min_similarity is not None, "--min-similarity"),
    ):
        if given and mode != "vectors":
            raise InvalidValueError(
                f"{option} is for vectors alone: give it with --mode vectors, not {mode}."
            )
    return mode


def _text(text: str) -> str:
    if text == "-":
        text = sys.stdin.buffer.read(_LONGEST_TEXT).decode(errors="replace")
    if not text.strip("\0 \t\r\n"):
        raise InvalidValueError("The text is empty. Give what to look for.")
    return text


def _filter(where: str | None) -> Filter | None:
    if where is None:
        return None
    try:
        found = json.loads(where)
    except ValueError as error:
        raise InvalidValueError(
            f'--where is no JSON ({error}); an object is required, as in \'{{"language": "de"}}\'.'
        ) from None
    except RecursionError:
        raise InvalidValueError("--where is nested too deep to be a filter.") from None
    if not isinstance(found, dict):
        raise InvalidValueError(
            f"--where is a JSON {type(found).__name__}; an object is required, as in "
            '\'{"language": "de"}\'.'
        )
    return found


async def _ask(question: _Question, tenant: str, *, explain: bool) -> _Answer:
    async with console.open_tenant(tenant) as (db, tenant_id):
        vector, embedding_ms = await _embedded(question)
        async with db.tenant(tenant_id, read_only=True) as tx:
            try:
                # It opens the connection as well, which is no part of the search.
                tuned = await current_tuning(tx) is not None
                started = perf_counter()
                hits = await _search(tx, question, vector)
                search_ms = 1000 * (perf_counter() - started)
                plan = await _plan(tx, question) if explain and vector is not None else None
            except DBAPIError as error:
                raise InvalidValueError(
                    f"PostgreSQL could not search: {console.said(error)}."
                ) from error
    return _Answer(hits, search_ms, embedding_ms, plan, tuned)


async def _embedded(question: _Question) -> tuple[list[float] | None, float | None]:
    if question.embedder is None:
        return None, None
    started = perf_counter()
    (vector,) = await embed(question.embedder, [question.text], name=question.embedder_name)
    return vector, 1000 * (perf_counter() - started)


async def _search(tx: TenantSession, question: _Question, vector: list[float] | None) -> list[Hit]:
    shared: dict[str, Any] = {"k": question.k, "where": question.where}
    if vector is None:
        return await keyword_search(tx, question.text, language=question.language, **shared)
    if question.mode == "hybrid":
        return await hybrid_search(
            tx,
            text=question.text,
            embedding=vector,
            language=question.language,
            recall=question.recall,
            **shared,
        )
    return await vector_search(
        tx,
        vector,
        min_similarity=question.min_similarity,
        recall=question.recall,
        documents=question.documents,
        **shared,
    )


async def _plan(tx: TenantSession, question: _Question) -> VectorPlan:
    nearest = (
        nearest_wanted(Query.parse(question.text), question.k)
        if question.mode == "hybrid"
        else question.k
    )
    return await explain_vector_search(
        tx,
        k=nearest,
        where=question.where,
        recall=question.recall,
        documents=question.documents,
    )


def _print_hit(rank: int, hit: Hit) -> None:
    """Print a hit; nothing that stands in it is markup, or moves the cursor."""
    out.print(Text.assemble(f"{rank:>3}  {hit.score:6.3f}  ", (_line(hit.title), "name")))
    body = Text(" " * _BELOW_RANK_AND_SCORE)
    if hit.highlight is None:
        body.append(_line(hit.content[:_SHOWN_CHARACTERS]))
        if len(hit.content) > _SHOWN_CHARACTERS:
            body.append(" …")
    else:
        for part, matches in hit.highlight.parts:
            body.append(_line(part), "bold yellow" if matches else None)
    out.print(body)


def _line(text: str) -> str:
    return printable(re.sub(r"\s+", " ", text))


def _print_timing(answer: _Answer) -> None:
    embedding = (
        ""
        if answer.embedding_ms is None
        else f"; the question's vector took {answer.embedding_ms:.1f} ms"
    )
    console.step(f"{counted(len(answer.hits), 'hit')} in {answer.search_ms:.1f} ms{embedding}")


def _print_explanation(question: _Question, answer: _Answer) -> None:
    if answer.plan is not None:
        by = (
            "measured by `tenantry knowledge tune`"
            if answer.tuned
            else "assumed: `tenantry knowledge tune` measures them here"
        )
        err.print(f"vectors: {answer.plan.plan}. {answer.plan.reason}", markup=False)
        err.print(f"         ef_search and limits are {by}.", markup=False)
    if question.mode != "vectors":
        for line in _words(question.text):
            err.print(Text(printable(line)))


def _words(text: str) -> list[str]:
    """Return how the text was understood, a line for each kind of word."""
    query = Query.parse(text)
    groups = (" OR ".join(f'"{phrase}"' for phrase in group) for group in query.required)
    lines = [
        ("words:    any of ", " ".join([*query.words.split(), *query.pairs])),
        ("required: ", "; ".join(groups)),
        ("excluded: ", "; ".join(f'"{phrase}"' for phrase in query.excluded)),
    ]
    return [f"{kind}{what[:_SHOWN_CHARACTERS]}" for kind, what in lines if what]


def _print_json(question: _Question, answer: _Answer) -> None:
    value: dict[str, Any] = {
        "mode": question.mode,
        "hits": [{"rank": rank, **_row(hit)} for rank, hit in enumerate(answer.hits, start=1)],
        "search_ms": round(answer.search_ms, 3),
        "embedding_ms": answer.embedding_ms and round(answer.embedding_ms, 3),
    }
    if answer.plan is not None:
        value["plan"] = {
            **asdict(answer.plan),
            "reason": answer.plan.reason,
            "tuned": answer.tuned,
        }
    unicode = require_printable_stdout()
    indent = 2 if sys.stdout.isatty() else None
    sys.stdout.write(json_text(value, indent=indent, ascii_only=not unicode) + "\n")


def _row(hit: Hit) -> dict[str, Any]:
    return {
        "id": hit.id,
        "document_id": hit.document_id,
        "title": hit.title,
        "content": hit.content,
        "score": hit.score,
        "highlight": hit.highlight and [list(part) for part in hit.highlight.parts],
    }
