"""Migrations: run them, write them, say which have run."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
from alembic import command
from alembic.autogenerate.api import AutogenContext
from alembic.config import Config
from alembic.operations.ops import CreateTableOp
from alembic.script import Script, ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import NullPool
from sqlalchemy.types import TypeDecorator

from tenantry.errors import (
    MigrationError,
    SchemaMissingError,
    SchemaTooNewError,
    TenantryError,
)
from tenantry.ops import autogenerate
from tenantry.ops.preparing import prepare
from tenantry.ops.project import Project
from tenantry.schema.base import SCHEMA_REVISION
from tenantry.schema.row_security import OWNER_ROLE
from tenantry.tenancy.connecting import create_engine, run_script
from tenantry.tenancy.inspection import check_server, newer_revisions

__all__ = [
    "VERSIONS",
    "Step",
    "applied_revisions",
    "configuration",
    "context_options",
    "downgrade",
    "inspection_connection",
    "migrate",
    "migration_connection",
    "reset",
    "revision",
    "run_frozen_sql",
]

VERSIONS: Final = Path(__file__).parent / "versions"
LOCK_TIMEOUT_SECONDS: Final = 5
"""A migration waits this long for a table; longer, and the queries behind it would pile up."""

# Any fixed number that nobody else in the database uses: "tenantry" in ASCII.
_ADVISORY_LOCK: Final = int.from_bytes(b"tenantry") & 0x7FFF_FFFF_FFFF_FFFF

# Without it, the server goes on with the statement of a migrator that was killed, and keeps the
# lock until it ends. Not every operating system can.
_NOTICE_DEATH: Final = """
DO $$ BEGIN
    SET client_connection_check_interval = '1s';
EXCEPTION WHEN OTHERS THEN
    NULL;
END $$
"""

# Not to_regclass(): it asks for USAGE on the schema, which whoever migrates need not have.
_IS_MIGRATED: Final = text("""
    SELECT EXISTS (SELECT FROM pg_tables
                    WHERE schemaname = 'tenantry' AND tablename = 'alembic_version')
