"""Alembic's environment; `tenantry.ops.environment` hands it everything in the config."""

from __future__ import annotations

from alembic import context

attributes = context.config.attributes
context.configure(**attributes["configure"])
with context.begin_transaction():
    context.run_migrations()
