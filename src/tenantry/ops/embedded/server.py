"""The development server: a PostgreSQL of the project's own, with nothing to install.

Layout of the data folder::

    postgresql/     PGDATA; its postgresql.conf is yours to edit
    run/            the Unix socket, mode 0700
    server.log      what the server prints
    lock            held by whoever starts or stops the server

There is no password: the server listens on no network address, and only its own user (and root) can
enter the folder of its socket. A path that is too long for a socket's address has its socket in a
private folder below the temporary directory instead.

The server outlives the process that started it, until :func:`stop`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from tenantry.errors import EmbeddedServerError

if sys.platform == "win32":
    _msg = (
        "The embedded PostgreSQL runs on Linux and macOS only. Use WSL, or set"
        " TENANTRY_DATABASE_URL to a PostgreSQL server of yours."
    )
    raise EmbeddedServerError(_msg)

from tenantry.ops.embedded import cluster, lockfile, pginstall, postmaster
from tenantry.ops.embedded.cluster import DATABASE, SUPERUSER
from tenantry.ops.embedded.datadir import PORT, DataDir
from tenantry.ops.embedded.pginstall import binary

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tenantry.ops.embedded.pginstall import Account

__all__ = ["EmbeddedServer", "find", "psql_path", "start", "stop"]

log = logging.getLogger("tenantry.embedded")

_ADVICE = {
    errno.EROFS: "The file system is read-only: choose another folder with TENANTRY_DATA_DIR",
    errno.EACCES: "Give yourself access, or choose another folder with TENANTRY_DATA_DIR",
    errno.EPERM: "Give yourself access, or choose another folder with TENANTRY_DATA_DIR",
    errno.ENOSPC: "The file system is full: make room",
    errno.EDQUOT: "Your quota is used up: make room",
    errno.ENOTDIR: "A folder is needed: choose another place with TENANTRY_DATA_DIR",
    errno.ENAMETOOLONG: "Choose a shorter folder with TENANTRY_DATA_DIR",
}


@dataclasses.dataclass(frozen=True, slots=True)
class EmbeddedServer:
    """A running embedded server.

    Attributes:
        data_dir: Its folder.
        socket_dir: The folder of its Unix socket.
        pid: Its main process.
        version: PostgreSQL's version, such as ``18.6``.
        started: True when this call started it, False when it was found running.
    """

    data_dir: Path
    socket_dir: Path
    pid: int
    version: str
    started: bool

    def url(self, *, user: str = SUPERUSER, database: str = DATABASE) -> str:
        """Connection URL in libpq's form, without a password: the server asks for none.

        The port is named because PGPORT in the reader's environment would change it.
        """
        host = quote(os.fsencode(self.socket_dir), safe="")
        return (
            f"postgresql://{quote(user, safe='')}@/{quote(database, safe='')}"
            f"?host={host}&port={PORT}"
        )


def start(
    data_dir: Path | None = None, *, settings: Mapping[str, str] | None = None
) -> EmbeddedServer:
    """Start the server, or find it running; afterwards the database ``tenantry`` is there.

    The first start makes the cluster. Processes that start it at the same moment wait for each
    other, and one of them starts it.

    Args:
        data_dir: Its folder; by default :func:`default_data_dir`.
        settings: PostgreSQL settings for this run, such as ``{"fsync": "off"}`` in tests. They are
            without effect when the server is already running.

    Raises:
        ConfigurationError: A name in ``settings`` is no setting's, or one of those that keep the
            server private.
        EmbeddedServerError: The server cannot be started; the message says why and what to do.
    """
    arguments = cluster.options(settings or {})
    with _explained("start", data_dir):
        layout = DataDir.at(data_dir)
        account = pginstall.server_account()
        if account is not None:  # root gets in everywhere; others are refused by the system
            layout.require_ours(account=account)
        running = cluster.probe(layout)
        if running is not None and running.has_database:
            return _server(layout, running, started=False)
        layout.make(account=account)
        with lockfile.hold(layout.lock_file, limit_s=cluster.LIMIT_S) as lock:
            return _start(layout, arguments=arguments, account=account, lock=lock)


def find(data_dir: Path | None = None) -> EmbeddedServer | None:
    """The running server of ``data_dir``, or None; nothing is started or changed.

    It is found only when its process lives, works in this folder, and answers on its socket. While
    the first start is under way the database ``tenantry`` may still be missing; :func:`start` waits
    for it.

    Raises:
        EmbeddedServerError: The folder cannot be read.
    """
    with _explained("find", data_dir):
        layout = DataDir.at(data_dir)
        running = cluster.probe(layout)
        return _server(layout, running, started=False) if running else None


def stop(data_dir: Path | None = None) -> bool:
    """Stop the server, ending its sessions; returns whether it was running.

    Raises:
        EmbeddedServerError: It runs and cannot be stopped.
    """
    with _explained("stop", data_dir):
        layout = DataDir.at(data_dir)
        if not layout.has_cluster():
            return False
        account = pginstall.server_account()
        with lockfile.hold(layout.lock_file, limit_s=cluster.LIMIT_S):
            pid = cluster.live_pid(layout)
            if pid is None:
                layout.clear_stale()
                return False
            cluster.require_owner(layout, account=account)
            pg_ctl = pginstall.bin_dir(account=account) / "pg_ctl"
            how = ("-m", "fast", "-w", "-t", f"{cluster.LIMIT_S:.0f}")
            result = pginstall.run(
                [pg_ctl, "stop", "-D", layout.pgdata, *how],
                account=account,
                limit_s=cluster.LIMIT_S + 10,
            )
            if result.returncode:
                msg = (
                    f"The server in {layout.root} (pid {pid}) did not stop:"
                    f" {cluster.last_lines(result.stderr)}\nEnd it by hand: kill -QUIT {pid}"
                )
                raise EmbeddedServerError(msg)
    log.info("stopped the server in %s", layout.root)
    return True


def psql_path() -> Path:
    """Path of the ``psql`` that fits the server.

    Raises:
        EmbeddedServerError: The embedded PostgreSQL is not installed.
    """
    return binary("psql")


def _start(
    layout: DataDir, *, arguments: list[str], account: Account | None, lock: int
) -> EmbeddedServer:
    running = cluster.await_existing(layout)
    started = running is None
    bin_dir = pginstall.bin_dir(account=account)
    if running is None:
        if layout.has_cluster():
            cluster.require_usable(layout, account=account)
            postmaster.end_leftovers(layout.pgdata)
        else:
            cluster.create(layout, bin_dir=bin_dir, account=account, lock=lock)
        running = cluster.launch(layout, bin_dir=bin_dir, arguments=arguments, account=account)
    if not running.has_database:
        running = cluster.create_database(layout, running, bin_dir=bin_dir, account=account)
    return _server(layout, running, started=started)


def _server(layout: DataDir, running: cluster.Running, *, started: bool) -> EmbeddedServer:
    return EmbeddedServer(
        data_dir=layout.root,
        socket_dir=running.socket_dir,
        pid=running.pid,
        version=running.version,
        started=started,
    )


@contextlib.contextmanager
def _explained(verb: str, data_dir: Path | None) -> Iterator[None]:
    """Turn what the operating system refuses into one error that says what to do."""
    try:
        yield
    except OSError as exc:
        where = f" (data folder {data_dir})" if data_dir is not None else ""
        what = f"{exc.strerror or exc}: {exc.filename}" if exc.filename else str(exc)
        advice = _ADVICE.get(exc.errno or 0, "Correct that and try again")
        msg = f"Cannot {verb} the embedded server{where}: {what}. {advice}."
        raise EmbeddedServerError(msg) from exc
