"""Row security as Alembic operations: ``op.create_policy`` and its siblings.

Each knows its SQL, its opposite (so that a downgrade writes itself) and how to say in one line
what it changes, which is what ``db check`` prints.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

from alembic.autogenerate import renderers
from alembic.operations import MigrateOperation, Operations

from tenantry.schema.row_security import OPERATOR_ROLE, OWNER_ROLE, Command, Policy
from tenantry.tenancy.catalog import quote
from tenantry.tenancy.connecting import run_script
from tenantry.tenancy.functions import SqlFunction

__all__ = [
    "CreatePolicyOp",
    "DropPolicyOp",
    "ExecuteAsOperatorOp",
    "GrantOp",
    "ReplaceFunctionOp",
    "RestoreForceOp",
    "RevokeOp",
    "SecurityOp",
    "SetOwnerOp",
    "SetRowSecurityOp",
    "SuspendForceOp",
    "register",
]


def _table(name: str, schema: str | None) -> str:
    return f"{quote(schema)}.{quote(name)}" if schema else quote(name)


def _roles(roles: Sequence[str]) -> str:
    return ", ".join(quote(role) for role in roles)


@dataclass
class SecurityOp(MigrateOperation, ABC):
    """Base: an operation that is one SQL script and renders as a call of itself."""

    operation: ClassVar[str]

    @abstractmethod
    def sql(self) -> str:
        """Return the statements that do it."""

    @abstractmethod
    def describe(self) -> str:
        """Return what the database lacks or has too much, in one line."""

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Return what `alembic.autogenerate.compare_metadata` lists."""
        return (self.operation, *(getattr(self, each.name) for each in fields(self)))

    def render(self) -> str:
        """Return the Python that does it in a migration; defaults are left out."""
        arguments = ", ".join(
            f"{each.name}={getattr(self, each.name)!r}"
            for each in fields(self)
            if getattr(self, each.name) != each.default
        )
        return f"op.{self.operation}({arguments})"


@dataclass
class SetRowSecurityOp(SecurityOp):
    """``ALTER TABLE … {ENABLE | DISABLE} and {FORCE | NO FORCE} ROW LEVEL SECURITY``."""

    operation: ClassVar[str] = "set_row_security"
    table: str
    enabled: bool = True
    forced: bool = True
    was_enabled: bool = False
    was_forced: bool = False
    schema: str | None = None

    def sql(self) -> str:
        """Return one ALTER TABLE with what changes."""
        changes = []
        if self.enabled != self.was_enabled:
            changes.append(f"{'ENABLE' if self.enabled else 'DISABLE'} ROW LEVEL SECURITY")
        if self.forced != self.was_forced:
            changes.append(f"{'FORCE' if self.forced else 'NO FORCE'} ROW LEVEL SECURITY")
        return f"ALTER TABLE {_table(self.table, self.schema)} {', '.join(changes)};"

    def describe(self) -> str:
        """Say which of the two is off, or on where it should not be."""
        states = []
        if self.enabled != self.was_enabled:
            states.append("row security is " + ("off" if self.enabled else "on but not declared"))
        if self.forced != self.was_forced:
            states.append(
                "FORCE is missing, so the owner sees every tenant"
                if self.forced
                else "FORCE is set but not declared"
            )
        return f"table {self.table}: {' and '.join(states)}"

    def reverse(self) -> SetRowSecurityOp:
        """Return the operation that restores what was."""
        return replace(
            self,
            enabled=self.was_enabled,
            forced=self.was_forced,
            was_enabled=self.enabled,
            was_forced=self.forced,
        )


@dataclass
class _PolicyOp(SecurityOp):
    table: str
    name: str
    roles: Sequence[str]
    using: str | None = None
    check: str | None = None
    command: Command = "ALL"
    permissive: bool = True
    schema: str | None = None

    @classmethod
    def of(cls, policy: Policy, *, table: str, schema: str | None) -> Any:
        """Make the operation for ``policy``."""
        return cls(
            table=table,
            name=policy.name,
            roles=list(policy.roles),
            using=policy.using,
            check=policy.check,
            command=policy.command,
            permissive=policy.permissive,
            schema=schema,
        )

    def _opposite(self, other: type[_PolicyOp]) -> Any:
        return other(*(getattr(self, each.name) for each in fields(self)))


