"""Where the tests' servers keep their data.

To copy a database is to copy 250 files. In memory that takes a tenth of the time, and the server
may copy them as files instead of through its log.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

__all__ = ["disk", "in_memory", "scratch"]

_MEMORY: Final = Path("/dev/shm")
_ROOM: Final = 2 * 1024**3  # several servers' data and logs; in a container there are often 64 MB


def disk() -> Path:
    """Memory where there is room, else /tmp."""
    roomy = os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ROOM
    return _MEMORY if roomy else Path("/tmp")


def scratch(prefix: str) -> Path:
    """Make a folder on that disk that every user can enter.

    Not tmp_path: as root a server runs as another user, who cannot enter that one.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=disk()))
    folder.chmod(0o755)
    return folder


def in_memory(folder: str) -> bool:
    """Whether a server's data folder is on a file system in memory."""
    return Path(folder).resolve().is_relative_to(_MEMORY)
