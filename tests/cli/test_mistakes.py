"""Mistakes of whoever types a command: each is an error that says what to do, and none passes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tenantry.settings import ADMIN_URL, DATABASE_URL, url_text
from tests.cli.conftest import Command
from tests.conftest import Urls


async def test_an_interrupted_reset_says_how_to_go_on(
    tenantry: Command, urls: Urls, tmp_path: Path
) -> None:
    """What it has dropped is not there again, and no rollback brings it back."""
    given = {DATABASE_URL: url_text(urls.app), ADMIN_URL: url_text(urls.admin)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tenantry", "db", "reset", "--yes"),
        env={**os.environ, **given},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 60) == b"dropped everything\n"
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert "What was dropped is gone" in err.decode()
    assert tenantry("db", "migrate").code == 0
    assert tenantry("db", "check").code == 0


def test_a_folder_of_migrations_that_is_not_there_is_an_error(tenantry: Command) -> None:
    """A deployment that misspells it must not find that there is nothing to do."""
    for command in (["migrate"], ["reset", "--yes"]):
        error = tenantry("db", *command, "--migrations", "migratoins").error
        assert "There is no folder migratoins" in error


@pytest.mark.parametrize("ending", ["raise SystemExit", "import sys; sys.exit(0)"])
def test_a_module_that_ends_the_program_is_an_error(
    tenantry: Command, tmp_path: Path, ending: str
) -> None:
    """A script without a guard that is named by mistake: no check has passed then."""
    (tmp_path / "script.py").write_text(ending)
    (tmp_path / "a.md").write_text("x")
    tenantry("tenant", "create", "Acme")
    assert "SystemExit" in tenantry("db", "check", "--models", "script.py").error
    run = ("knowledge", "import", "a.md", "--tenant", "acme", "--embedder", "script:embed")
    assert "SystemExit" in tenantry(*run).error
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "1_x.py").write_text(ending)
    assert "SystemExit" in tenantry("db", "migrate").error
