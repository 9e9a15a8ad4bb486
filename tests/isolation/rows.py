"""Tables as the catalog has them, and a row of each tenant in every one of them.

Nothing here knows a table by name: values come from the types of the columns, and where a check
constraint refuses one, from the next in line or from the constants that the constraint names.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import asyncpg

from tenantry.schema.row_security import APP_ROLE
from tenantry.tenancy.catalog import quote

Row = dict[str, str | None]
Make = Callable[[int], str]


def letters(number: int) -> str:
    """The number as a word of lower-case letters, for what has to be a plain name."""
    return "word_" + "".join("abcdefghij"[int(digit)] for digit in str(number))


# PostgreSQL's own text for values, from a number that no other row has; the first that passes.
BY_TYPE: dict[str, tuple[Make, ...]] = {
    "bigint": (str,),
    "boolean": (lambda n: "true", lambda n: "false"),
    "bytea": (lambda n: f"\\x{n:064x}",),
    "character varying": (lambda n: f"word{n:05}", lambda n: f"word{n:05}@example.com"),
    "date": (lambda n: "2026-01-01", lambda n: "2027-01-01"),
    "double precision": (str,),
    "inet": (lambda n: f"10.0.{n // 256}.{n % 256}",),
    "integer": (str,),
    "interval": (lambda n: f"{n} s",),
    "json": (lambda n: f'{{"n": {n}}}',),
    "jsonb": (lambda n: f'{{"n": {n}}}', lambda n: f"[{n}]"),
    "numeric": (str, lambda n: f"0.{n % 100:02}"),
    "real": (str,),
    "smallint": (str,),
    "text": (lambda n: f"word{n:05}", lambda n: f"word{n:05}@example.com", letters),
    "timestamp with time zone": (
        lambda n: f"2026-01-01 00:00:00.{n:06}+00",
        lambda n: f"2027-01-01 00:00:00.{n:06}+00",
    ),
    "timestamp without time zone": (lambda n: f"2026-01-01 00:00:00.{n:06}",),
    "uuid": (lambda n: str(uuid4()),),
    "vector": (lambda n: str([n, *[1] * 1023]),),
}


@dataclass
class Column:
    """A column, and how its values are made."""

    name: str
    type: str
    required: bool
    generated: bool
    makes: tuple[Make, ...]


@dataclass
class ForeignKey:
    name: str
    parent: str
    columns: list[str]
    referred: list[str]


@dataclass
class Table:
    """A table, and the row that each tenant has in it."""

    name: str
    tenant_column: str = ""
    columns: dict[str, Column] = field(default_factory=dict)
    key: list[str] = field(default_factory=list)
    uniques: list[list[str]] = field(default_factory=list)
    foreign_keys: list[ForeignKey] = field(default_factory=list)
    checks: dict[str, tuple[list[str], str]] = field(default_factory=dict)
    rows: dict[UUID, Row] = field(default_factory=dict)
    insertable: set[str] = field(default_factory=set)
    updatable: set[str] = field(default_factory=set)

    @property
    def sql(self) -> str:
        return f"public.{quote(self.name)}"

    def insert(self, row: Row) -> tuple[str, list[str | None]]:
        """The INSERT of a row, every value as text.

        Without columns that the application may not give: refused for those, it would never
        come as far as row security. Where it may give none, with all of them.
        """
        given = {
            name: row[name]
            for name in row
            if not self.columns[name].generated and (name in self.insertable or not self.insertable)
        }
        marks = [f"${i}::text::{self.columns[name].type}" for i, name in enumerate(given, 1)]
        names = ", ".join(map(quote, given))
        statement = f"INSERT INTO {self.sql} ({names}) VALUES ({', '.join(marks)})"
        return statement, list(given.values())

    def where(self, row: Row, *, alias: str = "") -> str:
        """The condition that finds a row by its primary key."""
        prefix = f"{alias}." if alias else ""
        return " AND ".join(f"{prefix}{quote(name)} = {literal(row[name])}" for name in self.key)


def literal(value: str | None) -> str:
    return "NULL" if value is None else "'" + value.replace("'", "''") + "'"


@dataclass
class World:
    """A database in which tenants A and B have a row in every table."""

    app: asyncpg.Connection
    admin: asyncpg.Connection
    database: str
    tables: dict[str, Table]
    a: UUID = field(default_factory=uuid4)
    b: UUID = field(default_factory=uuid4)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def fresh_row(self, table: Table, tenant: UUID) -> Row:
        """A row that the tenant could add, like none that is there."""
        number = next(self.numbers)
        row = {
            name: column.makes[0](number) if column.makes else None
            for name, column in table.columns.items()
            if not column.generated
        }
        for key in table.foreign_keys:
            parents = self.tables[key.parent].rows.get(tenant)
            for mine, theirs in zip(key.columns, key.referred, strict=True):
                row[mine] = parents[theirs] if parents else None
        if table.tenant_column != "id":
            row[table.tenant_column] = str(tenant)
        return row

    async def populate(self) -> None:
        """Give both tenants a row in every table, parents first."""
        for tenant in (self.a, self.b):
            for table in in_order(self.tables):
                await self._add_row(table, tenant)

    async def _add_row(self, table: Table, tenant: UUID) -> None:
        attempts: dict[str, Iterator[tuple[Make, ...]]] = {}
        while True:
            row = self.fresh_row(table, tenant)
            row[table.tenant_column] = str(tenant)
            statement, values = table.insert(row)
            stored = ", ".join(f"{quote(name)}::text" for name in table.columns)
            try:
                found = await self.admin.fetchrow(f"{statement} RETURNING {stored}", *values)
            except asyncpg.CheckViolationError as error:
                columns, definition = table.checks[str(error.constraint_name)]
                if error.constraint_name not in attempts:
                    makes = [candidates(table.columns[name], definition) for name in columns]
                    attempts[str(error.constraint_name)] = itertools.product(*makes)
                chosen = next(attempts[str(error.constraint_name)], None)
                assert chosen, f"no value of {table.name}.{columns} passes {definition}"
                for name, make in zip(columns, chosen, strict=True):
                    table.columns[name].makes = (make, *table.columns[name].makes)
            else:
                assert found is not None
                table.rows[tenant] = dict(found)
                return


def candidates(column: Column, definition: str) -> list[Make]:
    """Ways to make a value: those of the type, and the constants that a constraint names."""
    constants = re.findall(r"'((?:[^']|'')*)'::", definition)
    fixed: list[Make] = [lambda n, c=constant: c for constant in constants]  # type: ignore[misc]
    return [*dict.fromkeys(column.makes), *fixed]


def in_order(tables: dict[str, Table]) -> list[Table]:
    """Tables after those that they refer to."""
    done: dict[str, Table] = {}
    while len(done) < len(tables):
        ready = [
            table
            for table in tables.values()
            if table.name not in done
            and all(key.parent in {*done, table.name} for key in table.foreign_keys)
        ]
        assert ready, "foreign keys form a circle"
        done |= {table.name: table for table in ready}
    return list(done.values())


_TABLES = """
    SELECT c.oid::int8 AS oid, relname::text AS name FROM pg_class c
     WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') ORDER BY relname
