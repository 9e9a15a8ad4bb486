"""The catalog of one database at one moment, as data that the checks look through."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Connection, CursorResult, TextClause

from tenantry.ops.audit.static import catalog_queries as queries

__all__ = [
    "Column",
    "Constraint",
    "DatabaseState",
    "DefaultPrivilege",
    "Function",
    "Index",
    "LargeObjects",
    "Membership",
    "Operator",
    "PolicyState",
    "Privilege",
    "Publication",
    "Relation",
    "Role",
    "Schema",
    "Setting",
    "Snapshot",
    "Stranger",
    "SystemPrivilege",
    "Trigger",
    "read_snapshot",
]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """The database itself, and how the server answers in it."""

    name: str
    owner: str
    server_number: int
    server_version: str
    session_role: str
    bound_tenant: str | None
    open_large_objects: bool
    replication_role: str
    extensions: Sequence[str]


@dataclass(frozen=True, slots=True)
class Role:
    """A role and its attributes."""

    name: str
    superuser: bool
    bypasses: bool
    creates_roles: bool
    creates_databases: bool
    replicates: bool
    logs_in: bool

    @property
    def powers(self) -> Sequence[str]:
        """Attributes that go past row security, as ALTER ROLE calls them."""
        return [
            name
            for name, held in (
                ("SUPERUSER", self.superuser),
                ("BYPASSRLS", self.bypasses),
                ("CREATEROLE", self.creates_roles),
                ("CREATEDB", self.creates_databases),
                ("REPLICATION", self.replicates),
            )
            if held
        ]


@dataclass(frozen=True, slots=True)
class Membership:
    """``member`` is a member of ``role``, and ``inherits`` its rights or can only become it."""

    role: str
    member: str
    admin: bool
    inherits: bool
    grantor: str


@dataclass(frozen=True, slots=True)
class Schema:
    """A schema that is not PostgreSQL's own."""

    name: str
    owner: str
    extension: str | None


@dataclass(frozen=True, slots=True)
class Column:
    """A column; ``value`` is its default, ``sequence`` what numbers it."""

    relation: int
    name: str
    number: int
    type: str
    required: bool
    value: str | None
    identity: bool
    generated: bool
    sequence: str | None


@dataclass(frozen=True, slots=True)
class Privilege:
    """A privilege of a role on a relation, or on a column of it."""

    relation: int
    column: str
    role: str
    privilege: str
    grantable: bool


@dataclass(frozen=True, slots=True)
class PolicyState:
    """A policy as the catalog prints it."""

    relation: int
    name: str
    permissive: bool
    command: str
    roles: Sequence[str]
    using: str | None
    check: str | None


@dataclass(frozen=True, slots=True)
class Constraint:
    """A primary key (p), unique (u), foreign key (f), exclusion (x) or check constraint (c)."""

    relation: int
    name: str
    kind: str
    validated: bool
    index: int
    target: int
    enforced: bool
    inherited: bool
    definition: str
    on_delete: str
    on_update: str
    deferrable: bool
    deferred: bool
    columns: Sequence[str]
    target_columns: Sequence[str]
    emptied: Sequence[str]
    operators: Sequence[str]


@dataclass(frozen=True, slots=True)
class Index:
    """An index; ``''`` among its columns stands for an expression."""

    relation: int
    oid: int
    name: str
    method: str
    qualified: str
    is_unique: bool
    inherited: bool
    definition: str
    partial: bool
    valid: bool
    columns: Sequence[str]


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger of a user's, or a disabled one of PostgreSQL's.

    ``stamps``: it sets columns to the time and does nothing else.
    """

    relation: int
    name: str
    internal: bool
    disabled: bool
    inherited: bool
    extension: str | None
    stamps: bool


@dataclass(slots=True)
class Relation:
    """A table (r, p), view (v), materialized view (m), foreign table (f) or sequence (S).

    ``uses`` are the relations that a view reads; ``shows`` those of PostgreSQL's own that it
    keeps from ordinary roles.
    """

    oid: int
    name: str
    schema: str
    relname: str
    kind: str
    owner: str
    enabled: bool
    forced: bool
    unlogged: bool
    is_partition: bool
    extension: str | None
    invoker: bool
    parents: Sequence[str]
    columns: dict[str, Column] = field(default_factory=dict)
    privileges: list[Privilege] = field(default_factory=list)
    policies: list[PolicyState] = field(default_factory=list)
    constraints: list[Constraint] = field(default_factory=list)
    indexes: list[Index] = field(default_factory=list)
    triggers: list[Trigger] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    uses: set[int] = field(default_factory=set)
    shows: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        """``schema.name`` without quotes, to find what is declared."""
        return f"{self.schema}.{self.relname}"

    @property
    def is_table(self) -> bool:
        """Whether it can have row security."""
        return self.kind in "rp"


@dataclass(frozen=True, slots=True)
class Function:
    """A function, procedure or aggregate; ``executors`` end in ``*`` where they may grant it.

    ``result`` names the columns too that come back, ``returns`` is a type. ``call`` is the name and
    the types that it is called with, by which functions are told apart.
    """

    oid: int
    schema: str
    name: str
    signature: str
    call: str
    kind: str
    owner: str
    language: str
    trusted: bool
    definer: bool
    leakproof: bool
    volatility: str
    parallel: str
    returns: str
    result: str
    config: Sequence[str]
    body: str
    is_bound: bool
    extension: str | None
    shadows: bool
    executors: Sequence[str]


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator or a cast for built-in types that PostgreSQL does not come with."""

    kind: str
    schema: str
    name: str


