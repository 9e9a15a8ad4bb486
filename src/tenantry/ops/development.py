"""The embedded server as a place for tenantry: started, and migrated when it is new."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal

from sqlalchemy import URL, make_url

from tenantry.errors import ConfigurationError
from tenantry.ops.connections import Step
from tenantry.ops.migrations import migrate
from tenantry.schema.row_security import APP_ROLE, OPERATOR_ROLE, OWNER_ROLE
from tenantry.settings import ADMIN_URL, Settings
from tenantry.tenancy.connecting import connect

if TYPE_CHECKING:
    from tenantry.ops.embedded import EmbeddedServer

__all__ = ["Role", "bring_up", "bring_up_migrated", "provide", "role_url"]

Role = Literal["app", "owner", "operator"]

_log = logging.getLogger("tenantry")


async def bring_up(
    settings: Settings, *, on_step: Step = _log.info
) -> tuple[Settings, EmbeddedServer | None]:
    """Return settings whose URLs are set, with the embedded server up if it is what they mean.

    Returns:
        The settings, and the embedded server, or None where a URL was given: then nothing of
        the embedded server is even imported.

    Raises:
        EmbeddedServerError: It cannot be started.
    """
    if settings.database_url is not None:
        return settings, None
    from tenantry.ops import embedded  # not before it is needed

    server = await asyncio.to_thread(embedded.start, settings.data_dir)
    if server.started:
        on_step(f"started PostgreSQL {server.version} in {server.data_dir}")
    return (
        replace(
            settings,
            database_url=make_url(server.url(user=APP_ROLE)),
            admin_url=make_url(server.url()),
        ),
        server,
    )


async def bring_up_migrated(
    settings: Settings, *, on_step: Step = _log.info
) -> tuple[Settings, EmbeddedServer | None]:
    """Do as `bring_up`, and migrate the embedded server's database if it is new.

    One that was migrated before, or one that was given by URL, is left as it is.

    Raises:
        EmbeddedServerError: It cannot be started.
        MigrationError: It cannot be migrated.
    """
    settings, server = await bring_up(settings, on_step=on_step)
    if server is not None and settings.admin_url is not None and await _is_new(settings.admin_url):
        await migrate(settings.admin_url, on_step=on_step)
    return settings, server


async def provide(settings: Settings) -> Settings:
    """Return settings with a database that is up; `Database.connect` falls back to this."""
    settings, _ = await bring_up_migrated(settings)
    return settings


async def _is_new(admin_url: URL) -> bool:
    connection = await connect(admin_url)
    try:
        return bool(
            await connection.fetchval("SELECT to_regclass('tenantry.alembic_version') IS NULL")
        )
    finally:
        await connection.close()


def role_url(settings: Settings, role: Role) -> URL:
    """Return the URL with which a program connects as ``role``.

    The owner and the operator cannot log in: their URLs log in as the administrator and become
    the role with the first packet.

    Raises:
        ConfigurationError: There is no server; `bring_up` was not called.
            Or the role needs the admin URL, and none is set.
    """
    if role == "app":
        if settings.database_url is None:
            raise ConfigurationError("No database is given.")
        return settings.database_url
    if settings.admin_url is None:
        raise ConfigurationError(
            f"The {role}'s URL needs the administrator's, and none is set. Set {ADMIN_URL}."
        )
    name: Final = {"owner": OWNER_ROLE, "operator": OPERATOR_ROLE}[role]
    return settings.admin_url.update_query_dict({"options": f"-c role={name}"})
