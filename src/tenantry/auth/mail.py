"""What is to be mailed. Sending it is the product's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal
from uuid import UUID

__all__ = ["Mail", "Purpose"]

Purpose = Literal["verify_email", "reset_password"]


@dataclass(frozen=True, slots=True)
class Mail:
    """A token that belongs into a link, in a mail to a user. Its ``repr`` does not hold it.

    Args:
        purpose: ``verify_email``, for `Auth.verify_email`, or ``reset_password``, for
            `Auth.reset_password`.
        token: For the link. Whoever has it can do what ``purpose`` says, once.
        tenant_id: The tenant.
        user_id: The user.
        email: To whom.
        name: What the user is called.
        expires_at: When the token ends.
    """

    purpose: Purpose
    token: str = field(repr=False)
    tenant_id: UUID
    user_id: UUID
    email: str
    name: str
    expires_at: datetime
