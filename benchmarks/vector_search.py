"""What `vector_search` finds and how long it takes, for tenants of every size in one database.

Ours is `vector_search` as the application's role, under row security, in a tenant's transaction;
theirs returns the same rows as the owner, past row security, in an open transaction. For each size
of tenant theirs is the fastest of what reaches a mean recall of 0.97 on the same questions:

- exact, comparing every chunk of the tenant;
- the required index over everybody's vectors, with a grid of ef_search and of rows taken from it.

So theirs has been told for each tenant what is best for it, which nobody can know in practice. The
index of the tenant's part is not among them: it is ours, and told of beside.

Both get the same, once an array and once a list of numbers. Theirs goes through bare asyncpg, with
a prepared statement whose plan is kept, and pgvector's own package converts the vector. Ours from
an array is also held beside theirs from bytes that were made beforehand, which converts nothing. A
miss of any is a miss. Told beside it: theirs through SQLAlchemy's connection, in which a vector is
text.

What is judged is the median of paired ratios; see `lanes.ratio`.

Each lane has a connection of its own: of two that shared one, each would find the server's process
warmed up by the other, and with a small tenant that is a third of the time. What is judged has new
connections five times: on which processor the system lets a connection's process run, beside its
client or not, makes as much of a difference, and mostly stays so.

With more than 100,000 chunks, also: how the largest tenant's median grows from 100,000.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import numpy as np

from benchmarks import vector_plots
from benchmarks.corpus import binary, from_binary
from benchmarks.estate import Filled, connect
from benchmarks.lanes import Lane, in_turns, ratio, save, table, verdict
from benchmarks.vector_baselines import EXACT, SETTINGS, Baselines, K, Question, Setting
from tenantry import Database, TenantSession
from tenantry.search import explain_vector_search, vector_search

if TYPE_CHECKING:
    from argparse import Namespace

    from benchmarks.estate import Estate

LEAST_RECALL: Final = 0.97
MOST: Final = 1.25
MOST_GROWTH: Final = 1.5
COMMON_SIZE: Final = 100_000
RANKS: Final = (1, 2, 3, 4, 6, 10, 17, 33, 67, 134, 267, 500, 1000)
SITTINGS: Final = 5
TRIED: Final = 8
"""Questions after which a setting that takes three times as long as comparing is given up."""

_STORED: Final = "SELECT embedding FROM knowledge_chunks WHERE tenant_id = $1 ORDER BY id LIMIT 500"


@dataclass
class Tried:
    """What a setting has reached on the questions of one size."""

    setting: Setting
    recall: float
    milliseconds: float


@dataclass
class Size:
    """One tenant, and what was measured on it."""

    rank: int
    tenant: UUID
    chunks: int
    questions: list[Question]
    plan: str = ""
    recall: float = 0.0
    complete: bool = True
    lanes: dict[str, Lane[Question]] = field(default_factory=dict)
    tried: list[Tried] = field(default_factory=list)
    best: Setting = EXACT
    best_part: Setting | None = None

    def median(self, name: str) -> float:
        if name == "exact" and self.best == EXACT:
            name = "bare"
        return self.lanes[name].milliseconds

    def paired(self, name: str, *, ours: str = "ours") -> float:
        return ratio(self.lanes[ours], self.lanes[name])

    def told(self, name: str) -> float:
        return self.median("ours") / self.median(name)


async def run(options: Namespace) -> bool:
    """Print the figures; return whether the limits are kept."""
    estate: Estate = options.estate
    filled = await estate.of(options.vectors)
    sizes = [
        await _measured(filled, rank, options) for rank in RANKS if rank <= len(filled.corpus.sizes)
    ]
    lines, kept = _judged(sizes)
    if options.vectors > COMMON_SIZE:
        common = await _measured(await estate.of(COMMON_SIZE), 1, options)
        growth = sizes[0].median("ours") / common.median("ours")
        kept &= growth <= MOST_GROWTH
        lines.append(
            f"- the largest tenant's median {common.median('ours'):.2f} ms of {COMMON_SIZE:,}, "
            f"{sizes[0].median('ours'):.2f} ms of {options.vectors:,}: {growth:.2f} times, "
            f"at most {MOST_GROWTH}: {verdict(growth <= MOST_GROWTH)}"
        )
    print(*lines, sep="\n", flush=True)
    if options.save:
        what = f"{filled.title}, {options.questions} questions, {options.rounds} rounds"
        if options.tune:
            what += ", tuned"
        plots = vector_plots.draw(sizes, options.vectors)
        images = [f"![{title}]({name})" for title, name in plots]
        save("vector_search", "Vector search", what, [*lines, "", *images])
    return kept


async def _measured(filled: Filled, rank: int, options: Namespace) -> Size:
    size = await _chosen(filled, rank, options.questions)
    async with _connected(filled, size) as (tx, _, baselines, *_):
        await baselines.check(size.questions[0])
        truth = [
            [row["score"] for row in await baselines.bare(EXACT, question)]
            for question in size.questions
        ]
        await _try_all(size, baselines, truth)
        found = [await _ours(tx, question) for question in size.questions]
        size.recall = _recall([[hit.score for hit in hits] for hits in found], truth)
        size.complete = all(
            len({hit.id for hit in hits}) == min(K, size.chunks) == len(hits) for hits in found
        )
        size.plan = (await explain_vector_search(tx, k=K)).plan
        await _tell(size, baselines, options.rounds)
    for _ in range(SITTINGS):
        await _judge(filled, size, options.rounds)
    print(
        f"    {size.chunks:7,} chunks: {size.plan:5} recall {size.recall:.3f} "
        f"{size.median('ours'):7.2f} ms; {size.best.label} {size.median('bare'):.2f} ms",
        flush=True,
    )
    return size


@asynccontextmanager
async def _connected(
    filled: Filled, size: Size
) -> AsyncIterator[tuple[TenantSession, TenantSession, Baselines, Baselines, Baselines]]:
    """Yield what each of the lanes has for itself: two of ours, three of theirs."""
    async with (
        Database.connect(settings=filled.settings(pool_size=2)) as db,
        db.tenant(size.tenant) as tx,
        db.tenant(size.tenant) as tx_of_lists,
        Baselines(filled) as first,
        Baselines(filled) as second,
        Baselines(filled) as third,
    ):
        yield tx, tx_of_lists, first, second, third


async def _judge(filled: Filled, size: Size, rounds: int) -> None:
    """Measure what is judged, once more, on connections that are opened for it."""
    async with _connected(filled, size) as (tx, tx_of_lists, *theirs):
        for each in theirs:
            await each.set(size.best)
        baselines, baselines_of_lists, baselines_of_bytes = theirs
        lanes = {
            "ours": Lane("ours", partial(_ours, tx)),
            "bare": Lane("bare", partial(baselines.of_array, size.best)),
            "ours, list": Lane("ours, list", partial(_ours_of_list, tx_of_lists)),
            "bare, list": Lane("bare, list", partial(baselines_of_lists.of_list, size.best)),
            "bytes": Lane("bytes", partial(baselines_of_bytes.bare, size.best)),
        }
        await in_turns(list(lanes.values()), size.questions, rounds=rounds)
    for name, lane in lanes.items():
        size.lanes.setdefault(name, Lane(name, lane.ask)).seconds += lane.seconds


async def _tell(size: Size, baselines: Baselines, rounds: int) -> None:
    """Measure what is only told of: apart, so that it does not empty the caches of the others."""
    lanes = {"stacked": Lane("stacked", partial(baselines.stacked, size.best))}
    if size.best != EXACT:
        lanes["exact"] = Lane("exact", partial(baselines.bare, EXACT))
    if size.best_part is not None:
        lanes["part"] = Lane("part", partial(baselines.bare, size.best_part))
        await baselines.set(size.best_part)
    await baselines.set(size.best)
    await in_turns(list(lanes.values()), size.questions, rounds=rounds)
    size.lanes |= lanes


async def _chosen(filled: Filled, rank: int, count: int) -> Size:
    """Return the tenant of a rank, with questions that depend on nothing but the corpus."""
    corpus = filled.corpus
    tenant = corpus.tenants[rank - 1]
    connection = await connect(filled)
    try:
        stored = np.stack([from_binary(row[0]) for row in await connection.fetch(_STORED, tenant)])
    finally:
        await connection.close()
    asked = corpus.questions(np.random.default_rng([rank, count]), stored, count)
    questions = [Question(tenant, binary(each), each.tolist(), each) for each in asked]
    return Size(rank, tenant, corpus.sizes[rank - 1], questions)


async def _ours(tx: TenantSession, question: Question) -> Sequence[Any]:
    return await vector_search(tx, question.array, k=K)


async def _ours_of_list(tx: TenantSession, question: Question) -> Sequence[Any]:
    return await vector_search(tx, question.numbers, k=K)


async def _try_all(size: Size, baselines: Baselines, truth: list[list[float]]) -> None:
    """Find the fastest setting of each plan that reaches the recall; comparing always does."""
    comparing = await _tried(size, baselines, EXACT, truth, give_up=float("inf"))
    assert comparing is not None
    size.tried = [comparing]
    for setting in SETTINGS:
        tried = await _tried(size, baselines, setting, truth, give_up=3 * comparing.milliseconds)
        if tried is not None:
            size.tried.append(tried)
    reached = sorted(
        (each for each in size.tried if each.recall >= LEAST_RECALL),
        key=lambda each: each.milliseconds,
    )
    size.best = next(each.setting for each in reached if each.setting.kind != "part")
    size.best_part = next((e.setting for e in reached if e.setting.kind == "part"), None)


async def _tried(
    size: Size,
    baselines: Baselines,
    setting: Setting,
    truth: list[list[float]],
    *,
    give_up: float,
) -> Tried | None:
    await baselines.set(setting)
    for question in size.questions[:2]:
        await baselines.bare(setting, question)
    found: list[list[float]] = []
    times: list[float] = []
    for number, question in enumerate(size.questions):
        if number == TRIED and statistics.median(times) > give_up:
            return None
        started = time.perf_counter()
        rows = await baselines.bare(setting, question)
        times.append(1000 * (time.perf_counter() - started))
        found.append([row["score"] for row in rows])
    return Tried(setting, _recall(found, truth), statistics.median(times))


def _recall(found: list[list[float]], truth: list[list[float]]) -> float:
    # By similarity: of chunks that are equally near any may be returned. A sum in another order
    # differs in the last digits.
    shares = [
        min(sum(score >= true[-1] - 1e-9 for score in scores), len(true)) / len(true)
        for scores, true in zip(found, truth, strict=True)
    ]
    return statistics.fmean(shares)


def _judged(sizes: Sequence[Size]) -> tuple[list[str], bool]:
    heading = (
        *("chunks", "plan", "recall", "ours", "exact", "best baseline", "bare", "ours / bare"),
        *("ours, list", "bare, list", "ours / bare, list", "ours / bytes"),
        *("SQLAlchemy", "ours / SQLAlchemy", "part index", "ours / part"),
    )
    rows = [_row(size) for size in sizes]
    judged: dict[str, Callable[[Size], bool]] = {
        f"mean recall@{K} at least {LEAST_RECALL}": lambda size: size.recall >= LEAST_RECALL,
        f"{K} rows whenever there are so many": lambda size: size.complete,
        f"median at most {MOST} times the baseline's": lambda size: size.paired("bare") <= MOST,
        f"the same from a list, at most {MOST} times": lambda size: (
            size.paired("bare, list", ours="ours, list") <= MOST
        ),
        f"the same beside bytes made beforehand, at most {MOST} times": lambda size: (
            size.paired("bytes") <= MOST
        ),
    }
    lines = ["Medians in milliseconds.", "", *table(heading, rows), ""]
    kept = True
    for what, holds in judged.items():
        missed = [f"{size.chunks:,}" for size in sizes if not holds(size)]
        kept &= not missed
        lines.append(f"- {what}: {verdict(not missed)}" + _for(missed))
    missed = [f"{size.chunks:,}" for size in sizes if size.told("stacked") > MOST]
    lines.append(
        f"- median at most {MOST} times the baseline's through SQLAlchemy: "
        f"{verdict(not missed)}{_for(missed)} (not counted)"
    )
    return lines, kept


def _for(sizes: Sequence[str]) -> str:
    return f" for {'; '.join(sizes)} chunks" if sizes else ""


def _row(size: Size) -> list[str]:
    part = size.best_part
    return [
        f"{size.chunks:,}",
        size.plan,
        f"{size.recall:.3f}",
        f"{size.median('ours'):.2f}",
        f"{size.median('exact'):.2f}",
        size.best.label,
        f"{size.median('bare'):.2f}",
        f"{size.paired('bare'):.2f}",
        f"{size.median('ours, list'):.2f}",
        f"{size.median('bare, list'):.2f}",
        f"{size.paired('bare, list', ours='ours, list'):.2f}",
        f"{size.paired('bytes'):.2f}",
        f"{size.median('stacked'):.2f}",
        f"{size.told('stacked'):.2f}",
        f"ef {part.ef_search}: {size.median('part'):.2f}" if part else "",
        f"{size.told('part'):.2f}" if part else "",
    ]
