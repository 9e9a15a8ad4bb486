"""Takes away the server of a run that was killed. Run as a program, it imports nothing at first.

The run holds a lock on a file of its folder for as long as it lives, and the kernel drops the lock
with the process, however that ends. This program waits for the lock. After a tidy end it finds no
folder; else it stops the server and removes the data.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

__all__ = ["LOCK", "watch"]

LOCK: Final = "run.lock"
"""The file that a run locks in its folder."""


def watch(folder: Path) -> None:
    """Start a process that waits for the end of the run, and outlives it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop("COV_CORE_SOURCE", None)
    environment.pop("COVERAGE_PROCESS_START", None)
    environment.pop("COVERAGE_PROCESS_CONFIG", None)
    subprocess.run(
        [sys.executable, "-P", __file__, str(folder)],
        check=True,
        cwd="/",
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _wait(folder: Path) -> None:
    if os.fork():
        return  # whoever has started us goes on, and we belong to nobody
    os.setsid()
    try:
        with (folder / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _clean_up(folder)
    except FileNotFoundError:
        return


def _clean_up(folder: Path) -> None:
    data = folder / "data"
    if data.exists():
        from tenantry.ops import embedded  # noqa: PLC0415 - seldom needed, and it takes a second

        embedded.stop(data)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _wait(Path(sys.argv[1]))