@dataclass(frozen=True, slots=True)
class DefaultPrivilege:
    """What ``role`` will get on what ``maker`` makes; ``schema`` None: anywhere."""

    maker: str
    schema: str | None
    kind: str
    role: str
    privilege: str
    grantable: bool


@dataclass(frozen=True, slots=True)
class Publication:
    """A publication and what it names."""

    name: str
    everything: bool
    schemas: Sequence[str]
    relations: Sequence[int]


@dataclass(frozen=True, slots=True)
class Setting:
    """``ALTER ROLE … SET`` or ``ALTER DATABASE … SET``; no role: the database's."""

    role: str
    in_database: bool
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class LargeObjects:
    """How many large objects have this owner and are granted to these roles."""

    owner: str
    roles: Sequence[str]
    number: int


@dataclass(frozen=True, slots=True)
class Stranger:
    """A privilege on something other than a relation or a function."""

    kind: str
    name: str
    role: str
    privilege: str
    grantable: bool


@dataclass(frozen=True, slots=True)
class SystemPrivilege:
    """A privilege on something of PostgreSQL's own, beyond what it comes with."""

    kind: str
    name: str
    column: str
    role: str
    privilege: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything the checks look at."""

    database: DatabaseState
    roles: dict[str, Role]
    memberships: list[Membership]
    schemas: dict[str, Schema]
    relations: dict[int, Relation]
    functions: list[Function]
    operators: list[Operator]
    default_privileges: list[DefaultPrivilege]
    publications: list[Publication]
    settings: list[Setting]
    large_objects: list[LargeObjects]
    strangers: list[Stranger]
    system_privileges: list[SystemPrivilege]

    @property
    def tables(self) -> list[Relation]:
        """Every table that can have row security, in order of their names."""
        return [each for each in self.relations.values() if each.is_table]


def read_snapshot(connection: Connection, *, tenant_setting: str | None = None) -> Snapshot:
    """Read the catalog; the number of queries does not depend on what is in it.

    Args:
        connection: With ``search_path`` set to ``pg_catalog``.
        tenant_setting: The setting that a transaction tells its tenant by.
    """

    def read(query: TextClause, kind: type[_T], **values: Any) -> list[_T]:
        return [kind(**row) for row in _rows(connection.execute(query, values))]

    setting = tenant_setting or "tenantry.tenant_id"
    return Snapshot(
        database=read(queries.DATABASE, DatabaseState, setting=setting)[0],
        roles={each.name: each for each in read(queries.ROLES, Role)},
        memberships=read(queries.MEMBERSHIPS, Membership),
        schemas={each.name: each for each in read(queries.SCHEMAS, Schema)},
        relations=_relations(connection),
        functions=read(queries.FUNCTIONS, Function),
        operators=read(queries.OPERATORS, Operator),
        default_privileges=read(queries.DEFAULT_PRIVILEGES, DefaultPrivilege),
        publications=read(queries.PUBLICATIONS, Publication),
        settings=read(queries.SETTINGS, Setting),
        large_objects=read(queries.LARGE_OBJECTS, LargeObjects),
        strangers=read(queries.STRANGERS, Stranger),
        system_privileges=read(queries.SYSTEM_PRIVILEGES, SystemPrivilege),
    )


def _rows(result: CursorResult[Any]) -> Iterator[dict[str, Any]]:
    # Not mappings(): they look the names up for each row, and there are a thousand.
    names = tuple(result.keys())
    return (dict(zip(names, row, strict=True)) for row in result)


def _relations(connection: Connection) -> dict[int, Relation]:
    rows = _rows(connection.execute(queries.RELATIONS))
    relations = {row["oid"]: Relation(**row) for row in rows}

    def of_each(query: TextClause, kind: type[_T]) -> dict[int, list[_T]]:
        found: defaultdict[int, list[_T]] = defaultdict(list)
        for row in _rows(connection.execute(query)):
            found[row["relation"]].append(kind(**row))
        return found

    columns = of_each(queries.COLUMNS, Column)
    privileges = of_each(queries.PRIVILEGES, Privilege)
    policies = of_each(queries.POLICIES, PolicyState)
    constraints = of_each(queries.CONSTRAINTS, Constraint)
    indexes = of_each(queries.INDEXES, Index)
    triggers = of_each(queries.TRIGGERS, Trigger)
    for oid, relation in relations.items():
        relation.columns = {each.name: each for each in columns.get(oid, ())}
        relation.privileges = privileges.get(oid, [])
        relation.policies = policies.get(oid, [])
        relation.constraints = constraints.get(oid, [])
        relation.indexes = indexes.get(oid, [])
        relation.triggers = triggers.get(oid, [])
    for row in connection.execute(queries.RULES):
        relations[row.relation].rules.append(row.name)
    for row in connection.execute(queries.SYSTEM_VIEWS):
        if row.relation in relations:
            relations[row.relation].shows.append(row.name)
    for row in connection.execute(queries.DEPENDENCIES):
        if row.relation in relations:
            relations[row.relation].uses.add(row.target)
    return relations
