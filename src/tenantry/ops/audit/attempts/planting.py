"""Rows of synthetic tenants, in any table: made from its types, keys, references and checks."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from tenantry.ops.audit.attempts.answers import Answer, Asker
from tenantry.ops.audit.attempts.shapes import Column, ForeignKey, Relation, identifier
from tenantry.ops.audit.attempts.values import (
    NULL,
    Maker,
    candidates,
    is_harmless,
    literal,
    unique_value,
)

__all__ = ["CannotPlantError", "Planter", "Planting", "Row", "insert_sql", "must_be_named"]

Row = Mapping[str, str]
"""SQL for the value of each column that an INSERT names."""

_TRIES: Final = 300
_PATIENCE: Final = 6


class _Put(Protocol):
    def __call__(
        self, statement: str, *, role: str | None = None, tenant: str | None = None
    ) -> Awaitable[Answer]: ...


class CannotPlantError(Exception):
    """A row cannot be made; the message says why, without values."""


@dataclass(frozen=True, slots=True)
class Planter:
    """Who plants: ``bound`` to the row's own tenant where row security holds for it."""

    role: str
    bound: bool


def insert_sql(relation: Relation, row: Row) -> str:
    """Return the INSERT of ``row``; it names every value, so that no sequence moves."""
    names = ", ".join(identifier(name) for name in row)
    values = ", ".join(row.values())
    return f"INSERT INTO {relation.sql} ({names}) OVERRIDING SYSTEM VALUE VALUES ({values})"  # noqa: S608


def must_be_named(column: Column) -> bool:
    """Return whether leaving ``column`` out could leave a trace."""
    if column.generated:
        return False
    return bool(column.identity) or (column.default is not None and not is_harmless(column.default))


@dataclass
class Recipe:
    """How rows of one table are made; learnt once, by trying."""

    makers: dict[str, Maker | None]
    groups: list[_Group] = field(default_factory=list)
    planter: Planter | None = None
    latest: _Group | None = None
    taken: int = 0


class _Group:
    """Columns that checks tie together, and the combinations of values not yet tried."""

    def __init__(self, checks: set[str], choices: dict[str, list[Maker | None]]) -> None:
        self.checks = checks
        self.names = frozenset(choices)
        self._order = list(choices)
        self._rest: Iterator[tuple[Maker | None, ...]] = itertools.product(*choices.values())
        next(self._rest, None)

    def advance(self, recipe: Recipe) -> bool:
        """Put the next combination into ``recipe``; False when there is none left."""
        chosen = next(self._rest, None)
        if chosen is not None:
            recipe.makers.update(zip(self._order, chosen, strict=True))
        return chosen is not None


