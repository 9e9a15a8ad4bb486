"""Expired rows are deleted in small batches, beside everything that goes on."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import Interval, TextClause, bindparam, select, text
from sqlalchemy.dialects.postgresql import UUID as PG_UUID

from tenantry.auth.profiles import STANDARD, Profile
from tenantry.database import Database
from tenantry.errors import InvalidValueError
from tenantry.schema import Tenant
from tenantry.tenancy.sessions import OperatorSession

__all__ = ["delete_expired"]


def _batch(table: str, expired: str) -> TextClause:
    # The tenant first, as in the keys and indexes; what somebody else holds is left for next time.
    return text(f"""
        WITH expired AS (
            SELECT t.id FROM {table} t
             WHERE t.tenant_id = :tenant AND {expired}
             LIMIT :batch FOR UPDATE SKIP LOCKED
        )
        DELETE FROM {table} t USING expired
         WHERE t.tenant_id = :tenant AND t.id = expired.id
        RETURNING t.id""").bindparams(bindparam("tenant", type_=PG_UUID))  # noqa: S608 - constants


_STATEMENTS: Final[Mapping[str, TextClause]] = MappingProxyType(
    {
        # What has ended for good has ended for its idle timeout too: expires_at lies before.
        "sessions": _batch("sessions", "t.expires_at <= now()"),
        "sign_in_throttles": _batch("sign_in_throttles", "t.free_at <= now()"),
        "single_use_tokens": _batch("single_use_tokens", "t.expires_at <= now()"),
        "known_devices": _batch(
            "known_devices", "t.last_used_at <= now() - :device_lifetime"
        ).bindparams(bindparam("device_lifetime", type_=Interval)),
    }
)


async def delete_expired(
    db: Database, *, batch: int = 1000, profile: Profile = STANDARD
) -> dict[str, int]:
    """Delete what has expired: sessions, throttles, mailed tokens and devices, of all tenants.

    None of it opens anything any more: this is about room, and may run at any time, in several
    places at once. Each batch is a transaction of its own, and nothing waits for a row that
    somebody else holds. The audit trail is kept; how long is yours to decide.

    Args:
        db: With an admin URL.
        batch: Rows in one transaction.
        profile: Says how long a device counts as known; the one that `Auth` was given.

    Returns:
        How many rows went, by table.

    Raises:
        InvalidValueError: ``batch`` is below 1.
        ConfigurationError: There is no admin URL.
    """
    if batch < 1:
        raise InvalidValueError(f"batch is {batch}; at least 1 is required.")
    counts = dict.fromkeys(_STATEMENTS, 0)
    async with db.operator(reason="delete expired rows of signing in") as tx:
        tenants = (await tx.scalars(select(Tenant.id).order_by(Tenant.id))).all()
        await tx.commit()
        for tenant in tenants:
            for table, statement in _STATEMENTS.items():
                values = {"tenant": tenant, "batch": batch}
                if table == "known_devices":
                    values["device_lifetime"] = profile.device_lifetime
                counts[table] += await _delete(tx, statement, values)
    return counts


async def _delete(tx: OperatorSession, statement: TextClause, values: dict[str, Any]) -> int:
    total, full = 0, True
    while full:
        deleted = len((await tx.execute(statement, values)).all())
        await tx.commit()
        total += deleted
        full = deleted >= values["batch"]
    return total
