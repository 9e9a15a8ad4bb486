"""Six endpoints that put a parameter into a statement, for `scripts.sql_injection` to find."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import unquote

from fastapi import APIRouter, Cookie, Form, Header
from pydantic import BaseModel

from tenantry.fastapi import TenantTx

__all__ = ["flaws"]

flaws: Final = APIRouter(prefix="/flaws")


class Named(BaseModel):
    """The body of one of the flaws."""

    name: str


async def _named(tx: TenantTx, name: str) -> list[str]:
    connection = await tx.connection()
    found = await connection.exec_driver_sql(f"SELECT name FROM widgets WHERE name = '{name}'")
    return list(found.scalars())


@flaws.get("/query")
async def in_query(tx: TenantTx, name: str) -> list[str]:
    """Put a parameter of the query into a statement."""
    return await _named(tx, name)


@flaws.get("/path/{name}")
async def in_path(tx: TenantTx, name: str) -> list[str]:
    """Put a part of the path into a statement."""
    return await _named(tx, name)


@flaws.get("/header")
async def in_header(tx: TenantTx, name: Annotated[str, Header()]) -> list[str]:
    """Put a header into a statement."""
    return await _named(tx, name)


@flaws.get("/cookie")
async def in_cookie(tx: TenantTx, name: Annotated[str, Cookie()]) -> list[str]:
    """Put a cookie into a statement."""
    return await _named(tx, unquote(name))  # as many frameworks do, and sqlmap takes for granted


@flaws.post("/form")
async def in_form(tx: TenantTx, name: Annotated[str, Form()]) -> list[str]:
    """Put a field of a form into a statement."""
    return await _named(tx, name)


@flaws.post("/body")
async def in_body(tx: TenantTx, body: Named) -> list[str]:
    """Put a field of a JSON body into a statement."""
    return await _named(tx, body.name)
