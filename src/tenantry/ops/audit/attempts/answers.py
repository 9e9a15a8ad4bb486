"""Asking PostgreSQL in a transaction that is always rolled back, and comparing what it answers."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection

from tenantry.errors import ConfigurationError, DatabaseUnavailableError, PrivilegeError
from tenantry.ops.audit.attempts.shapes import identifier
from tenantry.ops.audit.attempts.values import literal

__all__ = ["Answer", "Asker", "rolled_back"]

# Short on production: whoever waits for us waits no longer than this.
_BEGIN: Final = """
    BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
    SET LOCAL lock_timeout = '2s';
    SET LOCAL statement_timeout = '5s';
    SET LOCAL idle_in_transaction_session_timeout = '30s';
    SET LOCAL application_name = 'tenantry audit';
    SET LOCAL standard_conforming_strings = on;
    SET LOCAL row_security = on;
    SET CONSTRAINTS ALL IMMEDIATE;
"""

# The functions of PostgreSQL that refuse a row by policy; a missing privilege is refused elsewhere.
_ROW_SECURITY: Final = "ExecWithCheckOptions"
_BACK: Final = "ROLLBACK TO SAVEPOINT tenantry_audit;"
# There is no transaction any more, or none that goes on.
_LOST: Final = ("08", "25", "3B", "57P")
# Timeouts, deadlocks, lack of space; and statements that this table or server does not know.
_NO_ANSWER: Final = ("0A", "40", "42", "53", "54", "55", "57", "58", "XX")
# A missing privilege, a row that is refused; a setting that the policy wants and that is missing.
_REFUSALS: Final = frozenset({"42501", "42704"})
_QUOTED: Final = re.compile(r"=\(.*\)|contains \(.*\)|: \".*\"", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Answer:
    """What PostgreSQL says to a statement, without a value of any row.

    Args:
        state: SQLSTATE, empty if it was accepted.
        rows: How many rows it touched or returned.
        constraint: Which constraint refused.
        shape: The message and its detail without values.
        by_policy: Row security refused it.
        by_table: A constraint of a table refused it, and not a domain while a value was read.
    """

    state: str = ""
    rows: int = 0
    constraint: str = ""
    shape: str = ""
    by_policy: bool = False
    by_table: bool = False

    @property
    def accepted(self) -> bool:
        """Whether it was done, be it to no row."""
        return not self.state

    @property
    def touched(self) -> bool:
        """Whether it was done to a row."""
        return not self.state and self.rows > 0

    @property
    def says_nothing(self) -> bool:
        """Whether it failed for a reason that says nothing about tenants, such as a timeout."""
        return self.state.startswith(_NO_ANSWER) and self.state not in _REFUSALS

    @property
    def took_too_long(self) -> bool:
        """Whether it waited for a lock, or ran, for longer than it may."""
        return self.state in {"55P03", "57014"}

    @property
    def past_policy(self) -> bool:
        """Whether only a constraint refused the row: PostgreSQL asks it after the policies.

        Without a constraint's name, 23514 says that no partition takes the row; that is asked
        before, and so are domains.
        """
        named = self.state != "23514" or bool(self.constraint)
        return self.state.startswith("23") and self.by_table and named

    def __str__(self) -> str:
        if self.accepted:
            return f"{self.rows} {'row' if self.rows == 1 else 'rows'}"
        if self.by_policy:
            return "refused by row security"
        return f"refused with SQLSTATE {self.state}" + (
            f" by {self.constraint}" if self.constraint else ""
        )


@asynccontextmanager
async def rolled_back(
    connection: AsyncConnection, driver: asyncpg.Connection
) -> AsyncIterator[None]:
    """Whatever is begun within it is rolled back.

    If it cannot be rolled back, the connection is thrown away: the server then does it.
    """
    try:
        yield
    finally:
        try:
            await driver.execute("ROLLBACK")
        except BaseException:
            await connection.invalidate()
            raise


class Asker:
    """Puts statements to PostgreSQL, each from the same savepoint, in one round trip.

    They hold their values as literals: what the driver sends without parameters may be several
    statements at once. All of the values are made up here or stand in the catalog.
    """

    def __init__(self, driver: asyncpg.Connection, *, setting: str, role: str) -> None:
        self._driver = driver
        self._role = role
        self._setting = ".".join(identifier(part) for part in setting.split("."))

    async def begin(self, *, tenant: str | None, first: str = "") -> None:
        """Begin a transaction, become the application's role and bind ``tenant``.

        It is done once to see that it can be: later, a refusal would look like a statement's.

        Args:
            tenant: Whom to bind; None leaves the setting alone.
            first: What to run before, as the administrator.

        Raises:
            PrivilegeError: The role or the setting is refused.
            ConfigurationError: The server is a standby.
        """
        check = self._as(self._role, tenant)
        try:
            await self._driver.execute(f"{_BEGIN} {first} SAVEPOINT tenantry_audit; {check}")
        except asyncpg.ReadOnlySQLTransactionError as error:
            raise ConfigurationError(
                "This server is a standby: nothing can be written to it, so nothing can be tried. "
                "Run the audit on the primary."
            ) from error
        except asyncpg.PostgresConnectionError:
            raise
        except asyncpg.PostgresError as error:
            raise PrivilegeError(
                f"Nothing can be tried as {self._role} with {self._setting} set: PostgreSQL "
                f"answers with SQLSTATE {error.sqlstate}."
            ) from error

    async def ask(
        self, statement: str, *, role: str | None = None, tenant: str | None = None
    ) -> Answer:
        """Run ``statement`` and undo what was run since the savepoint first.

        Args:
            statement: One statement.
            role: As whom; the application by default.
            tenant: Whom to bind; None leaves the setting alone.
        """
        try:
            tag = await self._driver.execute(self._script(statement, role or self._role, tenant))
        except asyncpg.PostgresError as error:
            if (error.sqlstate or "").startswith(_LOST):
                raise DatabaseUnavailableError(
                    f"PostgreSQL ended the transaction (SQLSTATE {error.sqlstate}), so the audit "
                    "cannot go on. Nothing was changed. Run it again."
                ) from error
            return _refusal(error)
        count = tag.rpartition(" ")[2]
        return Answer(rows=int(count) if count.isdigit() else 0)

    async def keep(
        self, statement: str, *, role: str | None = None, tenant: str | None = None
    ) -> Answer:
        """The same, and if it was accepted, what follows starts from there."""
        return await self.ask(f"{statement}; SAVEPOINT tenantry_audit", role=role, tenant=tenant)

    async def keep_all(self, statements: Sequence[tuple[str, str, str | None]]) -> Answer:
        """Run many statements, each with its role and its tenant or None; all or none is kept."""
        script = " ".join(
            f"{self._as(role, tenant)} {statement};" for statement, role, tenant in statements
        )
        return await self.keep(script.removesuffix(";"))

    def _script(self, statement: str, role: str, tenant: str | None) -> str:
        return f"{_BACK} {self._as(role, tenant)} {statement}"

    def _as(self, role: str, tenant: str | None) -> str:
        # Both settings end with the savepoint. As a literal, no name is the keyword NONE.
        bound = "" if tenant is None else f" SET LOCAL {self._setting} = {literal(tenant)};"
        return f"SET LOCAL ROLE {literal(role)};{bound}"


def _refusal(error: asyncpg.PostgresError) -> Answer:
    told = error.as_dict()
    shape = " ".join(str(told.get(part) or "") for part in ("message", "detail", "table_name"))
    return Answer(
        state=error.sqlstate or "XX000",
        constraint=str(told.get("constraint_name") or ""),
        shape=_QUOTED.sub("", shape),
        by_policy=error.sqlstate == "42501" and told.get("server_source_function") == _ROW_SECURITY,
        by_table=bool(told.get("table_name")),
    )
