"""Runs programs in processes that are forked from one which has imported everything already.

To start an interpreter and import all that takes a second, for each of some three hundred programs
that the tests run.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import coverage

__all__ = ["Forked", "Result"]

_CONTEXT: Final = multiprocessing.get_context("forkserver")
_LIMIT_SECONDS: Final = 120.0

os.environ["COLUMNS"] = "120"  # of the process that programs are forked from


@dataclass(frozen=True)
class Result:
    """What a program printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one error, after checking that it is one and no traceback."""
        assert self.code == 1, self
        assert "Traceback" not in self.err, self.err
        assert self.err.count("error:") == 1, self.err
        return " ".join(self.err.split())


class Forked:
    """One program, as a process of its own.

    Args:
        arguments: As the interpreter takes them: ``-m tenantry …``, or a file and its arguments.
        environment: All of its environment.
        folder: Where it runs.
        stdin: What it reads.
    """

    def __init__(
        self,
        *arguments: str,
        environment: dict[str, str],
        folder: Path,
        stdin: str = "",
    ) -> None:
        self._kept = TemporaryDirectory(prefix="forked-")
        self._files = Path(self._kept.name)
        for name, content in (("in", stdin), ("out", ""), ("err", "")):
            (self._files / name).write_text(content)
        _CONTEXT.set_forkserver_preload(["tests.warm"])
        self._process: ForkServerProcess = _CONTEXT.Process(
            target=_run, args=(arguments, environment, str(folder), str(self._files))
        )
        self._process.start()

    def result(self) -> Result:
        """Wait for its end, and return what came of it."""
        self._process.join(_LIMIT_SECONDS)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            raise TimeoutError(f"the program did not end within {_LIMIT_SECONDS:.0f} s")
        with self._kept:
            return Result(
                code, (self._files / "out").read_text(), (self._files / "err").read_text()
            )


def _run(arguments: Sequence[str], environment: dict[str, str], folder: str, files: str) -> None:
    for number, (name, flags) in enumerate(
        (("in", os.O_RDONLY), ("out", os.O_WRONLY), ("err", os.O_WRONLY))
    ):
        os.dup2(os.open(f"{files}/{name}", flags), number)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - multiprocessing closed it
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    measured = coverage.process_startup()
    try:
        _interpret(arguments)
    except SystemExit as end:
        sys.exit(end.code)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if measured is not None:
            measured.stop()
            measured.save()


def _interpret(arguments: Sequence[str]) -> None:
    if arguments[:2] == ("-m", "tenantry"):
        from tenantry.cli.main import main

        sys.argv = list(arguments[1:])
        main()
    else:
        sys.argv = list(arguments)
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_path(arguments[0], run_name="__main__")
