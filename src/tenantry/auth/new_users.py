"""The row of a new user, and why there is none."""

from __future__ import annotations

from typing import Any

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError

from tenantry.errors import ConflictError, InvalidValueError
from tenantry.schema import User
from tenantry.tenancy.sessions import TenantSession

__all__ = ["insert_user"]


async def insert_user(tx: TenantSession, **values: Any) -> User:
    """Insert a user and return it.

    Raises:
        ConflictError: The tenant has a user with this email.
        InvalidValueError: A constraint of the database's refuses the user.
    """
    # ON CONFLICT, as a violation would quote the row, here and in the server's log.
    made = (
        insert(User)
        .values(tenant_id=tx.tenant_id, **values)
        .on_conflict_do_nothing(index_elements=["tenant_id", "email"])
        .returning(User)
    )
    user, constraint = None, None
    try:
        user = await tx.scalar(made)
    except IntegrityError as error:
        constraint = str(getattr(_cause(error), "constraint_name", None))
    # Outside of the handler, so that the driver's error does not hang on ours with the row.
    if constraint is not None:
        raise InvalidValueError(
            f"The constraint {constraint} of the table users refuses this user. Change the email, "
            "the name or the role."
        )
    if user is None:
        raise ConflictError(
            "The tenant has a user with this email already. Sign in, or reset the password."
        )
    return user


def _cause(error: IntegrityError) -> BaseException | None:
    return None if error.orig is None else error.orig.__cause__
