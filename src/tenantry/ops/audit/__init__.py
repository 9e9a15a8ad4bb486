"""The audit: do the walls between tenants stand, on this database, now?"""

from tenantry.ops.audit.auditing import audit
from tenantry.ops.audit.report import Attempt, AuditReport, Finding

__all__ = ["Attempt", "AuditReport", "Finding", "audit"]