@dataclass
class CreatePolicyOp(_PolicyOp):
    """``CREATE POLICY``."""

    operation: ClassVar[str] = "create_policy"

    def sql(self) -> str:
        """Return the CREATE POLICY."""
        clauses = "".join(
            f" {keyword} ({expression})"
            for keyword, expression in (("USING", self.using), ("WITH CHECK", self.check))
            if expression is not None
        )
        kind = "" if self.permissive else " AS RESTRICTIVE"
        return (
            f"CREATE POLICY {quote(self.name)} ON {_table(self.table, self.schema)}{kind}"
            f" FOR {self.command} TO {_roles(self.roles)}{clauses};"
        )

    def describe(self) -> str:
        """Say which policy is missing."""
        return f"table {self.table}: policy {self.name} is missing or differs from what is declared"

    def reverse(self) -> DropPolicyOp:
        """Return the DROP POLICY."""
        dropped: DropPolicyOp = self._opposite(DropPolicyOp)
        return dropped


@dataclass
class DropPolicyOp(_PolicyOp):
    """``DROP POLICY``; it carries the whole policy, so that a downgrade can make it again."""

    operation: ClassVar[str] = "drop_policy"

    def sql(self) -> str:
        """Return the DROP POLICY."""
        return f"DROP POLICY {quote(self.name)} ON {_table(self.table, self.schema)};"

    def describe(self) -> str:
        """Say which policy is too much."""
        return f"table {self.table}: policy {self.name} is not declared"

    def reverse(self) -> CreatePolicyOp:
        """Return the CREATE POLICY."""
        created: CreatePolicyOp = self._opposite(CreatePolicyOp)
        return created


@dataclass
class _PrivilegeOp(SecurityOp):
    table: str
    role: str
    privileges: Sequence[str]
    columns: Sequence[str] = ()
    schema: str | None = None

    def _list(self) -> str:
        # A privilege that may be passed on is called so for the reader, not for SQL.
        names = [each.removesuffix(" WITH GRANT OPTION") for each in self.privileges]
        columns = f" ({', '.join(quote(each) for each in self.columns)})" if self.columns else ""
        return ", ".join(name + columns for name in names)

    def _what(self) -> str:
        columns = f" of column {', '.join(self.columns)}" if self.columns else ""
        return f"{', '.join(self.privileges)}{columns}"

    def _opposite(self, other: type[_PrivilegeOp]) -> Any:
        return other(*(getattr(self, each.name) for each in fields(self)))


@dataclass
class GrantOp(_PrivilegeOp):
    """``GRANT … ON TABLE``."""

    operation: ClassVar[str] = "grant_privileges"

    def sql(self) -> str:
        """Return the GRANT."""
        passed_on = any(each.endswith(" WITH GRANT OPTION") for each in self.privileges)
        return (
            f"GRANT {self._list()} ON TABLE {_table(self.table, self.schema)}"
            f" TO {quote(self.role)}{' WITH GRANT OPTION' if passed_on else ''};"
        )

    def describe(self) -> str:
        """Say what the role lacks."""
        return f"table {self.table}: {self.role} lacks {self._what()}"

    def reverse(self) -> RevokeOp:
        """Return the REVOKE."""
        revoked: RevokeOp = self._opposite(RevokeOp)
        return revoked


@dataclass
class RevokeOp(_PrivilegeOp):
    """``REVOKE … ON TABLE``."""

    operation: ClassVar[str] = "revoke_privileges"

    def sql(self) -> str:
        """Return the REVOKE."""
        return (
            f"REVOKE {self._list()} ON TABLE {_table(self.table, self.schema)}"
            f" FROM {quote(self.role)};"
        )

    def describe(self) -> str:
        """Say what the role holds too much."""
        return f"table {self.table}: {self.role} holds {self._what()}, which is not declared"

    def reverse(self) -> GrantOp:
        """Return the GRANT."""
        granted: GrantOp = self._opposite(GrantOp)
        return granted


@dataclass
class SetOwnerOp(SecurityOp):
    """``ALTER TABLE … OWNER TO``."""

    operation: ClassVar[str] = "set_owner"
    table: str
    owner: str
    was: str
    schema: str | None = None

    def sql(self) -> str:
        """Return the ALTER TABLE."""
        return f"ALTER TABLE {_table(self.table, self.schema)} OWNER TO {quote(self.owner)};"

    def describe(self) -> str:
        """Say who owns it."""
        return f"table {self.table}: its owner is {self.was} instead of {self.owner}"

    def reverse(self) -> SetOwnerOp:
        """Return the operation that gives it back."""
        return replace(self, owner=self.was, was=self.owner)


FunctionProblem = Literal["is missing", "differs from what is declared", "is not declared"]


