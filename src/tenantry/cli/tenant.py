"""``tenantry tenant``: make and list tenants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.table import Table

from tenantry.cli import console
from tenantry.cli.console import Json, out
from tenantry.ops import tenants
from tenantry.schema import Tenant

__all__ = ["app"]

app = typer.Typer(help="Make and list tenants.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What people call it.")],
    *,
    slug: Annotated[
        str | None, typer.Option(help="Its name in URLs. Default: made from the name.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a tenant, and print its id."""

    async def work() -> Tenant:
        async with console.open_database() as db:
            return await tenants.create_tenant(db, name, slug=slug)

    tenant = console.run(work())
    if as_json:
        console.print_json(_row(tenant))
    else:
        out.print(f"{tenant.id}  {tenant.slug}", markup=False)


@app.command("list")
def list_(*, as_json: Json = False) -> None:
    """List every tenant."""

    async def work() -> Sequence[Tenant]:
        async with console.open_database() as db:
            return await tenants.list_tenants(db)

    found = console.run(work())
    if as_json:
        console.print_json([_row(tenant) for tenant in found])
        return
    table = Table("slug", "name", box=None, header_style="bold")
    table.add_column("id", min_width=36)  # an id that is cut is no id
    table.add_column("created")
    for tenant in found:
        table.add_row(
            tenant.slug, tenant.name, str(tenant.id), f"{tenant.created_at:%Y-%m-%d %H:%M}"
        )
    out.print(table)


def _row(tenant: Tenant) -> dict[str, Any]:
    return {
        "id": tenant.id,
        "slug": tenant.slug,
        "name": tenant.name,
        "created_at": tenant.created_at.isoformat(),
    }
