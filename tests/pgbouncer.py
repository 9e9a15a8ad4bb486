"""A PgBouncer in transaction mode before the server under test."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import URL

ROOT = Path(__file__).parent.parent


def program() -> str:
    """The path of PgBouncer; without one the test is skipped, and fails where CI is set."""
    found = subprocess.run(
        ["sh", str(ROOT / "scripts" / "pgbouncer")], capture_output=True, text=True, check=False
    ).stdout.strip()
    if not found:
        reason = "PgBouncer is not installed (Debian: apt-get install pgbouncer)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return found


@asynccontextmanager
async def pgbouncer(server: URL, *, connections: int, options: str = "") -> AsyncIterator[URL]:
    """Start PgBouncer over `server` and yield a URL through it, without user and database.

    `connections` is how many it opens to the server for each pair of role and database; `options`
    are further settings, and win over those of here.
    """
    folder = Path(tempfile.mkdtemp(prefix="tenantry-bouncer-", dir="/tmp"))
    host = str(server.host or server.query.get("host"))
    as_user = ""
    if os.geteuid() == 0:  # it refuses to run as root; the server's account may use its socket
        owner = Path(host).stat().st_uid if host.startswith("/") else pwd.getpwnam("nobody").pw_uid
        os.chown(folder, owner, -1)
        as_user = f"user = {pwd.getpwuid(owner).pw_name}"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    password = f" password={server.password}" if server.password else ""
    (folder / "users.txt").write_text('"tenantry_app" ""\n"postgres" ""\n')
    (folder / "pgbouncer.ini").write_text(f"""
[databases]
* = host={host} port={server.port or 5432}{password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users.txt
pool_mode = transaction
default_pool_size = {connections}
max_client_conn = 1000
admin_users = postgres
logfile = {folder}/log
server_login_retry = 1
query_wait_timeout = 5
{as_user}
{options}
""")
    process = subprocess.Popen(  # noqa: ASYNC220 - it starts in no time
        [program(), "-q", str(folder / "pgbouncer.ini")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = server.set(host="127.0.0.1", port=port, password=None, query={"sslmode": "disable"})
    try:
        await _answers(url, process, folder / "log")
        yield url
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder)


async def _answers(url: URL, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(100):
        try:
            connection = await asyncpg.connect(
                url.set(username="postgres", database="postgres").render_as_string(False),
                statement_cache_size=0,
            )
        except (OSError, asyncpg.PostgresError):
            if process.poll() is not None:
                break
            await asyncio.sleep(0.05)
        else:
            await connection.close()
            return
    raise AssertionError(f"PgBouncer did not start: {log.read_text() if log.exists() else ''}")
