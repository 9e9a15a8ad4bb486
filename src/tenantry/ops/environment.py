"""Alembic as tenantry sets it up: where migrations are, and how models are compared."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any, Final

from alembic.autogenerate.api import AutogenContext
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.types import TypeDecorator

from tenantry.errors import MigrationError
from tenantry.ops import autogenerate
from tenantry.ops.project import Project
from tenantry.ops.vector_parts import is_part_index
from tenantry.tenancy.connecting import run_script

__all__ = ["VERSIONS", "configuration", "context_options", "load_scripts", "run_frozen_sql"]

VERSIONS: Final = Path(__file__).parent / "versions"
"""The folder of tenantry's own migrations."""


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


def load_scripts(project: Project) -> ScriptDirectory:
    """Read every migration of tenantry and of the project.

    Raises:
        MigrationError: A file cannot be read as Python, or the revisions do not hang together.
    """
    scripts = ScriptDirectory.from_config(configuration(project))
    try:
        list(scripts.walk_revisions())
    except SyntaxError as error:
        raise MigrationError(
            f"{error.filename}, line {error.lineno}: {error.msg}. Nothing was changed."
        ) from error
    except (Exception, SystemExit) as error:
        raise MigrationError(
            f"The migrations in {project.migrations} cannot be read: {type(error).__name__}: "
            f"{error}. Nothing was changed."
        ) from error
    return scripts


def context_options(connection: Connection, project: Project) -> dict[str, Any]:
    """Return the arguments of Alembic's ``context.configure``."""
    autogenerate.register()
    return {
        "connection": connection,
        "target_metadata": project.metadata,
        "version_table_schema": "tenantry",
        "transaction_per_migration": True,
        "compare_server_default": True,
        "include_object": _include,
        "render_item": _render_item,
        "autogenerate_plugins": [
            "alembic.autogenerate.*",
            "alembic.ext.checkconstraint_byname",
            autogenerate.PLUGIN,
        ],
    }


def _include(
    item: object, name: str | None, kind: str, reflected: bool, compare_to: object
) -> bool:
    del item
    # Indexes by parts are made where they pay; no model declares them.
    return not (kind == "index" and reflected and compare_to is None and is_part_index(name))


def _render_item(kind: str, item: object, context: AutogenContext) -> str | bool:
    # A migration is frozen: it must not change when the class of a type does. So our types are
    # written as what they are in the database.
    if kind == "type" and isinstance(item, TypeDecorator):
        impl = item.impl_instance
        if type(item).__module__.startswith("tenantry."):
            if type(impl).__module__.startswith("pgvector."):
                context.imports.add("import pgvector.sqlalchemy")
                return f"pgvector.sqlalchemy.VECTOR({getattr(impl, 'dim', '')})"
            if type(impl).__name__ == "JSONB":
                context.imports.add("from sqlalchemy.dialects import postgresql")
                return "postgresql.JSONB()"
            return f"sa.{impl!r}"
    return False


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
