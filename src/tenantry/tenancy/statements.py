"""Statements by hand that would take the tenant from a transaction, refused before they are sent.

This is for mistakes. What somebody sends who means harm, and can write SQL, is the database's
affair; see the threat model.
"""

from __future__ import annotations

import re
from typing import Any, Final

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from tenantry.errors import CrossTenantError, SessionUseError

__all__ = ["guard", "refuse_what_unbinds"]

_LEADING: Final = r"(?:[\s;]+|--[^\n]*(?:\n|$)|/\*.*?\*/)*"
_FIRST: Final = re.compile(
    _LEADING + r"(BEGIN|START\s+TRANSACTION|COMMIT|END|ABORT|PREPARE\s+TRANSACTION|RESET|DISCARD"
    r"|ROLLBACK(?!\s+(?:WORK\s+|TRANSACTION\s+)?TO\b)|SET(?:\s+(?:LOCAL|CONSTRAINTS|TRANSACTION)\b)?)\b",
    re.IGNORECASE | re.DOTALL,
)
_HARMLESS: Final = frozenset({"SET LOCAL", "SET CONSTRAINTS", "SET TRANSACTION"})
_SETTING: Final = re.compile(r"tenantry\W{1,5}tenant_id", re.IGNORECASE)


def guard(engine: AsyncEngine) -> None:
    """Let every statement on ``engine`` pass through `refuse_what_unbinds`."""
    event.listen(engine.sync_engine, "before_cursor_execute", _before)


def _before(_1: Any, _2: Any, statement: str, parameters: object, _3: Any, _4: Any) -> None:
    refuse_what_unbinds(statement, parameters)


def refuse_what_unbinds(statement: str, parameters: object) -> None:
    """Raise where ``statement`` sets the tenant, or ends what binds it.

    Raises:
        CrossTenantError: It sets the tenant by hand.
        SessionUseError: It begins or ends a transaction, or changes a setting for longer than
            one.
    """
    first = _FIRST.match(statement)
    if first is None and "set_config" not in statement.lower():
        return
    if _SETTING.search(statement) or _SETTING.search(repr(parameters)):
        raise CrossTenantError(
            "The statement sets the tenant by hand; the session is bound to one for its whole "
            "life, and nothing was sent. Open another with db.tenant()."
        )
    verb = " ".join(first[1].upper().split()) if first else ""
    if verb and verb not in _HARMLESS:
        mend = (
            "Use SET LOCAL, which ends with the transaction."
            if verb in {"SET", "RESET", "DISCARD"}
            else "Use await tx.commit(), tx.rollback() or tx.begin_nested()."
        )
        raise SessionUseError(
            f"{verb} as a statement would take the tenant from the transaction, or leave settings "
            f"to the next one on this connection; nothing was sent. {mend}"
        )
