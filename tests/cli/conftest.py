from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tenantry.settings import ADMIN_URL, DATABASE_URL, url_text
from tests.conftest import Urls
from tests.forked import Forked, Result
from tests.tracing import traced

Command = Callable[..., Result]


# Read when the program starts, and not afterwards.
_AT_START = {"COLUMNS", "PYTHONIOENCODING", "PYTHONUTF8"}


_GROUPS = {"db", "knowledge", "session", "tenant", "user"}
# By a command's shape. One that fails runs few lines: three count as one that ends well.
_TRACED: Counter[tuple[str, ...]] = Counter()
_ENOUGH = 3


def _shape(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """The command's words and its options: the same again runs the same lines."""
    words = 2 if arguments[:1] and arguments[0] in _GROUPS else 1
    return (*arguments[:words], *sorted(each for each in arguments if each.startswith("-")))


def _forked(
    arguments: tuple[str, ...], environment: dict[str, str], folder: Path, stdin: str
) -> Result:
    return Forked(*arguments, environment=environment, folder=folder, stdin=stdin).result()


def _started(
    arguments: tuple[str, ...], environment: dict[str, str], folder: Path, stdin: str
) -> Result:
    process = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=folder,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Result(process.returncode, process.stdout, process.stderr)


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Runs `tenantry` in a process and a folder of its own."""

    def run(*arguments: str, stdin: str = "", **variables: str) -> Result:
        environment = {**os.environ, "COLUMNS": "120", **variables}
        shape = _shape(arguments)
        if _TRACED[shape] < _ENOUGH:
            environment |= traced()
        start = _forked if _AT_START.isdisjoint(variables) else _started
        result = start(("-m", "tenantry", *arguments), environment, tmp_path, stdin)
        _TRACED[shape] += _ENOUGH if result.code == 0 else 1
        return result

    return run


@pytest.fixture
def tenantry(command: Command, urls: Urls) -> Command:
    """The same, on this test's migrated database."""

    def run(*arguments: str, stdin: str = "", **variables: str) -> Result:
        given = {DATABASE_URL: url_text(urls.app), ADMIN_URL: url_text(urls.admin), **variables}
        return command(*arguments, stdin=stdin, **given)

    return run
