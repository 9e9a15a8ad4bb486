"""Migrations: forwards, backwards, and from the beginning."""

from __future__ import annotations

import logging
from typing import Any, Final

import asyncpg
from alembic import command
from alembic.util import CommandError
from sqlalchemy import URL, Connection, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from tenantry.errors import MigrationError, TenantryError, TransactionUndoneError
from tenantry.ops.connections import LOCK_TIMEOUT_SECONDS, Step, migration_connection
from tenantry.ops.environment import configuration, context_options, load_scripts
from tenantry.ops.project import Project
from tenantry.ops.revisions import refuse_unknown_revisions
from tenantry.schema.row_security import AUTH_ROLE, OWNER_ROLE

__all__ = ["downgrade", "migrate", "reset"]

_log = logging.getLogger("tenantry.migrations")

_LOOK_UPS: Final = text("""
    SELECT format('tenantry.%I(%s)', proname, pg_get_function_identity_arguments(oid))
      FROM pg_proc
     WHERE pronamespace = to_regnamespace('tenantry') AND proowner = to_regrole(:owner)
""")


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
    admin_url: URL,
    *,
    target: str = "base",
    project: Project | None = None,
    on_step: Step = _log.info,
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
    refuse_unknown_revisions(connection, load_scripts(project), project)
    connection.commit()
    config = configuration(project)
    done: list[str] = []

    def applied(*, step: Any, **_: Any) -> None:
        done.append(step.up_revision_id)
        verb = "applied" if step.is_upgrade else "took back"
        on_step(f"{verb} {step.up_revision_id}: {step.up_revision.doc}")

    options = context_options(connection, project)
    config.attributes["configure"] = {**options, "on_version_apply": applied}
    try:
        getattr(command, verb)(config, target)
    except Exception as error:
        if isinstance(error, TenantryError) and not isinstance(error, TransactionUndoneError):
            raise
        raise _failed(error, done) from error
    return done


def _failed(error: Exception, done: list[str]) -> MigrationError:
    cause: BaseException = error
    if isinstance(error, DBAPIError | TransactionUndoneError):
        adapted = error.orig if isinstance(error, DBAPIError) else error.__cause__
        cause = getattr(adapted, "__cause__", None) or error
    state = getattr(cause, "sqlstate", None)
    message = str(cause)
    if not isinstance(cause, asyncpg.PostgresError | SQLAlchemyError | CommandError):
        message = f"{type(cause).__name__}: {cause}"
    stands = (
        f"what ran before it, up to {done[-1]}, stands" if done else "the version before it stands"
    )
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
    message = message.rstrip(".")
    return MigrationError(f"The migration failed and was rolled back; {stands}. {message}.{hint}")


async def reset(
    admin_url: URL, *, project: Project | None = None, on_step: Step = _log.info
) -> list[str]:
    """Drop everything of the owner's in this database, with all rows, and migrate anew.

    Raises:
        MigrationError, SchemaTooNewError, PrivilegeError: as `migrate`.
    """
    async with migration_connection(admin_url, on_step=on_step) as connection:
        # As the owner: it may drop what is its own or in its schema, and nothing of anybody
        # else's.
        for signature in (await connection.execute(_LOOK_UPS, {"owner": AUTH_ROLE})).scalars():
            await connection.exec_driver_sql(f"DROP ROUTINE {signature}")
        await connection.exec_driver_sql(f"DROP OWNED BY {OWNER_ROLE}")
        await connection.commit()
    on_step("dropped everything")
    return await migrate(admin_url, project=project, on_step=on_step)
