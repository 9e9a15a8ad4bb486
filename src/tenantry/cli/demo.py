"""``tenantry demo``: from nothing to two tenants side by side, and six ways that do not cross."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from uuid import UUID

import typer
from rich.table import Table
from rich.text import Text
from sqlalchemy import URL, select

from tenantry.cli import console
from tenantry.cli.console import out
from tenantry.cli.escaping import printable
from tenantry.database import Database
from tenantry.errors import ConfigurationError, ConflictError
from tenantry.ops.demonstration import Attempt, count_rows, try_to_cross
from tenantry.ops.development import bring_up
from tenantry.ops.migrations import migrate
from tenantry.ops.seed import SeedPlan, seed
from tenantry.schema import Base, ConversationSession, Tenant
from tenantry.schema.row_security import row_security_of
from tenantry.settings import DATABASE_URL, Settings

__all__ = ["demo"]


def demo() -> None:
    """Show tenant isolation on a PostgreSQL of its own, in a few seconds."""
    settings = Settings.from_environment()
    if settings.database_url is not None:
        raise ConfigurationError(
            f"{DATABASE_URL} is set, and the demo fills a database with made-up tenants. Unset it: "
            "the demo brings its own PostgreSQL."
        )
    if not console.run(_show(settings)):
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class _Stage:
    url: URL
    tenants: tuple[Tenant, Tenant]
    conversation: UUID


async def _show(settings: Settings) -> bool:
    began = time.perf_counter()
    out.print("\n[bold]tenantry[/bold]: one database, many tenants, walls you can check\n")
    stage = await _set(settings)
    acme, globex = stage.tenants
    _print_counts(stage, await count_rows(stage.url, [acme.id, globex.id]))
    attempts = await try_to_cross(
        stage.url, tenant=acme.id, other=globex.id, conversation=stage.conversation
    )
    _print_attempts(stage, attempts)
    held = all(attempt.held for attempt in attempts)
    verdict = "[ok]Every wall held.[/ok]" if held else "[wall]A wall fell. Please report it.[/wall]"
    out.print(f"{verdict} All of this took {time.perf_counter() - began:.1f} s.\n")
    _print_next()
    return held


async def _set(settings: Settings) -> _Stage:
    with _Steps() as steps:
        settings, server = await bring_up(settings, on_step=_quiet)
        if server is None or settings.database_url is None or settings.admin_url is None:
            raise ConfigurationError("The demo needs the embedded server.")
        state = "started" if server.started else "was running"
        steps.done(f"PostgreSQL {server.version} {state}", f"in {server.data_dir}")
        ran = await migrate(settings.admin_url, on_step=_quiet)
        steps.done("migrated" if ran else "schema is up to date", _schema_size())
        async with Database.connect(settings=settings) as db:
            rows = await _seed(db)
            names = ", ".join(each.slug for each in SeedPlan().tenant_plans())
            details = f"{rows:,} rows, {names}" if rows else names
            steps.done("seeded" if rows else "seed was there", details)
            return await _stage(db, settings.database_url)


async def _seed(db: Database) -> int:
    try:
        return sum((await seed(db, SeedPlan())).rows.values())
    except ConflictError:
        # Another version seeded this database, or somebody made tenants of these names. Theirs
        # will do, and are not replaced.
        return 0


async def _stage(db: Database, url: URL) -> _Stage:
    slugs = [each.slug for each in SeedPlan().tenant_plans()[:2]]
    async with db.operator(reason="demo") as tx:
        found = {each.slug: each for each in await tx.scalars(select(Tenant))}
    if not found.keys() >= set(slugs):
        raise ConflictError(
            f"The demo needs the tenants {' and '.join(slugs)}, and the seed cannot add them: this "
            "database has other rows in their place. `tenantry db reset` starts anew."
        )
    first, second = (found[slug] for slug in slugs)
    async with db.tenant(second.id) as tx:
        conversation = await tx.scalar(select(ConversationSession.id).limit(1))
    return _Stage(url, (first, second), conversation or second.id)


class _Steps:
    """Prints each step with the time it took, under a spinner while it runs."""

    def __init__(self) -> None:
        self._status = out.status("working")
        self._since = time.perf_counter()

    def __enter__(self) -> Self:
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()
        out.print()

    def done(self, what: str, details: str) -> None:
        now = time.perf_counter()
        line = Text.assemble(
            (f"{now - self._since:6.2f} s  ", "quiet"), (what, "ok"), f"  {details}"
        )
        out.print(line)
        self._since = now


def _quiet(line: str) -> None:
    del line


def _schema_size() -> str:
    declared = [row_security_of(table) for table in Base.metadata.sorted_tables]
    policies = sum(len(each.policies) for each in declared if each is not None)
    return f"{len(declared)} tables, {policies} policies, row security forced on each"


def _print_counts(stage: _Stage, counts: dict[str, list[int]]) -> None:
    table = Table(title="SELECT count(*), no WHERE: what each tenant sees", title_justify="left")
    table.add_column("table", style="name")
    for tenant in stage.tenants:
        table.add_column(Text(printable(tenant.name)), justify="right")
    for name, (first, second) in counts.items():
        table.add_row(name, f"{first:,}", f"{second:,}")
    out.print(table)
    out.print()


def _print_attempts(stage: _Stage, attempts: list[Attempt]) -> None:
    here, there = (printable(tenant.name) for tenant in stage.tenants)
    names = {str(tenant.id): f"<{printable(tenant.name)}>" for tenant in stage.tenants}
    names[str(stage.conversation)] = f"<conversation of {there}>"
    table = Table(
        title=Text(f"{here} tries to reach {there}, as the application's role"),
        title_justify="left",
        show_lines=True,
    )
    table.add_column("it tries to", style="name", ratio=3)
    table.add_column("with", ratio=5, overflow="fold")
    table.add_column("PostgreSQL answers", ratio=5, overflow="fold")
    table.add_column("wall")
    for attempt in attempts:
        statement = attempt.statement
        for found, name in names.items():
            statement = statement.replace(found, name)
        wall = Text("holds", "ok") if attempt.held else Text("FELL", "wall")
        table.add_row(attempt.title, Text(statement, "quiet"), Text(attempt.answer), wall)
    out.print(table)
    out.print()


def _print_next() -> None:
    out.print("[bold]What to type next[/bold]")
    if shutil.which("tenantry") is None:  # as after `make demo`, in the checkout's environment
        activate = Path(sys.executable).with_name("activate")
        if activate.is_relative_to(Path.cwd()):
            activate = activate.relative_to(Path.cwd())
        out.print(f"  [name]{f'. {activate}':<22}[/name] so that `tenantry` is found")
    for command, what in (
        ("tenantry tenant list", "the tenants that were made"),
        ("tenantry db psql", "look around as the application: no tenant, no rows"),
        ("tenantry db check", "compare the database with the models, policies included"),
        ("tenantry db url", "a URL for your own code"),
        ("tenantry db down", "stop the server; the data stays"),
    ):
        out.print(f"  [name]{command:<22}[/name] {what}")
    out.print()
