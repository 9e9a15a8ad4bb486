"""One run of the tests: its folder, its server and its template, shared by all its processes.

Roles are a whole server's, so the processes of pytest-xdist share one server and one template. The
first process that needs them makes them while the others wait. The process that the run began in
takes them away; where it was killed, `tenantry.testing.watching` does.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from sqlalchemy import make_url

from tenantry.errors import ConfigurationError
from tenantry.ops.project import Project
from tenantry.settings import parse_url
from tenantry.testing.templates import PREFIX, Template, make_template, sweep
from tenantry.testing.watching import LOCK, watch

__all__ = ["SERVER_URL", "Run"]

SERVER_URL: Final = "TENANTRY_TEST_SERVER_URL"
"""Names a server of the user's own, as a role that may make databases and roles."""

_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a folder of a random name is made in it
_ROOM: Final = 2 * 1024**3  # a container often has 64 MB there

_NOTES: Final = "template.json"

# The data is thrown away with the server. Of hundreds of databases that live for a second, none is
# worth a vacuum.
_SETTINGS: Final = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "autovacuum": "off",
    "jit": "off",
}


@dataclass
class Run:
    """A run, as each of its processes sees it.

    Args:
        folder: Where its server's data and its notes are.
        owned: Whether this process is the one that the run began in.
    """

    folder: Path
    owned: bool
    _lock: IO[bytes] | None = field(default=None, repr=False)

    @classmethod
    def begin(cls) -> Run:
        """Make the folder of a new run, and hold its lock as long as this process lives."""
        roomy = os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ROOM
        folder = Path(
            tempfile.mkdtemp(prefix="tenantry-testing-", dir=_MEMORY if roomy else None)
        ).resolve()
        if os.geteuid() == 0:  # the server then runs as another user, who has to get in
            folder.chmod(0o755)
        lock = (folder / LOCK).open("wb")
        fcntl.flock(lock, fcntl.LOCK_EX)
        return cls(folder, owned=True, _lock=lock)

    @classmethod
    def join(cls, folder: str) -> Run:
        """Take part in the run that another process has begun."""
        return cls(Path(folder), owned=False)

    @property
    def name(self) -> str:
        """What its databases and its role are called, or begin with."""
        return PREFIX + "".join(
            c for c in self.folder.name.rpartition("-")[2].lower() if c.isalnum()
        )

    def template(self, project: Project) -> Template:
        """Return the template, made before or now.

        Raises:
            TenantryError: The server cannot be started or used, or the models do not fit.
        """
        notes = self.folder / _NOTES
        with self._alone():
            if not notes.exists():
                text = json.dumps(self._make(project).as_json())
                # As a whole or not at all, and for nobody else: it may hold a password.
                descriptor, name = tempfile.mkstemp(dir=self.folder)
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    file.write(text)
                Path(name).replace(notes)
        return self._noted()

    def end(self) -> None:
        """Take away what the run has made, if it began in this process."""
        if not self.owned:
            return
        try:
            if (self.folder / _NOTES).exists() and not (template := self._noted()).embedded:
                sweep(template.server, template.run)
            if (self.folder / "data").exists():
                from tenantry.ops import embedded  # noqa: PLC0415 - optional

                embedded.stop(self.folder / "data")
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
            if self._lock is not None:
                self._lock.close()

    def _noted(self) -> Template:
        return Template.from_json(json.loads((self.folder / _NOTES).read_text(encoding="utf-8")))

    def _make(self, project: Project) -> Template:
        given = os.environ.get(SERVER_URL, "").strip()
        if given:
            url = parse_url(given, source=SERVER_URL)
            return make_template(url, project, run=self.name, embedded=False, in_memory=False)
        from tenantry.ops import embedded  # noqa: PLC0415 - optional

        watch(self.folder)
        started = embedded.start(self.folder / "data", settings=_SETTINGS)
        url = make_url(started.url(database="postgres"))
        in_memory = self.folder.is_relative_to(_MEMORY)
        return make_template(url, project, run=self.name, embedded=True, in_memory=in_memory)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            lock = (self.folder / "template.lock").open("wb")
        except FileNotFoundError:
            raise ConfigurationError(
                f"The folder {self.folder} of this run of the tests is gone. Run them again."
            ) from None
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
