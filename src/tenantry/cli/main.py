"""The program: its commands, and how its errors look."""

from __future__ import annotations

import errno
import logging
import os
import sys
from contextlib import suppress
from typing import Annotated, TextIO

import typer
from rich.text import Text
from sqlalchemy.exc import DBAPIError

from tenantry import __version__
from tenantry.cli import console, db, knowledge, session, tenant, user
from tenantry.cli.audit import audit
from tenantry.cli.console import err, out
from tenantry.cli.demo import demo
from tenantry.cli.doctor import doctor
from tenantry.cli.escaping import printable, require_printable_stdout
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
    code: str | int | None = 1
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever has started this
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    require_printable_stdout()
    try:
        try:
            app()
        except SystemExit as end:
            sys.stdout.flush()  # now, and not when nothing can be said of it any more
            # Typer's own code for a command or option that is not there is 2.
            code = 1 if end.code == 2 else end.code  # noqa: PLR2004
    except TenantryError as error:
        _complain(str(error))
    except DBAPIError as error:
        _complain(
            f"PostgreSQL refused: {console.said(error)}. What was not committed is not there. The "
            "server's log may say more."
        )
    except OSError as error:
        if error.errno != errno.EPIPE:  # who has read enough wants no message
            _complain(_told(error))
    for stream in (sys.stdout, sys.stderr):
        _let_go(stream)
    sys.exit(code)


def _complain(message: str) -> None:
    with suppress(OSError):
        # It may quote a name from the database, which anybody may have chosen.
        err.print(Text.assemble(("error: ", "wall"), printable(message, lines=True)))


def _told(error: OSError) -> str:
    reason = error.strerror or type(error).__name__
    if error.filename is not None:
        return f"Cannot use {os.fsdecode(error.filename)}: {reason}."
    return f"The result cannot be written: {reason}. What the command has done stands."


def _let_go(stream: TextIO) -> None:
    """Forget what cannot be written: Python would try it at the very end, and print a traceback."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