@dataclass
class ReplaceFunctionOp(SecurityOp):
    """Create, replace or drop a function of schema ``tenantry``."""

    operation: ClassVar[str] = "replace_function"
    signature: str
    definition: str
    was: str = ""
    problem: FunctionProblem = "differs from what is declared"

    @classmethod
    def of(cls, function: SqlFunction, *, was: str) -> ReplaceFunctionOp:
        """Make the operation that brings ``function`` back to what is declared."""
        problem: FunctionProblem = "differs from what is declared" if was else "is missing"
        # Whatever somebody has made of a function of another role's, the owner of the schema may
        # drop it, and nothing depends on it; the other role could replace only its own.
        drop = "" if function.owner == OWNER_ROLE else f"DROP FUNCTION IF EXISTS {function.call};"
        return cls(
            function.signature,
            f"{drop}\n{function.script}".lstrip(),
            was=f"{drop}\n{function.as_owner(f'{was};')}".lstrip() if was else "",
            problem=problem,
        )

    def sql(self) -> str:
        """Return the function's script, or its DROP where nothing is declared."""
        return self.definition or f"DROP FUNCTION {self.signature};"

    def describe(self) -> str:
        """Say what is wrong with it."""
        return f"function {self.signature} {self.problem}"

    def reverse(self) -> ReplaceFunctionOp:
        """Return the operation that restores what was."""
        return replace(self, definition=self.was, was=self.definition)


@dataclass
class SuspendForceOp(SecurityOp):
    """Take FORCE from tables for the rest of the transaction, or until `RestoreForceOp`.

    PostgreSQL checks the rows that a new foreign key finds with a query of the owner's. Under
    FORCE the owner sees none, and the key counts as valid whatever the rows are. The lock that
    ALTER TABLE takes keeps everybody else out until the transaction ends.
    """

    operation: ClassVar[str] = "suspend_force"
    tables: Sequence[str]

    def sql(self) -> str:
        """Return an ALTER TABLE for each table."""
        return "\n".join(f"ALTER TABLE {each} NO FORCE ROW LEVEL SECURITY;" for each in self.tables)

    def describe(self) -> str:
        """Say nothing: it is no difference, but part of mending one."""
        return ""

    def reverse(self) -> RestoreForceOp:
        """Return the operation that ends it."""
        return RestoreForceOp(self.tables)


@dataclass
class RestoreForceOp(SecurityOp):
    """Give tables their FORCE back; see `SuspendForceOp`."""

    operation: ClassVar[str] = "restore_force"
    tables: Sequence[str]

    def sql(self) -> str:
        """Return an ALTER TABLE for each table."""
        return "\n".join(f"ALTER TABLE {each} FORCE ROW LEVEL SECURITY;" for each in self.tables)

    def describe(self) -> str:
        """Say nothing: it is no difference, but part of mending one."""
        return ""

    def reverse(self) -> SuspendForceOp:
        """Return the operation that it ends."""
        return SuspendForceOp(self.tables)


@dataclass
class ExecuteAsOperatorOp(SecurityOp):
    """Run SQL as ``tenantry_operator``, for data migrations.

    Migrations run as the owner, on whom row security is forced: an UPDATE of theirs would touch
    no row and report success.
    """

    operation: ClassVar[str] = "execute_as_operator"
    statement: str

    def sql(self) -> str:
        """Return the statement between becoming the operator and becoming the owner again."""
        statement = self.statement.rstrip().removesuffix(";")
        return f"SET ROLE {OPERATOR_ROLE};\n{statement};\nSET ROLE {OWNER_ROLE};"

    def describe(self) -> str:
        """Say that data changes."""
        return "data migration"


def register(op_class: type[SecurityOp]) -> None:
    """Make an operation known to Alembic, as a method of ``op`` and to its renderer."""

    def invoke(cls: type[SecurityOp], operations: Operations, *args: Any, **options: Any) -> None:
        operations.invoke(cls(*args, **options))

    def run(operations: Operations, operation: SecurityOp) -> None:
        context = operations.migration_context
        if context.as_sql:
            context.impl.static_output(operation.sql())
        else:
            run_script(operations.get_bind(), operation.sql())

    # Alembic writes a function of this name that calls the method of the same name.
    invoke.__name__ = op_class.operation
    invoke.__doc__ = op_class.__doc__
    setattr(op_class, op_class.operation, classmethod(invoke))
    Operations.register_operation(op_class.operation)(op_class)
    Operations.implementation_for(op_class)(run)
    renderers.dispatch_for(op_class)(lambda _context, operation: operation.render())


for _each in (
    SetRowSecurityOp,
    CreatePolicyOp,
    DropPolicyOp,
    GrantOp,
    RevokeOp,
    SetOwnerOp,
    ReplaceFunctionOp,
    SuspendForceOp,
    RestoreForceOp,
    ExecuteAsOperatorOp,
):
    register(_each)
