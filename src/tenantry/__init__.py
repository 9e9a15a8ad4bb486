"""The multi-tenant data and sign-in foundation for AI products."""

from __future__ import annotations

from tenantry.database import Database
from tenantry.errors import TenantryError
from tenantry.settings import Settings
from tenantry.tenancy.sessions import TenantSession

__all__ = ["Database", "Settings", "TenantSession", "TenantryError", "__version__"]

__version__ = "0.1.0"
"""The version of this package."""
