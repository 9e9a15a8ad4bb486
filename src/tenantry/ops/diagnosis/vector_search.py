"""Whether vector searches go by what was measured on this database."""

from __future__ import annotations

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from tenantry.errors import ConfigurationError
from tenantry.ops.diagnosis.report import Diagnosis
from tenantry.ops.vector_tuning import current_tuning

__all__ = ["diagnose_vector_search"]

_MANY: Final = 50_000
"""Chunks of all tenants: with fewer, what is assumed is seldom far off."""

_ROWS = text("SELECT reltuples FROM pg_class WHERE oid = to_regclass('public.knowledge_chunks')")


async def diagnose_vector_search(connection: AsyncConnection) -> list[Diagnosis]:
    """Look at the setting that ``tenantry knowledge tune`` keeps, as the application has it.

    Where there is no table of chunks there is no line: others say so.
    """
    rows = await connection.scalar(_ROWS)
    if rows is None:
        return []
    name = "vector-search"
    try:
        tuned = await current_tuning(connection)
    except ConfigurationError as error:
        return [Diagnosis(name, "problem", str(error))]
    if tuned is not None:
        return [Diagnosis(name, "ok", "searches go by what was measured")]
    if rows <= _MANY:
        return [Diagnosis(name, "ok", "not measured, and few chunks")]
    return [
        Diagnosis(
            name,
            "warning",
            f"{rows:,.0f} chunks, and how far the vector index has to look was never measured",
            "Run `tenantry knowledge tune`.",
        )
    ]