class Planting:
    """The rows planted in one transaction, and what was learnt for the next."""

    def __init__(
        self,
        asker: Asker,
        relations: Mapping[int, Relation],
        *,
        planters: list[Planter],
        tenant_columns: Mapping[int, str],
    ) -> None:
        self._asker = asker
        self._relations = relations
        self._planters = planters
        self._tenant_columns = tenant_columns
        self._recipes: dict[int, Recipe] = {}
        self._failed: dict[int, str] = {}
        self._rows: dict[tuple[int, str], Row] = {}
        self._path: list[int] = []
        # By a known recipe, rows are planted together, in one round trip.
        self._waiting: list[tuple[str, str, str | None]] = []
        self._together = True
        self.may_bind = True

    def forget_rows(self) -> None:
        """The transaction is over; recipes stay."""
        self._rows.clear()
        self._path.clear()
        self._waiting.clear()

    def relation(self, oid: int) -> Relation:
        """Return the table ``oid``."""
        return self._relations[oid]

    def planted(self, relation: Relation, tenant: str) -> Row | None:
        """Return the row of ``tenant`` that was planted, or None."""
        return self._rows.get((relation.oid, tenant))

    async def plant(self, relation: Relation, tenant: str) -> Row:
        """Plant a row of ``tenant`` and the rows it refers to, unless that was done before.

        Raises:
            CannotPlantError: It cannot be made.
        """
        await self._settle(self._plant, relation, [tenant])
        return self._rows[relation.oid, tenant]

    async def prepare(self, relation: Relation, tenants: Sequence[str]) -> None:
        """Plant what a row of each of ``tenants`` in ``relation`` refers to.

        Raises:
            CannotPlantError: It cannot be made.
        """
        await self._settle(self._prepare, relation, tenants)

    async def _settle(
        self,
        work: Callable[[Relation, str], Awaitable[None]],
        relation: Relation,
        tenants: Sequence[str],
    ) -> None:
        before = dict(self._rows)
        try:
            for tenant in tenants:
                await work(relation, tenant)
            if await self._plant_waiting():
                return
        except CannotPlantError:
            self._rows, self._waiting = before, []
            raise
        # A value was taken, which is rare: one by one, another is found.
        self._rows, self._together = dict(before), False
        try:
            for tenant in tenants:
                await work(relation, tenant)
        finally:
            self._together = True

    async def _plant_waiting(self) -> bool:
        waiting, self._waiting = self._waiting, []
        return not waiting or (await self._asker.keep_all(waiting)).accepted

    async def _plant(self, relation: Relation, tenant: str) -> None:
        key = (relation.oid, tenant)
        if key in self._rows:
            return
        self._refuse_known(relation)
        await self._prepare(relation, tenant)
        recipe = self._recipes.get(relation.oid)
        if self._together and recipe and recipe.planter:
            self._rows[key] = self._row(relation, recipe, tenant)
            whom = tenant if recipe.planter.bound else None
            insert = insert_sql(relation, self._rows[key])
            self._waiting.append((insert, recipe.planter.role, whom))
            return
        if not await self._plant_waiting():
            raise CannotPlantError(f"what {relation.sql} refers to was refused")
        self._rows[key] = await self._try(relation, tenant, self._asker.keep)

    async def rehearse(self, relation: Relation, tenant: str) -> None:
        """Learn how rows of ``relation`` are made, without planting one.

        Raises:
            CannotPlantError: They cannot be made.
        """
        self._refuse_known(relation)
        if relation.oid not in self._recipes:
            await self._try(relation, tenant, self._asker.ask)

    def _refuse_known(self, relation: Relation) -> None:
        if relation.oid in self._failed:
            raise CannotPlantError(self._failed[relation.oid])
        if relation.unsafe:
            raise CannotPlantError(f"{relation.unsafe} of {relation.sql} could leave a trace")

    async def _prepare(self, relation: Relation, tenant: str) -> None:
        self._path.append(relation.oid)
        try:
            for reference in relation.foreign_keys:
                try:
                    await self._plant_parent(relation, reference, tenant)
                except CannotPlantError:
                    if self._is_required(relation, reference):
                        raise
        finally:
            self._path.pop()

    async def _plant_parent(self, relation: Relation, reference: ForeignKey, tenant: str) -> None:
        target = self._relations.get(reference.target)
        if target is None or target is relation or (target.oid, tenant) in self._rows:
            return
        if target.oid in self._path:
            raise CannotPlantError(f"{reference.name} of {relation.sql} closes a circle")
        await self._plant(target, tenant)

    def _is_required(self, relation: Relation, reference: ForeignKey) -> bool:
        owner = self._tenant_columns.get(relation.oid)
        return all(relation.by_name[name].required for name in reference.columns if name != owner)

    async def _try(self, relation: Relation, tenant: str, put: _Put) -> Row:
        recipe = self._recipes.get(relation.oid) or self._new_recipe(relation)
        answer = Answer()
        for _ in range(_TRIES):
            row = self._row(relation, recipe, tenant)
            answer = await self._put(insert_sql(relation, row), recipe, tenant, put)
            if answer.accepted:
                self._recipes[relation.oid] = recipe
                return row
            if not self._learn(relation, recipe, answer):
                break
        reason = f"a row of {relation.sql} was {answer}"
        if self.may_bind:
            self._failed[relation.oid] = reason
        raise CannotPlantError(reason)

    async def _put(self, insert: str, recipe: Recipe, tenant: str, put: _Put) -> Answer:
        answer = Answer(state="42501")
        for planter in [recipe.planter] if recipe.planter else self._planters:
            if planter.bound and not self.may_bind:
                continue
            answer = await put(insert, role=planter.role, tenant=tenant if planter.bound else None)
            if answer.accepted:
                recipe.planter = planter
            if answer.state != "42501":
                break
        return answer

    def _learn(self, relation: Relation, recipe: Recipe, answer: Answer) -> bool:
        keyed = {n for key in relation.keys if key.name == answer.constraint for n in key.columns}
        if answer.state in {"23505", "23P01"}:
            # Taken: the next value is another. Where it never is, another way of making it.
            recipe.taken += 1
            return recipe.taken % _PATIENCE > 0 or any(
                group.advance(recipe) for group in recipe.groups if group.names & keyed
            )
        for group in recipe.groups:
            if answer.constraint in group.checks:
                recipe.latest = group
                return group.advance(recipe)
        # A value of the wrong shape: the one that was put in last.
        if recipe.latest and answer.state.startswith(("22", "23")):
            return recipe.latest.advance(recipe)
        return False

    def row(self, relation: Relation, tenant: str) -> Row:
        """Return a new row for ``tenant`` that could be planted, by the recipe.

        What it refers to must have been planted.
        """
        recipe = self._recipes.get(relation.oid) or self._new_recipe(relation)
        return self._row(relation, recipe, tenant)

    def fresh(self, relation: Relation, name: str) -> str:
        """Return a value for a column, not of any row if its type has room for another."""
        recipe = self._recipes.get(relation.oid)
        maker = recipe.makers.get(name) if recipe else None
        return literal((maker or unique_value(relation.by_name[name]))())

    def _row(self, relation: Relation, recipe: Recipe, tenant: str) -> Row:
        row: dict[str, str] = {}
        for column in relation.columns:
            if column.generated:
                continue
            maker = recipe.makers[column.name]
            if maker is not _default:
                row[column.name] = NULL if maker is None else literal(maker())
        owner = self._tenant_columns.get(relation.oid)
        if owner is not None:
            row[owner] = literal(tenant)
        for reference in relation.foreign_keys:
            self._refer(relation, reference, row, tenant)
        return row

    def _refer(
        self, relation: Relation, reference: ForeignKey, row: dict[str, str], tenant: str
    ) -> None:
        """Fill the columns of a reference, or leave them empty where there is no parent."""
        itself = reference.target == relation.oid
        parent = row if itself else self._rows.get((reference.target, tenant))
        owner = self._tenant_columns.get(relation.oid)
        for name, referred in zip(reference.columns, reference.referred, strict=True):
            if name == owner or row.get(name) == NULL:
                continue
            optional = not relation.by_name[name].required
            if (parent is None or itself) and optional:
                row[name] = NULL
            elif parent is not None and referred in parent:
                row[name] = parent[referred]

    def _new_recipe(self, relation: Relation) -> Recipe:
        choices = {
            column.name: list(self._choices(relation, column))
            for column in relation.columns
            if not column.generated
        }
        recipe = Recipe({name: makers[0] for name, makers in choices.items()})
        for checks, names in _tied(relation):
            recipe.groups.append(
                _Group(checks, {name: choices[name] for name in names if name in choices})
            )
        return recipe

    def _choices(self, relation: Relation, column: Column) -> Iterator[Maker | None]:
        rules = (
            *(c.definition for c in relation.checks if column.name in c.columns),
            *(check.definition for check in column.domain_checks),
        )
        keyed = any(column.name in key.columns for key in relation.keys)
        if any(column.name in each.columns for each in relation.foreign_keys):
            yield unique_value(column)  # where there is a parent, its value takes the place
        else:
            if not keyed and column.default is not None and not must_be_named(column):
                yield _default
            if not keyed and not column.required:
                yield None
            yield from candidates(column, rules, unique=keyed or bool(column.identity))
        if not column.required:
            yield None


def _default() -> str:
    return "DEFAULT"


def _tied(relation: Relation) -> list[tuple[set[str], list[str]]]:
    """Return checks that share columns, together with these."""
    groups: list[tuple[set[str], set[str]]] = []
    rules = [({check.name}, set(check.columns)) for check in relation.checks]
    rules += [
        ({check.name for check in column.domain_checks}, {column.name})
        for column in relation.columns
        if column.domain_checks
    ]
    for checks, columns in rules:
        found = [each for each in groups if each[1] & columns]
        groups = [each for each in groups if each not in found]
        groups.append(
            (checks.union(*(each[0] for each in found)), columns.union(*(e[1] for e in found)))
        )
    return [(checks, sorted(columns)) for checks, columns in groups if columns]
