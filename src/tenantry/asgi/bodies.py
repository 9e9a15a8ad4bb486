"""What the routes of signing in are sent, and what they answer."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from tenantry.asgi.examples import NEW_SESSION, OPAQUE, SESSION
from tenantry.auth import Principal, SignedIn, UserInfo
from tenantry.auth.emails import canonical_email
from tenantry.auth.names import check_name

__all__ = [
    "Account",
    "EmailProof",
    "NewSession",
    "PasswordChange",
    "PasswordReset",
    "Session",
    "SignIn",
    "SignUp",
]

Password = Annotated[SecretStr, Field(max_length=3072, examples=["seven ducks crossed a bridge"])]
MailedToken = Annotated[
    SecretStr,
    Field(max_length=200, description="From the link in the mail.", examples=[OPAQUE]),
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Account(_Body):
    """Whose account, and of which tenant where the host does not tell."""

    email: str = Field(max_length=1024, examples=["ada@acme.example"])
    tenant: str | None = Field(
        default=None, max_length=63, description="Slug or id.", examples=["acme"]
    )


class SignUp(Account):
    """Who wants to become a member."""

    name: str | None = Field(default=None, max_length=200, examples=["Ada"])

    @model_validator(mode="after")
    def check(self) -> Self:
        """Refuse what cannot be registered, before the tenant is looked for: or that would tell."""
        canonical_email(self.email)
        if self.name is not None:
            check_name(self.name)
        return self


class SignIn(Account):
    """Email and password; for clients without cookies, ``bearer`` has the tokens in the answer."""

    password: Password
    transport: Literal["cookie", "bearer"] = "cookie"
    device_token: SecretStr | None = Field(default=None, max_length=200, examples=[OPAQUE])

    def device(self) -> str | None:
        """Return the token of the device, where the body holds one."""
        return None if self.device_token is None else self.device_token.get_secret_value()


class PasswordChange(_Body):
    """The password of today, and the one to come."""

    current: Password
    new: Password


class PasswordReset(_Body):
    """A mailed token and the new password."""

    token: MailedToken
    new: Password


class EmailProof(_Body):
    """A mailed token."""

    token: MailedToken


class Session(BaseModel):
    """Who is signed in."""

    model_config = ConfigDict(json_schema_extra={"examples": [SESSION]})

    user: UserInfo
    session_id: str
    signed_in_at: datetime
    expires_at: datetime

    @classmethod
    def of(cls, user: UserInfo, principal: Principal) -> Self:
        """Return what is said of a user and the session that calls."""
        return cls.model_validate(
            {
                "user": user,
                "session_id": principal.session_id,
                "signed_in_at": principal.signed_in_at,
                "expires_at": principal.expires_at,
            }
        )


class NewSession(Session):
    """Who has signed in; with the tokens where the body has asked for them."""

    model_config = ConfigDict(json_schema_extra={"examples": [NEW_SESSION]})

    token: str | None = None
    device_token: str | None = None

    @classmethod
    def made(cls, signed_in: SignedIn, *, with_tokens: bool) -> Self:
        """Return what is said of a sign-in."""
        return cls(
            user=signed_in.user,
            session_id=signed_in.session.id,
            signed_in_at=signed_in.session.created_at,
            expires_at=signed_in.session.expires_at,
            token=signed_in.token if with_tokens else None,
            device_token=signed_in.device_token if with_tokens else None,
        )
