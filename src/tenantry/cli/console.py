"""What every command shares: where it prints, its settings, and how it runs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar
from uuid import UUID

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.theme import Theme
from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError

from tenantry.cli.escaping import json_text, require_printable_stdout
from tenantry.database import Database
from tenantry.errors import ConfigurationError, TenantryError
from tenantry.ops.development import bring_up, bring_up_migrated
from tenantry.ops.tenants import find_tenant
from tenantry.settings import ADMIN_URL, Settings

__all__ = [
    "THEME",
    "Json",
    "Migrations",
    "Models",
    "TenantOption",
    "admin_url",
    "counted",
    "err",
    "json_row",
    "open_database",
    "open_tenant",
    "out",
    "phases",
    "print_json",
    "progress",
    "run",
    "said",
    "step",
    "tell",
]

THEME = Theme({"ok": "green", "wall": "bold red", "name": "cyan", "quiet": "dim"})


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise what was raised. Rich would end the program, in the midst of its work."""
        raise  # noqa: PLE0704 - it is called where the error is handled


out = _Console(theme=THEME, highlight=False, soft_wrap=True)
"""Results: what another program may read."""

err = _Console(theme=THEME, highlight=False, stderr=True, soft_wrap=True)
"""Progress and errors."""

_untold: list[OSError] = []
"""Why lines of a result could not be printed while work was under way."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--models",
        help="Module or file with your models; repeatable. Default: models in \\[tool.tenantry].",
        show_default=False,
    ),
]
Migrations = Annotated[
    Path | None,
    typer.Option(
        "--migrations",
        help="Folder of your migrations. Default: migrations.",
        show_default=False,
    ),
]

TenantOption = Annotated[str, typer.Option("--tenant", help="The tenant's slug or id.")]

T = TypeVar("T")


class InterruptError(TenantryError):
    """Somebody pressed Ctrl-C."""


def run(
    work: Coroutine[Any, Any, T], *, interrupted: str = "What was not finished was rolled back."
) -> T:
    """Run a command's coroutine to its end; Ctrl-C cancels it, and is one message.

    Args:
        work: The coroutine.
        interrupted: What the message says of where that leaves things.

    Raises:
        OSError: A line that it has told could not be printed.
    """
    try:
        result = asyncio.run(work)
    except KeyboardInterrupt:
        raise InterruptError(f"interrupted. {interrupted}") from None
    if _untold:
        raise _untold.pop()
    return result


def tell(line: str) -> None:
    """Print one line of a result while work is under way.

    That it cannot be printed does not end the work, which might be left half done: `run` raises it
    afterwards.
    """
    try:
        out.print(line, markup=False)
    except OSError as error:
        _untold.append(error)


def step(line: str) -> None:
    """Print one line of progress, if it can be printed."""
    with suppress(OSError):
        err.print(line, markup=False, style="quiet")


def said(error: DBAPIError) -> str:
    """Return what PostgreSQL says, and its code; without the detail, which quotes rows."""
    cause = getattr(error.orig, "__cause__", None) or error.orig
    state = getattr(error.orig, "sqlstate", None) or "none"
    return f"{str(cause).partition(chr(10))[0]} (SQLSTATE {state})"


def counted(number: int, noun: str) -> str:
    """Return ``1 row`` or ``2 rows``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def print_json(value: object) -> None:
    """Print a result as JSON, on one line where nobody looks at it."""
    indent = 2 if sys.stdout.isatty() else None
    ascii_only = not require_printable_stdout()
    sys.stdout.write(json_text(value, indent=indent, ascii_only=ascii_only) + "\n")


def json_row(row: Any) -> dict[str, Any]:
    """Return a dataclass as what `print_json` takes; times as in ISO 8601."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in asdict(row).items()
    }


async def admin_url(*, migrated: bool = True) -> URL:
    """Return the administrator's URL, with the server up.

    Args:
        migrated: Migrate the embedded server's database if it is new.

    Raises:
        ConfigurationError: Only the application's URL is given.
    """
    start = bring_up_migrated if migrated else bring_up
    settings, _ = await start(Settings.from_environment(), on_step=step)
    if settings.admin_url is None:
        raise ConfigurationError(
            f"This needs the administrator's URL, and {ADMIN_URL} is not set. Set it to a role "
            "that may migrate this database."
        )
    return settings.admin_url


@asynccontextmanager
async def open_database() -> AsyncIterator[Database]:
    """Open the database that the environment names, or the embedded one."""
    settings, _ = await bring_up_migrated(Settings.from_environment(), on_step=step)
    async with Database.connect(settings=settings) as database:
        yield database


@asynccontextmanager
async def open_tenant(slug: str) -> AsyncIterator[tuple[Database, UUID]]:
    """Open the database, and find a tenant by its slug or id.

    Raises:
        TenantUnknownError: There is none.
    """
    async with open_database() as database:
        yield database, (await find_tenant(database, slug)).id


@contextmanager
def progress(title: str) -> Iterator[Callable[[str, int, int], None]]:
    """Draw a progress bar on stderr; yields ``(what, done, total)``, which moves it."""
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )
    with bar:
        task = bar.add_task(title, total=None)

        def report(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield report


@contextmanager
def phases(title: str) -> Iterator[Callable[[str, float | None], None]]:
    """Show on stderr how far each phase of a work has come.

    A bar, or, where nobody could see one move, a line for each phase and each tenth of it.

    Yields:
        ``(phase, fraction)``, which says where the work is; None: the phase does not count.
    """
    if not err.is_interactive:
        step(title)
        yield _phase_lines()
        return
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=err,
        transient=True,
    )
    with bar:
        shown = title, bar.add_task(title, total=None)

        def report(phase: str, fraction: float | None) -> None:
            nonlocal shown
            if shown[0] != phase:
                bar.remove_task(shown[1])
                shown = phase, bar.add_task(phase, total=None)
            if fraction is not None:
                bar.update(shown[1], completed=fraction, total=1.0)

        yield report


def _phase_lines() -> Callable[[str, float | None], None]:
    last: tuple[str, int | None] | None = None

    def report(phase: str, fraction: float | None) -> None:
        nonlocal last
        tenth = None if fraction is None else int(fraction * 10)
        if (phase, tenth) != last:
            last = phase, tenth
            step(phase if tenth is None else f"{phase} {tenth * 10}%")

    return report
