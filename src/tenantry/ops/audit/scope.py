"""What an audit is about: whose walls, around which tables, and how the tenant is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import MetaData

from tenantry.schema import Base
from tenantry.schema.row_security import APP_ROLE

__all__ = ["Scope"]

OUR_SETTING: Final = "tenantry.tenant_id"
OUR_EXPRESSION: Final = "tenantry.current_tenant()"


@dataclass(frozen=True, slots=True)
class Scope:
    """What an audit is about.

    Args:
        app_role: The role that the application connects as.
        is_ours: Whether the database was made by tenantry.
        tenant_column: The column that says whose row it is, in every tenant table.
        tenant_table: The qualified table whose rows are the tenants, or None if there is none.
        tenant_setting: The setting that a transaction tells its tenant by, or None where it could
            not be found out. Then nothing can be tried live.
        tenant_expression: SQL for the bound tenant, as a policy should compare with it.
        metadata: What is declared.
    """

    app_role: str = APP_ROLE
    is_ours: bool = True
    tenant_column: str = "tenant_id"
    tenant_table: str | None = "public.tenants"
    tenant_setting: str | None = OUR_SETTING
    tenant_expression: str = OUR_EXPRESSION
    metadata: MetaData = field(default=Base.metadata)
