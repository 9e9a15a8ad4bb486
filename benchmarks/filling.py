"""Many sessions in a database, with tokens that can be made again from their number."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from benchmarks.server import Server

TENANTS: Final = 100
USERS: Final = 20_000

# Straight into the tables: through the library, ten million would take a day. The same values as
# token() makes; foreign keys hold by construction and are not checked one by one.
_FILL: Final = (
    "SET session_replication_role = replica",
    """INSERT INTO tenants (id, name, slug)
       SELECT md5(i::text)::uuid, 't', 't' || i FROM generate_series(0, {tenants} - 1) i""",
    """INSERT INTO users (tenant_id, id, email, name)
       SELECT md5((i % {tenants})::text)::uuid, md5('u' || i)::uuid, 'u' || i || '@x.example', 'u'
         FROM generate_series(0, {users} - 1) i""",
    """INSERT INTO sessions (tenant_id, id, user_id, secret_hash, expires_at)
       SELECT md5((i % {tenants})::text)::uuid,
              rtrim(translate(encode(substr(sha256(('id' || i)::bytea), 1, 16), 'base64'),
                              '+/', '-_'), '='),
              md5('u' || i % {users})::uuid,
              sha256(rtrim(translate(encode(sha256(('s' || i)::bytea), 'base64'),
                                     '+/', '-_'), '=')::bytea),
              now() + interval '24 hours'
         FROM generate_series(0, {sessions} - 1) i""",
    "RESET session_replication_role",
    "VACUUM ANALYZE sessions, users, tenants",
    "CHECKPOINT",
)


async def fill(server: Server, database: str, *, sessions: int) -> None:
    """Fill a migrated database."""
    connection = await server.connect(database)
    try:
        for statement in _FILL:
            await connection.execute(
                statement.format(tenants=TENANTS, users=USERS, sessions=sessions)
            )
    finally:
        await connection.close()


def token(number: int) -> str:
    """Return the token of a session by its number."""
    tenant = hashlib.md5(str(number % TENANTS).encode(), usedforsecurity=False).hexdigest()
    parts = (tenant[:8], tenant[8:12], tenant[12:16], tenant[16:20], tenant[20:])
    id_ = _base64(hashlib.sha256(f"id{number}".encode()).digest()[:16])
    secret = _base64(hashlib.sha256(f"s{number}".encode()).digest())
    return f"{'-'.join(parts)}.{id_}.{secret}"


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
