"""Runs the program in processes that are forked from one which has imported it already.

To start an interpreter and import everything takes a second, for each of some two hundred commands
that the tests run.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Final

__all__ = ["Forked"]

_CONTEXT: Final = multiprocessing.get_context("forkserver")
_LIMIT_SECONDS: Final = 120.0


class Forked:
    """One command, as a process of its own."""

    def __init__(
        self, arguments: Sequence[str], *, environment: dict[str, str], folder: Path, files: Path
    ) -> None:
        _CONTEXT.set_forkserver_preload(["tenantry.cli.main", __name__])
        self._process: ForkServerProcess = _CONTEXT.Process(
            target=_run, args=(list(arguments), environment, str(folder), str(files))
        )

    def run(self) -> int:
        """Start it, wait for its end, and return its exit code."""
        self._process.start()
        self._process.join(_LIMIT_SECONDS)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            raise TimeoutError(f"the command did not end within {_LIMIT_SECONDS:.0f} s")
        return code


def _run(arguments: list[str], environment: dict[str, str], folder: str, files: str) -> None:
    for number, (name, flags) in enumerate(
        (("in", os.O_RDONLY), ("out", os.O_WRONLY), ("err", os.O_WRONLY))
    ):
        os.dup2(os.open(f"{files}/{name}", flags), number)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - multiprocessing closed it
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["tenantry", *arguments]
    from tenantry.cli.main import main

    try:
        main()
    except SystemExit as end:
        sys.exit(end.code)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
