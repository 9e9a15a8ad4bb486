"""Draws the tables and their relations, from the models, into docs/images/tables.svg.

    .venv/bin/python -m scripts.entity_diagram

Tables that refer to each other stand side by side, the referred-to on the left. Keys to `tenants`
are not drawn: every table has one.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

from sqlalchemy import Column, ForeignKeyConstraint, Table
from sqlalchemy.dialects import postgresql

from tenantry.schema import Base

PICTURE: Final = Path(__file__).parents[1] / "docs" / "images" / "tables.svg"

WIDTH, ROW, HEAD = 312, 17, 26
GAP_X, GAP_Y, MARGIN = 64, 22, 20
LANE = 9  # between the upright parts of two tables' lines

STYLE: Final = """
text { font: 12px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #1f2933; }
.name { font-weight: bold; fill: #ffffff; }
.type { fill: #66727f; text-anchor: end; }
.key { font-weight: bold; }
.sheet { fill: #ffffff; }
.box { fill: #f8fafc; stroke: #3d5a80; }
.head { fill: #3d5a80; }
.line { fill: none; stroke: #3d5a80; stroke-width: 1.4; }
.empty { stroke-dasharray: 5 3; }
"""


@dataclass
class Box:
    """A table and its place."""

    table: Table
    level: int
    y: int = 0

    @property
    def x(self) -> int:
        return MARGIN + self.level * (WIDTH + GAP_X)

    @property
    def height(self) -> int:
        return HEAD + ROW * len(self.table.columns) + 6

    def row(self, column: str) -> int:
        """The middle of a column's line."""
        return self.y + HEAD + ROW * [each.name for each in self.table.columns].index(column) + 9


def our_tables() -> list[Table]:
    """Return tenantry's own tables, and not those of whoever else uses its metadata."""
    ours = {
        mapper.local_table.key
        for mapper in Base.registry.mappers
        if mapper.class_.__module__.startswith("tenantry.")
        and isinstance(mapper.local_table, Table)
    }
    return [table for table in Base.metadata.sorted_tables if table.key in ours]


def references(table: Table) -> list[tuple[Table, Column[object], bool]]:
    """Return what a table refers to beside its tenant: the table, by which column, may be empty."""
    found = []
    for constraint in sorted(table.foreign_key_constraints, key=_columns):
        column = constraint.columns[_columns(constraint)[-1]]
        if constraint.referred_table.name != "tenants":
            found.append((constraint.referred_table, column, bool(column.nullable)))
    return found


def _columns(constraint: ForeignKeyConstraint) -> list[str]:
    return list(constraint.column_keys)


def families(tables: list[Table]) -> list[list[Table]]:
    """Return the tables that hang together, each family in the order of the tables."""
    family = {table: {table} for table in tables}
    for table in tables:
        for other, _, _ in references(table):
            joined = family[table] | family[other]
            for each in joined:
                family[each] = joined
    found: list[list[Table]] = []
    for table in tables:
        members = [each for each in tables if each in family[table]]
        if members not in found:
            found.append(members)
    return found


def place(tables: list[Table]) -> list[Box]:
    """Return a place for every table."""
    level: dict[Table, int] = {}
    for table in tables:  # sorted: what a table refers to comes before it
        level[table] = max((level[other] + 1 for other, _, _ in references(table)), default=0)
    groups = families(tables)
    alone = [group[0] for group in groups if len(group) == 1]
    placed = [Box(table, place % 3) for place, table in enumerate(alone)]
    y = _stack(placed, MARGIN)
    for group in groups:
        if len(group) > 1:
            boxes = [Box(table, level[table]) for table in group]
            y = _stack(boxes, y)
            placed += boxes
    return placed


def _stack(boxes: list[Box], top: int) -> int:
    """Put boxes of a level below each other, and return where the next may begin."""
    free: dict[int, int] = {}
    for box in boxes:
        box.y = free.get(box.level, top)
        free[box.level] = box.y + box.height + GAP_Y
    return max(free.values())


def type_name(column: Column[object]) -> str:
    """Return a column's type as PostgreSQL's users write it."""
    name = column.type.compile(postgresql.dialect()).lower()  # type: ignore[no-untyped-call]
    name = name.replace("timestamp with time zone", "timestamptz").replace(", ", ",")
    return name + ("?" if column.nullable else "")


def draw_box(box: Box) -> list[str]:
    bottom = box.y + HEAD - 4
    head = f"M{box.x} {bottom}V{box.y + 4}q0-4 4-4h{WIDTH - 8}q4 0 4 4V{bottom}z"
    lines = [
        f'<rect class="box" x="{box.x}" y="{box.y}" width="{WIDTH}" height="{box.height}" rx="4"/>',
        f'<path class="head" d="{head}"/>',
        f'<text class="name" x="{box.x + 8}" y="{box.y + 15}">{escape(box.table.name)}</text>',
    ]
    for column in box.table.columns:
        y = box.row(column.name) + 4
        key = ' class="key"' if column.primary_key else ""
        lines.append(f'<text{key} x="{box.x + 8}" y="{y}">{escape(column.name)}</text>')
        lines.append(
            f'<text class="type" x="{box.x + WIDTH - 8}" y="{y}">{escape(type_name(column))}</text>'
        )
    return lines


def draw_lines(boxes: list[Box]) -> list[str]:
    by_table = {box.table: box for box in boxes}
    lanes: dict[int, list[Table]] = {}
    lines = []
    for box in boxes:
        for other, column, may_be_empty in references(box.table):
            parent = by_table[other]
            lane = lanes.setdefault(parent.level, [])
            if other not in lane:
                lane.append(other)
            bend = parent.x + WIDTH + 20 + LANE * (lane.index(other) % 4)
            y, style = box.row(column.name), "line empty" if may_be_empty else "line"
            begin, end = f"{parent.x + WIDTH} {parent.row('id')}", box.x - 9
            lines += [
                f'<path class="{style}" d="M{begin}H{bend}V{y}H{end}"/>',
                f'<path class="line" d="M{box.x} {y - 5}L{box.x - 9} {y}L{box.x} {y + 5}"/>',
            ]
    return lines


def draw() -> str:
    """Return the picture."""
    boxes = place(our_tables())
    width = max(box.x for box in boxes) + WIDTH + MARGIN
    height = max(box.y + box.height for box in boxes) + MARGIN
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
        "<title>The tables of tenantry</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="sheet" width="{width}" height="{height}"/>',
        *draw_lines(boxes),
        *(line for box in boxes for line in draw_box(box)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(draw(), encoding="utf-8")
