"""Indexes that no query uses, because a build of them has failed."""

from __future__ import annotations

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from tenantry.ops.diagnosis.report import Diagnosis
from tenantry.ops.index_catalog import LEFT_BEHIND

__all__ = ["diagnose_indexes"]

_NAMED: Final = 5
"""So many are named, and the others counted."""

# A partitioned table's index is invalid until each partition has its own, which is a way to build.
_INVALID: Final = text("""
    SELECT format('%I.%I', n.nspname, i.relname) AS name,
           i.relname ~ :left_behind AS is_left_behind,
           x.indisunique AND i.relname !~ :left_behind AS is_key,
           n.nspname = 'public' AND t.relname IN ('knowledge_documents', 'knowledge_chunks')
               AS is_knowledge
      FROM pg_index x
      JOIN pg_class i ON i.oid = x.indexrelid
      JOIN pg_class t ON t.oid = x.indrelid
      JOIN pg_namespace n ON n.oid = i.relnamespace
     WHERE NOT (x.indisvalid AND x.indisready) AND i.relkind = 'i' AND i.relpersistence <> 't'
     ORDER BY is_key DESC, name
""")


async def diagnose_indexes(connection: AsyncConnection) -> list[Diagnosis]:
    """Look for invalid indexes, in all tables; anybody's connection.

    A unique one lets a value in twice, which is a problem; any other makes statements slow, and a
    search by meaning compare all of a tenant's vectors.
    """
    name = "indexes"
    found = (await connection.execute(_INVALID, {"left_behind": LEFT_BEHIND})).all()
    if not found:
        return [Diagnosis(name, "ok", "every index is valid")]
    named = ", ".join(each.name for each in found[:_NAMED])
    more = f", and {len(found) - _NAMED:,} more" if len(found) > _NAMED else ""
    ways = []
    if any(each.is_knowledge for each in found):
        ways.append("`tenantry knowledge mend`")
    others = [each for each in found if not each.is_knowledge][:_NAMED]
    ways += [
        f"`DROP INDEX CONCURRENTLY {each.name}`"
        if each.is_left_behind
        else f"`REINDEX INDEX CONCURRENTLY {each.name}`"
        for each in others
    ]
    return [
        Diagnosis(
            name,
            "problem" if any(each.is_key for each in found) else "warning",
            f"invalid, so that no query uses them: {named}{more}",
            f"Unless they are being built just now: {', '.join(ways)}.",
        )
    ]
