"""`tenantry knowledge indexes`, `rebuild`, `mend` and `warm`."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import pytest
from rich.console import Console
from sqlalchemy import URL

from tenantry import Database
from tenantry.cli import console
from tenantry.cli import knowledge_indexes as command_indexes
from tenantry.errors import InvalidValueError
from tenantry.knowledge import Chunk, add_document
from tenantry.ops.knowledge_indexes import LEAST_MEMORY, MOST_MEMORY, list_indexes
from tenantry.settings import ADMIN_URL, DATABASE_URL, url_text
from tests.cli.conftest import Command
from tests.conftest import Connect, TenantPair, Urls

INDEX = "knowledge_chunks_embedding_idx"
WORDS = "knowledge_documents_content_trgm_idx"
INVALID = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = $1::text::regclass"
FILE = "SELECT pg_relation_filenode($1::text::regclass)"


async def fill(db: Database, tenants: TenantPair) -> None:
    async with db.tenant(tenants.a.id) as tx:
        chunks = (Chunk(f"{n}", [n + 1.0, *map(float, range(1, 1024))]) for n in range(3))
        await add_document(tx, title="t", content="c", chunks=chunks)


async def test_indexes_and_advice_are_listed(
    tenantry: Command, admin: asyncpg.Connection, db: Database, tenants: TenantPair
) -> None:
    """Each index with its state, then what memory builds need; the JSON has the same."""
    await fill(db, tenants)
    await admin.execute(f"ALTER INDEX {WORDS} RENAME TO {WORDS}_ccnew")
    await admin.execute(INVALID, f"{WORDS}_ccnew")
    await admin.execute(INVALID, INDEX)
    shown = tenantry("knowledge", "indexes", COLUMNS="80")
    assert shown.code == 0
    assert "knowledge_chunks_tenant_id_document_id_position_key btree" in shown.out
    lines = {line.split()[0]: line.split() for line in shown.out.splitlines() if line.strip()}
    assert lines[INDEX][1] == "hnsw"
    assert lines[INDEX][-1] == "invalid"
    assert lines[f"{WORDS}_ccnew"][-2:] == ["left", "behind"]
    assert lines["knowledge_chunks_pkey"][-1] == "valid"
    assert "knowledge_chunks: 3 vectors need less than 1 MB to build;" in shown.out
    assert "`tenantry knowledge mend`" in shown.err
    found = json.loads(tenantry("knowledge", "indexes", "--json").out)
    states = {each["name"]: each["state"] for each in found["indexes"]}
    assert (states[INDEX], states[f"{WORDS}_ccnew"]) == ("invalid", "left behind")
    assert [each["vectors"] for each in found["advice"]] == [0, 3]
    assert found["advice"][1]["is_enough"]


async def test_an_index_is_rebuilt(tenantry: Command, admin: asyncpg.Connection) -> None:
    """It is a new one; the result is on stdout."""
    before = await admin.fetchval(FILE, WORDS)
    result = tenantry("knowledge", "rebuild", WORDS, "--memory", "8MB")
    assert result.code == 0
    assert result.out.startswith(f"rebuilt {WORDS} in ")
    assert await admin.fetchval(FILE, WORDS) != before


async def test_what_is_broken_is_mended(tenantry: Command, admin: asyncpg.Connection) -> None:
    """What was done is said, as text and as JSON, and so is that there is nothing to do."""
    assert tenantry("knowledge", "mend").out == "nothing to do: every index is valid\n"
    await admin.execute(INVALID, INDEX)
    assert tenantry("knowledge", "mend").out == f"rebuilt {INDEX}\n"
    await admin.execute(f"ALTER INDEX {WORDS} RENAME TO {WORDS}_ccnew")
    await admin.execute(INVALID, f"{WORDS}_ccnew")
    mended = json.loads(tenantry("knowledge", "mend", "--json").out)
    assert mended == [{"name": f"{WORDS}_ccnew", "action": "dropped"}]
    assert json.loads(tenantry("knowledge", "mend", "--json").out) == []


async def test_an_index_is_warmed(tenantry: Command, admin: asyncpg.Connection) -> None:
    """How it was done is said; what cannot be warmed without pg_prewarm says what to install."""
    part = tenantry("knowledge", "warm", INDEX)
    assert part.out.startswith(f"{INDEX}: searches have read part of its ")
    assert "CREATE EXTENSION pg_prewarm" in part.err
    assert "CREATE EXTENSION pg_prewarm" in tenantry("knowledge", "warm", WORDS).error
    await admin.execute("CREATE EXTENSION pg_prewarm")
    whole = tenantry("knowledge", "warm", WORDS)
    assert whole.out.startswith(f"{WORDS}: pg_prewarm has read all of its ")
    assert whole.err == ""
    warmed = json.loads(tenantry("knowledge", "warm", WORDS, "--json").out)
    assert (warmed["name"], warmed["method"], warmed["does_fit"]) == (WORDS, "pg_prewarm", True)


def test_a_name_that_is_no_index_is_one_error(tenantry: Command) -> None:
    """The names that there are follow."""
    for arguments in (("rebuild", "users_pkey"), ("warm", "\x1b[2Jx")):
        result = tenantry("knowledge", *arguments)
        assert re.search(f"have no index '.*'. They have .*{INDEX}", result.error)
        assert "\x1b[2J" not in result.err


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ("2GB", 2 * 1024**3),
        ("512 mb", 512 * 1024**2),
        ("1.5GB", 3 * 1024**3 // 2),
        ("1024kB", LEAST_MEMORY),
        ("2047GB", MOST_MEMORY),
    ],
)
def test_sizes_are_read_as_postgresql_reads_them(given: str, size: int) -> None:
    """A number and a unit of 1,024, in either case."""
    assert command_indexes.memory_size(given) == size


@pytest.mark.parametrize("given", ["banana", "", "2", "GB", "-1GB", "1023kB", "2048GB", "1e3MB"])
def test_what_is_no_size_is_refused(given: str) -> None:
    """Nothing, no unit, too little and too much: the message has the limits and an example."""
    with pytest.raises(InvalidValueError, match=r"--memory is .* 1MB to 2047GB .* 512MB or 2GB"):
        command_indexes.memory_size(given)


@pytest.mark.parametrize(
    "arguments", [("indexes",), ("rebuild", INDEX), ("mend",), ("warm", INDEX)]
)
async def test_without_the_administrators_rights_it_is_one_error(
    tenantry: Command, urls: Urls, arguments: tuple[str, ...]
) -> None:
    """No URL, and that of a role without rights: what to do is said, and no password."""
    run = ("knowledge", *arguments)
    assert "TENANTRY_ADMIN_URL is not set" in tenantry(*run, TENANTRY_ADMIN_URL="").error
    url = url_text(urls.app.set(password="hunter2"))
    refused = tenantry(*run, TENANTRY_ADMIN_URL=url)
    assert "the role may not become tenantry_owner, so it is not the" in refused.error
    assert "hunter2" not in refused.err


@pytest.mark.parametrize(
    "arguments", [("indexes",), ("rebuild", INDEX), ("mend",), ("warm", INDEX)]
)
async def test_a_database_without_tables_is_one_error(
    tenantry: Command, empty_database: URL, arguments: tuple[str, ...]
) -> None:
    """It says to migrate."""
    result = tenantry("knowledge", *arguments, TENANTRY_ADMIN_URL=url_text(empty_database))
    assert "Run `tenantry db migrate` first" in result.error


def test_phases_are_lines_where_no_bar_can_move(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line for each phase and each tenth of it, and not one for each call."""
    shown = Console(file=io.StringIO(), theme=console.THEME, width=80)
    monkeypatch.setattr(console, "err", shown)
    with console.phases("rebuilding x") as report:
        for phase, fraction in (("waits", None), ("waits", None), ("loads", 0.0), ("loads", 0.09)):
            report(phase, fraction)
        report("loads", 0.1)
        report("loads", 1.0)
    lines = shown.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines == ["rebuilding x", "waits", "loads 0%", "loads 10%", "loads 100%"]


