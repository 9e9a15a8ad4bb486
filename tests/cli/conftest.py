from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tenantry.settings import ADMIN_URL, DATABASE_URL, url_text
from tests.cli.forked import Forked
from tests.conftest import Urls

os.environ["COLUMNS"] = "120"  # of the process that commands are forked from


@dataclass(frozen=True)
class Result:
    """What a command printed, and how it ended."""

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


Command = Callable[..., Result]


# Read when the program starts, and not afterwards.
_AT_START = {"COLUMNS", "PYTHONIOENCODING", "PYTHONUTF8"}


@pytest.fixture
def command(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Runs `tenantry` in a process and a folder of its own."""

    def run(*arguments: str, stdin: str = "", **variables: str) -> Result:
        environment = {**os.environ, "COLUMNS": "120", **variables}
        if _AT_START.isdisjoint(variables):
            files = tmp_path_factory.mktemp("files")
            for name, content in (("in", stdin), ("out", ""), ("err", "")):
                (files / name).write_text(content)
            code = Forked(arguments, environment=environment, folder=tmp_path, files=files).run()
            return Result(code, (files / "out").read_text(), (files / "err").read_text())
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
