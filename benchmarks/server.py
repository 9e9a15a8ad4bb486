"""The server that benchmarks run on, and fresh databases on it."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg
from sqlalchemy import URL, make_url

from tenantry.ops import embedded
from tenantry.ops.migrations import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True)
class Server:
    """A server, as its superuser."""

    url: URL

    def at(self, database: str) -> URL:
        return self.url.set(database=database)

    async def connect(self, database: str = "postgres") -> asyncpg.Connection:
        return await asyncpg.connect(self.at(database).render_as_string(hide_password=False))

    async def run(self, statement: str, *, database: str = "postgres") -> str:
        connection = await self.connect(database)
        try:
            return str(await connection.fetchval(statement))
        finally:
            await connection.close()

    async def create(self) -> str:
        """Make a migrated database and return its name."""
        name = f"tenantry_benchmark_{uuid4().hex[:12]}"
        await self.run(f"CREATE DATABASE {name} TEMPLATE template0")
        await migrate(self.at(name), on_step=lambda _: None)
        return name

    async def drop(self, *names: str) -> None:
        for name in names:
            await self.run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@contextmanager
def running_server(settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Yield the server of TENANTRY_TEST_SERVER_URL, or an embedded one.

    Args:
        settings: PostgreSQL's, of an embedded one; None: its own.
    """
    given = os.environ.get("TENANTRY_TEST_SERVER_URL")
    if given:
        yield Server(make_url(given))
        return
    # Not a private folder: as root the server runs as another user, who could not enter it.
    folder = Path(tempfile.mkdtemp(prefix="tenantry-benchmark-"))
    folder.chmod(0o755)
    try:
        yield Server(
            make_url(embedded.start(folder / "data", settings=settings).url(database="postgres"))
        )
    finally:
        embedded.stop(folder / "data")
        shutil.rmtree(folder, ignore_errors=True)
