"""The plots of vector search: latency over the size of the tenant, and recall over latency."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.lanes import RESULTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from benchmarks.vector_search import Size

__all__ = ["draw"]

OURS, EXACT, WHOLE, PART = "#c0392b", "#7f8c8d", "#2980b9", "#27ae60"
SHOWN: Final = 6
"""Sizes of tenants, from the largest, whose recall is drawn over latency."""


def draw(sizes: Sequence[Size], vectors: int) -> list[tuple[str, str]]:
    """Write both plots to ``results/``; return a title and a file name for each."""
    # The same figures make the same file.
    with mpl.rc_context({"svg.hashsalt": "tenantry", "svg.fonttype": "none"}):
        return [
            ("Latency over tenant size", _write(_latency(sizes), f"latency_{vectors}")),
            ("Recall over latency", _write(_recall(sizes), f"recall_{vectors}")),
        ]


def _write(figure: Figure, name: str) -> str:
    file = f"vector_search_{name}.svg"
    figure.savefig(RESULTS / file, format="svg", metadata={"Date": None})
    return file


def _latency(sizes: Sequence[Size]) -> Figure:
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    chunks = [size.chunks for size in sizes]
    axes.plot(
        chunks, [size.median("exact") for size in sizes], "s--", color=EXACT, label="exact, owner"
    )
    whole = [(size.chunks, _least(size, "whole")) for size in sizes]
    _line(axes, whole, "^--", WHOLE, "required index at recall 0.97, owner")
    parts = [(s.chunks, s.median("part") if s.best_part else None) for s in sizes]
    _line(axes, parts, "v--", PART, "index of the part at recall 0.97, owner")
    axes.plot(
        chunks, [size.median("ours") for size in sizes], "o-", color=OURS, label="vector_search"
    )
    axes.set(xscale="log", yscale="log", xlabel="chunks of the tenant", ylabel="median, ms")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend()
    return figure


def _least(size: Size, kind: str) -> float | None:
    reached = [
        each.milliseconds
        for each in size.tried
        if each.setting.kind == kind and each.recall >= 0.97
    ]
    return min(reached, default=None)


def _line(
    axes: Axes, points: Iterable[tuple[int, float | None]], style: str, colour: str, label: str
) -> None:
    known = [(x, y) for x, y in points if y is not None]
    if known:
        axes.plot(*zip(*known, strict=True), style, color=colour, label=label)


def _recall(sizes: Sequence[Size]) -> Figure:
    figure = Figure(figsize=(11, 7), layout="constrained")
    grid = figure.subplots(2, SHOWN // 2, squeeze=False)
    for axes, size in zip(grid.flat, sizes[:SHOWN], strict=True):
        for kind, colour in (("whole", WHOLE), ("part", PART), ("exact", EXACT)):
            points = [(e.milliseconds, e.recall) for e in size.tried if e.setting.kind == kind]
            if points:
                axes.scatter(*zip(*points, strict=True), color=colour, s=18, label=f"{kind}, owner")
        axes.scatter(
            [size.median("ours")],
            [size.recall],
            color=OURS,
            marker="*",
            s=140,
            label="vector_search",
        )
        axes.axhline(0.97, color="black", linewidth=0.6, linestyle=":")
        axes.set(
            xscale="log", title=f"{size.chunks:,} chunks", xlabel="median, ms", ylabel="recall@10"
        )
        axes.grid(visible=True, which="both", alpha=0.2)
    grid.flat[0].legend(loc="lower right")
    return figure
