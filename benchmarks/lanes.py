"""Ways of doing the same thing, timed in turns; and the files that figures go to."""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

__all__ = ["RESULTS", "Lane", "in_turns", "ratio", "save", "table", "verdict"]

RESULTS: Final = Path(__file__).with_name("results")

Question = TypeVar("Question")


@dataclass
class Lane(Generic[Question]):
    """One way of answering questions.

    Args:
        name: What it is called in tables.
        ask: Answers one.
        seconds: Of each question, those of each of its answers.
    """

    name: str
    ask: Callable[[Question], Awaitable[Sequence[Any]]]
    seconds: list[list[float]] = field(default_factory=list)

    @property
    def milliseconds(self) -> float:
        """The median of all."""
        return 1000 * statistics.median(each for times in self.seconds for each in times)


async def in_turns(
    lanes: Sequence[Lane[Question]], questions: Sequence[Question], *, rounds: int
) -> None:
    """Ask each question of each lane, in each round, each time in another order, by chance.

    What one lane leaves in the machine's caches helps or hinders the next. Where the same lane
    always came before another, as it does where they only take turns to begin, that would be
    counted as the other's own.

    The first three questions are asked once before, so that nobody's statements are prepared, or
    plans made, on the clock.
    """
    for lane in lanes:
        lane.seconds = [[] for _ in questions]
        for question in questions[:3]:
            await lane.ask(question)
    orders = random.Random(0)
    for _ in range(rounds):
        for number, question in enumerate(questions):
            for lane in orders.sample(lanes, len(lanes)):
                started = time.perf_counter()
                await lane.ask(question)
                lane.seconds[number].append(time.perf_counter() - started)


def ratio(ours: Lane[Question], theirs: Lane[Question]) -> float:
    """Return how many times as long as ``theirs`` ours takes: the median of all pairs.

    A pair is what both take for a question in the same round, a moment apart. What slows the
    machine down for a while slows both down, and does not fall on one of them alone, as it can
    where the median of one is divided by that of the other.
    """
    return statistics.median(
        one / other
        for times, others in zip(ours.seconds, theirs.seconds, strict=True)
        for one, other in zip(times, others, strict=True)
    )


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table, all but its first column to the right."""
    widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]
    lines = [heading, *rows]
    printed = [
        "| " + " | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in lines
    ]
    rule = "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|"
    return [printed[0], rule, *printed[1:]]


def verdict(kept: bool) -> str:
    return "kept" if kept else "MISSED"


def save(name: str, title: str, what: str, lines: Sequence[str]) -> None:
    """Append the figures of a run to ``results/NAME.md``."""
    path = RESULTS / f"{name}.md"
    if not path.exists():
        path.write_text(f"# {title}\n\nNewest last; see `{name}.py`.\n")
    heading = f"## {datetime.now(UTC):%Y-%m-%d}, {what}, load average {os.getloadavg()[0]:.1f}"
    with path.open("a") as file:
        file.write("\n".join(["", heading, "", *lines, ""]))
