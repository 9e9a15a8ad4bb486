"""The ORM's conditions and row security, on what users declare beyond plain tables."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased, joinedload, selectin_polymorphic, selectinload, with_polymorphic

from tenantry import Database, Settings
from tenantry.errors import TenantryError
from tenantry.ops import drift
from tenantry.schema import Tenant
from tenantry.schema.row_security import APP_ROLE
from tests.conftest import Server
from tests.ops.projects import declare

A, B = UUID(int=0x0A), UUID(int=0x0B)

# A hierarchy in two tables and one in one, and relationships that forget the tenant.
MODELS = """
    from sqlalchemy import ForeignKeyConstraint
    from sqlalchemy.orm import Mapped, foreign, mapped_column, relationship, remote
    from tenantry.schema import Base, TenantScoped

    class Mine(Base):
        __abstract__ = True
        metadata = metadata

    class Item(TenantScoped, Mine):
        __tablename__ = "items"
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "item"}
        kind: Mapped[str]
        title: Mapped[str]

    class Recipe(Item):
        __mapper_args__ = {"polymorphic_identity": "recipe"}
        steps: Mapped[str | None]

    class Contract(Item):
        __tablename__ = "contracts"
        __table_args__ = (
            ForeignKeyConstraint(
                ["tenant_id", "id"], ["items.tenant_id", "items.id"], ondelete="CASCADE"
            ),
        )
        __mapper_args__ = {"polymorphic_identity": "contract"}
        tenant_id = mapped_column(TenantScoped.__table__.c.tenant_id.type, primary_key=True)
        id = mapped_column(Item.__table__.c.id.type, primary_key=True)
        clause: Mapped[str]

    class Folder(TenantScoped, Mine):
        __tablename__ = "folders"
        title: Mapped[str]
        same_title = relationship(
            Item, primaryjoin=lambda: remote(foreign(Item.title)) == Folder.title,
            viewonly=True, uselist=True,
        )
"""
MODELS = MODELS.replace("TenantScoped.__table__.c.tenant_id.type", "Item.__table__.c.id.type")


@dataclass(frozen=True)
class Shelf:
    """Both tenants have a recipe, a contract and a folder, all with the same titles and ids."""

    db: Database
    models: ModuleType

    async def fill(self) -> None:
        """Put everything back as it was."""
        m = self.models
        async with self.db.operator(reason="test") as tx:
            for model in (m.Folder, m.Item):
                await tx.execute(model.__table__.delete())
            for tenant, word in ((A, "ours"), (B, "theirs")):
                tx.add(m.Recipe(tenant_id=tenant, id=UUID(int=1), title="t", steps=word))
                tx.add(m.Contract(tenant_id=tenant, id=UUID(int=2), title="t", clause=word))
                tx.add(m.Folder(tenant_id=tenant, id=UUID(int=3), title="t"))


@pytest.fixture(scope="module")
async def shelf(
    server: Server, template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Shelf]:
    name = await server.create_database(template=template)
    project = declare(tmp_path_factory.mktemp("shelf"), MODELS)
    await drift.push(server.at(name), project=project)
    assert await drift.check(server.at(name), project=project) == []
    m = sys.modules[project.models[0]]
    settings = Settings(database_url=server.at(name, user=APP_ROLE), admin_url=server.at(name))
    async with Database.connect(settings=settings) as db:
        async with db.operator(reason="test") as tx:
            tx.add_all([Tenant(id=A, name="A", slug="a"), Tenant(id=B, name="B", slug="b")])
        yield Shelf(db, m)
    await server.drop_database(name)


def statements(m: Any) -> dict[str, Any]:
    everything = with_polymorphic(m.Item, "*", flat=True)
    loaded = selectin_polymorphic(m.Item, [m.Recipe, m.Contract])
    return {
        "single table": select(m.Recipe),
        "joined table": select(m.Contract),
        "alias of a joined table": select(aliased(m.Contract)),
        "flat alias": select(aliased(m.Contract, flat=True)),
        "everything at once": select(everything),
        "everything by key": select(m.Item).options(loaded),
        "columns of the child alone": select(m.Contract.clause),
        "table of the child alone": select(m.Contract.__table__.c.clause),
        "unpaired, selectinload": select(m.Folder).options(
            selectinload(m.Folder.same_title).options(loaded)
        ),
        "unpaired, joinedload": select(m.Folder).options(
            joinedload(m.Folder.same_title.of_type(everything))
        ),
        "unpaired, join": select(everything)
        .select_from(m.Folder)
        .join(everything, everything.title == m.Folder.title),
    }


WAYS = [
    "single table", "joined table", "alias of a joined table", "flat alias", "everything at once",
    "everything by key", "columns of the child alone", "table of the child alone",
    "unpaired, selectinload", "unpaired, joinedload", "unpaired, join",
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
async def test_hierarchies_and_unpaired_relationships_are_kept_apart(
    shelf: Shelf, way: str
) -> None:
    """A finds its own; the operator, to whom ids and titles are everybody's, finds both."""

    def words(told: list[Any]) -> set[str]:
        return {word for word in ("ours", "theirs") if word in str(told)}

    await shelf.fill()
    statement = statements(shelf.models)[way]
    async with shelf.db.tenant(A) as bound:
        assert words(await named(bound, statement)) == {"ours"}
    async with shelf.db.operator(reason="test") as free:
        assert words(await named(free, statement)) == {"ours", "theirs"}


