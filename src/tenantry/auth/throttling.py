"""How often somebody may try: one statement that counts and decides, before anything is hashed."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Final, NamedTuple

from sqlalchemy import Text, bindparam, text
from sqlalchemy.dialects.postgresql import BYTEA, INTERVAL, TIMESTAMP
from sqlalchemy.dialects.postgresql import UUID as PG_UUID

from tenantry.auth.origins import Origin
from tenantry.auth.profiles import Profile
from tenantry.auth.tokens import Token
from tenantry.errors import ThrottledError
from tenantry.tenancy.sessions import TenantSession

__all__ = ["Attempt", "give_back", "take"]

# GCRA: free_at is when all attempts have come back. One more attempt moves it on by the time that
# one takes to come back, and is refused where it then lay more than the whole burst ahead.
#
# Exact for any number of callers at once: ON CONFLICT waits for the row, and looks at it as it is
# then. Whoever takes both rows takes the address's first, so that nobody waits in a circle. An
# attempt from an address that is refused does not use up the account's; one from a device that the
# account is known on counts for the device alone, so that the guesses of others do not keep its
# owner out.
_TAKE: Final = text("""
    WITH device AS (
        SELECT 'device:' || d.id AS id
          FROM known_devices d
          JOIN users u ON u.tenant_id = d.tenant_id AND u.id = d.user_id
         WHERE d.tenant_id = :tenant AND d.id = :device AND u.tenant_id = :tenant
           AND u.email = :email AND d.last_used_at > now() - :device_lifetime
           AND sha256(:salt || d.secret_hash) = sha256(:salt || :device_hash)
    ), address AS (
        INSERT INTO sign_in_throttles AS t (tenant_id, id, free_at)
        SELECT :tenant, :address, clock_timestamp() + :address_recovery
         WHERE :address IS NOT NULL AND NOT EXISTS (SELECT FROM device)
        ON CONFLICT (tenant_id, id) DO UPDATE
           SET free_at = greatest(t.free_at, clock_timestamp()) + :address_recovery
         WHERE t.free_at <= clock_timestamp() + :address_burst
        RETURNING t.id, t.free_at
    ), account AS (
        INSERT INTO sign_in_throttles AS t (tenant_id, id, free_at)
        SELECT :tenant, coalesce((SELECT d.id FROM device d), :account),
               clock_timestamp() + :account_recovery
         WHERE :address IS NULL OR EXISTS (SELECT FROM device) OR EXISTS (SELECT FROM address)
        ON CONFLICT (tenant_id, id) DO UPDATE
           SET free_at = greatest(t.free_at, clock_timestamp()) + :account_recovery
         WHERE t.free_at <= clock_timestamp() + :account_burst
        RETURNING t.id, t.free_at
    )
    SELECT (SELECT d.id FROM device d) AS device,
           account.id AS account, account.free_at AS account_until,
           address.id AS address, address.free_at AS address_until
      FROM (VALUES (1)) one (row)
      LEFT JOIN account ON true
      LEFT JOIN address ON true
""").bindparams(
    bindparam("tenant", type_=PG_UUID),
    bindparam("email", type_=Text),
    bindparam("device", type_=Text),
    bindparam("device_hash", type_=BYTEA),
    bindparam("device_lifetime", type_=INTERVAL),
    bindparam("salt", type_=BYTEA),
    bindparam("address", type_=Text),
    bindparam("address_recovery", type_=INTERVAL),
    bindparam("address_burst", type_=INTERVAL),
    bindparam("account", type_=Text),
    bindparam("account_recovery", type_=INTERVAL),
    bindparam("account_burst", type_=INTERVAL),
)

_WAIT: Final = text("""
    SELECT max(extract(epoch FROM t.free_at - CASE WHEN t.id = :address THEN :address_burst
                                                   ELSE :account_burst END - clock_timestamp()))
      FROM sign_in_throttles t
     WHERE t.tenant_id = :tenant AND t.id = ANY (:ids)
