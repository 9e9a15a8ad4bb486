"""Who is calling: session tokens and API keys, looked up before the tenant is known."""

from __future__ import annotations

from typing import Any, Final

from asyncpg.pgproto.pgproto import UUID  # the driver's own, which is made three times as fast

from tenantry.auth.core import Core
from tenantry.auth.looking_up import Question, Row, SharedLookUp, look_up_for
from tenantry.auth.principals import Principal
from tenantry.auth.tokens import ApiKey, Token, read_api_key, read_token
from tenantry.errors import InvalidTokenError
from tenantry.tenancy.observing import Observer, Operation

__all__ = ["Validation"]

# The columns by name: a function of a newer tenantry may have more.
_SESSION: Final = Question(
    one="""
        SELECT user_id, role, signed_in_at, expires_at
          FROM tenantry.validate_session($1, $2, $3)""",
    many="""
        SELECT place, user_id, role, signed_in_at, expires_at, is_due
          FROM tenantry.validate_sessions($1, $2, $3)""",
    again="""
        SELECT asked.place, found.user_id, found.role, found.signed_in_at, found.expires_at
          FROM unnest($1::uuid[], $2::text[], $3::bytea[])
               WITH ORDINALITY asked (tenant, id, hash, place)
         CROSS JOIN LATERAL tenantry.validate_session(asked.tenant, asked.id, asked.hash) found""",
)
_API_KEY: Final = Question(
    one="SELECT expires_at FROM tenantry.authenticate_api_key($1, $2)",
    many="SELECT place, expires_at FROM tenantry.authenticate_api_keys($1, $2)",
)
_SESSION_COLUMNS: Final = 4


class Validation(Core):
    """The part of `Auth` that each request begins with."""

    def __init__(self, *args: Any, connections: int, **options: Any) -> None:
        super().__init__(*args, **options)
        settings = self._db.settings
        self._sessions = look_up_for(settings, _SESSION, connections=connections, name="sessions")
        self._api_keys = look_up_for(settings, _API_KEY, connections=connections, name="api_keys")
        self._db.measure(self._sessions)
        self._db.measure(self._api_keys)

    async def close(self) -> None:
        """See `Core.close`."""
        await super().close()
        await self._sessions.close()
        await self._api_keys.close()

    async def validate(self, token: str) -> Principal:
        """Return who is calling with a session token.

        One round trip, outside of any transaction (behind a pooler, in one of its own); many at
        once share it. Nothing is remembered: a
        session that was ended is refused by the very next call. A session that is used is renewed,
        at most once an hour.

        Raises:
            InvalidTokenError: The token is malformed, unknown, expired or revoked, or its user is
                disabled: signed out.
            DatabaseUnavailableError: Nobody can tell. It says nothing about the token.
        """
        self._db.require_own_loop()
        key = read_token(token)
        observer = self._db.observer
        if observer is not None:
            row = await _observed(observer, "validate", self._sessions, key)
        else:
            row = None if key is None else await self._sessions.find(key)
        if key is None or row is None:
            raise InvalidTokenError("The session is not, or no longer, valid. Sign in again.")
        at = 0 if len(row) == _SESSION_COLUMNS else 1  # after its place among many
        return Principal(UUID(key.tenant), row[at], row[at + 1], key.id, row[at + 2], row[at + 3])

    async def authenticate_api_key(self, key: str) -> Principal:
        """Return the tenant that is calling with an API key.

        Raises:
            InvalidTokenError: The key is malformed, unknown, or was rotated too long ago.
            DatabaseUnavailableError: Nobody can tell. It says nothing about the key.
        """
        self._db.require_own_loop()
        read = read_api_key(key)
        observer = self._db.observer
        if observer is not None:
            row = await _observed(observer, "authenticate_api_key", self._api_keys, read)
        else:
            row = None if read is None else await self._api_keys.find(read)
        if read is None or row is None:
            raise InvalidTokenError("The API key is not, or no longer, valid.")
        return Principal(UUID(read.tenant), expires_at=row[-1])


async def _observed(
    observer: Observer, operation: Operation, look_up: SharedLookUp, key: Token | ApiKey | None
) -> Row | None:
    with observer.begin(operation) as observation:
        row = None if key is None else await look_up.find(key, caller=observation)
        if key is None or row is None:
            # Whose a key claims to be is not told until it is proven.
            observation.note(refused=True)
        else:
            observation.note(tenant_id=key.tenant)
        return row
