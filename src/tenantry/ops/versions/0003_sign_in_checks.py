"""signing in: the constraints of 0002, validated"""

from __future__ import annotations

from tenantry.ops.environment import run_frozen_sql

revision = "tenantry_0003"
down_revision = "tenantry_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_frozen_sql(__file__, "up")


def downgrade() -> None:
    """Do nothing: a constraint that was validated holds, whoever looks at it."""
