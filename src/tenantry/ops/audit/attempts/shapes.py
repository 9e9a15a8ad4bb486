"""Tables as planting and crossing need to know them, read from the catalog in a few queries."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from tenantry.ops.audit.triggers import STAMPS_A_TIME
from tenantry.tenancy.catalog import quote

__all__ = [
    "Check",
    "Column",
    "ForeignKey",
    "Key",
    "OpenPolicy",
    "Relation",
    "identifier",
    "read_relations",
]


_STRINGS: Final = re.compile(r"'(?:[^']|'')*'")


@dataclass(frozen=True, slots=True)
class Check:
    """A check constraint."""

    name: str
    columns: tuple[str, ...]
    definition: str


@dataclass(frozen=True, slots=True)
class Column:
    """A column, its domain resolved to the type beneath.

    Args:
        number: ``attnum``.
        base: Name of the type, as ``int4``; of a domain, the type beneath it.
        kind: ``typtype`` of that type.
        labels: Of an enum.
        element: The ``base`` of an array's elements, else empty.
        width: Number of a composite's fields.
        domain: The qualified domain, or empty.
        domain_checks: What the domain asks of a value.
        generated: By an expression: it cannot be written.
        identity: ``a`` always, ``d`` by default, or empty.
        default: The expression, or None.
        may: The privileges that the application has on it.
    """

    number: int
    name: str
    base: str
    kind: str
    modifier: int
    labels: tuple[str, ...]
    element: str
    width: int
    domain: str
    domain_checks: tuple[Check, ...]
    required: bool
    generated: bool
    identity: str
    default: str | None
    may: frozenset[str]


@dataclass(frozen=True, slots=True)
class Key:
    """A unique or exclusion constraint, or a unique index.

    Args:
        columns: Every column that its columns, expressions and condition look at.
        kind: ``p``, ``u`` or ``x`` of a constraint, ``i`` of an index without one.
        definition: As ``pg_get_constraintdef`` or ``pg_get_indexdef`` writes it.
    """

    name: str
    columns: tuple[str, ...]
    kind: str
    definition: str


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A foreign key; ``columns`` and ``referred`` belong together in order."""

    name: str
    columns: tuple[str, ...]
    target: int
    referred: tuple[str, ...]
    definition: str


@dataclass(frozen=True, slots=True)
class OpenPolicy:
    """A permissive policy that applies to the application."""

    name: str
    using: str | None
    check: str | None

    def looks_at(self, column: str) -> bool:
        """Return whether each of its conditions names ``column``."""
        named = re.compile(rf"(?<![\w.]){re.escape(identifier(column))}(?![\w.])")
        conditions = [each for each in (self.using, self.check) if each is not None]
        return all(named.search(_STRINGS.sub("", each)) for each in conditions)


@dataclass
class Relation:
    """A table.

    Args:
        may: The application's privileges on the whole table.
        unsafe: Why it is not to be written to, or empty.
        unsafe_beyond: The same of a table that a key carries changes of this one to.
    """

    oid: int
    schema: str
    name: str
    reachable: bool
    may: frozenset[str]
    unsafe: str
    unsafe_beyond: str = ""
    columns: list[Column] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)
    foreign_keys: list[ForeignKey] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    policies: list[OpenPolicy] = field(default_factory=list)

    @cached_property
    def sql(self) -> str:
        """Its qualified name, quoted where SQL asks for it."""
        return f"{identifier(self.schema)}.{identifier(self.name)}"

    @cached_property
    def by_name(self) -> dict[str, Column]:
        """Its columns."""
        return {column.name: column for column in self.columns}

    @property
    def allows_anything(self) -> bool:
        """Whether the application may do anything with it."""
        return any(self.allows(each) for each in ("SELECT", "INSERT", "UPDATE", "DELETE"))

    def allows(self, privilege: str, column: str | None = None) -> bool:
        """Return whether the application has ``privilege`` on it, or on ``column`` or any one."""
        if not self.reachable:
            return False
        if privilege in self.may:
            return True
        columns = self.columns if column is None else [self.by_name[column]]
        return any(privilege in each.may for each in columns)


