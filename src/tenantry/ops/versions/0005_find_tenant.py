"""signing in: the function that finds a tenant by its slug"""

from __future__ import annotations

from tenantry.ops.environment import run_frozen_sql

revision = "tenantry_0005"
down_revision = "tenantry_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_frozen_sql(__file__, "up")


def downgrade() -> None:
    run_frozen_sql(__file__, "down")
