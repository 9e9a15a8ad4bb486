"""The program: its commands, and how its errors look."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer
from rich.text import Text

from tenantry import __version__
from tenantry.cli import db, knowledge, session, tenant, user
from tenantry.cli.audit import audit
from tenantry.cli.console import err, out
from tenantry.cli.demo import demo
from tenantry.cli.doctor import doctor
from tenantry.cli.escaping import printable
from tenantry.cli.search import search
from tenantry.errors import TenantryError

__all__ = ["app", "main"]

app = typer.Typer(
    name="tenantry",
    help="Multi-tenant PostgreSQL whose walls you can check.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command()(demo)
app.command()(search)
app.command()(audit)
app.command()(doctor)
app.add_typer(db.app, name="db")
app.add_typer(tenant.app, name="tenant")
app.add_typer(user.app, name="user")
app.add_typer(session.app, name="session")
app.add_typer(knowledge.app, name="knowledge")


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"tenantry {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    del version
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )


def main() -> None:
    """Run the command line; what goes wrong is one message and exit code 1."""
    try:
        app()
    except TenantryError as error:
        # It may quote a name from the database, which anybody may have chosen.
        err.print(Text.assemble(("error: ", "wall"), printable(str(error), lines=True)))
        sys.exit(1)
    except SystemExit as end:  # Typer's own code for a command or option that is not there is 2
        sys.exit(1 if end.code == 2 else end.code)  # noqa: PLR2004
