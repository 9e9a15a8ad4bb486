"""Which revisions a database is at, and writing the next one of a project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import command
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, text

from tenantry.errors import InvalidValueError, MigrationError, SchemaTooNewError
from tenantry.ops.connections import inspection_connection
from tenantry.ops.environment import (
    VERSIONS,
    configuration,
    context_options,
    load_scripts,
)
from tenantry.ops.project import Project
from tenantry.schema.base import SCHEMA_REVISION
from tenantry.tenancy.inspection import newer_revisions

__all__ = ["applied_revisions", "refuse_unknown_revisions", "revision"]


def applied_revisions(connection: Connection) -> set[str]:
    """Return the rows of Alembic's version table; empty where there is none."""
    exists = connection.execute(text("SELECT to_regclass('tenantry.alembic_version')")).scalar()
    if exists is None:
        return set()
    return set(
        connection.execute(text("SELECT version_num FROM tenantry.alembic_version")).scalars()
    )


def refuse_unknown_revisions(
    connection: Connection, scripts: ScriptDirectory, project: Project
) -> None:
    """Raise where the database is at a revision that is in neither folder of migrations.

    Raises:
        SchemaTooNewError: A newer tenantry has migrated it.
        MigrationError: Another project has.
    """
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


async def revision(admin_url: URL, *, message: str, project: Project) -> Path | None:
    """Write a migration for what the models declare and the database lacks.

    The database must be at the newest version.

    Returns:
        The new file, or None where nothing differs.

    Raises:
        MigrationError: Migrations are pending, or the folder cannot be written.
        SchemaMissingError: The database was not migrated.
        InvalidValueError: The message is empty.
    """
    if not message.strip():
        raise InvalidValueError("The message is empty; say in a few words what the migration does.")
    async with inspection_connection(admin_url) as connection:
        return await connection.run_sync(_write_revision, message, project)


def _write_revision(connection: Connection, message: str, project: Project) -> Path | None:
    folder = project.migrations
    if folder is None:
        raise MigrationError("The project has no folder for migrations.")
    refuse_unknown_revisions(connection, load_scripts(project), project)
    connection.commit()
    new_folder = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = set(folder.iterdir())
    except OSError as error:
        raise MigrationError(f"Cannot make the folder {folder}: {error.strerror}.") from error
    config = configuration(project)
    scripts = load_scripts(project)
    ours = [each for each in scripts.get_heads() if not _is_tenantrys(scripts, each)]
    config.attributes["configure"] = {
        **context_options(connection, project),
        "process_revision_directives": _write_no_empty_file,
    }
    first = {"head": "base", "branch_label": "app", "depends_on": SCHEMA_REVISION}
    try:
        # None where the file was not written, for want of differences; typed as if it never were.
        written: Any = command.revision(
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
    except OSError as error:
        for half in set(folder.iterdir()) - before:
            half.unlink()
        raise MigrationError(
            f"Cannot write into {folder}: {error.strerror}. Nothing was kept."
        ) from error
    finally:
        if new_folder and not any(folder.iterdir()):
            folder.rmdir()
    return Path(written.path) if written else None


def _is_tenantrys(scripts: ScriptDirectory, head: str) -> bool:
    script = scripts.get_revision(head)
    return Path(script.path).parent == VERSIONS


def _write_no_empty_file(context: object, revision: object, directives: list[Any]) -> None:
    del context, revision
    if directives and directives[0].upgrade_ops.is_empty():
        directives.clear()
