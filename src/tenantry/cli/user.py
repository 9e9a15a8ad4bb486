"""``tenantry user``: make users, list them, and let them in or not."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer
from rich.table import Table
from rich.text import Text

from tenantry.auth import Auth, UserInfo
from tenantry.cli import console
from tenantry.cli.console import Json, TenantOption, out
from tenantry.cli.escaping import printable
from tenantry.cli.passwords import NoPassword, PasswordStdin, ask_password
from tenantry.database import Database
from tenantry.errors import UserUnknownError
from tenantry.schema.users import UserRole

__all__ = ["app", "find_user"]

app = typer.Typer(help="Make, list, disable and enable users.", no_args_is_help=True)

Email = Annotated[str, typer.Argument(help="In any spelling.")]


async def find_user(db: Database, tenant_id: UUID, email: str) -> UserInfo:
    """Return the user with this email.

    Raises:
        UserUnknownError: The tenant has none.
        InvalidValueError: It is no email.
    """
    user = await Auth(db).find_user(tenant_id, email)
    if user is None:
        raise UserUnknownError(
            f"The tenant has no user {email!r}. `tenantry user list` shows the users."
        )
    return user


@app.command()
def create(
    email: Email,
    *,
    tenant: TenantOption,
    name: Annotated[
        str | None, typer.Option(help="What people call the user. Default: from the email.")
    ] = None,
    role: Annotated[UserRole, typer.Option(help="What the user may do.")] = "member",
    password_stdin: PasswordStdin = False,
    no_password: NoPassword = False,
    as_json: Json = False,
) -> None:
    """Make a user, and print its id. The password is asked for."""
    password = ask_password(from_stdin=password_stdin, none=no_password)

    async def work() -> UserInfo:
        async with console.open_tenant(tenant) as (db, tenant_id):
            return await Auth(db).register(tenant_id, email, password, name=name, role=role)

    user = console.run(work())
    if as_json:
        console.print_json(console.json_row(user))
    else:
        out.print(printable(f"{user.id}  {user.email}"), markup=False)


@app.command("list")
def list_(*, tenant: TenantOption, as_json: Json = False) -> None:
    """List a tenant's users."""

    async def work() -> list[UserInfo]:
        async with console.open_tenant(tenant) as (db, tenant_id):
            return await Auth(db).users(tenant_id)

    users = console.run(work())
    if as_json:
        console.print_json([console.json_row(user) for user in users])
        return
    table = Table("email", "name", "role", "state", "created", box=None, header_style="bold")
    for user in users:
        table.add_row(
            Text(printable(user.email)),
            Text(printable(user.name)),
            user.role,
            _state(user),
            f"{user.created_at:%Y-%m-%d %H:%M}",
        )
    out.print(table)


def _state(user: UserInfo) -> Text:
    if user.disabled_at is not None:
        return Text(f"disabled since {user.disabled_at:%Y-%m-%d %H:%M}", style="wall")
    return Text("email not verified" if user.email_verified_at is None else "", style="quiet")


@app.command()
def disable(email: Email, *, tenant: TenantOption) -> None:
    """Keep a user from signing in, and end the user's sessions."""

    async def work() -> UserInfo:
        async with console.open_tenant(tenant) as (db, tenant_id):
            found = await find_user(db, tenant_id, email)
            return await Auth(db).disable_user(tenant_id, found.id)

    out.print(
        printable(f"{console.run(work()).email} is disabled and signed out everywhere"),
        markup=False,
    )


@app.command()
def enable(email: Email, *, tenant: TenantOption) -> None:
    """Let a user sign in again."""

    async def work() -> UserInfo:
        async with console.open_tenant(tenant) as (db, tenant_id):
            found = await find_user(db, tenant_id, email)
            return await Auth(db).enable_user(tenant_id, found.id)

    out.print(printable(f"{console.run(work()).email} is enabled"), markup=False)


@app.command("set-password")
def set_password(
    email: Email,
    *,
    tenant: TenantOption,
    password_stdin: PasswordStdin = False,
    no_password: NoPassword = False,
) -> None:
    """Give a user another password, or take it away; all sessions of the user end."""
    password = ask_password(from_stdin=password_stdin, none=no_password)

    async def work() -> UserInfo:
        async with console.open_tenant(tenant) as (db, tenant_id):
            user = await find_user(db, tenant_id, email)
            await Auth(db).set_password(tenant_id, user.id, password)
            return user

    user = console.run(work())
    what = "has no password" if password is None else "has a new password"
    out.print(printable(f"{user.email} {what} and is signed out everywhere"), markup=False)
