"""Every error of tenantry, one tree.

    TenantryError
    ├── ConfigurationError          a setting, URL or file cannot be used as given
    │   └── UnsafeRoleError         the application's role could see every tenant
    ├── DatabaseUnavailableError    no answer, wrong password, or no such database
    │   └── EmbeddedServerError     the embedded server cannot be started or stopped
    ├── UnsupportedServerError      PostgreSQL or an extension is missing or too old
    ├── PrivilegeError              the role may not do what was asked of it
    ├── SchemaError                 the database's structure does not fit
    │   ├── SchemaMissingError      no tenantry tables here
    │   ├── SchemaTooNewError       made by a newer tenantry than this one
    │   ├── MigrationError          a migration failed or could not get its lock
    │   └── DataLossError           refused: it would destroy rows
    ├── TenantError                 about the tenant itself
    │   ├── TenantUnknownError      no tenant has this id or slug
    │   ├── TenantRequiredError     asked for tenant rows without a tenant
    │   ├── CrossTenantError        reached for another tenant's row
    │   └── SessionUseError         a session used in a way that would lose its tenant
    ├── AuthenticationError         who is calling could not be established
    │   ├── InvalidCredentialsError email and password open no account
    │   └── InvalidTokenError       the token or key is not, or no longer, valid
    ├── RetryLaterError             refused for now; says when to come back
    │   ├── ThrottledError          too many attempts on this account or from this address
    │   ├── BusyError               too much password hashing is waiting already
    │   └── TransactionUndoneError  another transaction was in the way; run this one again
    ├── UserUnknownError            the tenant has no such user
    ├── DocumentUnknownError        the tenant has no such document
    ├── ReadOnlyError               asked to write where only reading is allowed
    ├── InvalidValueError           a value that the database would refuse or garble
    │   └── PasswordRefusedError    too short, too long, too common, or too close to the user
    └── ConflictError               it exists already, or is in use
        └── LastOwnerError          the tenant would be left without an owner

A message says what was found, what is required and what to do. It never holds a password, a
token, or a URL with one.
"""

from __future__ import annotations

from sqlalchemy.exc import DontWrapMixin

__all__ = [
    "AuthenticationError",
    "BusyError",
    "ConfigurationError",
    "ConflictError",
    "CrossTenantError",
    "DataLossError",
    "DatabaseUnavailableError",
    "DocumentUnknownError",
    "EmbeddedServerError",
    "InvalidCredentialsError",
    "InvalidTokenError",
    "InvalidValueError",
    "LastOwnerError",
    "MigrationError",
    "PasswordRefusedError",
    "PrivilegeError",
    "ReadOnlyError",
    "RetryLaterError",
    "SchemaError",
    "SchemaMissingError",
    "SchemaTooNewError",
    "SessionUseError",
    "TenantError",
    "TenantRequiredError",
    "TenantUnknownError",
    "TenantryError",
    "ThrottledError",
    "TransactionUndoneError",
    "UnsafeRoleError",
    "UnsupportedServerError",
    "UserUnknownError",
]


class TenantryError(Exception):
    """Base of every error that tenantry raises on purpose."""


class ConfigurationError(TenantryError):
    """A setting, URL or file cannot be used as given."""


class UnsafeRoleError(ConfigurationError):
    """The application's role could see every tenant, so the library refuses to start."""


class DatabaseUnavailableError(TenantryError):
    """The server does not answer, refuses the password, or has no such database."""


class EmbeddedServerError(DatabaseUnavailableError):
    """The embedded server cannot be started, found or stopped."""


class UnsupportedServerError(TenantryError):
    """PostgreSQL or one of its extensions is missing or older than required."""


class PrivilegeError(TenantryError):
    """The database role may not do what was asked of it."""


class SchemaError(TenantryError):
    """The database's structure does not fit what this version needs."""


class SchemaMissingError(SchemaError):
    """The database holds no tenantry tables."""


class SchemaTooNewError(SchemaError):
    """The database was migrated by a newer tenantry than the installed one."""


class MigrationError(SchemaError):
    """A migration failed, or waited for its lock in vain; the old version stands."""


class DataLossError(SchemaError):
    """A change was refused because it would destroy rows."""


class TenantError(TenantryError):
    """Base of the errors about a tenant."""


class TenantUnknownError(TenantError):
    """No tenant has this id or slug."""


class TenantRequiredError(TenantError):
    """Rows of a tenant were asked for without saying which tenant."""


class CrossTenantError(TenantError):
    """An object or statement reached for another tenant's rows."""


class SessionUseError(TenantError):
    """A session was used in a way that would lose its tenant: nothing was sent."""


class AuthenticationError(TenantryError):
    """Who is calling could not be established. A door answers 401."""


class InvalidCredentialsError(AuthenticationError):
    """Email and password open no account. It never says which of the two, or why."""


class InvalidTokenError(AuthenticationError):
    """A session token, API key or single-use token is malformed, unknown, expired or revoked."""


class RetryLaterError(TenantryError):
    """Refused for now.

    Args:
        message: For people.
        retry_after_seconds: When to come back, at least 1; the HTTP header ``Retry-After``.
    """

    def __init__(self, message: str, *, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = max(1, retry_after_seconds)


class ThrottledError(RetryLaterError):
    """Too many attempts on this account, or from this address. A door answers 429."""


class BusyError(RetryLaterError):
    """Too much password hashing is waiting already. A door answers 503."""


class TransactionUndoneError(RetryLaterError):
    """Another transaction was in the way, and PostgreSQL has given this one up. A door answers 503.

    Nothing is wrong with it: run from its beginning, it may well succeed.

    Args:
        message: For people.
        sqlstate: For programs: 40P01 for a deadlock, 40001 where the isolation level allows no
            order of the two, 55P03 for a lock that was not free in time.
        retry_after_seconds: When to come back; a worker need not wait.
    """

    def __init__(self, message: str, *, sqlstate: str = "", retry_after_seconds: int = 1) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)
        self.sqlstate = sqlstate


class UserUnknownError(TenantryError):
    """The tenant has no such user."""


class DocumentUnknownError(TenantryError):
    """The tenant has no such document. Another tenant's is no exception."""


class ReadOnlyError(TenantryError):
    """A statement asked to write in a read-only session, or on a replica."""


class InvalidValueError(TenantryError, DontWrapMixin):
    """A value that the database would refuse or garble; nothing was written.

    ``DontWrapMixin`` lets it leave SQLAlchemy's parameter processing as itself; wrapped, the
    message would carry the statement and its parameters.
    """


class PasswordRefusedError(InvalidValueError):
    """A new password is too short, too long, too common, or too close to what is known of the user.

    Args:
        message: For people; it never holds the password.
        reason: For programs: ``too_short``, ``too_long``, ``not_text``, ``common`` or ``personal``.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class ConflictError(TenantryError):
    """What was to be made exists already, or is in use."""


class LastOwnerError(ConflictError):
    """The tenant would be left without an owner who can sign in."""
