"""Passwords for commands: typed twice and not shown, or read from stdin; never an argument."""

from __future__ import annotations

import getpass
import sys
from typing import Annotated, Final

import typer

from tenantry.errors import InvalidValueError

__all__ = ["NoPassword", "PasswordStdin", "ask_password"]

PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from stdin, one line.")
]
NoPassword = Annotated[
    bool, typer.Option("--no-password", help="None: it can be given by a reset.")
]

_MOST_BYTES: Final = 16_384
"""Of stdin: more than any password may have, and not all that somebody pipes into us."""


def ask_password(*, from_stdin: bool, none: bool) -> str | None:
    """Return a password that somebody gives; None if there is to be none.

    Args:
        from_stdin: Read it from there, without the end of the line.
        none: There is to be none.

    Raises:
        InvalidValueError: Both were asked for, there is no terminal, the two that were typed
            differ, or stdin holds nothing, more than one line, or no UTF-8.
    """
    if none and from_stdin:
        raise InvalidValueError("--no-password and --password-stdin exclude each other. Give one.")
    if none:
        return None
    return _read() if from_stdin else _ask()


def _ask() -> str:
    # Asked of stdin, and not of the terminal alone: a script must not wait for somebody to type.
    if not sys.stdin.isatty():
        raise InvalidValueError(
            "There is no terminal to ask for the password. Give it with --password-stdin, or "
            "--no-password."
        )
    typed = getpass.getpass("Password: ")
    if getpass.getpass("Once more: ") != typed:
        raise InvalidValueError("The two passwords differ. Nothing was changed.")
    return typed


def _read() -> str:
    given = sys.stdin.buffer.read(_MOST_BYTES)
    try:
        line = given.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        line = None
    # Outside of the handler: the decoder's error carries what it was given.
    if line is None:
        raise InvalidValueError("The password on stdin is no UTF-8. Encode it so.")
    if not line:
        raise InvalidValueError("There is no password on stdin.")
    if "\n" in line:
        raise InvalidValueError("stdin has more than one line. Give the password alone.")
    return line