""").bindparams(
    bindparam("address_burst", type_=INTERVAL), bindparam("account_burst", type_=INTERVAL)
)


# Of the time that an attempt takes to come back, what has not passed yet: what has passed was given
# to others by then.
_GIVE_BACK: Final = text("""
    UPDATE sign_in_throttles t
       SET free_at = t.free_at - least(:recovery, greatest(:until - clock_timestamp(), '0'))
     WHERE t.tenant_id = :tenant AND t.id = :id
""").bindparams(
    bindparam("recovery", type_=INTERVAL), bindparam("until", type_=TIMESTAMP(timezone=True))
)


class Counted(NamedTuple):
    """The row that an attempt is counted in, and when this attempt will have come back."""

    id: str
    until: datetime


@dataclass(frozen=True, slots=True)
class Attempt:
    """What an attempt was counted for.

    Args:
        address: None where none was given, and for a device that the account is known on.
        account: The account's row, or that of such a device.
    """

    address: Counted | None
    account: Counted


async def take(
    tx: TenantSession,
    *,
    what: str,
    email: str,
    origin: Origin,
    profile: Profile,
    device: Token | None = None,
) -> Attempt:
    """Count one attempt, or refuse it.

    Args:
        tx: The tenant's session; to be committed at once, since others wait for the rows.
        what: What is attempted: kinds are counted apart.
        email: The account; whether there is one makes no difference.
        origin: From where.
        profile: How many, and how fast they come back.
        device: The token of a device, as the caller gave it.

    Raises:
        ThrottledError: Too many; it says when the next is free.
    """
    account = f"account:{what}:{_digest(email)}"
    address = f"address:{what}:{_digest(origin.network)}" if origin.network else None
    bursts = {
        "address_burst": profile.address_recovery * (profile.address_attempts - 1),
        "account_burst": profile.account_recovery * (profile.account_attempts - 1),
    }
    taken = (
        await tx.execute(
            _TAKE,
            {
                "tenant": tx.tenant_id,
                "email": email,
                "device": device.id if device else None,
                "device_hash": device.hash if device else None,
                "device_lifetime": profile.device_lifetime,
                "salt": secrets.token_bytes(16),
                "address": address,
                "address_recovery": profile.address_recovery,
                "account": account,
                "account_recovery": profile.account_recovery,
                **bursts,
            },
        )
    ).one()
    if taken.account is None:
        asked = [taken.device] if taken.device else [account, address]
        waited = await tx.scalar(
            _WAIT, {"tenant": tx.tenant_id, "ids": asked, "address": address, **bursts}
        )
        raise ThrottledError(
            "Too many attempts. Wait, and try again.",
            retry_after_seconds=math.ceil(waited or profile.account_recovery.total_seconds()),
        )
    by_address = Counted(taken.address, taken.address_until) if taken.address else None
    return Attempt(by_address, Counted(taken.account, taken.account_until))


async def give_back(
    tx: TenantSession, attempt: Attempt, *, profile: Profile, keep_address: bool = False
) -> None:
    """Take back what an attempt was counted for that succeeded, or that came to nothing.

    Args:
        tx: The tenant's session.
        attempt: As `take` has returned it.
        profile: The same as there.
        keep_address: Whether it goes on to count for the address.
    """
    # The address first, as when they were taken.
    counted = [(attempt.account, profile.account_recovery)]
    if attempt.address is not None and not keep_address:
        counted.insert(0, (attempt.address, profile.address_recovery))
    for (id_, until), recovery in counted:
        await tx.execute(
            _GIVE_BACK,
            {"tenant": tx.tenant_id, "id": id_, "until": until, "recovery": recovery},
        )


def _digest(text_: str) -> str:
    # Of one length, and no address book of those who never had an account.
    return sha256(text_.encode("utf-8", "surrogatepass")).hexdigest()
