"""``tenantry doctor``: is everything around the walls as it should be?"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.text import Text

from tenantry.cli import console
from tenantry.cli.audit import Shared, TenantColumn
from tenantry.cli.console import Json, Migrations, Models, counted, out
from tenantry.cli.escaping import json_text, printable, require_printable_stdout
from tenantry.errors import ConfigurationError, TenantryError
from tenantry.ops.development import bring_up
from tenantry.ops.diagnosis.report import Diagnosis, State
from tenantry.ops.project import Project, load_project
from tenantry.settings import Settings

__all__ = ["doctor"]

_STYLES: Final[dict[State, str]] = {"ok": "ok", "warning": "bold yellow", "problem": "wall"}


def doctor(
    *,
    as_json: Json = False,
    processes: Annotated[
        int,
        typer.Option(
            help="Processes of your application, on all machines together.", min=1, metavar="N"
        ),
    ] = 1,
    models: Models = None,
    migrations: Migrations = None,
    tenant_column: TenantColumn = "tenant_id",
    shared: Shared = None,
) -> None:
    """Look at the server, its settings and roles; exit code 1 on a problem. Changes nothing."""

    async def work() -> list[Diagnosis]:
        from tenantry.ops.doctor import examine

        project, found = _project(models, migrations)
        settings, more = await _settings()
        return [
            *found,
            *more,
            *await examine(
                settings,
                project=project,
                processes=processes,
                tenant_column=tenant_column,
                shared=tuple(shared or ()),
            ),
        ]

    found = console.run(work())
    unicode = require_printable_stdout()
    healthy = all(each.state != "problem" for each in found)
    if as_json:
        value = {"format": 1, "healthy": healthy, "diagnoses": [asdict(each) for each in found]}
        indent = 2 if sys.stdout.isatty() else None
        sys.stdout.write(json_text(value, indent=indent, ascii_only=not unicode) + "\n")
    else:
        _print(found, out)
    if not healthy:
        raise typer.Exit(1)


def _project(models: list[str] | None, migrations: Path | None) -> tuple[Project, list[Diagnosis]]:
    try:
        return load_project(models=tuple(models or ()), migrations=migrations), []
    except ConfigurationError as error:
        return Project(), [Diagnosis("project", "problem", str(error))]


async def _settings() -> tuple[Settings | None, list[Diagnosis]]:
    try:
        settings = Settings.from_environment()
    except ConfigurationError as error:
        return None, [Diagnosis("settings", "problem", str(error))]
    try:
        # Never migrated, not even a new embedded database: the doctor looks at what is there.
        settings, _ = await bring_up(settings, on_step=console.step)
    except TenantryError as error:
        return None, [Diagnosis("embedded-server", "problem", str(error))]
    return settings, []


def _print(found: list[Diagnosis], to: Console) -> None:
    """Print a line for each, and what to do beneath it."""
    room = max(len(each.name) for each in found)
    for each in found:
        line = Text.assemble(
            (f"{each.state:<7}", _STYLES[each.state]),
            "  ",
            (f"{each.name:<{room}}", "name"),
            "  ",
            printable(each.found),
        )
        to.print(line)
        if each.advice:
            to.print(Text(f"{'':<{7 + 2 + room + 2}}{printable(each.advice)}"))
    states = [each.state for each in found]
    problems, warnings = states.count("problem"), states.count("warning")
    to.print()
    verdict = f"{counted(problems, 'problem')}, {counted(warnings, 'warning')}"
    to.print(Text(verdict, "wall" if problems else "ok"))
