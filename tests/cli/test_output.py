"""Where what is printed cannot be written, or nobody reads it: the work is done all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tenantry import Database
from tenantry.ops.knowledge_indexes import list_indexes
from tenantry.settings import ADMIN_URL, DATABASE_URL, url_text
from tests.cli.conftest import Command
from tests.conftest import Urls

Run = Callable[..., "subprocess.CompletedProcess[str]"]

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="has no device that is always full")


@pytest.fixture
def run(urls: Urls, tmp_path: Path) -> Run:
    """Runs `tenantry` with its output, or its errors, going where they are told to."""

    def run_(*arguments: str, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE) -> Any:
        given = {DATABASE_URL: url_text(urls.app), ADMIN_URL: url_text(urls.admin)}
        environment = {**os.environ, **given}
        environment.pop("PYTHONUNBUFFERED", None)
        return subprocess.run(
            [sys.executable, "-m", "tenantry", *arguments],
            env=environment,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
            timeout=120,
            check=False,
        )

    return run_


@pytest.fixture
def full() -> Iterator[int]:
    """Where nothing can be written."""
    with FULL.open("w") as file:
        yield file.fileno()


@pytest.fixture
def unread() -> Iterator[int]:
    """A pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@needs_full
@pytest.mark.parametrize(
    "arguments",
    [
        ("tenant", "list"),
        ("tenant", "list", "--json"),
        ("db", "url"),
        ("db", "psql", "--help"),
        ("audit", "--static", "--json"),
        ("audit", "--static", "--html", "-"),
        ("doctor",),
    ],
)
def test_a_result_that_cannot_be_written_is_one_error(
    run: Run, full: int, arguments: tuple[str, ...]
) -> None:
    """And exit code 1: who keeps the result in a file has to know that it is not there."""
    result = run(*arguments, stdout=full)
    assert (result.returncode, result.stderr.count("error:")) == (1, 1), result.stderr
    assert "No space left on device" in result.stderr
    assert "Traceback" not in result.stderr
    assert "ignored" not in result.stderr


@needs_full
def test_what_was_done_stands_although_it_could_not_be_told(
    run: Run, full: int, tenantry: Command
) -> None:
    """The message says so: to do it again would be an error, or be done twice."""
    assert "has done stands" in run("tenant", "create", "Acme", stdout=full).stderr
    assert " acme " in tenantry("tenant", "list").out


@pytest.mark.parametrize("arguments", [("tenant", "list"), ("tenant", "list", "--json")])
def test_a_reader_that_has_gone_is_told_nothing(
    run: Run, unread: int, arguments: tuple[str, ...]
) -> None:
    """As in `tenantry … | head`: no message, and no traceback."""
    result = run(*arguments, stdout=unread)
    assert (result.returncode, result.stderr) == (1, "")


@pytest.mark.parametrize("arguments", ["tenant list --json", "db url", "nowhere"])
def test_a_program_without_output_or_errors_ends_as_others(
    tmp_path: Path, urls: Urls, arguments: str
) -> None:
    """Some that start it close them: nothing is printed, and nothing goes wrong."""
    given = {DATABASE_URL: url_text(urls.app), ADMIN_URL: url_text(urls.admin)}
    for closed, read in ((">&-", "stderr"), ("2>&-", "stdout")):
        result = subprocess.run(
            ["/bin/sh", "-c", f'exec "$0" -m tenantry {arguments} {closed}', sys.executable],
            env={**os.environ, **given},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert result.returncode == (arguments == "nowhere")
        assert "Traceback" not in getattr(result, read)


async def test_a_reset_that_nobody_reads_is_not_left_half_done(
    run: Run, unread: int, admin: asyncpg.Connection
) -> None:
    """Tables that were dropped are there again."""
    assert run("db", "reset", "--yes", stdout=unread).returncode == 1
    assert await admin.fetchval("SELECT to_regclass('public.tenants') IS NOT NULL")
    assert await admin.fetchval("SELECT count(*) FROM tenantry.alembic_version") > 0


async def test_a_rebuild_that_nobody_watches_is_not_left_half_done(
    run: Run, unread: int, db: Database, urls: Urls
) -> None:
    """Progress is for who looks; without, the index is rebuilt all the same."""
    result = run("knowledge", "rebuild", "knowledge_chunks_embedding_idx", stderr=unread)
    assert (result.returncode, result.stdout[:8]) == (0, "rebuilt ")
    assert all(each.is_valid for each in await list_indexes(urls.admin))


def test_a_message_that_nobody_reads_leaves_the_exit_code(run: Run, unread: int) -> None:
    """1, also where an error has nowhere to go."""
    assert run("user", "list", "--tenant", "nobody", stderr=unread).returncode == 1


async def test_what_postgresql_refuses_is_one_error(
    tenantry: Command, admin: asyncpg.Connection, urls: Urls
) -> None:
    """For reasons that nobody has foreseen, a full disk among them: the code, and no traceback."""
    tenantry("tenant", "create", "Acme")
    await admin.execute(f'ALTER DATABASE "{urls.app.database}" SET statement_timeout = 300')
    async with admin.transaction():
        await admin.execute("LOCK users IN ACCESS EXCLUSIVE MODE")
        error = tenantry("user", "list", "--tenant", "acme").error
    assert "canceling statement due to statement timeout (SQLSTATE 57014)" in error
