"""The commands on the embedded server, as on an empty laptop."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tenantry.ops import embedded
from tests.cli.conftest import Command
from tests.places import scratch


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data folder that the server's user can enter, also as root."""
    folder = scratch("tenantry-")
    yield folder / "data"
    embedded.stop(folder / "data")
    shutil.rmtree(folder)


def test_the_demo_runs_twice(command: Command, data_dir: Path) -> None:
    """Six walls hold, also the second time, and no log line is in between."""
    results = [command("demo", TENANTRY_DATA_DIR=str(data_dir)) for _ in range(2)]
    for result in results:
        assert (result.code, result.err) == (0, ""), result.err
        assert result.out.count("holds") == 6
        assert "FELL" not in result.out
        assert result.out.count("42501") == 2
        assert result.out.count("23503") == 1
    assert "was running" in results[1].out
    assert "seed was there" in results[1].out


def test_the_demo_says_when_a_wall_falls(command: Command, data_dir: Path) -> None:
    """With a policy taken down, the demo does not claim that all is well."""
    command("demo", TENANTRY_DATA_DIR=str(data_dir))
    open_wall = "ALTER POLICY tenant_isolation ON widgets USING (true) WITH CHECK (true)"
    down = command(
        *("db", "psql", "--role", "owner", "--", "-qc", open_wall), TENANTRY_DATA_DIR=str(data_dir)
    )
    assert down.code == 0, down.err
    result = command("demo", TENANTRY_DATA_DIR=str(data_dir))
    assert result.code == 1
    assert result.out.count("FELL") == 4
    assert "A wall fell" in result.out


def test_up_use_and_down(command: Command, data_dir: Path) -> None:
    """`db up` brings a migrated database, every command finds it, `db down` stops it."""
    given = {"TENANTRY_DATA_DIR": str(data_dir)}
    assert command("db", "up", **given).out.startswith("PostgreSQL 18")
    assert command("db", "check", **given).code == 0
    assert command("tenant", "create", "Acme", **given).code == 0
    assert command("db", "down", **given).out == "stopped\n"
    assert command("db", "down", **given).out == "it was not running\n"
    assert "acme" in command("tenant", "list", **given).out
    assert command("db", "down", **given).out == "stopped\n"


SCRIPT = """
import asyncio
from tenantry import Database

async def main():
    async with Database.connect() as db:
        async with db.operator() as tx:
            print((await tx.connection()).engine.dialect.name)

asyncio.run(main())
"""


@pytest.mark.usefixtures("traced_processes")
def test_a_script_needs_no_command_before_it(data_dir: Path, tmp_path: Path) -> None:
    """`Database.connect()` on an empty machine starts the server and migrates the new database."""
    import os
    import subprocess
    import sys

    result = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "TENANTRY_DATA_DIR": str(data_dir)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "postgresql\n"), result.stderr


def test_the_demo_does_not_replace_what_another_seed_made(command: Command, data_dir: Path) -> None:
    """After an upgrade the seed may differ; what is there stays, and the demo shows it."""
    given = {"TENANTRY_DATA_DIR": str(data_dir)}
    command("db", "seed", "--seed", "8", **given)
    result = command("demo", **given)
    assert (result.code, result.err) == (0, "")
    assert result.out.count("holds") == 6
    assert "nothing to do" in command("db", "seed", "--seed", "8", **given).out
