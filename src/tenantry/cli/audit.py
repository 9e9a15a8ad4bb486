"""``tenantry audit``: do the walls between tenants stand, on this database, now?"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from sqlalchemy import URL

from tenantry.cli import console
from tenantry.cli.audit_matrix import passed
from tenantry.cli.audit_page import page
from tenantry.cli.audit_text import print_report
from tenantry.cli.console import Json, Models, err, out
from tenantry.cli.escaping import json_text, require_printable_stdout
from tenantry.errors import ConfigurationError, SchemaMissingError
from tenantry.ops.application_role import audited_role
from tenantry.ops.audit.report import OPERATIONS, AuditReport
from tenantry.ops.development import bring_up
from tenantry.ops.project import Project, load_project
from tenantry.settings import ADMIN_URL, Settings

__all__ = ["Shared", "TenantColumn", "audit", "report_json"]

FORMAT: Final = 1
"""Of the JSON. It grows when a key goes or changes its meaning, not when one is added."""

TenantColumn = Annotated[
    str, typer.Option("--tenant-column", help="Column that says whose row it is.", metavar="NAME")
]
Shared = Annotated[
    list[str] | None,
    typer.Option(
        "--shared",
        help="Table that all tenants share on purpose; repeatable.",
        metavar="TABLE",
        show_default=False,
    ),
]


def audit(
    *,
    as_json: Json = False,
    html: Annotated[
        str | None,
        typer.Option(
            help="Write the report as one page of HTML; - for stdout.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    role: Annotated[
        str | None,
        typer.Option(
            help="Role that the application connects as. Default: the one of its URL.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    tenant_column: TenantColumn = "tenant_id",
    shared: Shared = None,
    static: Annotated[
        bool, typer.Option("--static", help="Read the catalog only, try nothing.")
    ] = False,
    models: Models = None,
) -> None:
    """Try to get from one tenant to another; exit code 1 on any finding. Changes nothing."""
    _require_one_result(as_json=as_json, html=html)
    project = load_project(models=tuple(models or ()))

    async def work() -> AuditReport:
        url, settings = await _url(static=static)
        return await _audit(
            url,
            project=project,
            role=role or await audited_role(url, application_url=settings.database_url),
            tenant_column=tenant_column,
            live=not static,
            shared=tuple(shared or ()),
        )

    report = console.run(work())
    _require_something(report)
    _print(report, as_json=as_json, html=html)
    if not passed(report):
        raise typer.Exit(1)


def _require_one_result(*, as_json: bool, html: str | None) -> None:
    if html is None:
        return
    if html == "-":
        if as_json:
            raise ConfigurationError(
                "--json and --html - would both print to stdout. Give --html a file's name."
            )
        return
    # Before an audit that may take seconds, and not after it.
    file = Path(html)
    if not html or file.is_dir() or not file.absolute().parent.is_dir():
        raise ConfigurationError(
            f"Cannot write {html or 'a file without a name'}: the folder must exist, and the file "
            "must not be a folder."
        )


async def _url(*, static: bool) -> tuple[URL, Settings]:
    # Never migrated, not even a new embedded database: an audit looks at what is there.
    settings = Settings.from_environment(admin_alone=True)
    if settings.admin_url is None:
        settings, _ = await bring_up(settings, on_step=console.step)
    if settings.admin_url is not None:
        return settings.admin_url, settings
    if static and settings.database_url is not None:
        return settings.database_url, settings
    raise ConfigurationError(
        f"{ADMIN_URL} is not set, and to try the walls the audit has to make two tenants, in a "
        f"transaction that it rolls back, and become the application's role. Set {ADMIN_URL} to "
        "the administrator's URL. Without it, `tenantry audit --static` still reads the catalog."
    )


async def _audit(
    url: URL,
    *,
    project: Project,
    role: str | None,
    tenant_column: str,
    live: bool,
    shared: tuple[str, ...],
) -> AuditReport:
    from tenantry.ops.audit import audit as run  # half of the program does not need it

    console.step("auditing" if live else "reading the catalog")
    return await run(
        url,
        project=project,
        app_role=role,
        tenant_column=tenant_column,
        live=live,
        shared=shared,
    )


def _require_something(report: AuditReport) -> None:
    # Most likely a wrong URL; that must not look like walls that stand.
    if not report.tables and not report.findings:
        raise SchemaMissingError(
            f"There are no tables in {report.database}, so nothing was audited. Is it the right "
            "database? `tenantry db migrate` makes tenantry's tables."
        )


def _print(report: AuditReport, *, as_json: bool, html: str | None) -> None:
    unicode = require_printable_stdout()
    if html == "-":
        sys.stdout.buffer.write(page(report).encode())  # the page says that it is UTF-8
        return
    if html is not None:
        _write(Path(html), page(report))
    if as_json:
        indent = 2 if sys.stdout.isatty() else None
        sys.stdout.write(
            json_text(report_json(report), indent=indent, ascii_only=not unicode) + "\n"
        )
    else:
        print_report(report, out, unicode=unicode)


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"Cannot write {file}: {error.strerror}.") from error
    err.print(f"wrote {file}", markup=False)


def report_json(report: AuditReport) -> dict[str, Any]:
    """Return ``report`` in the form that ``--json`` prints, which docs/audit.md describes."""
    return {
        "format": FORMAT,
        "passed": passed(report),
        "database": report.database,
        "server_version": report.server_version,
        "app_role": report.app_role,
        "live": report.live,
        "seconds": round(report.seconds, 3),
        "operations": list(OPERATIONS),
        "tables": list(report.tables),
        "attempts": [asdict(attempt) for attempt in report.attempts],
        "findings": [asdict(finding) for finding in report.findings],
        "notes": list(report.notes),
    }
