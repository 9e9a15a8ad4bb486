"""search: its columns, indexes and functions, and vectors kept in their rows"""

from __future__ import annotations

from tenantry.ops.environment import run_frozen_sql

revision = "tenantry_0004"
down_revision = "tenantry_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_frozen_sql(__file__, "up")


def downgrade() -> None:
    run_frozen_sql(__file__, "down")
