"""Mistakes of whoever types a command: each is an error that says what to do, and none passes."""

from __future__ import annotations

import asyncio
import json
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


def test_names_of_tenants_are_shown_as_text(tenantry: Command) -> None:
    """A tenant may be called anything, and may rename itself: no name ends or colours the list."""
    names = {"a": "[/x]", "b": "[red]x[/red]", "c": "moves\x1b[2J"}
    for slug, name in names.items():
        tenantry("tenant", "create", name, "--slug", slug)
    listed = tenantry("tenant", "list")
    assert listed.code == 0, listed
    for shown in ("[/x]", "[red]x[/red]", r"moves\x1b[2J"):
        assert f" {shown} " in listed.out


def test_what_a_terminal_cannot_show_is_written_out(tenantry: Command) -> None:
    """Where its encoding lacks a letter, the letter is escaped, and the list does not end there."""
    made = tenantry("tenant", "create", "Müller", "--json", PYTHONIOENCODING="ascii")
    assert json.loads(made.out)["name"] == "Müller"
    tenantry(
        "user", "create", "a@x.example", "--tenant", "muller", "--no-password", "--name", "Zoë"
    )
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    assert r"M\xfcller" in tenantry("tenant", "list", **ascii_only).out
    assert r"Zo\xeb" in tenantry("user", "list", "--tenant", "muller", **ascii_only).out


@pytest.mark.skipif(sys.platform == "win32", reason="has no limits of resources")
def test_a_migration_that_cannot_be_written_leaves_no_file(tmp_path: Path, urls: Urls) -> None:
    """As on a full disk: half a file would be in the way of every command from then on."""
    (tmp_path / "notes.py").write_text(
        "from sqlalchemy.orm import Mapped\n"
        "from tenantry.schema import Base, TenantScoped\n"
        "class Note(TenantScoped, Base):\n"
        '    __tablename__ = "notes"\n'
        "    text: Mapped[str]\n"
    )
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0));"
        " sys.argv[0] = 'tenantry'; from tenantry.cli import main; main()"
    )
    arguments = ("db", "revision", "-m", "notes", "--models", "notes.py")
    given = {DATABASE_URL: url_text(urls.app), ADMIN_URL: url_text(urls.admin)}
    result = subprocess.run(
        [sys.executable, "-c", limited, *arguments],
        env={**os.environ, **given},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 1
    assert "error: Cannot write into" in result.stderr
    assert not (tmp_path / "migrations").exists()
