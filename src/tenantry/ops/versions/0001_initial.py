"""the ten tables, their row security and tenantry.current_tenant()"""

from __future__ import annotations

from tenantry.ops.environment import run_frozen_sql

revision = "tenantry_0001"
down_revision = None
branch_labels = ("tenantry",)
depends_on = None


def upgrade() -> None:
    run_frozen_sql(__file__, "up")


def downgrade() -> None:
    run_frozen_sql(__file__, "down")
