"""What the models declare of keys and tenants, in the catalog's terms."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Column, ForeignKeyConstraint, MetaData, Table
from sqlalchemy.sql.elements import TextClause
from sqlalchemy.sql.schema import DefaultClause

from tenantry.schema.row_security import RowSecurity, row_security_of

__all__ = ["DeclaredKey", "DeclaredTable", "declared_tables"]


@dataclass(frozen=True, slots=True)
class DeclaredKey:
    """A foreign key; ``clauses`` is what comes after REFERENCES and its columns.

    ``target`` is ``schema.name`` without quotes.
    """

    name: str
    columns: tuple[str, ...]
    target: str
    target_columns: tuple[str, ...]
    clauses: str


@dataclass(frozen=True, slots=True)
class DeclaredTable:
    """A table of the metadata; ``key`` is ``schema.name`` without quotes."""

    key: str
    row_security: RowSecurity | None
    columns: tuple[str, ...]
    primary_key: tuple[str, ...]
    foreign_keys: tuple[DeclaredKey, ...]
    defaults: dict[str, str]


def declared_tables(metadata: MetaData) -> dict[str, DeclaredTable]:
    """Return every table of ``metadata`` by its key."""
    tables = [
        DeclaredTable(
            key=_table_key(table),
            row_security=row_security_of(table),
            columns=tuple(column.name for column in table.columns),
            primary_key=tuple(column.name for column in table.primary_key),
            foreign_keys=tuple(
                _key(each) for each in sorted(table.foreign_key_constraints, key=_constraint_name)
            ),
            defaults={
                column.name: default
                for column in table.columns
                if (default := _default(column)) is not None
            },
        )
        for table in metadata.sorted_tables
    ]
    return {table.key: table for table in tables}


def _table_key(table: Table) -> str:
    return f"{table.schema or 'public'}.{table.name}"


def _constraint_name(constraint: ForeignKeyConstraint) -> str:
    given = constraint.name
    return (
        given
        if isinstance(given, str)
        else f"{constraint.table.name}_{'_'.join(constraint.column_keys)}_fkey"
    )


def _key(constraint: ForeignKeyConstraint) -> DeclaredKey:
    clauses = ""
    if constraint.onupdate:
        clauses += f" ON UPDATE {constraint.onupdate}"
    if constraint.ondelete:
        clauses += f" ON DELETE {constraint.ondelete}"
    if constraint.deferrable:
        clauses += " DEFERRABLE"
    if constraint.initially:
        clauses += f" INITIALLY {constraint.initially}"
    return DeclaredKey(
        name=_constraint_name(constraint),
        columns=tuple(column.name for column in constraint.columns),
        target=_table_key(constraint.referred_table),
        target_columns=tuple(element.column.name for element in constraint.elements),
        clauses=clauses,
    )


def _default(column: Column[object]) -> str | None:
    default = column.server_default
    if isinstance(default, DefaultClause) and isinstance(default.arg, TextClause):
        return default.arg.text
    return None
