"""Seeds: a data set that is the same everywhere, from three small tenants to millions of rows."""

from __future__ import annotations

from tenantry.ops.seed.corpus import Corpus, load_corpus
from tenantry.ops.seed.generate import TableRows, tenant_rows
from tenantry.ops.seed.load import SeededTenant, SeedProgress, SeedReport, load_tenant, seed
from tenantry.ops.seed.plan import SeedPlan, TenantPlan

__all__ = [
    "Corpus",
    "SeedPlan",
    "SeedProgress",
    "SeedReport",
    "SeededTenant",
    "TableRows",
    "TenantPlan",
    "load_corpus",
    "load_tenant",
    "seed",
    "tenant_rows",
]
