"""The development server: a PostgreSQL of the project's own, with nothing to install."""

from __future__ import annotations

from tenantry.ops.embedded.cluster import DATABASE, SUPERUSER
from tenantry.ops.embedded.datadir import default_data_dir
from tenantry.ops.embedded.pginstall import binary
from tenantry.ops.embedded.server import EmbeddedServer, find, psql_path, start, stop

__all__ = [
    "DATABASE",
    "SUPERUSER",
    "EmbeddedServer",
    "binary",
    "default_data_dir",
    "find",
    "psql_path",
    "start",
    "stop",
]
