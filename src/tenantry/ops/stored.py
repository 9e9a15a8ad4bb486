"""How rows are stored, compared like columns: storage, table options, generated columns.

Alembic compares none of these: of a changed generation expression it warns, and does nothing.
Only what a table declares is compared; a column or table that declares no storage may have any.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from alembic.autogenerate.api import AutogenContext
from alembic.util import PriorityDispatchResult
from sqlalchemy import Column, Computed, Connection, Index, Row, Table, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateIndex

from tenantry.ops.operations import SecurityOp, register
from tenantry.schema.row_security import row_security_of
from tenantry.schema.types import STORAGE, STORAGE_PARAMETERS
from tenantry.tenancy.catalog import quote

__all__ = [
    "ReplaceGeneratedColumnOp",
    "SetStorageOp",
    "SetStorageParametersOp",
    "leave_generated_columns",
    "stored_differences",
]

_DEFAULT_SCHEMA = "public"

_COLUMNS = text("""
    SELECT c.relname AS table_name, a.attname AS name,
           CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN'
                             ELSE 'EXTENDED' END AS storage,
           CASE WHEN a.attgenerated <> '' THEN pg_get_expr(d.adbin, d.adrelid) END AS expression
      FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
      LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
     WHERE c.relnamespace = to_regnamespace(:schema) AND c.relkind IN ('r', 'p')
       AND a.attnum > 0 AND NOT a.attisdropped
""")

_PARAMETERS = text("""
    SELECT c.relname AS table_name, o.option_name AS name, o.option_value AS value
      FROM pg_class c, pg_options_to_table(c.reloptions) o
     WHERE c.relnamespace = to_regnamespace(:schema) AND c.relkind IN ('r', 'p')
""")


def _qualified(name: str, schema: str | None) -> str:
    return f"{quote(schema)}.{quote(name)}" if schema else quote(name)


@dataclass
class SetStorageOp(SecurityOp):
    """``ALTER TABLE … ALTER COLUMN … SET STORAGE``; rows that are there stay where they are."""

    operation: ClassVar[str] = "set_storage"
    table: str
    column: str
    storage: str
    was: str = "DEFAULT"
    schema: str | None = None

    def sql(self) -> str:
        """Return the ALTER TABLE."""
        return (
            f"ALTER TABLE {_qualified(self.table, self.schema)}"
            f" ALTER COLUMN {quote(self.column)} SET STORAGE {self.storage};"
        )

    def describe(self) -> str:
        """Say how the column is stored."""
        return (
            f"column {self.table}.{self.column}: its storage is {self.was}, "
            f"declared is {self.storage}"
        )

    def reverse(self) -> SetStorageOp:
        """Return the operation that restores what was."""
        return replace(self, storage=self.was, was=self.storage)


@dataclass
class SetStorageParametersOp(SecurityOp):
    """``ALTER TABLE … SET (…)``; a parameter that is None is reset."""

    operation: ClassVar[str] = "set_storage_parameters"
    table: str
    parameters: dict[str, str | None]
    was: dict[str, str | None] = field(default_factory=dict)
    schema: str | None = None

    def sql(self) -> str:
        """Return an ALTER TABLE that sets, and one that resets."""
        table = _qualified(self.table, self.schema)
        given = [f"{quote(k)} = {v}" for k, v in self.parameters.items() if v is not None]
        reset = [quote(name) for name, value in self.parameters.items() if value is None]
        statements = []
        if given:
            statements.append(f"ALTER TABLE {table} SET ({', '.join(given)});")
        if reset:
            statements.append(f"ALTER TABLE {table} RESET ({', '.join(reset)});")
        return "\n".join(statements)

    def describe(self) -> str:
        """Say which parameters differ."""
        return "; ".join(
            f"table {self.table}: {name} is {self.was.get(name) or 'not set'}, declared is {value}"
            for name, value in self.parameters.items()
        )

    def reverse(self) -> SetStorageParametersOp:
        """Return the operation that restores what was."""
        return replace(self, parameters=self.was, was=self.parameters)


@dataclass
class ReplaceGeneratedColumnOp(SecurityOp):
    """Drop a generated column and make it anew, with its comment, indexes and grants.

    Only PostgreSQL 17 and newer could change the expression in place, and would write the table
    anew as well.
    """

    operation: ClassVar[str] = "replace_generated_column"
    table: str
    column: str
    definition: str
    was: str = ""
    schema: str | None = None

    @property
    def destroys_data(self) -> bool:
        """Whether the column holds values that nothing computes."""
        return not self.was

    def sql(self) -> str:
        """Return the script."""
        table, column = _qualified(self.table, self.schema), quote(self.column)
        # Where the downgrade is of a column that was not generated, its values stay.
        if not self.definition:
            return f"ALTER TABLE {table} ALTER COLUMN {column} DROP EXPRESSION;"
        return f"ALTER TABLE {table} DROP COLUMN {column};\n{self.definition}"

    def describe(self) -> str:
        """Say what is wrong with it."""
        state = "is generated by another expression than" if self.was else "is not generated as"
        return f"column {self.table}.{self.column} {state} declared"

    def reverse(self) -> ReplaceGeneratedColumnOp:
        """Return the operation that restores what was."""
        return replace(self, definition=self.was, was=self.definition)


for _each in (SetStorageOp, SetStorageParametersOp, ReplaceGeneratedColumnOp):
    register(_each)


def leave_generated_columns(
    context: AutogenContext, alter: Any, schema: Any, table: Any, column: Any, found: Any, it: Any
) -> PriorityDispatchResult:
    """Stop Alembic's comparison of the default where the column is generated; see the module."""
    del context, alter, schema, table, column, found
    is_generated = isinstance(it.server_default, Computed)
    return PriorityDispatchResult.STOP if is_generated else PriorityDispatchResult.CONTINUE


