"""`Auth`: the one class of signing in, put together from its parts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tenantry.auth.api_keys import ApiKeys
from tenantry.auth.hashing import HashingPool
from tenantry.auth.mail import Mail
from tenantry.auth.profiles import STANDARD, Profile
from tenantry.auth.signing_in import SigningIn
from tenantry.auth.single_use import SingleUse
from tenantry.auth.validation import Validation
from tenantry.database import Database

__all__ = ["Auth"]


class Auth(SigningIn, SingleUse, ApiKeys, Validation):
    """Signs users in, and tells who is calling.

    Make one for each `Database`, where that is made; it is closed with it. It is safe to share
    between the tasks of one event loop.

    Args:
        db: The database.
        profile: The security numbers; `STANDARD` or `STRICT`, or your own.
        hashing: The threads that hash passwords. None: one fewer than there are cores.
        send: Sends a mail: a coroutine function that takes a `Mail`. It is called in a task of its
            own, so that nobody can tell from the time whether there was one to send; what it
            raises is logged by its type.
        validation_connections: Connections that are held for `validate`, and as many for
            `authenticate_api_key`, opened when first needed.
    """

    def __init__(
        self,
        db: Database,
        *,
        profile: Profile = STANDARD,
        hashing: HashingPool | None = None,
        send: Callable[[Mail], Awaitable[None]] | None = None,
        validation_connections: int = 2,
    ) -> None:
        super().__init__(
            db,
            profile=profile,
            hashing=hashing,
            send=send,
            connections=validation_connections,
        )
