"""``tenantry tenant``: make and list tenants, and their API keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from tenantry.auth import Auth, IssuedApiKey
from tenantry.cli import console
from tenantry.cli.console import Json, out
from tenantry.cli.escaping import printable
from tenantry.errors import InvalidValueError
from tenantry.ops import tenants
from tenantry.schema import Tenant

__all__ = ["app"]

app = typer.Typer(help="Make and list tenants, and give them API keys.", no_args_is_help=True)

Slug = Annotated[str, typer.Argument(help="The tenant's slug or id.")]


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
        name = Text(printable(tenant.name))
        table.add_row(tenant.slug, name, str(tenant.id), f"{tenant.created_at:%Y-%m-%d %H:%M}")
    out.print(table)


@app.command("rotate-key")
def rotate_key(
    slug: Slug,
    *,
    grace: Annotated[
        float | None,
        typer.Option(
            help="Hours for which the old key still works. Default: 24.",
            min=0,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make a new API key, and print it and nothing else. It cannot be shown again."""
    lasting = None if grace is None else _hours(grace)

    async def work() -> IssuedApiKey:
        async with console.open_tenant(slug) as (db, tenant_id):
            return await Auth(db).issue_api_key(tenant_id, grace=lasting)

    issued = console.run(work())
    typer.echo(issued.key)
    if issued.previous_expires_at is not None:
        console.step(
            f"the key before it works until {issued.previous_expires_at:%Y-%m-%d %H:%M %Z}"
        )


@app.command("revoke-key")
def revoke_key(slug: Slug) -> None:
    """Take the API key away, and the one before it."""

    async def work() -> bool:
        async with console.open_tenant(slug) as (db, tenant_id):
            return await Auth(db).revoke_api_key(tenant_id)

    had = console.run(work())
    out.print("revoked" if had else "nothing to do: the tenant has no API key")


def _hours(number: float) -> timedelta:
    try:
        return timedelta(hours=number)
    except OverflowError:
        raise InvalidValueError(f"--grace is {number}; a number of hours is required.") from None


def _row(tenant: Tenant) -> dict[str, Any]:
    return {
        "id": tenant.id,
        "slug": tenant.slug,
        "name": tenant.name,
        "created_at": tenant.created_at.isoformat(),
    }
