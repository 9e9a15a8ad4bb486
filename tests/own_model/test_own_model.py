"""A user's own models, in a file outside the package, get the walls that ours have."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tenantry.schema import Base
from tenantry.schema.row_security import APP_ROLE
from tenantry.settings import ADMIN_URL, DATABASE_URL, url_text
from tests.conftest import Server
from tests.forked import Forked
from tests.isolation.attacks import ATTACKS
from tests.isolation.conftest import world_on
from tests.isolation.rows import World

IMPORTS = """
from decimal import Decimal
from uuid import UUID
from sqlalchemy import BigInteger, CheckConstraint, Enum, ForeignKeyConstraint as Key
from sqlalchemy import Identity, Numeric, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column as column
from tenantry.schema import Base, TenantScoped
"""
INVOICE = """
class Invoice(TenantScoped, Base):
    __tablename__ = "invoices"
    __table_args__ = (Key(["tenant_id", "widget_id"], ["widgets.tenant_id", "widgets.id"]),
                      UniqueConstraint("tenant_id", "number"),
                      CheckConstraint("total BETWEEN 0 AND 1", name="total"))
    widget_id: Mapped[UUID]
    number: Mapped[str]
    total: Mapped[Decimal] = column(Numeric(12, 2))
    state: Mapped[str] = column(Enum("draft", "sent", name="invoice_state"))
"""
LINE = """
class InvoiceLine(TenantScoped, Base):
    __tablename__ = "invoice_lines"
    __table_args__ = (Key(["tenant_id", "invoice_id"], ["invoices.tenant_id", "invoices.id"]),
                      CheckConstraint("kind IN ('hours', 'goods')", name="kind"))
    id: Mapped[int] = column(BigInteger, Identity(), primary_key=True)
    invoice_id: Mapped[UUID]
    kind: Mapped[str]
    quantity: Mapped[int | None]
"""
assert max(len(model.strip().splitlines()) for model in (INVOICE, LINE)) <= 10

USE = """
import asyncio, sys
from decimal import Decimal
from sqlalchemy import select
from models import Invoice, InvoiceLine
from tenantry import Database
from tenantry.schema import Widget

async def main(a, b):
    async with Database.connect() as db:
        async with db.tenant(a) as tx:
            tx.add(widget := Widget(name="w"))
            await tx.flush()
            invoice = Invoice(widget_id=widget.id, number="1", total=Decimal(1), state="sent")
            tx.add(invoice)
            await tx.flush()
            tx.add(line := InvoiceLine(invoice_id=invoice.id, kind="hours"))
        async with db.tenant(b) as tx:
            assert await tx.get(Invoice, invoice.id) is None
            assert await tx.get(InvoiceLine, line.id) is None
            assert line.id not in (await tx.scalars(select(InvoiceLine.id))).all()
        async with db.tenant(a) as tx:
            await tx.delete(await tx.get_one(InvoiceLine, line.id))
            await tx.flush()
            await tx.delete(await tx.get_one(Invoice, invoice.id))

asyncio.run(main(*sys.argv[1:]))
"""

OURS = {table.name for table in Base.metadata.tables.values()}
TABLES = ["invoice_lines", "invoices"]


@dataclass
class Shop:
    """A project with two models, whose migration has run; and what each command said."""

    folder: Path
    environment: dict[str, str]
    said: dict[str, str] = field(default_factory=dict)
    world: World | None = None

    def run(self, *arguments: str) -> str:
        done = Forked(*arguments, environment=self.environment, folder=self.folder).result()
        assert done.code == 0, done
        return done.out


@pytest.fixture(scope="module")
async def shop(
    server: Server, template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Shop]:
    database = await server.create_database(template=template)
    folder = tmp_path_factory.mktemp("shop")
    (folder / "models.py").write_text(IMPORTS + INVOICE + LINE)
    environment = {
        **os.environ,
        DATABASE_URL: url_text(server.at(database, user=APP_ROLE)),
        ADMIN_URL: url_text(server.at(database)),
    }
    shop = Shop(folder, environment)
    tenantry = ("-m", "tenantry", "db")
    audit = ("-m", "tenantry", "audit", "--models", "models.py", "--json")
    shop.said["revision"] = shop.run(*tenantry, "revision", "-m", "shop", "--models", "models.py")
    shop.said["migrate"] = shop.run(*tenantry, "migrate")
    shop.said["check"] = shop.run(*tenantry, "check", "--models", "models.py")
    shop.said["audit"] = shop.run(*audit)
    async with world_on(server, database) as shop.world:
        yield shop
    await server.drop_database(database)


def test_revision_migrate_and_check_know_the_models(shop: Shop) -> None:
    """One migration is written, it runs, and then nothing differs from the models."""
    assert len(list((shop.folder / "migrations").glob("*.py"))) == 1
    assert "shop" in shop.said["migrate"]
    assert shop.said["check"] == ""


def test_the_audit_finds_nothing(shop: Shop) -> None:
    """It has tried the tables of the models too, and nothing crossed."""
    report = json.loads(shop.said["audit"])
    assert report["findings"] == []
    tried = {each["table"] for each in report["attempts"] if each["outcome"] == "kept apart"}
    assert {f"public.{table}" for table in TABLES} <= tried


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("name", ATTACKS)
async def test_the_wall_stands(shop: Shop, name: str, table: str) -> None:
    """The attacks that our tables withstand, these withstand."""
    assert shop.world is not None
    await ATTACKS[name](shop.world, shop.world.tables[table])


def test_no_table_of_the_models_is_left_out(shop: Shop) -> None:
    """The attacked tables are those that the migration has made."""
    assert shop.world is not None
    assert sorted(shop.world.tables.keys() - OURS) == TABLES


def test_sessions_keep_the_models_apart(shop: Shop) -> None:
    """Through the library, A writes its own and B finds nothing of it."""
    assert shop.world is not None
    (shop.folder / "use.py").write_text(USE)
    shop.run("use.py", str(shop.world.a), str(shop.world.b))
