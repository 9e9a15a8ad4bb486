"""Row security as a table declares it: policies, grants, ENABLE and FORCE.

A table says what it wants in ``Table.info["row_security"]``. What creates it, and what notices
that a database no longer has it, lives further up and knows only these classes, so they serve any
SQLAlchemy table, tenant or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import Table

__all__ = [
    "APP_ROLE",
    "AUTH_ROLE",
    "INFO_KEY",
    "OPERATOR_ROLE",
    "OWNER_ROLE",
    "Command",
    "Grant",
    "Policy",
    "Privilege",
    "RowSecurity",
    "row_security_of",
    "tenant_row_security",
]

OWNER_ROLE: Final = "tenantry_owner"
APP_ROLE: Final = "tenantry_app"
AUTH_ROLE: Final = "tenantry_auth"
OPERATOR_ROLE: Final = "tenantry_operator"

Command = Literal["ALL", "SELECT", "INSERT", "UPDATE", "DELETE"]
Privilege = Literal[
    "SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN"
]

INFO_KEY: Final = "row_security"
"""Where `sqlalchemy.Table.info` holds it."""


@dataclass(frozen=True, slots=True)
class Policy:
    """One ``CREATE POLICY``.

    Args:
        name: Unique within its table.
        roles: Whom it applies to; ``("public",)`` for everyone.
        using: SQL expression a row must satisfy to be seen, or None.
        check: SQL expression a written row must satisfy, or None.
        command: The statements it governs.
        permissive: False for ``AS RESTRICTIVE``.
    """

    name: str
    roles: tuple[str, ...]
    using: str | None = None
    check: str | None = None
    command: Command = "ALL"
    permissive: bool = True


@dataclass(frozen=True, slots=True)
class Grant:
    """Privileges of one role on a table, or on some of its columns.

    Args:
        role: The role that receives them.
        privileges: What it receives.
        columns: The columns they are limited to; empty for the whole table.
    """

    role: str
    privileges: frozenset[Privilege]
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RowSecurity:
    """Everything a table declares about who may touch its rows.

    Args:
        policies: The complete list; one that the database has beside these is drift.
        grants: The complete list, the owner's own privileges aside.
        enabled: ``ENABLE ROW LEVEL SECURITY``.
        forced: ``FORCE ROW LEVEL SECURITY``: it holds for the owner of the table too.
    """

    policies: tuple[Policy, ...]
    grants: tuple[Grant, ...]
    enabled: bool = True
    forced: bool = True

    def attach(self, table: Table) -> None:
        """Declare this row security on ``table``; a declaration that is there already stays."""
        table.info.setdefault(INFO_KEY, self)


def row_security_of(table: Table) -> RowSecurity | None:
    """Return what ``table`` declares, or None."""
    declared = table.info.get(INFO_KEY)
    return declared if isinstance(declared, RowSecurity) else None


def tenant_row_security(
    *,
    tenant_column: str = "tenant_id",
    app: Iterable[Grant] | None = None,
    auth: Iterable[Grant] = (),
) -> RowSecurity:
    """Return the row security of a tenant table.

    The policy compares directly with ``tenantry.current_tenant()``. Wrapped in a sub-select, as is
    widely advised, the value is hidden from the planner, which then never uses a vector index:
    104 ms instead of 1 to 2 ms for the top 10 of 13,400 chunks.

    Args:
        tenant_column: The column that holds the tenant.
        app: Grants of the application's role; by default it may read and write rows.
        auth: What the functions that find a session, a key or a slug before the tenant is known
            need of this table, by columns. Nobody can become their owner, ``tenantry_auth``, or
            log in as it.
    """
    found_before = tuple(auth)
    own_rows = f"({tenant_column} = tenantry.current_tenant())"
    rows = frozenset[Privilege]({"SELECT", "INSERT", "UPDATE", "DELETE"})
    return RowSecurity(
        policies=(
            Policy("tenant_isolation", (APP_ROLE,), using=own_rows, check=own_rows),
            Policy("operator_access", (OPERATOR_ROLE,), using="true", check="true"),
            *_look_ups(found_before),
        ),
        grants=(
            *(app if app is not None else (Grant(APP_ROLE, rows),)),
            Grant(OPERATOR_ROLE, rows),
            *found_before,
        ),
    )


def _look_ups(grants: tuple[Grant, ...]) -> Iterator[Policy]:
    commands = {command for grant in grants for command in grant.privileges}
    if "SELECT" in commands:
        yield Policy("auth_look_up", (AUTH_ROLE,), using="true", command="SELECT")
    if "UPDATE" in commands:
        yield Policy("auth_renewal", (AUTH_ROLE,), using="true", check="true", command="UPDATE")
