"""``tenantry knowledge``: documents into knowledge bases, and the search tuned to them."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from tenantry.cli import console, knowledge_indexes
from tenantry.cli.console import Json, counted, err, out
from tenantry.cli.escaping import printable
from tenantry.database import Database
from tenantry.errors import InvalidValueError, PrivilegeError
from tenantry.knowledge import HASH_EMBEDDER, ImportReport, import_folder, load_embedder
from tenantry.ops.tenants import find_tenant
from tenantry.ops.vector_judging import GRID, RECALLS, IndexMeasured, TenantMeasured
from tenantry.ops.vector_measuring import TuningReport, measure_vector_search
from tenantry.ops.vector_parts import PARTS, drop_parts, make_parts
from tenantry.ops.vector_tuning import keep_tuning
from tenantry.schema.languages import DEFAULT_LANGUAGE

__all__ = ["app", "conclusions"]

app = typer.Typer(
    help="Bring documents into knowledge bases, tune the search, and care for its indexes.",
    no_args_is_help=True,
)


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="A folder of Markdown and text files, or one file.")],
    *,
    tenant: Annotated[str, typer.Option(help="The tenant's slug or id.")],
    embedder: Annotated[
        str, typer.Option(help="module:function that turns texts into vectors.")
    ] = HASH_EMBEDDER,
    language: Annotated[
        str, typer.Option(help="Whose word forms keyword search knows; 'simple' for any other.")
    ] = DEFAULT_LANGUAGE,
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
                    language=language,
                    prune=prune,
                    on_progress=lambda at: report(printable(at.source), at.done, at.total),
                )

    result = console.run(work())
    if as_json:
        console.print_json(
            {name: getattr(result, name) for name in ImportReport.__dataclass_fields__}
        )
    else:
        _print(result)
    for source, reason in result.failed:
        err.print(f"not imported: {printable(source)}: {printable(reason)}", markup=False)
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


@app.command()
def tune(
    *,
    seconds: Annotated[
        float, typer.Option(help="How long to measure, if that is enough to tell.")
    ] = 60.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Measure, print, and keep nothing.")
    ] = False,
    parts: Annotated[
        bool | None,
        typer.Option(
            "--parts/--no-parts",
            help="Make indexes by parts first, or drop them. Default: leave them as they are.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure vector searches on what is stored, and keep what they go by for the database."""
    if dry_run and parts is not None:
        raise InvalidValueError("--dry-run changes nothing: give it without --parts or --no-parts.")

    async def work() -> tuple[TuningReport, bool, PrivilegeError | None]:
        async with console.open_database() as db:
            await _change_parts(db, parts)
            with console.progress("asking") as report:
                found = await measure_vector_search(
                    db,
                    seconds=seconds,
                    on_progress=lambda gone: report(
                        "asking", min(int(gone), int(seconds)), int(seconds)
                    ),
                )
            if dry_run or found.tuning is None or db.settings.admin_url is None:
                return found, False, None
            try:
                await keep_tuning(db.settings.admin_url, found.tuning)
            except PrivilegeError as error:
                return found, False, error  # what took a minute to measure is printed before
            return found, True, None

    found, kept, refused = console.run(
        work(),
        interrupted="No setting was kept. Indexes by parts that are valid are in use; "
        "`tenantry knowledge tune --parts` makes the rest, `--no-parts` drops them.",
    )
    if as_json:
        console.print_json(_tuning_row(found, kept=kept))
    else:
        for each in found.indexes:
            _print_measured(found, each)
    if refused is not None:
        raise refused
    if found.tuning is None:
        console.step(
            "nothing to tune: each tenant has so few chunks that a search compares them all"
        )
    elif kept:
        console.step(
            "kept for connections that are opened from now on. Those that are open keep what they "
            "have: restart the application, or have its pools renewed."
        )
    else:
        console.step("nothing was kept")


async def _change_parts(db: Database, parts: bool | None) -> None:
    if parts is None or db.settings.admin_url is None:
        return
    if not parts:
        await drop_parts(db.settings.admin_url)
        return
    with console.progress("indexes by parts") as report:
        made = await make_parts(
            db.settings.admin_url, on_progress=lambda done: report("indexes by parts", done, PARTS)
        )
    console.step(f"indexes by parts: {len(made)} of {PARTS} were missing, and are there now")


def _print_measured(found: TuningReport, index: IndexMeasured) -> None:
    table = Table(box=None, header_style="bold")
    for name in ("ef_search", "recall", "±"):
        table.add_column(name, justify="right")
    for tenant in index.tenants:
        heading = Text(f"{printable(tenant.slug)}\n{tenant.chunks:,}")
        table.add_column(heading, justify="right")
    exact = (f"{median(each.exact_ms):.1f} ms" for each in index.tenants)
    table.add_row("exact", "1.000", "", *exact)
    for ef_search in GRID:
        recall, error = index.recall(ef_search)
        times = (f"{median(each.hnsw_ms[ef_search]):.1f} ms" for each in index.tenants)
        table.add_row(str(ef_search), f"{recall:.3f}", f"{error:.3f}", *times)
    kinds = {"part": "The indexes of the parts", "whole": "The index of all vectors"}
    asked = counted(index.questions, "question")
    out.print(f"{kinds[index.kind]}: {asked}, {found.rows:,} chunks in all")
    out.print(table)
    for line in conclusions(index):
        out.print(line, markup=False)


def conclusions(index: IndexMeasured) -> list[str]:
    """Return in words what follows from what was measured, a line for each recall."""
    lines = [f"recall {recall:g}: {_conclusion(index, recall)}" for recall in RECALLS]
    if index.in_doubt:
        lines.append("more --seconds ask more questions")
    if index.exact_up_to is not None:
        lines.append(f"up to {index.exact_up_to:,} chunks of a tenant are compared")
    return lines


def _conclusion(index: IndexMeasured, recall: float) -> str:
    reached = index.tuning.ef_search
    if recall in index.in_doubt:
        held = min((ef for each, ef in reached.items() if each >= recall), default=None)
        stays = "all are compared as before" if held is None else f"ef_search {held} stays"
        return f"too few questions to tell, so {stays}"
    return (
        f"ef_search {reached[recall]}" if recall in reached else "not reached, so all are compared"
    )


def _tuning_row(found: TuningReport, *, kept: bool) -> dict[str, Any]:
    return {
        "chunks": found.rows,
        "measured": [
            {
                "index": index.kind,
                "questions": index.questions,
                "recall": {str(ef): round(index.recall(ef)[0], 4) for ef in GRID},
                "exact_up_to": index.exact_up_to,
                "in_doubt": list(index.in_doubt),
                "tenants": [_tenant_row(each) for each in index.tenants],
            }
            for index in found.indexes
        ],
        "setting": None if found.tuning is None else json.loads(found.tuning.json()),
        "kept": kept,
    }


def _tenant_row(tenant: TenantMeasured) -> dict[str, Any]:
    return {
        "slug": tenant.slug,
        "chunks": tenant.chunks,
        "questions": len(tenant.exact_ms),
        "exact_ms": round(median(tenant.exact_ms), 3),
        "hnsw_ms": {str(ef): round(median(tenant.hnsw_ms[ef]), 3) for ef in GRID},
    }


for _command in (
    knowledge_indexes.indexes,
    knowledge_indexes.rebuild,
    knowledge_indexes.mend,
    knowledge_indexes.warm,
):
    app.command(rich_help_panel="Indexes")(_command)
