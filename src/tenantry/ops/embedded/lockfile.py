"""A lock between processes: one file, held with ``flock``.

The kernel drops it when its holder dies, so there is never a stale lock to clean up.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING

from tenantry.errors import EmbeddedServerError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["hold"]

_POLL_S = 0.02


@contextlib.contextmanager
def hold(path: Path, *, limit_s: float) -> Iterator[int]:
    """Hold the lock file at ``path``, waiting for another holder.

    Args:
        path: The lock file; it is made when missing and never removed, because removing it would
            let two processes lock two different files of the same name.
        limit_s: How long to wait, in seconds.

    Yields:
        The file descriptor. A child that inherits it keeps the lock for as long as it lives.

    Raises:
        EmbeddedServerError: Another process held the lock for longer than ``limit_s``.
    """
    # NOFOLLOW: as root we open this in a folder that the server's account may write to.
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        _acquire(fd, path, limit_s=limit_s)
        yield fd
    finally:
        os.close(fd)


def _acquire(fd: int, path: Path, *, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                msg = (
                    f"Another process has held {path} for more than {limit_s:.0f} s; only one may"
                    " start or stop an embedded server at a time. Wait for it, or end it: `fuser"
                    f" -v {path}` names it."
                )
                raise EmbeddedServerError(msg) from None
            time.sleep(_POLL_S)
        else:
            return
