"""What the parts of `Auth` share: the database, the profile, the hashing, and the audit trail."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any, Final, Unpack
from uuid import UUID

from sqlalchemy import ColumnElement, LargeBinary, bindparam, func, insert, select
from sqlalchemy.exc import TimeoutError as SQLAlchemyTimeoutError
from sqlalchemy.orm import InstrumentedAttribute

from tenantry.auth.events import EventKind
from tenantry.auth.hashing import HashingPool
from tenantry.auth.mail import Mail
from tenantry.auth.origins import NOWHERE, Origin
from tenantry.auth.principals import UserInfo
from tenantry.auth.profiles import Profile
from tenantry.database import Database
from tenantry.errors import BusyError, ConfigurationError, UserUnknownError
from tenantry.schema import SecurityEvent, User
from tenantry.tenancy.observing import Facts, Operation
from tenantry.tenancy.sessions import TenantSession

__all__ = ["Core", "as_user_id", "log", "same_digest", "user_info"]

log: Final = logging.getLogger("tenantry.auth")


_SENDING_SECONDS: Final = 10.0
"""How long the end of the database waits for mails that are being sent."""


class Core:
    """The state that the parts of `Auth` work on; see there."""

    def __init__(
        self,
        db: Database,
        *,
        profile: Profile,
        hashing: HashingPool | None,
        send: Callable[[Mail], Awaitable[None]] | None,
    ) -> None:
        self._db = db
        self._profile = profile
        self.hashing = hashing or HashingPool()
        self._owns_hashing = hashing is None
        self._send = send
        self._errands: set[asyncio.Task[None]] = set()
        # A storm of sign-ins leaves the better part of the pool, and of the loop's turns, to
        # everybody else. Hashing is what they wait for, and not this.
        self._turns = asyncio.Semaphore(max(1, db.settings.pool_size // 4))
        db.on_close(self.close)
        db.measure(self.hashing)

    async def close(self) -> None:
        """Wait a while for mails that are being sent, and end the threads.

        The database's end calls it.
        """
        if self._errands:
            _, unfinished = await asyncio.wait(self._errands, timeout=_SENDING_SECONDS)
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)
            if unfinished:
                log.error("sending %d mails was given up at the end", len(unfinished))
        if self._owns_hashing:
            self.hashing.close()

    def _observed(
        self, operation: Operation, **facts: Unpack[Facts]
    ) -> AbstractContextManager[object]:
        observer = self._db.observer
        return nullcontext() if observer is None else observer.begin(operation, **facts)

    @asynccontextmanager
    async def _transaction(self, tenant_id: UUID | str) -> AsyncIterator[TenantSession]:
        """Open a tenant's session, when it is this one's turn.

        Raises:
            BusyError: The pool had no connection free for too long.
        """
        async with self._turns:
            try:
                async with self._db.tenant(tenant_id) as tx:
                    yield tx
            except SQLAlchemyTimeoutError as error:
                raise BusyError(
                    "No connection to the database is free. Use larger pools.",
                    retry_after_seconds=1,
                ) from error

    def _require_send(self) -> Callable[[Mail], Awaitable[None]]:
        if self._send is None:
            raise ConfigurationError(
                "Auth was made without a way to send mail. Give it one: Auth(db, send=my_function)."
            )
        return self._send

    def _in_background(self, errand: Coroutine[Any, Any, None]) -> None:
        """Do something whose duration the caller must not see; it outlives the caller."""
        task = asyncio.create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._errands.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # The type alone: the text is the caller's and may quote what it was given.
            log.error("preparing or sending a mail failed: %s", type(error).__name__)

    async def _record(
        self,
        tx: TenantSession,
        kind: EventKind,
        *,
        user_id: UUID | None,
        origin: Origin = NOWHERE,
        **details: object,
    ) -> None:
        """Add to the audit trail, in the transaction of what it tells of."""
        await tx.execute(
            insert(SecurityEvent).values(
                tenant_id=tx.tenant_id,
                kind=kind,
                user_id=user_id,
                address=origin.address,
                user_agent=origin.user_agent,
                details=details,
            )
        )

    async def _locked_user(self, tx: TenantSession, user_id: UUID | str) -> User:
        """Return the user, whom nobody else changes before the transaction ends.

        Raises:
            UserUnknownError: The tenant has no such user.
        """
        id_ = as_user_id(user_id)
        user = await tx.scalar(
            select(User)
            .where(User.id == id_)
            .with_for_update(key_share=True)
            .execution_options(populate_existing=True)
        )
        if user is None:
            raise UserUnknownError(
                f"The tenant has no user {id_}. `tenantry user list` shows the users."
            )
        return user


def as_user_id(value: object) -> UUID:
    """Return ``value`` as a user's id.

    Raises:
        UserUnknownError: It is no UUID, so no user has it.
    """
    if isinstance(value, UUID):
        return value
    try:
        return UUID(value) if isinstance(value, str) else UUID(None)
    except (ValueError, TypeError):
        raise UserUnknownError("No user has this id: a UUID is required.") from None


def same_digest(column: InstrumentedAttribute[bytes], digest: bytes) -> ColumnElement[bool]:
    """Return the condition that a stored digest is ``digest``.

    Both are hashed with random bytes first, so that the duration of the comparison says nothing
    about what is stored.
    """
    salt = bindparam(None, secrets.token_bytes(16), type_=LargeBinary)
    given = bindparam(None, digest, type_=LargeBinary)
    return func.sha256(salt.concat(column)) == func.sha256(salt.concat(given))


def user_info(user: User) -> UserInfo:
    """Return what of a user's row goes out."""
    return UserInfo(
        tenant_id=user.tenant_id,
        id=user.id,
        email=user.email,
        name=user.name,
        role=user.role,
        email_verified_at=user.email_verified_at,
        disabled_at=user.disabled_at,
        created_at=user.created_at,
    )
