"""A wall taken down: what somebody may do to a database, and what the audit has to say of it."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["OWN", "Mutation", "on"]

OWN = "tenant_id = tenantry.current_tenant()"


class Mutation(NamedTuple):
    """One wall taken down.

    Args:
        name: For people.
        sql: What takes it down, as a superuser; ``{database}`` stands for the database's name.
        subject: What the audit must call it.
        check: The check that must find it.
    """

    name: str
    sql: str
    subject: str
    check: str


def on(table: str, *cases: tuple[str, str, str]) -> list[Mutation]:
    """Return mutations of one table: name, SQL, check."""
    return [Mutation(name, sql, f"table public.{table}", check) for name, sql, check in cases]
