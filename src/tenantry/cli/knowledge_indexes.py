"""``tenantry knowledge indexes``, ``rebuild``, ``mend`` and ``warm``: the knowledge's indexes."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import groupby
from time import perf_counter
from typing import Annotated, Any, Final

import typer
from rich.table import Table
from rich.text import Text

from tenantry.cli import console
from tenantry.cli.console import Json, out
from tenantry.cli.escaping import printable
from tenantry.errors import InvalidValueError
from tenantry.ops.knowledge_indexes import (
    LEAST_MEMORY,
    MOST_MEMORY,
    BuildAdvice,
    BuildProgress,
    KnowledgeIndex,
    Mended,
    Warmed,
    advise,
    list_indexes,
    mend_indexes,
    rebuild_index,
    warm_index,
)

__all__ = ["indexes", "memory_size", "mend", "rebuild", "warm"]

Name = Annotated[str, typer.Argument(metavar="NAME", help="As `knowledge indexes` has it.")]

_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(kB|MB|GB|TB)", re.ASCII | re.IGNORECASE)
_UNITS: Final = ("kb", "mb", "gb", "tb")


def indexes(*, as_json: Json = False) -> None:
    """List the indexes, and say what memory building those of vectors takes."""

    async def work() -> tuple[list[KnowledgeIndex], list[BuildAdvice]]:
        url = await console.admin_url()
        return await list_indexes(url), await advise(url)

    found, advice = console.run(work())
    if as_json:
        console.print_json(
            {
                "indexes": [{**console.json_row(each), "state": _state(each)} for each in found],
                "advice": [_advice_row(each) for each in advice],
            }
        )
    else:
        _print(found)
        for line in advice:
            out.print(line.sentence, markup=False)
    if not all(each.is_valid for each in found):
        console.step(
            "What is invalid or left behind is of a build that failed, or that is under way. If "
            "nobody builds, `tenantry knowledge mend` rebuilds the one and drops the other."
        )


def rebuild(
    name: Name,
    *,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="For the build, such as 2GB. Default: what it needs, as far as the machine can.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Rebuild an index while its table is read and written."""
    memory_bytes = None if memory is None else memory_size(memory)

    async def work() -> float:
        url = await console.admin_url()
        with console.phases(f"rebuilding {printable(name)}") as report:
            began = perf_counter()
            await rebuild_index(
                url,
                name,
                memory_bytes=memory_bytes,
                on_progress=lambda at: report(at.phase, at.fraction),
            )
            return perf_counter() - began

    seconds = console.run(
        work(),
        interrupted="The old index is in use as before; `tenantry knowledge mend` removes what "
        "was left of the new one.",
    )
    out.print(f"rebuilt {printable(name)} in {seconds:,.1f} s", markup=False)


def mend(*, as_json: Json = False) -> None:
    """Rebuild indexes that are invalid, and drop what failed rebuilds have left."""

    async def work() -> list[Mended]:
        url = await console.admin_url()
        with console.phases("mending") as report:
            return await mend_indexes(url, on_progress=_named(report))

    mended = console.run(
        work(),
        interrupted="Indexes that are valid are in use as before; `tenantry knowledge mend` does "
        "the rest.",
    )
    if as_json:
        console.print_json([console.json_row(each) for each in mended])
        return
    for each in mended:
        out.print(f"{each.action} {printable(each.name)}", markup=False)
    if not mended:
        out.print("nothing to do: every index is valid")


def warm(name: Name, *, as_json: Json = False) -> None:
    """Read an index into memory, after a restart or a build."""

    async def work() -> Warmed:
        return await warm_index(await console.admin_url(), name)

    warmed = console.run(work(), interrupted="What was read is in memory.")
    if as_json:
        console.print_json(console.json_row(warmed))
    else:
        read = {
            "pg_prewarm": "pg_prewarm has read all of its {size} into memory",
            "searches": "searches have read part of its {size} into memory",
        }[warmed.method].format(size=_size(warmed.size_bytes))
        out.print(f"{printable(warmed.name)}: {read}", markup=False)
    if warmed.method == "searches":
        console.step(
            "To read all of it takes pg_prewarm: let a superuser run CREATE EXTENSION pg_prewarm."
        )
    if not warmed.does_fit:
        console.step("It is larger than shared_buffers, so part of it will not stay there.")


def memory_size(given: str) -> int:
    """Return the bytes of a size as PostgreSQL writes it, such as ``512MB``.

    Raises:
        InvalidValueError: It is none, or one that PostgreSQL builds no index with.
    """
    if found := _SIZE.fullmatch(given.strip()):
        size = int(float(found[1]) * 1024 ** (_UNITS.index(found[2].lower()) + 1))
        if LEAST_MEMORY <= size <= MOST_MEMORY:
            return size
    raise InvalidValueError(
        f"--memory is {given!r}; a size from 1MB to 2047GB is required, such as 512MB or 2GB."
    )


def _named(report: Callable[[str, float | None], None]) -> Callable[[BuildProgress], None]:
    """Return what says, before the phases of another index, which one it is."""
    named: set[str] = set()

    def tell(at: BuildProgress) -> None:
        if at.index not in named:
            named.add(at.index)
            console.step(f"rebuilding {printable(at.index)}")
        report(at.phase, at.fraction)

    return tell


def _print(found: list[KnowledgeIndex]) -> None:
    width = max(len(printable(each.name)) for each in found)
    for table_name, group in groupby(found, key=lambda each: each.table):
        # In 80 columns, and a name that is cut is no name.
        table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column(table_name, min_width=width, no_wrap=True)
        table.add_column("method", min_width=6)
        table.add_column("size", justify="right", min_width=8)
        table.add_column("state", no_wrap=True)
        for each in group:
            state = Text(_state(each), style="" if each.is_valid else "wall")
            table.add_row(Text(printable(each.name)), each.method, _size(each.size_bytes), state)
        out.print(table)
        out.print()


def _state(index: KnowledgeIndex) -> str:
    if index.is_left_behind and not index.is_valid:
        return "left behind"
    return "valid" if index.is_valid else "invalid"


def _advice_row(advice: BuildAdvice) -> dict[str, Any]:
    return {
        **console.json_row(advice),
        "is_enough": advice.is_enough,
        "setting": advice.setting,
    }


def _size(size_bytes: int) -> str:
    if size_bytes < 10 * 1024**2:
        return f"{size_bytes / 1024:,.0f} kB"
    return f"{size_bytes / 1024**2:,.0f} MB"
