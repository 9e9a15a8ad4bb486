"""The plans of what a function does inside, which EXPLAIN does not show."""

from __future__ import annotations

from uuid import UUID

import asyncpg

from tenantry.schema.row_security import APP_ROLE
from tests.conftest import bind

__all__ = ["plans_within"]


async def plans_within(
    admin: asyncpg.Connection, tenant: UUID, statement: str, *settings: str
) -> list[str]:
    """Run ``statement`` as the application's role; return the plans of all that ran within it.

    Args:
        admin: The superuser, outside a transaction.
        tenant: Who is bound.
        statement: A call of one of our functions.
        settings: Statements to be run before, as the superuser.
    """
    heard: list[str] = []

    def listener(_: object, message: object) -> None:
        heard.append(str(message))

    transaction = admin.transaction()
    await transaction.start()
    admin.add_log_listener(listener)
    try:
        await admin.execute("LOAD 'auto_explain'")
        await bind(admin, tenant)
        for each in (
            *settings,
            "SET LOCAL auto_explain.log_min_duration = 0",
            "SET LOCAL auto_explain.log_nested_statements = on",
            "SET LOCAL auto_explain.log_analyze = on",
            "SET LOCAL auto_explain.log_timing = off",
            "SET LOCAL auto_explain.log_level = notice",
            "SET LOCAL auto_explain.log_parameter_max_length = 0",
            f"SET LOCAL ROLE {APP_ROLE}",
        ):
            await admin.execute(each)
        await admin.fetch(statement)
    finally:
        await transaction.rollback()
        admin.remove_log_listener(listener)
    return [each for each in heard if "Query Text:" in each]