""")

Step = Callable[[str], None]
"""Called with one line for each step."""

_log = logging.getLogger("tenantry.migrations")


@asynccontextmanager
async def migration_connection(
    admin_url: URL, *, wait_seconds: float = 300.0, on_step: Step = _log.info
) -> AsyncIterator[AsyncConnection]:
    """Connect as the owner of the tables, alone: others who want the same wait their turn.

    Roles, extensions and schemas are made first if they are missing.

    Raises:
        MigrationError: The lock was not free within ``wait_seconds``.
        DatabaseUnavailableError: The server does not answer or refuses the connection.
        PrivilegeError: The role may not become the owner.
        UnsupportedServerError: PostgreSQL or an extension is missing or too old.
    """
    async with _connection(admin_url) as connection:
        await _lock(connection, wait_seconds, on_step)
        await prepare(connection)
        await _become_owner(connection)
        await connection.exec_driver_sql(f"SET lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'")
        await connection.exec_driver_sql(_NOTICE_DEATH)
        await connection.commit()
        yield connection


@asynccontextmanager
async def inspection_connection(admin_url: URL) -> AsyncIterator[AsyncConnection]:
    """Connect as the owner of the tables to look; what is changed is rolled back.

    Raises:
        SchemaMissingError: The database was not migrated.
        DatabaseUnavailableError, PrivilegeError, UnsupportedServerError: as
            `migration_connection`.
    """
    async with _connection(admin_url) as connection:
        await check_server(connection)
        if not await connection.scalar(_IS_MIGRATED):
            raise SchemaMissingError(
                "This database holds no tenantry tables. Run `tenantry db migrate` first."
            )
        await _become_owner(connection)
        await connection.commit()
        yield connection
        await connection.rollback()


@asynccontextmanager
async def _connection(admin_url: URL) -> AsyncIterator[AsyncConnection]:
    engine = create_engine(admin_url, pool_class=NullPool)
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


async def _become_owner(connection: AsyncConnection) -> None:
    await connection.exec_driver_sql(f"SET ROLE {OWNER_ROLE}")
    # It decides how the catalog prints names, and where unqualified tables go.
    await connection.exec_driver_sql("SET search_path = public")


async def _lock(connection: AsyncConnection, wait_seconds: float, on_step: Step) -> None:
    # Held by the connection and not by a transaction: each migration commits for itself.
    free = await connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
    if not free:
        on_step("another migration is running, waiting for it")
        await connection.exec_driver_sql(f"SET lock_timeout = '{int(wait_seconds * 1000)}ms'")
        try:
            await connection.execute(
                text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK}
            )
        except DBAPIError as error:
            raise MigrationError(
                f"Another migration of this database did not end within {wait_seconds:g} s. "
                "Nothing was changed. See what it does in pg_stat_activity, then run this again."
            ) from error
    await connection.commit()


def configuration(project: Project) -> Config:
    """Return Alembic's configuration for tenantry's and the project's migrations."""
    config = Config(cmd_opts=Namespace(quiet=True))  # it would print to stdout
    config.set_main_option("script_location", str(VERSIONS.parent / "alembic").replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    locations = [str(VERSIONS)]
    if project.migrations is not None and project.migrations.is_dir():
        locations.append(str(project.migrations))
    config.set_main_option("version_locations", "\n".join(locations).replace("%", "%%"))
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    return config


def context_options(connection: Connection, project: Project) -> dict[str, Any]:
    """Return the arguments of Alembic's ``context.configure``."""
    autogenerate.register()
    return {
        "connection": connection,
        "target_metadata": project.metadata,
        "version_table_schema": "tenantry",
        "transaction_per_migration": True,
        "compare_server_default": True,
        "render_item": _render_item,
        "autogenerate_plugins": [
            "alembic.autogenerate.*",
            "alembic.ext.checkconstraint_byname",
            autogenerate.PLUGIN,
        ],
    }


def _render_item(kind: str, item: object, context: AutogenContext) -> str | bool:
    # A migration is frozen: it must not change when the class of a type does. So our types are
    # written as what they are in the database.
    if kind == "type" and isinstance(item, TypeDecorator):
        impl = item.impl_instance
        if type(item).__module__.startswith("tenantry."):
            if type(impl).__module__.startswith("pgvector."):
                context.imports.add("import pgvector.sqlalchemy")
                return f"pgvector.sqlalchemy.VECTOR({impl.dim})"
            if type(impl).__name__ == "JSONB":
                return "postgresql.JSONB()"
            return f"sa.{impl!r}"
    return False


async def migrate(
    admin_url: URL,
    *,
    project: Project | None = None,
    wait_seconds: float = 300.0,
    on_step: Step = _log.info,
) -> list[str]:
    """Bring the database to the newest version, and return the revisions that ran.

    Each migration is a transaction of its own; one that fails or is killed leaves the version
    before it.

    Args:
        admin_url: A superuser, or a CREATEROLE role that owns the database.
        project: The user's migrations, beside tenantry's.
        wait_seconds: How long to wait for another migrator of the same database.
        on_step: Called with one line for each step.

    Raises:
        MigrationError: A migration failed, or the lock was not free in time.
        SchemaTooNewError: A newer tenantry has migrated this database.
        PrivilegeError, UnsupportedServerError, DatabaseUnavailableError: see
            `migration_connection`.
    """
    return await _run(admin_url, project or Project(), "upgrade", "heads", wait_seconds, on_step)


async def downgrade(
    admin_url: URL, *, target: str = "base", project: Project | None = None, on_step: Step = _log.info
) -> list[str]:
    """Take migrations back, down to ``target``. Their tables go, with all rows.

    Raises:
        MigrationError, SchemaTooNewError, PrivilegeError: as `migrate`.
    """
    return await _run(admin_url, project or Project(), "downgrade", target, 300.0, on_step)


async def _run(
    admin_url: URL,
    project: Project,
    verb: str,
    target: str,
    wait_seconds: float,
    on_step: Step,
) -> list[str]:
    async with migration_connection(
        admin_url, wait_seconds=wait_seconds, on_step=on_step
    ) as connection:
        return await connection.run_sync(_run_scripts, project, verb, target, on_step)


def _run_scripts(
    connection: Connection, project: Project, verb: str, target: str, on_step: Step
) -> list[str]:
    config = configuration(project)
    _refuse_unknown_revisions(connection, ScriptDirectory.from_config(config), project)
    connection.commit()
    done: list[str] = []

    def applied(*, step: Any, **_: Any) -> None:
        done.append(step.up_revision_id)
        verb = "applied" if step.is_upgrade else "took back"
        on_step(f"{verb} {step.up_revision_id}: {step.up_revision.doc}")

    options = context_options(connection, project)
    config.attributes["configure"] = {**options, "on_version_apply": applied}
    try:
        getattr(command, verb)(config, target)
    except TenantryError:
        raise
    except Exception as error:
        raise _failed(error, done) from error
    return done


def _failed(error: Exception, done: list[str]) -> MigrationError:
    cause: BaseException = error
    if isinstance(error, DBAPIError):
        cause = getattr(error.orig, "__cause__", None) or error
    state = getattr(cause, "sqlstate", None)
    message = str(cause)
    if not isinstance(cause, asyncpg.PostgresError | SQLAlchemyError | CommandError):
        message = f"{type(cause).__name__}: {cause}"
    stands = f"what ran before it, up to {done[-1]}, stands" if done else "the version before it stands"
    hint = ""
    if state == "55P03":
        hint = (
            f" A table was in use for more than {LOCK_TIMEOUT_SECONDS} s; run it again when long "
            "transactions have ended."
        )
    elif state == "42P07":
        hint = (
            " A database made by `tenantry db push` has no migration history; start it anew with "
            "`tenantry db reset`."
        )
    return MigrationError(f"The migration failed and was rolled back; {stands}. {message}{hint}")


def applied_revisions(connection: Connection) -> set[str]:
    """Return the rows of Alembic's version table; empty where there is none."""
    exists = connection.execute(text("SELECT to_regclass('tenantry.alembic_version')")).scalar()
    if exists is None:
        return set()
    return set(connection.execute(text("SELECT version_num FROM tenantry.alembic_version")).scalars())


def _refuse_unknown_revisions(
    connection: Connection, scripts: ScriptDirectory, project: Project
) -> None:
    known = {script.revision for script in scripts.walk_revisions()}
    unknown = applied_revisions(connection) - known
    newer = newer_revisions(unknown)
    if newer:
        raise SchemaTooNewError(
            f"This database was migrated to {newer[-1]} by a newer tenantry; this one knows up to "
            f"{SCHEMA_REVISION}. Install the newer tenantry. Nothing was changed."
        )
    if unknown:
        raise MigrationError(
            f"The database is at revision {', '.join(sorted(unknown))}, which is not in "
            f"{project.migrations}. Run this in the project that it belongs to, or get its newest "
            "migrations. Nothing was changed."
        )


async def revision(
    admin_url: URL, *, message: str, project: Project, on_step: Step = _log.info
) -> Path | None:
    """Write a migration for what the models declare and the database lacks.

    The database must be at the newest version.

    Returns:
        The new file, or None where nothing differs.

    Raises:
        MigrationError: Migrations are pending, or the folder cannot be written.
    """
    async with migration_connection(admin_url, on_step=on_step) as connection:
        return await connection.run_sync(_write_revision, message, project)


def _write_revision(connection: Connection, message: str, project: Project) -> Path | None:
    folder = project.migrations
    if folder is None:
        raise MigrationError("The project has no folder for migrations.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MigrationError(f"Cannot make the folder {folder}: {error.strerror}.") from error
    config = configuration(project)
    scripts = ScriptDirectory.from_config(config)
    _refuse_unknown_revisions(connection, scripts, project)
    connection.commit()
    ours = [each for each in scripts.get_heads() if not _is_tenantrys(scripts, each)]
    config.attributes["configure"] = {
        **context_options(connection, project),
        "process_revision_directives": _tidy,
    }
    first = {"head": "base", "branch_label": "app", "depends_on": SCHEMA_REVISION}
    try:
        written = command.revision(
            config,
            message=message,
            autogenerate=True,
            version_path=str(folder),
            **({"head": ours[0]} if ours else first),  # type: ignore[arg-type]
        )
    except CommandError as error:
        raise MigrationError(
            f"{error} Run `tenantry db migrate` first, then this again."
        ) from error
    return Path(written.path) if isinstance(written, Script) else None


def _is_tenantrys(scripts: ScriptDirectory, head: str) -> bool:
    script = scripts.get_revision(head)
    return script is not None and Path(script.path).parent == VERSIONS


def _tidy(context: object, revision: object, directives: list[Any]) -> None:
    del context, revision
    if not directives:
        return
    if directives[0].upgrade_ops.is_empty():
        directives.clear()  # Alembic then writes no file
        return
    # What a table declares beside its columns is written as operations, not as live objects.
    for operations in (directives[0].upgrade_ops, directives[0].downgrade_ops):
        for operation in operations.ops:
            if isinstance(operation, CreateTableOp):
                operation.info = {}


def run_frozen_sql(migration: str, direction: str) -> None:
    """Run the SQL file beside a migration, as in ``0001_initial.up.sql``.

    Args:
        migration: ``__file__`` of the migration.
        direction: ``up`` or ``down``.
    """
    from alembic import op  # a proxy, which exists only while a migration runs

    script = Path(migration).with_suffix(f".{direction}.sql").read_text(encoding="utf-8")
    context = op.get_context()
    if context.as_sql:
        context.impl.static_output(script)
    else:
        run_script(op.get_bind(), script)


async def reset(
    admin_url: URL, *, project: Project | None = None, on_step: Step = _log.info
) -> list[str]:
    """Drop everything of the owner's in this database, with all rows, and migrate anew.

    Raises:
        MigrationError, SchemaTooNewError, PrivilegeError: as `migrate`.
    """
    async with migration_connection(admin_url, on_step=on_step) as connection:
        # As the owner: it may drop what is its own, and nothing of anybody else's.
        await connection.exec_driver_sql(f"DROP OWNED BY {OWNER_ROLE}")
        await connection.commit()
    on_step("dropped everything")
    return await migrate(admin_url, project=project, on_step=on_step)
