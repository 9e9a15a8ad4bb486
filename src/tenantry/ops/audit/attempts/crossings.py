"""The attempts on one table: each as the application, each undone, each compared with its twin.

The twin is the same statement about a row that does not exist anywhere. An answer that differs
from its twin's tells that another tenant has the row, whatever else the wall holds back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Final

from tenantry.ops.audit.attempts.answers import Answer, Asker
from tenantry.ops.audit.attempts.cells import Cell, Crossing, Tenants
from tenantry.ops.audit.attempts.planting import (
    CannotPlantError,
    Planting,
    Row,
    insert_sql,
    must_be_named,
)
from tenantry.ops.audit.attempts.shapes import Column, ForeignKey, Key, Relation, identifier
from tenantry.ops.audit.attempts.values import NULL, literal, unique_value
from tenantry.ops.audit.report import Operation

__all__ = ["Trial"]


class _TooLongError(Exception):
    """The table is locked, or a statement on it takes too long."""


# Only of these types is it certain that `=` is found, whatever the search_path.
_COMPARABLE: Final = frozenset(
    {"uuid", "int2", "int4", "int8", "text", "varchar", "date", "timestamptz", "timestamp"}
)
# Fails at the first row that row security lets through to the condition, so that no row is locked
# or changed. It names no column: PostgreSQL then asks the policies for UPDATE or DELETE alone, not
# those for SELECT, and needs no privilege to read. Volatile, or it would be computed beforehand;
# and costly, more than ten operators, or the planner would put it before the policies, since it
# sees nothing of the row.
_TRIPWIRE: Final = f"1 / (({' + '.join(['pg_catalog.random()'] * 12)}) * 0)::pg_catalog.int4 = 0"
_TRIPPED: Final = "22012"
_UNIQUE: Final = frozenset({"23505", "23P01"})
_HERE: Final = "/* where */"
_NO_PRIVILEGE: Final = "no privilege"


class Trial:
    """The attempts on one table, within a transaction that somebody else rolls back."""

    def __init__(
        self,
        relation: Relation,
        *,
        asker: Asker,
        planting: Planting,
        tenants: Tenants,
        tenant_columns: Mapping[int, str],
    ) -> None:
        self.relation = relation
        self.cells: dict[Operation, Cell] = {}
        self.own_row_visible: bool | None = None
        self.not_planted = ""
        self.stopped = ""
        self._asker = asker
        self._planting = planting
        self._tenants = tenants
        self._tenant_columns = tenant_columns
        self._column = tenant_columns[relation.oid]
        self._tenant = identifier(self._column)
        self._settable = self._settable_column()

    async def without_binding(self) -> None:
        """Try what goes without a tenant ever bound to the session."""
        try:
            b = await self._plant(self._tenants.b)
            await self.without_tenant(b, setting=None)
        except _TooLongError as error:
            self.stopped = str(error)

    async def with_binding(self) -> None:
        """Try everything else, unless the table is held up by somebody."""
        if self.stopped:
            return
        try:
            await self._try_all()
        except _TooLongError as error:
            self.stopped = str(error)

    async def _try_all(self) -> None:
        # The order matters: A has no row while keys are probed.
        self.not_planted = ""
        try:
            await self._planting.prepare(self.relation, self._tenants[:2])
            await self._planting.rehearse(self.relation, self._tenants.b)
        except CannotPlantError as error:
            self.not_planted = str(error)
        if not self.not_planted:
            await self.inserting()
        b = None if self.not_planted else await self._plant(self._tenants.b)
        await self.reading(b)
        if not self.relation.unsafe:
            await self.changing(b)
        if b:
            await self._plant_circles()
            await self.control(b)
            await self.upserting(b)
            await self.probing(b)
        await self.without_tenant(b, setting="")
        a = await self._plant(self._tenants.a) if b else None
        if a and b:
            await self.moving(a)
            await self.probing(b, a)

    async def _plant_circles(self) -> None:
        """Plant what B's row could not refer to because it refers to B's row itself."""
        for reference in self.relation.foreign_keys:
            if reference.target != self.relation.oid and reference.target in self._tenant_columns:
                with suppress(CannotPlantError):
                    await self._planting.plant(
                        self._planting.relation(reference.target), self._tenants.b
                    )

    async def _plant(self, tenant: str) -> Row | None:
        try:
            return await self._planting.plant(self.relation, tenant)
        except CannotPlantError as error:
            self.not_planted = str(error)
            return None

    async def without_tenant(self, b: Row | None, *, setting: str | None) -> None:
        """Try with the tenant's setting never made (None) or emptied."""
        cell = self._cell("no tenant")
        how = "with no tenant ever bound" if setting is None else "with an empty tenant bound"
        for verb, statement in self._on_others(b):
            answer = await self._ask(statement, setting)
            reached = answer.touched or answer.state == _TRIPPED or answer.past_policy
            self._judge(cell, answer, reached, f"{how}, {verb}")
        if self.relation.unsafe or not self.relation.allows("INSERT", self._column):
            return
        row = self._row_for_app(b or self._bare(self._tenants.b), cell)
        if row:
            answer = await self._ask(insert_sql(self.relation, row), setting)
            passed = answer.accepted or answer.past_policy
            self._judge(cell, answer, passed, f"{how}, INSERT of a tenant's row")

    def _bare(self, tenant: str) -> Row:
        return self._planting.row(self.relation, tenant)

    async def reading(self, b: Row | None) -> None:
        """Try to see rows of another tenant."""
        cell = self._cell("read")
        if not self.relation.allows("SELECT"):
            cell.kept.append(_NO_PRIVILEGE)
            return
        sql, where = self.relation.sql, self._address(b) if b else None
        if self.relation.allows("SELECT", self._column):
            others = f"WHERE {self._tenant} <> {literal(self._tenants.a)}"
        else:
            others = ""
        scan = await self._ask(f"SELECT 1 FROM {sql} {others} LIMIT 1", self._tenants.a)  # noqa: S608
        self._judge(cell, scan, scan.touched, "SELECT of all rows")
        if not where:
            return
        locks = ("", " FOR UPDATE", " FOR SHARE") if self.relation.allows("UPDATE") else ("",)
        for lock in locks:
            select = f"SELECT 1 FROM {sql} WHERE {_HERE}{lock}"  # noqa: S608
            await self._compare(cell, select, where, f"SELECT{lock} of a row by its key")

    async def inserting(self) -> None:
        """Try to make a row for another tenant, before it has one here."""
        cell = self._cell("insert")
        if not self.relation.allows("INSERT", self._column):
            cell.kept.append(_NO_PRIVILEGE)
            return
        row = self._row_for_app(self._bare(self._tenants.b), cell)
        if not row:
            return
        for verb, statement in (
            ("INSERT", insert_sql(self.relation, row)),
            ("MERGE", self._merge_insert(row)),
        ):
            answer = await self._ask(statement, self._tenants.a)
            passed = answer.accepted or answer.past_policy
            self._judge(cell, answer, passed, f"{verb} of a row for another tenant")
            nobody = literal(self._tenants.nobody)
            twin = await self._ask(
                statement.replace(literal(self._tenants.b), nobody), self._tenants.a
            )
            if not passed:
                self._differ(cell, answer, twin, f"{verb} for another tenant")

    async def upserting(self, b: Row) -> None:
        """Try to make a row where another tenant has it."""
        cell = self._cell("insert")
        row = self._row_for_app(b, cell) if self.relation.allows("INSERT", self._column) else None
        if not row:
            return
        ways = ["DO NOTHING"]
        key = next((each for each in self.relation.keys if _is_arbiter(each)), None)
        if key and self._settable and self.relation.allows("UPDATE", self._settable.name):
            change = identifier(self._settable.name)
            ways.append(
                f"ON CONSTRAINT {identifier(key.name)} DO UPDATE SET {change} = excluded.{change}"
            )
        for way in ways:
            statement = f"{insert_sql(self.relation, row)} ON CONFLICT {way}"
            answer = await self._ask(statement, self._tenants.a)
            passed = answer.accepted or answer.past_policy
            verb = "upsert" if "UPDATE" in way else "INSERT ON CONFLICT DO NOTHING"
            self._judge(cell, answer, passed, f"{verb} onto another tenant's row")

    async def changing(self, b: Row | None) -> None:
        """Try to update and to delete rows of another tenant."""
        where = self._address(b) if b else None
        sql = self.relation.sql
        ways: list[tuple[Operation, str, str]] = [("delete", "DELETE", f"DELETE FROM {sql}")]  # noqa: S608
        if self._settable:
            change = f"{identifier(self._settable.name)} = {self._new_value(b)}"
            ways.append(("update", f"UPDATE SET {change}", f"UPDATE {sql} SET {change}"))  # noqa: S608
        else:
            self._cell("update").kept.append(_NO_PRIVILEGE)
        for operation, action, statement in ways:
            cell = self._cell(operation)
            verb = operation.upper()
            if not self.relation.allows(verb):
                cell.kept.append(_NO_PRIVILEGE)
                continue
            answer = await self._ask(f"{statement} WHERE {_TRIPWIRE}", self._tenants.a)
            reached = answer.state == _TRIPPED
            self._judge(cell, answer, reached, f"{verb} without a condition on any column")
            if not where or (operation == "delete" and self.relation.unsafe_beyond):
                continue
            await self._compare(cell, f"{statement} WHERE {_HERE}", where, f"{verb} by key")
            merge = (
                f"MERGE INTO {sql} USING (SELECT 1) AS one ON ({_HERE}) WHEN MATCHED THEN {action}"
            )
            await self._compare(cell, merge, where, f"MERGE with {verb} by key")

    async def moving(self, a: Row) -> None:
        """Try to give a row of one's own to another tenant."""
        cell = self._cell("move")
        if not self.relation.allows("UPDATE", self._column):
            cell.kept.append(_NO_PRIVILEGE)
            return
        if self.relation.unsafe_beyond:
            cell.untried.append(f"{self.relation.unsafe_beyond} could leave a trace")
            return
        change = f"UPDATE {self.relation.sql} SET {self._tenant} = {literal(self._tenants.b)}"  # noqa: S608
        where = self._address(a)
        if where:
            answer = await self._ask(f"{change} WHERE {where[0]}", self._tenants.a)
            passed = answer.touched or answer.past_policy
            self._judge(cell, answer, passed, "UPDATE of one's own row to another tenant")
        # A condition on a column makes the policies for SELECT look at the new row, too. Without
        # one it would reach every row if the wall were down: only after the tripwire has shown
        # that it reaches none but one's own.
        if self.cells["update"].crossings or self.cells["update"].untried:
            cell.waiting = "all at once: not before UPDATE is kept apart"
        else:
            answer = await self._ask(change, self._tenants.a)
            passed = answer.touched or answer.past_policy
            self._judge(
                cell, answer, passed, "UPDATE of one's own rows, all at once, to another tenant"
            )

    async def probing(self, b: Row, a: Row | None = None) -> None:
        """Try to learn from keys and references what another tenant has.

        By INSERT where the application may write all the values, before A has a row here; by
        UPDATE of the row ``a`` where it may do only that.
        """
        cell = self._cell("probe")
        for through, theirs in self._probes(b, cell if a is None else Cell()):
            by_insert = all(self.relation.allows("INSERT", name) for name in theirs)
            by_update = all(self.relation.allows("UPDATE", name) for name in theirs)
            if by_insert if a is None else by_update and not by_insert:
                await self._probe(cell, through, theirs, a)
            elif not by_insert and not by_update:
                cell.kept.append(_NO_PRIVILEGE)
        if a and not (cell.kept or cell.untried or cell.crossings):
            cell.kept.append("no key or reference beyond the tenant")

    def _probes(self, b: Row, cell: Cell) -> Iterator[tuple[Key | ForeignKey, Row]]:
        """Yield what may tell, with the values of B."""
        for key in self.relation.keys:
            columns = [name for name in key.columns if name != self._column]
            theirs = {name: b[name] for name in columns if b.get(name, NULL) != NULL}
            if theirs and len(theirs) == len(columns):
                yield key, theirs
            elif columns:
                cell.untried.append(f"{key.name}: no row with a value for it could be planted")
        for reference in self.relation.foreign_keys:
            if reference.target not in self._tenant_columns:
                continue
            parent = self._parent_of(reference, b)
            if parent is None:
                cell.untried.append(f"{reference.name}: no row to refer to could be planted")
            elif parent:
                yield reference, parent

    def _parent_of(self, reference: ForeignKey, b: Row) -> Row | None:
        if reference.target == self.relation.oid:
            parent: Row | None = b
        else:
            target = self._planting.relation(reference.target)
            parent = self._planting.planted(target, self._tenants.b)
        if parent is None:
            return None
        pairs = zip(reference.columns, reference.referred, strict=True)
        return {name: parent[of] for name, of in pairs if name != self._column and of in parent}

    async def _probe(
        self, cell: Cell, through: Key | ForeignKey, theirs: Row, a: Row | None = None
    ) -> None:
        nobodys = {name: self._planting.fresh(self.relation, name) for name in theirs}
        statements = [self._write_own(each, a, cell) for each in (theirs, nobodys)]
        if not statements[0] or not statements[1]:
            return
        there = await self._ask(statements[0], self._tenants.a)
        nowhere = await self._ask(statements[1], self._tenants.a)
        whose = (
            "as another tenant's row has them" if isinstance(through, Key) else "of another's row"
        )
        what = f"{through.name}: a row with values {whose}"
        answered = self._key_named(there.constraint) if there.state in _UNIQUE else None
        if there.says_nothing or nowhere.says_nothing:
            cell.untried.append(f"{what}: {there}")
        elif isinstance(through, ForeignKey) and there.touched:
            cell.crossings.append(Crossing(f"{what} is accepted", through))
        elif answered or there != nowhere:
            told = f"{what} is answered with: {there}; with values of nobody: {nowhere}"
            cell.crossings.append(Crossing(told, answered or through))
        elif there.state in {"23514", "23502"} or there.state.startswith("22"):
            cell.untried.append(f"{what}: {there}, and so is any other")
        else:
            cell.kept.append(f"{through.name}: {there}")

    def _key_named(self, name: str) -> Key | None:
        return next((key for key in self.relation.keys if key.name == name), None)

    def _write_own(self, values: Row, a: Row | None, cell: Cell) -> str | None:
        """Return a statement of A that writes ``values``: an INSERT, or an UPDATE of its row."""
        if a is None:
            mine = self._row_for_app({**self._bare(self._tenants.a), **values}, cell)
            return insert_sql(self.relation, mine) if mine else None
        where = self._address(a)
        changes = ", ".join(f"{identifier(name)} = {value}" for name, value in values.items())
        return where and f"UPDATE {self.relation.sql} SET {changes} WHERE {where[0]}"  # noqa: S608

    async def control(self, b: Row) -> None:
        """See whether a tenant sees its own row: if none does, the attempts prove nothing."""
        where = self._address(b)
        if where and self.relation.allows("SELECT"):
            select = f"SELECT 1 FROM {self.relation.sql} WHERE {where[0]}"  # noqa: S608
            self.own_row_visible = (await self._ask(select, self._tenants.b)).touched

    def _on_others(self, b: Row | None) -> list[tuple[str, str]]:
        sql, where = self.relation.sql, self._address(b) if b else None
        ways = []
        if self.relation.allows("SELECT"):
            ways.append(("SELECT", f"SELECT 1 FROM {sql} LIMIT 1"))  # noqa: S608
        if self.relation.unsafe:
            return ways
        changes = [("DELETE", f"DELETE FROM {sql}")]  # noqa: S608
        if self._settable:
            change = f"{identifier(self._settable.name)} = {self._new_value(b)}"
            changes.append(("UPDATE", f"UPDATE {sql} SET {change}"))  # noqa: S608
        for verb, statement in changes:
            if self.relation.allows(verb):
                ways.append((verb, f"{statement} WHERE {_TRIPWIRE}"))
                if where and not (verb == "DELETE" and self.relation.unsafe_beyond):
                    ways.append((f"{verb} by key", f"{statement} WHERE {where[0]}"))
        return ways

    async def _ask(self, statement: str, tenant: str | None) -> Answer:
        answer = await self._asker.ask(statement, tenant=tenant)
        if answer.took_too_long:
            # Dozens of statements would wait as long each.
            raise _TooLongError(f"a statement was {answer}, so the rest was left out")
        return answer

    def _cell(self, operation: Operation) -> Cell:
        return self.cells.setdefault(operation, Cell())

    def _judge(self, cell: Cell, answer: Answer, crossed: bool, what: str) -> None:
        if answer.says_nothing:
            cell.untried.append(f"{what}: {answer}")
        elif crossed:
            cell.crossings.append(Crossing(f"{what}: {_said(answer)}"))
        else:
            cell.kept.append(str(answer))

    async def _compare(self, cell: Cell, statement: str, where: tuple[str, str], what: str) -> None:
        answer = await self._ask(statement.replace(_HERE, where[0]), self._tenants.a)
        if answer.accepted and not answer.rows:
            cell.kept.append(str(answer))  # a row that does not exist cannot answer otherwise
            return
        if answer.touched or answer.says_nothing:
            self._judge(cell, answer, answer.touched, what)
            return
        if self._cell("read").crossings:
            cell.kept.append(str(answer))  # it tells no more than reading does
            return
        self._differ(
            cell, answer, await self._ask(statement.replace(_HERE, where[1]), self._tenants.a), what
        )

    def _differ(self, cell: Cell, answer: Answer, twin: Answer, what: str) -> None:
        if answer.says_nothing or twin.says_nothing:
            cell.untried.append(f"{what}: {answer}; where nobody has such a row: {twin}")
        elif answer == twin:
            cell.kept.append(str(answer))
        else:
            told = f"{what} is answered with: {answer}; where nobody has such a row: {twin}"
            cell.crossings.append(Crossing(told))

    def _address(self, row: Row) -> tuple[str, str] | None:
        """Return conditions that find a planted row, and nobody's; None without the right."""
        if not self.relation.allows("SELECT", self._column):
            return None
        found, missing = [f"{self._tenant} = {row[self._column]}"], []
        for name in self.relation.keys[0].columns if self.relation.keys else ():
            column = self.relation.by_name[name]
            if name == self._column or row.get(name, NULL) == NULL:
                continue
            if column.base in _COMPARABLE and self.relation.allows("SELECT", name):
                found.append(f"{identifier(name)} = {row[name]}")
                missing.append(f"{identifier(name)} = {literal(unique_value(column)())}")
        missing.append(f"{self._tenant} = {literal(self._tenants.nobody)}")
        return " AND ".join(found), " AND ".join(missing)

    def _settable_column(self) -> Column | None:
        keyed = {name for key in self.relation.keys for name in key.columns}
        keyed |= {name for each in self.relation.foreign_keys for name in each.columns}
        able = [
            column
            for column in self.relation.columns
            if column.name != self._column
            and not column.generated
            and not column.identity
            and self.relation.allows("UPDATE", column.name)
        ]
        return min(able, key=lambda column: column.name in keyed, default=None)

    def _new_value(self, b: Row | None) -> str:
        if not self._settable:
            return NULL
        value = (b or self._bare(self._tenants.b)).get(self._settable.name)
        # It is left out of a row only where its default is harmless.
        return value if value is not None else "DEFAULT"

    def _row_for_app(self, row: Row, cell: Cell) -> Row | None:
        """Return the part of ``row`` that the application may write."""
        able = {name: value for name, value in row.items() if self.relation.allows("INSERT", name)}
        if not able:
            cell.kept.append(_NO_PRIVILEGE)
            return None
        for name in row.keys() - able.keys():
            if must_be_named(self.relation.by_name[name]):
                cell.untried.append(f"INSERT would move the sequence behind {name}")
                return None
        return able

    def _merge_insert(self, row: Row) -> str:
        insert = insert_sql(self.relation, row).removeprefix(f"INSERT INTO {self.relation.sql} ")
        return (
            f"MERGE INTO {self.relation.sql} USING (SELECT 1) AS one ON (false)"
            f" WHEN NOT MATCHED THEN INSERT {insert}"
        )


def _said(answer: Answer) -> str:
    if answer.state == _TRIPPED:
        return "it reaches rows"
    if answer.accepted:
        return "accepted" if not answer.rows else str(answer)
    return f"row security let it pass, it was {answer}"


def _is_arbiter(key: Key) -> bool:
    return key.kind in {"p", "u"} and "DEFERRABLE" not in key.definition
