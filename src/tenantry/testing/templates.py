"""The migrated database that tests get copies of, and how it is copied."""

from __future__ import annotations

import secrets
import zlib
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

import asyncpg
from sqlalchemy import URL, make_url

from tenantry.errors import PrivilegeError
from tenantry.ops.connections import migration_connection
from tenantry.ops.drift import push
from tenantry.ops.migrations import migrate
from tenantry.ops.project import Project
from tenantry.schema.row_security import APP_ROLE
from tenantry.settings import url_text
from tenantry.tenancy.catalog import quote
from tenantry.testing.administrator import Administrator

__all__ = ["PREFIX", "Template", "hold", "make_template", "remove", "sweep"]

PREFIX: Final = "tenantry_run_"
"""What the databases and roles of every run begin with."""

# What is granted and set on a database itself is not copied with its content. A superuser copies
# it in 1 ms; for others it is granted anew.
_COPY_OF_THE_DATABASE_ITSELF: Final = """
    UPDATE pg_database SET datacl = t.datacl
      FROM pg_database t WHERE pg_database.datname = '{name}' AND t.datname = '{template}';
    INSERT INTO pg_db_role_setting
    SELECT d.oid, s.setrole, s.setconfig FROM pg_db_role_setting s
      JOIN pg_database t ON t.oid = s.setdatabase AND t.datname = '{template}'
      JOIN pg_database d ON d.datname = '{name}';
"""
_RUNS: Final = """
    SELECT DISTINCT substring(name FROM '^tenantry_run_[a-z0-9]+') AS run
      FROM (SELECT datname::text AS name FROM pg_database UNION ALL
            SELECT rolname::text FROM pg_roles) AS named
     WHERE name LIKE 'tenantry\\_run\\_%'
"""
_HOLDERS: Final = """
    SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1
       AND classid::int8 << 32 | objid::int8 = $1
"""
_DATABASES: Final = "SELECT datname::text AS name FROM pg_database WHERE datname LIKE $1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A server, the template on it, and how the application connects.

    Args:
        url: The server, as its administrator, with the password.
        run: The name of the run.
        role: Whom the application connects as.
        password: The role's; None where the server asks for none.
        embedded: Whether the server is the run's own, and its data is thrown away with it.
        superuser: Whether the administrator is one.
        strategy: How PostgreSQL copies. In memory, files are copied in half the time.
    """

    url: str
    run: str
    role: str
    password: str | None
    embedded: bool
    superuser: bool
    strategy: str

    @property
    def server(self) -> URL:
        """The server, as its administrator."""
        return make_url(self.url)

    def as_json(self) -> dict[str, Any]:
        """Return it for `from_json`, in another process."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Return what `as_json` was called on."""
        return cls(**value)

    def admin_url(self, database: str) -> URL:
        """Return the administrator's URL of a database."""
        return self.server.set(database=database)

    def app_url(self, database: str) -> URL:
        """Return the application's URL of a database."""
        url = self.admin_url(database).set(username=self.role)
        return url.set(password=self.password) if self.password else url

    def clone(self, administrator: Administrator) -> str:
        """Copy the template and return the name of the copy."""
        name, template = f"{self.run}_{secrets.token_hex(6)}", f"{self.run}_template"
        administrator.execute(
            f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY {self.strategy}"
        )
        if self.superuser:
            copy = _COPY_OF_THE_DATABASE_ITSELF.format(name=name, template=template)
            administrator.execute(copy)
        else:
            administrator.run(_prepare(self.admin_url(name)))
        return name


async def _prepare(url: URL) -> None:
    async with migration_connection(url):
        pass


def make_template(
    url: URL, project: Project, *, run: str, embedded: bool, in_memory: bool
) -> Template:
    """Make the template of a run, with the tables of the project.

    A project that has migrations gets them; for any other, the database is brought to the models.

    Raises:
        TenantryError: The server does not do, or the migrations or models do not.
    """
    with closing(Administrator(url)) as administrator:
        if not embedded:
            for each in administrator.fetch(_RUNS):
                if each["run"] != run:
                    _remove_dead(administrator, each["run"])
        hold(administrator, run)
        role, password = APP_ROLE, None
        try:
            administrator.execute(f"CREATE DATABASE {run}_template TEMPLATE template0")
            administrator.run(_fill(url.set(database=f"{run}_template"), project))
            if not embedded:
                role, password = run, secrets.token_urlsafe(24)
                _make_role(administrator, role, password)
        except BaseException:
            remove(administrator, run)  # the next process tries, too, and is told the same
            raise
        rights = administrator.fetch("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        return Template(
            url=url_text(url),
            run=run,
            role=role,
            password=password,
            embedded=embedded,
            superuser=rights[0]["rolsuper"],
            strategy="FILE_COPY" if in_memory else "WAL_LOG",
        )


async def _fill(url: URL, project: Project) -> None:
    folder = project.migrations
    if folder is not None and folder.is_dir() and any(folder.glob("*.py")):
        await migrate(url, project=project)
        return
    await migrate(url)
    await push(url, project=project)


def _make_role(administrator: Administrator, role: str, password: str) -> None:
    # A login of the run's own: the password of tenantry_app on this server is somebody's.
    statement = f"CREATE ROLE {role} LOGIN PASSWORD '{password}' IN ROLE {APP_ROLE}"
    try:
        administrator.execute(statement)
    except asyncpg.InsufficientPrivilegeError as error:
        raise PrivilegeError(
            f"The administrator of the tests' server may not make a role that has {APP_ROLE}. Use "
            f"a superuser, or the role that has made {APP_ROLE}."
        ) from error


def hold(administrator: Administrator, run: str) -> None:
    """Show to other runs on this server that ``run`` is under way, until the connection ends."""
    administrator.fetch("SELECT pg_advisory_lock_shared($1)", _key(run))


def sweep(url: URL, run: str) -> None:
    """Remove the databases and the role of a run from a server."""
    with closing(Administrator(url)) as administrator:
        remove(administrator, run)


def remove(administrator: Administrator, run: str) -> None:
    """Remove the databases and the role of ``run``."""
    pattern = run.replace("_", r"\_") + r"\_%"
    for each in administrator.fetch(_DATABASES, pattern):
        administrator.execute(f"DROP DATABASE IF EXISTS {quote(each['name'])} WITH (FORCE)")
    administrator.execute(f"DROP ROLE IF EXISTS {run}")


def _remove_dead(administrator: Administrator, run: str) -> None:
    """Remove what a run has left that was killed: nobody holds its lock any more."""
    # Not by trying to lock: that sees the locks of the database that we are connected to alone.
    if not administrator.fetch(_HOLDERS, _key(run)):
        remove(administrator, run)


def _key(run: str) -> int:
    return zlib.crc32(run.encode()) | 1 << 40
