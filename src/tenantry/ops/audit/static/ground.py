"""The ground that checks stand on: the catalog, the scope, and who counts as the application."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from tenantry.ops.audit.scope import Scope, is_shared
from tenantry.ops.audit.static.declared import DeclaredTable, declared_tables
from tenantry.ops.audit.static.snapshot import Membership, Relation, Snapshot
from tenantry.schema.row_security import AUTH_ROLE, OPERATOR_ROLE, OWNER_ROLE

__all__ = ["ABOVE", "POWERFUL", "Ground"]

ABOVE: Final = (OWNER_ROLE, AUTH_ROLE, OPERATOR_ROLE)
"""Our roles that see more than one tenant, or can let themselves."""

POWERFUL: Final = {
    "pg_checkpoint": "makes the server write its whole memory to disk",
    "pg_create_subscription": "connects the server to others",
    "pg_database_owner": "owns the database",
    "pg_execute_server_program": "runs programs as the server",
    "pg_maintain": "locks and rewrites every table",
    "pg_monitor": "sees the statements of everybody and statistics of every table",
    "pg_read_all_data": "reads every table",
    "pg_read_all_settings": "reads settings that may hold secrets",
    "pg_read_all_stats": "sees the statements of everybody",
    "pg_read_server_files": "reads the files of the server",
    "pg_signal_autovacuum_worker": "stops the clean-up of tables",
    "pg_signal_backend": "ends the statements of others",
    "pg_stat_scan_tables": "scans and locks every table",
    "pg_use_reserved_connections": "takes the connections that are kept for administrators",
    "pg_write_all_data": "writes every table",
    "pg_write_server_files": "writes the files of the server",
}
"""The predefined roles, and what a member of each does. None of it stops at row security."""

_EXPECTED_ELSEWHERE: Final = frozenset({"alembic_version", "spatial_ref_sys"})


@dataclass(frozen=True)
class Ground:
    """What every check is given."""

    snapshot: Snapshot
    scope: Scope

    @cached_property
    def declared(self) -> dict[str, DeclaredTable]:
        """The declared tables by their keys; none in a database that is not ours."""
        return declared_tables(self.scope.metadata) if self.scope.is_ours else {}

    @cached_property
    def by_key(self) -> dict[str, Relation]:
        """Every table by ``schema.name`` without quotes."""
        return {each.key: each for each in self.snapshot.tables}

    def above(self, role: str) -> set[str]:
        """Return every role that ``role`` is or can become, by whatever kind of membership."""
        return _closure(role, self.snapshot.memberships)

    @cached_property
    def reach(self) -> frozenset[str]:
        """The application's role and every role that it can become."""
        return frozenset(self.above(self.scope.app_role))

    @cached_property
    def everyone(self) -> frozenset[str]:
        """Whatever is granted to one of these is granted to the application.

        In a database that is not ours, a role that logs in and is a member of the application's
        may as well be the one that runs its migrations.
        """
        return self.reach | {"public"} | set(self.connecting if self.scope.is_ours else ())

    @cached_property
    def connecting(self) -> list[str]:
        """Roles that log in and have the application's rights, its own role aside.

        An administrator can become the roles that he has made, and does not inherit their rights:
        he is not the application.
        """
        return sorted(
            role.name
            for role in self.snapshot.roles.values()
            if role.logs_in
            and role.name not in {self.scope.app_role, self.snapshot.database.session_role}
            and self.scope.app_role in self.rights_of(role.name)
        )

    def rights_of(self, role: str) -> set[str]:
        """Return every role whose rights ``role`` has without a SET ROLE, itself included."""
        return _closure(role, [each for each in self.snapshot.memberships if each.inherits])

    def sees_everything(self, role: str) -> bool:
        """Return whether no policy keeps ``role`` to one tenant."""
        if role not in self.snapshot.roles:
            return False
        for name in self.above(role):
            found = self.snapshot.roles.get(name)
            if found and (found.superuser or found.bypasses):
                return True
            if name in {"pg_read_all_data", "pg_write_all_data"}:
                return True
        return self.scope.is_ours and not self.above(role).isdisjoint({OPERATOR_ROLE, AUTH_ROLE})

    def tenant_column(self, relation: Relation) -> str | None:
        """Return the column that says whose row it is, None for a table that is no tenant's."""
        if self.scope.tenant_column in relation.columns:
            return self.scope.tenant_column
        if relation.name != self.scope.tenant_table:
            return None
        key = [each for each in relation.constraints if each.kind == "p"]
        if len(key) == 1 and len(key[0].columns) == 1:
            return key[0].columns[0]
        return "id" if "id" in relation.columns else None

    @cached_property
    def tenants(self) -> Relation | None:
        """The table whose rows are the tenants."""
        found = (each for each in self.snapshot.tables if each.name == self.scope.tenant_table)
        return next(found, None)

    @cached_property
    def tenant_type(self) -> str | None:
        """The type of the tenants' key."""
        key = self.tenant_column(self.tenants) if self.tenants else None
        return self.tenants.columns[key].type if self.tenants and key else None

    def is_shared(self, relation: Relation) -> bool:
        """Return whether the table was named as one that all tenants may read."""
        return is_shared(self.scope, schema=relation.schema, name=relation.relname)

    def is_expected(self, relation: Relation) -> bool:
        """Return whether the table is a tool's own and holds nothing of a tenant's."""
        # By the name alone, or by ALTER EXTENSION ADD, any table could pass for one.
        if relation.key in self.declared or self.scope.tenant_column in relation.columns:
            return False
        return relation.extension is not None or relation.relname in _EXPECTED_ELSEWHERE

    @cached_property
    def tenant_tables(self) -> list[Relation]:
        """Every table that holds rows of tenants: by its columns, or because it declares walls."""
        return [
            relation
            for relation in self.snapshot.tables
            if not self.is_expected(relation)
            and not self.is_shared(relation)
            and (self.tenant_column(relation) is not None or self.walls(relation) is not None)
        ]

    def walls(self, relation: Relation) -> DeclaredTable | None:
        """Return what is declared of ``relation`` if it declares row security."""
        declared = self.declared.get(relation.key)
        return declared if declared and declared.row_security else None

    def lacks_tenant(self, relation: Relation) -> bool:
        """Return whether ``relation`` declares the tenant column and does not have it."""
        declared = self.declared.get(relation.key)
        column = self.scope.tenant_column
        return bool(declared and column in declared.columns and column not in relation.columns)

    def granted(self, relation: Relation, *, columns: bool = True) -> set[str]:
        """Return the privileges that the application holds on ``relation`` or a column of it."""
        return {
            each.privilege
            for each in relation.privileges
            if each.role in self.everyone and (columns or not each.column)
        } | ({"owner"} if relation.owner in self.everyone else set())

    def is_sheltered(self, relation: Relation) -> bool:
        """Return whether a part of a tenant table can only be reached through that table."""
        return (
            bool(relation.parents)
            and relation.key not in self.declared
            and not self.granted(relation)
            and (relation.is_partition or not self.scope.is_ours)
        )

    def underneath(self, relation: Relation) -> Iterator[Relation]:
        """Return the tenant tables that a view reads, through other views too."""
        holding = {each.oid: each for each in self.tenant_tables}
        seen: set[int] = set()
        waiting = list(relation.uses)
        while waiting:
            oid = waiting.pop()
            if oid in seen:
                continue
            seen.add(oid)
            if oid in holding:
                yield holding[oid]
            elif oid in self.snapshot.relations:
                waiting += self.snapshot.relations[oid].uses


def _closure(role: str, memberships: Iterable[Membership]) -> set[str]:
    found, waiting = {role}, [role]
    of_member: dict[str, list[str]] = {}
    for each in memberships:
        of_member.setdefault(each.member, []).append(each.role)
    while waiting:
        for above in of_member.get(waiting.pop(), ()):
            if above not in found:
                found.add(above)
                waiting.append(above)
    return found
