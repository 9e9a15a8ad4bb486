from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tenantry.settings import ADMIN_URL, DATABASE_URL, url_text
from tests.conftest import Urls
from tests.forked import Forked, Result

Command = Callable[..., Result]


# Read when the program starts, and not afterwards.
_AT_START = {"COLUMNS", "PYTHONIOENCODING", "PYTHONUTF8"}


_GROUPS = {"db", "knowledge", "session", "tenant", "user"}
_TRACED: set[tuple[str, ...]] = set()


def _shape(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """The command's words and its options: the same again runs the same lines."""
    words = 2 if arguments[:1] and arguments[0] in _GROUPS else 1
    return (*arguments[:words], *sorted(each for each in arguments if each.startswith("-")))


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Runs `tenantry` in a process and a folder of its own."""

    def run(*arguments: str, stdin: str = "", **variables: str) -> Result:
        environment = {**os.environ, "COLUMNS": "120", **variables}
        traced = (shape := _shape(arguments)) not in _TRACED
        _TRACED.add(shape)
        if _AT_START.isdisjoint(variables):
            return Forked(
                *("-m", "tenantry", *arguments),
                environment=environment,
                folder=tmp_path,
                stdin=stdin,
                traced=traced,
            ).result()
        process = subprocess.run(
            [sys.executable, "-m", "tenantry", *arguments],
            env=environment,
            cwd=tmp_path,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Result(process.returncode, process.stdout, process.stderr)

    return run


@pytest.fixture
def tenantry(command: Command, urls: Urls) -> Command:
    """The same, on this test's migrated database."""

    def run(*arguments: str, stdin: str = "", **variables: str) -> Result:
        given = {DATABASE_URL: url_text(urls.app), ADMIN_URL: url_text(urls.admin), **variables}
        return command(*arguments, stdin=stdin, **given)

    return run