def test_phases_are_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar shows the phase and its percent, and a phase that does not count has none."""
    shown = Console(
        file=io.StringIO(), theme=console.THEME, width=80, force_terminal=True, color_system=None
    )
    monkeypatch.setattr(console, "err", shown)
    monkeypatch.setenv("TERM", "xterm")
    percents: dict[str, list[str]] = {}
    with console.phases("rebuilding x") as report:
        for phase, fraction in (("loads", 0.25), ("waits", None)):
            report(phase, fraction)
            time.sleep(0.15)  # it is drawn ten times a second
    for line in re.split("[\r\n]", shown.file.getvalue()):  # type: ignore[attr-defined]
        if found := re.search("(loads|waits)", line):
            percents.setdefault(found[1], []).extend(re.findall(r"\d+%", line))
    assert set(percents) == {"loads", "waits"}
    assert set(percents["loads"]) == {"25%"}
    assert percents["waits"] == []


async def _started(urls: Urls, folder: Path, *arguments: str) -> asyncio.subprocess.Process:
    """A process of `tenantry knowledge`, to interrupt."""
    settings = {DATABASE_URL: url_text(urls.app), ADMIN_URL: url_text(urls.admin)}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tenantry", "knowledge", *arguments),
        env={**os.environ, **settings},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


async def _writing(urls: Urls, connect: Connect) -> asyncpg.transaction.Transaction:
    """Begin to write, so that a build waits until it is rolled back."""
    other = await connect(urls.admin)
    writing = other.transaction()
    await writing.start()
    await other.execute("LOCK TABLE knowledge_chunks IN ROW EXCLUSIVE MODE")
    return writing


async def test_an_interrupted_tune_says_what_is_left(
    urls: Urls, connect: Connect, tmp_path: Path, db: Database, tenantry: Command
) -> None:
    """Ctrl-C while indexes by parts are built: an invalid one is left, and the message says so."""
    writing = await _writing(urls, connect)
    process = await _started(urls, tmp_path, "tune", "--parts")
    watching = await connect(urls.admin)
    async with asyncio.timeout(60):
        while all(each.is_valid for each in await list_indexes(urls.admin)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert await watching.fetchval("SELECT count(*) FROM pg_stat_progress_create_index") == 1
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), 60)
    await writing.rollback()
    said = " ".join(err.decode().split())
    assert said.endswith(
        "error: interrupted. No setting was kept. Indexes by parts that are valid are in use; "
        "`tenantry knowledge tune --parts` makes the rest, `--no-parts` drops them."
    )
    assert tenantry("knowledge", "tune", "--no-parts").code == 0
    assert all(each.is_valid for each in await list_indexes(urls.admin))


async def _rebuilding(urls: Urls, tmp_path: Path) -> asyncio.subprocess.Process:
    """Start a rebuild that waits, and read its progress, which is in lines on stderr."""
    process = await _started(urls, tmp_path, "rebuild", INDEX)
    assert process.stderr is not None
    lines = [await asyncio.wait_for(process.stderr.readline(), 60) for _ in range(2)]
    assert lines[0].decode() == f"rebuilding {INDEX}\n"
    assert lines[1].decode().startswith("waiting for writers before build")
    return process


@pytest.mark.usefixtures("traced_processes")
async def test_an_interrupted_rebuild_says_what_is_left(
    tenantry: Command, urls: Urls, connect: Connect, tmp_path: Path, db: Database
) -> None:
    """Ctrl-C: the progress was on stderr in lines, exit code 1, and `mend` removes what is left."""
    writing = await _writing(urls, connect)
    process = await _rebuilding(urls, tmp_path)
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    await writing.rollback()
    assert (process.returncode, out) == (1, b"")
    said = " ".join(err.decode().split())
    assert "Traceback" not in said
    assert said.endswith(
        "error: interrupted. The old index is in use as before; `tenantry knowledge mend` removes "
        "what was left of the new one."
    )
    left = [each for each in await list_indexes(urls.admin) if not each.is_valid]
    assert "left behind" in tenantry("knowledge", "indexes").out
    assert "`tenantry knowledge mend`" in tenantry("knowledge", "rebuild", left[0].name).error
    assert tenantry("knowledge", "mend").out == f"dropped {left[0].name}\n"


async def test_a_rebuild_that_was_killed_holds_nobody_off(
    tenantry: Command, urls: Urls, connect: Connect, tmp_path: Path, db: Database
) -> None:
    """The server ends the build although what it waits for has not ended; then `mend` can work."""
    writing = await _writing(urls, connect)
    process = await _rebuilding(urls, tmp_path)
    process.kill()
    await process.wait()
    watching = await connect(urls.admin)
    async with asyncio.timeout(30):
        while await watching.fetchval(  # noqa: ASYNC110 - nobody tells
            "SELECT count(*) FROM pg_stat_progress_create_index"
        ):
            await asyncio.sleep(0.05)
    await writing.rollback()
    assert tenantry("knowledge", "mend").out.startswith("dropped ")
