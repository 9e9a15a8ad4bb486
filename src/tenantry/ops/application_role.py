"""Which role an audit is about, where nobody has named one."""

from __future__ import annotations

from typing import Final

from sqlalchemy import URL

from tenantry.schema.row_security import APP_ROLE
from tenantry.tenancy.connecting import connect

__all__ = ["audited_role"]

# A superuser is a member of every role, and must not pass for one that was granted it.
_STANDS_ALONE: Final = """
    SELECT r.rolsuper OR a.oid IS NULL OR NOT pg_has_role(r.oid, a.oid, 'MEMBER')
      FROM pg_roles r LEFT JOIN pg_roles a ON a.rolname = $2 WHERE r.rolname = $1
"""


async def audited_role(url: URL, *, application_url: URL | None) -> str | None:
    """Return the role of the application's URL, or None for ``tenantry_app``.

    A login that has been granted ``tenantry_app`` stands behind its walls, and the audit looks at
    such logins when it looks at ``tenantry_app``. Any other is audited itself: walls around a role
    that nobody connects as would prove nothing.

    Args:
        url: To ask; any role will do.
        application_url: What the application connects with.

    Raises:
        DatabaseUnavailableError: The server does not answer or refuses the connection.
    """
    name = application_url.username if application_url is not None else None
    if name is None or name == APP_ROLE:
        return None
    connection = await connect(url)
    try:
        # None where a pooler's login is no role of the server, as in "role.project".
        stands_alone = await connection.fetchval(_STANDS_ALONE, name, APP_ROLE)
    finally:
        await connection.close()
    return name if stands_alone else None