def stored_differences(connection: Connection, tables: Iterable[Table]) -> Iterator[SecurityOp]:
    """Yield what brings the storage of ``tables`` to what they declare."""
    columns: dict[str, dict[tuple[str, str], Row[Any]]] = {}
    parameters: dict[str, dict[tuple[str, str], str]] = {}
    for table in tables:
        schema = table.schema or _DEFAULT_SCHEMA
        if schema not in columns:
            arguments = {"schema": schema}
            columns[schema] = {
                (row.table_name, row.name): row for row in connection.execute(_COLUMNS, arguments)
            }
            parameters[schema] = {
                (row.table_name, row.name): row.value
                for row in connection.execute(_PARAMETERS, arguments)
            }
        yield from _parameters(table, parameters[schema])
        for column in table.columns:
            found = columns[schema].get((table.name, column.name))
            yield from _generated(connection, column, found)
            yield from _storage(column, found)


def _parameters(table: Table, found: dict[tuple[str, str], str]) -> Iterator[SecurityOp]:
    declared = {str(k): str(v) for k, v in table.info.get(STORAGE_PARAMETERS, {}).items()}
    wrong = {k: v for k, v in declared.items() if found.get((table.name, k)) != v}
    if wrong:
        was = {name: found.get((table.name, name)) for name in wrong}
        yield SetStorageParametersOp(table.name, dict(wrong), was, table.schema)


def _storage(column: Column[Any], found: Row[Any] | None) -> Iterator[SecurityOp]:
    declared = column.info.get(STORAGE)
    if declared is not None and (found is None or found.storage != declared):
        was = found.storage if found is not None else "DEFAULT"
        table = column.table
        yield SetStorageOp(table.name, column.name, declared, was, table.schema)


def _generated(
    connection: Connection, column: Column[Any], found: Row[Any] | None
) -> Iterator[SecurityOp]:
    declared = column.server_default
    # What is missing altogether, Alembic adds.
    if not isinstance(declared, Computed) or found is None:
        return
    expression = str(
        declared.sqltext.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
    )
    if found.expression in (expression, _canonical(connection, column, expression)):
        return
    was = _definition(column, found.expression) if found.expression else ""
    table = column.table
    yield ReplaceGeneratedColumnOp(
        table.name, column.name, _definition(column, expression), was, table.schema
    )


def _type(column: Column[Any]) -> str:
    return str(column.type.compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]


def _canonical(connection: Connection, column: Column[Any], expression: str) -> str | None:
    """Return ``expression`` as PostgreSQL writes it; None where the table does not know its names.

    As in `tenantry.tenancy.catalog.canonical_policy`.
    """
    table = f"{quote(column.table.schema or _DEFAULT_SCHEMA)}.{quote(column.table.name)}"
    savepoint = connection.begin_nested()
    try:
        connection.exec_driver_sql(f"CREATE TEMP TABLE tenantry_canonical (LIKE {table})")
        connection.exec_driver_sql(
            f"ALTER TABLE tenantry_canonical DROP COLUMN {quote(column.name)},"
            f" ADD COLUMN {quote(column.name)} {_type(column)}"
            f" GENERATED ALWAYS AS ({expression}) STORED"
        )
        found: str = connection.exec_driver_sql(
            "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef"
            " WHERE adrelid = 'tenantry_canonical'::regclass"
        ).scalar_one()
    except DBAPIError:
        return None
    finally:
        savepoint.rollback()
    return found


def _definition(column: Column[Any], expression: str) -> str:
    table = _qualified(column.table.name, column.table.schema)
    name = quote(column.name)
    null = "" if column.nullable else " NOT NULL"
    computed = f"{_type(column)} GENERATED ALWAYS AS ({expression}) STORED{null}"
    statements = [f"ALTER TABLE {table} ADD COLUMN {name} {computed};"]
    if column.comment:
        statements.append(f"COMMENT ON COLUMN {table}.{name} IS {_literal(column.comment)};")
    statements += [f"{_create(index)};" for index in _indexes(column)]
    statements += _grants(column, table)
    return "\n".join(statements)


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _create(index: Index) -> str:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    return str(CreateIndex(index).compile(dialect=dialect)).strip()


def _indexes(column: Column[Any]) -> Sequence[Index]:
    indexes = [each for each in column.table.indexes if column in list(each.columns)]
    return sorted(indexes, key=lambda each: str(each.name))


def _grants(column: Column[Any], table: str) -> list[str]:
    security = row_security_of(column.table)
    return [
        f"GRANT {privilege} ({quote(column.name)}) ON TABLE {table} TO {quote(grant.role)};"
        for grant in (security.grants if security else ())
        if column.name in grant.columns
        for privilege in sorted(grant.privileges)
    ]
