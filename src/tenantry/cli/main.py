"""The program: its commands, and how its errors look."""

from __future__ import annotations

import logging
import sys
from typing import Annotated, NoReturn

import click
import typer
from rich.text import Text

from tenantry import __version__
from tenantry.cli import db, knowledge, tenant
from tenantry.cli.console import err, out
from tenantry.cli.demo import demo
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
app.add_typer(db.app, name="db")
app.add_typer(tenant.app, name="tenant")
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
        code = app(standalone_mode=False)
    except TenantryError as error:
        _fail(str(error))
    except click.ClickException as error:  # unknown commands, options and choices
        error.show()
        sys.exit(1)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted. What was not finished was rolled back.")
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> NoReturn:
    err.print(Text.assemble(("error: ", "wall"), message))
    sys.exit(1)