def identifier(name: str) -> str:
    """Return ``name`` as an SQL identifier; unlike a role, ``public`` is none of its keywords."""
    return name if name == "public" else quote(name)


# Roles are checked before: these functions raise for one that does not exist.
_RELATIONS: Final = text(rf"""
    SELECT c.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name,
           has_schema_privilege(CAST(:app AS name), n.oid, 'USAGE') AS reachable,
           ARRAY(SELECT p FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p
                  WHERE has_table_privilege(CAST(:app AS name), c.oid, p)) AS may,
           CASE WHEN c.relkind = 'f' THEN 'it is a foreign table' END AS foreign,
           (SELECT 'trigger ' || t.tgname FROM pg_trigger t
             WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D'
               AND NOT {STAMPS_A_TIME}
             ORDER BY t.tgname LIMIT 1) AS trigger,
           (SELECT 'rule ' || r.rulename FROM pg_rewrite r
             WHERE r.ev_class = c.oid AND r.ev_type <> '1' AND r.ev_enabled <> 'D'
             ORDER BY 1 LIMIT 1) AS rule,
           (SELECT format('check %s calls the volatile function %s', k.conname, f.proname)
              FROM pg_constraint k
              JOIN pg_depend d ON d.classid = 'pg_constraint'::regclass AND d.objid = k.oid
                              AND d.refclassid = 'pg_proc'::regclass
              JOIN pg_proc f ON f.oid = d.refobjid AND f.provolatile = 'v'
             WHERE k.contype = 'c'
               AND (k.conrelid = c.oid OR k.contypid IN
                    (SELECT atttypid FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0))
             ORDER BY 1 LIMIT 1) AS checking,
           ARRAY(SELECT inhrelid::int8 FROM pg_inherits WHERE inhparent = c.oid) AS heirs
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'f') AND n.nspname !~ '^pg_(toast|temp)'
       AND (n.nspname NOT IN ('pg_catalog', 'information_schema') OR c.oid >= 16384)
     ORDER BY 2, 3
""")  # noqa: S608 - constants

_COLUMNS: Final = text(r"""
    WITH RECURSIVE base AS (
        SELECT oid AS type, oid AS base, -1 AS modifier, ARRAY[]::oid[] AS domains,
               false AS required
          FROM pg_type
        UNION ALL
        SELECT b.type, t.typbasetype,
               CASE WHEN t.typtypmod <> -1 THEN t.typtypmod ELSE b.modifier END,
               b.domains || t.oid, b.required OR t.typnotnull
          FROM base b JOIN pg_type t ON t.oid = b.base WHERE t.typtype = 'd'
    )
    SELECT a.attrelid::int8 AS relation, a.attnum::int AS number, a.attname::text AS name,
           CASE WHEN t.typcategory = 'A' AND t.typelem <> 0 THEN 'array' ELSE t.typname::text END
               AS base,
           t.typtype::text AS kind,
           CASE WHEN a.atttypmod <> -1 THEN a.atttypmod ELSE b.modifier END AS modifier,
           ARRAY(SELECT e.enumlabel::text FROM pg_enum e
                  WHERE e.enumtypid = CASE WHEN t.typcategory = 'A' THEN t.typelem ELSE t.oid END
                  ORDER BY e.enumsortorder) AS labels,
           coalesce((SELECT CASE WHEN e.typtype = 'e' THEN 'enum' ELSE e.typname::text END
                       FROM pg_type e WHERE e.oid = t.typelem AND t.typcategory = 'A'), '')
               AS element,
           coalesce((SELECT c.relnatts FROM pg_class c
                      WHERE c.oid = t.typrelid), 0)::int AS width,
           CASE WHEN b.domains = '{}' THEN '' ELSE a.atttypid::regtype::text END AS domain,
           ARRAY(SELECT k.conname::text FROM pg_constraint k
                  WHERE k.contypid = ANY (b.domains) AND k.contype = 'c' ORDER BY k.oid) AS checks,
           ARRAY(SELECT pg_get_constraintdef(k.oid) FROM pg_constraint k
                  WHERE k.contypid = ANY (b.domains) AND k.contype = 'c' ORDER BY k.oid)
               AS definitions,
           (a.attnotnull OR b.required) AS required, a.attgenerated <> '' AS generated,
           a.attidentity::text AS identity, pg_get_expr(d.adbin, d.adrelid) AS default,
           ARRAY(SELECT p FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE']) AS p
                  WHERE has_column_privilege(CAST(:app AS name), a.attrelid, a.attnum, p)) AS may
      FROM pg_attribute a
      JOIN base b ON b.type = a.atttypid
      JOIN pg_type t ON t.oid = b.base AND t.typtype <> 'd'
      LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE a.attrelid = ANY (CAST(:oids AS oid[])) AND a.attnum > 0 AND NOT a.attisdropped
     ORDER BY a.attrelid, a.attnum
""")

