"""Triggers that do nothing but note a time, which are no way from one tenant to another."""

from __future__ import annotations

from typing import Final

__all__ = ["STAMPS_A_TIME"]

_TIME: Final = (
    r"((pg_catalog\.)?(now|clock_timestamp|statement_timestamp|transaction_timestamp)\(\)"
    r"|current_timestamp|localtimestamp)(\s+at\s+time\s+zone\s+''utc'')?"
)
_BODY: Final = (
    r"^\s*begin\s+(new\.\w+\s*:?=\s*" + _TIME + r"\s*;\s*)+return\s+new\s*;\s*end\s*;?\s*$"
)

# tgtype: 1 for each row, 2 before, 64 instead of. Such a trigger reads nothing, calls nothing and
# writes nowhere, and no tenant is a time.
STAMPS_A_TIME: Final = f"""(t.tgtype & 67 = 3 AND EXISTS (
    SELECT FROM pg_catalog.pg_proc f JOIN pg_catalog.pg_language l ON l.oid = f.prolang
     WHERE f.oid = t.tgfoid AND l.lanname = 'plpgsql' AND NOT f.prosecdef AND f.proconfig IS NULL
       AND f.prosrc ~* '{_BODY}'))"""
"""SQL: whether trigger ``t`` of ``pg_trigger`` sets columns of its row to the time, and no more."""