async def named(tx: AsyncSession, statement: Any) -> list[Any]:
    told: list[Any] = []
    for each in (await tx.scalars(statement)).unique().all():
        if isinstance(each, str):
            told.append(each)
            continue
        for inner in each.__dict__.get("same_title", [each]):
            told += [inner.__dict__.get("steps"), inner.__dict__.get("clause")]
    return told


class _BackError(Exception):
    pass


async def write(tx: AsyncSession, model: Any, change: str) -> None:
    if change == "update":
        await tx.execute(update(model).values(title="stolen"))
    elif change == "delete":
        await tx.execute(delete(model))
    elif change == "move":
        await tx.execute(update(model).where(model.tenant_id == A).values(tenant_id=B, id=NEW))
    else:
        tx.add(model(tenant_id=B, id=NEW, title="planted", **CLAUSE.get(model.__name__, {})))
    await tx.flush()


NEW = UUID(int=9)
CLAUSE = {"Contract": {"clause": "planted"}}
# A child's table alone has no title, and the tables of a hierarchy are not moved one by one.
FOR_NOBODY = {("Contract", "update"), ("Contract", "move"), ("Item", "move")}


@pytest.mark.parametrize("model", ["Recipe", "Contract", "Item", "Folder"])
@pytest.mark.parametrize("change", ["update", "delete", "insert", "move"])
async def test_hierarchies_are_not_changed_across(shelf: Shelf, model: str, change: str) -> None:
    """Neither table of a hierarchy can be written for another tenant; the operator can."""
    await shelf.fill()
    m = getattr(shelf.models, model)

    async def theirs(tx: AsyncSession) -> list[Any]:
        tables = (shelf.models.Item, shelf.models.Contract, shelf.models.Folder)
        rows = [
            (await tx.execute(select(t.__table__).where(t.__table__.c.tenant_id == B))).all()
            for t in tables
        ]
        return [sorted(map(str, each)) for each in rows]

    async with shelf.db.tenant(B) as own:
        before = await theirs(own)
    with contextlib.suppress(TenantryError, SQLAlchemyError, _BackError):
        async with shelf.db.tenant(A) as bound:
            await write(bound, m, change)
            await bound.commit()
    async with shelf.db.tenant(B) as own:
        assert await theirs(own) == before
    changed = False
    with contextlib.suppress(SQLAlchemyError, _BackError):
        async with shelf.db.operator(reason="test") as free:
            await write(free, m, change)
            changed = await theirs(free) != before
            raise _BackError
    assert changed is ((model, change) not in FOR_NOBODY)