# The columns that an expression or a condition looks at are in pg_depend. An index that stands
# for a constraint has the constraint's name.
_KEYS: Final = text(r"""
    SELECT i.indrelid::int8 AS relation, c.relname::text AS name,
           ARRAY(SELECT a.attname::text FROM pg_attribute a
                  WHERE a.attrelid = i.indrelid AND a.attnum > 0
                    AND (a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
                         OR (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL) AND EXISTS (
                             SELECT FROM pg_depend d
                              WHERE d.refclassid = 'pg_class'::regclass
                                AND d.refobjid = i.indrelid AND d.refobjsubid = a.attnum
                                AND (d.classid, d.objid) IN (('pg_class'::regclass, i.indexrelid),
                                     ('pg_constraint'::regclass, k.oid))))
                  ORDER BY a.attnum) AS columns,
           coalesce(k.contype::text, 'i') AS kind,
           coalesce(pg_get_constraintdef(k.oid), pg_get_indexdef(i.indexrelid)) AS definition
      FROM pg_index i
      JOIN pg_class c ON c.oid = i.indexrelid
      LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x')
     WHERE i.indrelid = ANY (CAST(:oids AS oid[])) AND i.indisready
       AND (i.indisunique OR i.indisexclusion)
     ORDER BY 1, i.indisprimary DESC, 2
""")

# A reference to a partitioned table is listed once more for each of its partitions. Before
# PostgreSQL 18 every constraint is enforced and the catalog has no such column.
_CONSTRAINTS: Final = text(r"""
    SELECT k.conrelid::int8 AS relation, k.conname::text AS name, k.contype::text AS kind,
           ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS n (number, place)
                   JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = n.number
                  ORDER BY n.place) AS columns,
           k.confrelid::int8 AS target,
           ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY AS n (number, place)
                   JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = n.number
                  ORDER BY n.place) AS referred,
           pg_get_constraintdef(k.oid) AS definition
      FROM pg_constraint k
     WHERE k.conrelid = ANY (CAST(:oids AS oid[])) AND k.contype IN ('f', 'c')
       AND coalesce((to_jsonb(k) ->> 'conenforced')::bool, true)
       AND NOT EXISTS (SELECT FROM pg_constraint p
                        WHERE p.oid = k.conparentid AND p.conrelid = k.conrelid)
     ORDER BY 1, 2
""")

_POLICIES: Final = text(r"""
    SELECT p.polrelid::int8 AS relation, p.polname::text AS name,
           pg_get_expr(p.polqual, p.polrelid) AS using_expression,
           pg_get_expr(p.polwithcheck, p.polrelid) AS check_expression
      FROM pg_policy p
     WHERE p.polrelid = ANY (CAST(:oids AS oid[])) AND p.polpermissive
       AND EXISTS (SELECT FROM unnest(p.polroles) AS r
                    WHERE r = 0 OR pg_has_role(CAST(:app AS name), r, 'USAGE'))
     ORDER BY 1, 2
""")

