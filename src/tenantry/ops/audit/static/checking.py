"""All checks of the static part, in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from sqlalchemy import Connection

from tenantry.ops.audit.report import Finding
from tenantry.ops.audit.scope import Scope
from tenantry.ops.audit.static import (
    binding,
    keys,
    privileges,
    references,
    roles,
    routines,
    surfaces,
    walls,
)
from tenantry.ops.audit.static.ground import Ground
from tenantry.ops.audit.static.snapshot import read_snapshot

__all__ = ["CHECKS", "findings_on", "in_order", "read_ground", "static_findings"]

CHECKS: Final[tuple[Callable[[Ground], Iterator[Finding]], ...]] = (
    walls.row_security,
    walls.policies,
    walls.undeclared_tables,
    keys.missing_columns,
    keys.primary_keys,
    keys.indexes,
    keys.exclusions,
    keys.tenant_columns,
    references.foreign_keys,
    references.missing_foreign_keys,
    privileges.on_tables,
    privileges.owners,
    privileges.sequences,
    privileges.materialized_views,
    privileges.defaults,
    privileges.system_catalog,
    roles.attributes,
    roles.memberships,
    roles.settings,
    routines.definers,
    routines.leakproof,
    routines.our_functions,
    routines.shadowing,
    routines.tenant_function,
    routines.untrusted,
    binding.binding,
    surfaces.views,
    surfaces.on_tables,
    surfaces.children,
    surfaces.publications,
    surfaces.schemas,
    surfaces.strangers,
    surfaces.large_objects,
)


# First what others rest on: keys that foreign keys refer to. Last what others are still about: a
# function that policies call, a schema with tables in it.
_RANKS: Final = {
    "primary-key-differs": -1,
    "primary-key-without-tenant": -1,
    "function-undeclared": 1,
    "schema-shadows": 2,
}


def read_ground(connection: Connection, scope: Scope) -> Ground:
    """Read what the checks look at.

    Args:
        connection: With ``search_path`` set to ``pg_catalog``.
        scope: What the audit is about.
    """
    return Ground(read_snapshot(connection, tenant_setting=scope.tenant_setting), scope)


def findings_on(ground: Ground) -> list[Finding]:
    """Return what is wrong, in order, each once."""
    return in_order(finding for check in CHECKS for finding in check(ground))


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Return ``findings`` each once, so that their SQL can be run from the first to the last.

    What the catalog says of a table comes before the crossings that follow from it.
    """

    def place(each: Finding) -> tuple[int, str, bool, Finding]:
        return _RANKS.get(each.check, 0), each.subject, each.check.startswith("live-"), each

    return sorted(set(findings), key=place)


def static_findings(connection: Connection, scope: Scope) -> list[Finding]:
    """Return what the catalog says is wrong; the number of queries is always the same.

    Args:
        connection: With ``search_path`` set to ``pg_catalog``. Its transaction may be READ ONLY.
        scope: What the audit is about.
    """
    return findings_on(read_ground(connection, scope))
