"""``tenantry session``: who is signed in, and how that ends."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from tenantry.auth import Auth, delete_expired
from tenantry.cli import console
from tenantry.cli.console import Json, TenantOption, out
from tenantry.cli.escaping import printable
from tenantry.cli.user import find_user
from tenantry.errors import InvalidValueError
from tenantry.ops.signed_in import UserSession, list_sessions

__all__ = ["app"]

app = typer.Typer(help="List sessions, end them, and clean up.", no_args_is_help=True)


@app.command("list")
def list_(
    *,
    tenant: TenantOption,
    user: Annotated[str | None, typer.Option("--user", help="Only this email's.")] = None,
    as_json: Json = False,
) -> None:
    """List a tenant's sessions. Nothing of what is shown opens one."""

    async def work() -> list[UserSession]:
        async with console.open_tenant(tenant) as (db, tenant_id):
            found = None if user is None else await find_user(db, tenant_id, user)
            return await list_sessions(db, tenant_id, user_id=found.id if found else None)

    sessions = console.run(work())
    if as_json:
        rows = [{"email": each.email, **console.json_row(each.session)} for each in sessions]
        console.print_json(rows)
        return
    table = Table("email", box=None, header_style="bold")
    table.add_column("id", min_width=22)  # an id that is cut is no id
    for column in ("signed in", "last seen", "address", "agent"):
        table.add_column(column)
    for each in sessions:
        info = each.session
        table.add_row(
            Text(printable(each.email)),
            info.id,
            f"{info.created_at:%Y-%m-%d %H:%M}",
            f"{info.last_seen_at:%Y-%m-%d %H:%M}",
            str(info.address or ""),
            Text(printable(info.user_agent or "")),
        )
    out.print(table)


# An id may begin with a hyphen: it is no option then.
@app.command(context_settings={"ignore_unknown_options": True})
def revoke(
    session: Annotated[
        str | None, typer.Argument(metavar="ID", help="As `session list` has it.")
    ] = None,
    *,
    tenant: TenantOption,
    user: Annotated[str, typer.Option("--user", help="The email of whose it is.")],
    all_: Annotated[bool, typer.Option("--all", help="All of this user's.")] = False,
) -> None:
    """End a session of a user, or all of them."""
    if (session is None) is not all_:
        raise InvalidValueError("Give the id of a session, or --all for all of the user's.")

    async def work() -> int:
        async with console.open_tenant(tenant) as (db, tenant_id):
            found = await find_user(db, tenant_id, user)
            if session is None:
                return await Auth(db).revoke_all(tenant_id, found.id)
            return int(await Auth(db).revoke(tenant_id, found.id, session))

    count = console.run(work())
    if session is not None and not count:
        raise InvalidValueError(
            "The user has no such session, or it has ended. `tenantry session list` shows them."
        )
    out.print(f"{console.counted(count, 'session')} ended", markup=False)


@app.command()
def prune(*, as_json: Json = False) -> None:
    """Delete what has expired, of all tenants: sessions, attempts, mailed tokens, devices."""

    async def work() -> dict[str, int]:
        async with console.open_database() as db:
            return await delete_expired(db)

    counts = console.run(work())
    if as_json:
        console.print_json(counts)
        return
    for table, count in counts.items():
        out.print(f"{table}: {console.counted(count, 'row')} deleted", markup=False)