"""
_COLUMNS = """
    SELECT attrelid::int8 AS oid, attname::text AS name, format_type(atttypid, atttypmod) AS type,
           format_type(coalesce(nullif(typbasetype, 0), t.oid), NULL) AS base,
           attnotnull AND NOT atthasdef AS required,
           attgenerated <> '' OR attidentity = 'a' AS generated,
           ARRAY(SELECT enumlabel::text FROM pg_enum WHERE enumtypid = t.oid ORDER BY enumsortorder)
               AS labels
      FROM pg_attribute JOIN pg_type t ON t.oid = atttypid
     WHERE attrelid = ANY ($1::int8[]) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_CONSTRAINTS = """
    SELECT conrelid::int8 AS oid, conname::text AS name, contype::text AS kind,
           confrelid::int8 AS parent, pg_get_constraintdef(oid) AS definition,
           ARRAY(SELECT attname::text FROM unnest(conkey) WITH ORDINALITY AS k (n, o)
                   JOIN pg_attribute ON attrelid = conrelid AND attnum = n ORDER BY o) AS columns,
           ARRAY(SELECT attname::text FROM unnest(confkey) WITH ORDINALITY AS k (n, o)
                   JOIN pg_attribute ON attrelid = confrelid AND attnum = n ORDER BY o) AS referred
      FROM pg_constraint WHERE conrelid = ANY ($1::int8[])
"""

_RIGHTS = """
    SELECT attrelid::int8 AS oid, attname::text AS name,
           has_column_privilege($2, attrelid, attnum, 'INSERT') AS insertable,
           has_column_privilege($2, attrelid, attnum, 'UPDATE') AS updatable
      FROM pg_attribute WHERE attrelid = ANY ($1::int8[]) AND attnum > 0 AND NOT attisdropped
"""


async def read_tables(connection: asyncpg.Connection) -> dict[str, Table]:
    """Every table of schema public."""
    by_oid = {row["oid"]: Table(row["name"]) for row in await connection.fetch(_TABLES)}
    for row in await connection.fetch(_COLUMNS, list(by_oid)):
        makes = _makes(row["base"], row["labels"])
        assert makes or not row["required"], f"no value is known for type {row['type']}"
        column = Column(row["name"], row["type"], row["required"], row["generated"], makes)
        by_oid[row["oid"]].columns[column.name] = column
    for row in await connection.fetch(_CONSTRAINTS, list(by_oid)):
        table = by_oid[row["oid"]]
        if row["kind"] == "f":
            parent = by_oid[row["parent"]].name
            table.foreign_keys.append(
                ForeignKey(row["name"], parent, row["columns"], row["referred"])
            )
        elif row["kind"] == "c":
            table.checks[row["name"]] = (row["columns"], row["definition"])
        elif row["kind"] in {"p", "u"}:
            table.uniques.append(row["columns"])
            if row["kind"] == "p":
                table.key = row["columns"]
    for row in await connection.fetch(_RIGHTS, list(by_oid), APP_ROLE):
        table = by_oid[row["oid"]]
        table.insertable |= {row["name"]} if row["insertable"] else set()
        table.updatable |= {row["name"]} if row["updatable"] else set()
    for table in by_oid.values():
        table.tenant_column = "tenant_id" if "tenant_id" in table.columns else "id"
    return {table.name: table for table in by_oid.values()}


def _makes(type_name: str, labels: list[str]) -> tuple[Make, ...]:
    if labels:
        return (lambda n: labels[n % len(labels)],)
    if type_name.endswith("[]"):
        return (lambda n: "{}",)
    return BY_TYPE.get(type_name, ())
