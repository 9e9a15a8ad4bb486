"""``tenantry knowledge``: documents into a tenant's knowledge base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tenantry.cli import console
from tenantry.cli.console import Json, err, out
from tenantry.knowledge import HASH_EMBEDDER, ImportReport, import_folder, load_embedder
from tenantry.ops.tenants import find_tenant

__all__ = ["app"]

app = typer.Typer(help="Bring documents into a knowledge base.", no_args_is_help=True)


@app.callback()
def _root() -> None:
    """Keep `import` a command of its own, though it is the only one."""


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="A folder of Markdown and text files, or one file.")],
    *,
    tenant: Annotated[str, typer.Option(help="The tenant's slug or id.")],
    embedder: Annotated[
        str, typer.Option(help="module:function that turns texts into vectors.")
    ] = HASH_EMBEDDER,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove documents whose files are gone.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Import a folder; the next time only what changed. Exit code 1 if a file was unreadable."""
    embed = load_embedder(embedder)

    async def work() -> ImportReport:
        async with console.open_database() as db:
            found = await find_tenant(db, tenant)
            with console.progress("importing") as report:
                return await import_folder(
                    db,
                    found.id,
                    path,
                    embedder=embed,
                    embedder_name=embedder,
                    prune=prune,
                    on_progress=lambda at: report(at.source, at.done, at.total),
                )

    result = console.run(work())
    if as_json:
        console.print_json(
            {name: getattr(result, name) for name in ImportReport.__dataclass_fields__}
        )
    else:
        _print(result)
    for source, reason in result.failed:
        err.print(f"not imported: {source}: {reason}", markup=False)
    if result.failed:
        raise typer.Exit(1)


def _print(result: ImportReport) -> None:
    out.print(
        f"{len(result.added)} added, {len(result.changed)} changed, "
        f"{len(result.unchanged)} unchanged, {len(result.removed)} removed, "
        f"{result.chunks} chunks written"
    )
    if result.gone:
        err.print(
            f"{len(result.gone)} documents have no file any more; --prune removes them",
            markup=False,
        )