_CARRIES: Final = re.compile(r" ON (DELETE|UPDATE) (CASCADE|SET )")
_MOVES_A_SEQUENCE: Final = re.compile(r"\b(nextval|setval)\s*\(", re.IGNORECASE)


async def read_relations(connection: AsyncConnection, *, app_role: str) -> dict[int, Relation]:
    """Return every table of the database that is not the server's own, by oid.

    Args:
        connection: In a transaction whose ``search_path`` is empty, so that names come qualified.
        app_role: A role that exists.
    """
    rows = (await connection.execute(_RELATIONS, {"app": app_role})).all()
    relations = {
        row.oid: Relation(
            oid=row.oid,
            schema=row.schema,
            name=row.name,
            reachable=row.reachable,
            may=frozenset(row.may),
            unsafe="",
        )
        for row in rows
    }
    arguments = {"app": app_role, "oids": list(relations)}
    for column in await connection.execute(_COLUMNS, arguments):
        relations[column.relation].columns.append(_column(column))
    for key in await connection.execute(_KEYS, {"oids": list(relations)}):
        relations[key.relation].keys.append(
            Key(key.name, tuple(key.columns), key.kind, key.definition)
        )
    for row in await connection.execute(_CONSTRAINTS, {"oids": list(relations)}):
        _add_constraint(relations[row.relation], row)
    for row in await connection.execute(_POLICIES, arguments):
        relations[row.relation].policies.append(
            OpenPolicy(row.name, row.using_expression, row.check_expression)
        )
    _mark_unsafe(relations, rows)
    return relations


def _column(row: Any) -> Column:
    return Column(
        number=row.number,
        name=row.name,
        base=row.base,
        kind=row.kind,
        modifier=row.modifier,
        labels=tuple(row.labels),
        element=row.element,
        width=row.width,
        domain=row.domain,
        domain_checks=tuple(
            Check(name, (row.name,), definition)
            for name, definition in zip(row.checks, row.definitions, strict=True)
        ),
        required=row.required,
        generated=row.generated,
        identity=row.identity,
        default=row.default,
        may=frozenset(row.may),
    )


def _add_constraint(relation: Relation, row: Any) -> None:
    columns = tuple(row.columns)
    if row.kind == "c":
        relation.checks.append(Check(row.name, columns, row.definition))
    else:
        relation.foreign_keys.append(
            ForeignKey(row.name, columns, row.target, tuple(row.referred), row.definition)
        )


def _mark_unsafe(relations: dict[int, Relation], rows: Iterable[Any]) -> None:
    """Say which tables have something that could act outside the transaction when written to."""
    heirs: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        relation = relations[row.oid]
        heirs[row.oid] = [each for each in row.heirs if each in relations]
        moving = [c.name for c in relation.checks if _MOVES_A_SEQUENCE.search(c.definition)]
        found = row.foreign or row.trigger or row.rule or row.checking
        relation.unsafe = found or (f"check {moving[0]} moves a sequence" if moving else "")
    # A row that is written to a partitioned table ends in one of its partitions.
    for oid, relation in relations.items():
        waiting = list(heirs[oid])
        while waiting and not relation.unsafe:
            heir = waiting.pop()
            relation.unsafe = relations[heir].unsafe
            waiting += heirs[heir]
    _mark_unsafe_beyond(relations)


def _mark_unsafe_beyond(relations: dict[int, Relation]) -> None:
    """Follow the keys by which a DELETE, or an UPDATE of the key, changes other tables, too."""
    carrying = [
        (relations[reference.target], child)
        for child in relations.values()
        for reference in child.foreign_keys
        if reference.target in relations and _CARRIES.search(reference.definition)
    ]
    changed = True
    while changed:
        changed = False
        for parent, child in carrying:
            beyond = f"{child.unsafe} of {child.sql}" if child.unsafe else child.unsafe_beyond
            if beyond and not parent.unsafe_beyond:
                parent.unsafe_beyond = beyond
                changed = True
