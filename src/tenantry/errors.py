"""Every error of tenantry, one tree.

::

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
    ├── ReadOnlyError               asked to write where only reading is allowed
    ├── InvalidValueError           a value that the database would refuse or garble
    └── ConflictError               it exists already, or is in use

A message says what was found, what is required and what to do. It never holds a password, a
token, or a URL with one.
"""

from __future__ import annotations

from sqlalchemy.exc import DontWrapMixin

__all__ = [
    "ConfigurationError",
    "ConflictError",
    "CrossTenantError",
    "DataLossError",
    "DatabaseUnavailableError",
    "EmbeddedServerError",
    "InvalidValueError",
    "MigrationError",
    "PrivilegeError",
    "ReadOnlyError",
    "SchemaError",
    "SchemaMissingError",
    "SchemaTooNewError",
    "SessionUseError",
    "TenantError",
    "TenantRequiredError",
    "TenantUnknownError",
    "TenantryError",
    "UnsafeRoleError",
    "UnsupportedServerError",
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


class ReadOnlyError(TenantryError):
    """A statement asked to write in a read-only session, or on a replica."""


class InvalidValueError(TenantryError, DontWrapMixin):
    """A value that the database would refuse or garble; nothing was written.

    ``DontWrapMixin`` lets it leave SQLAlchemy's parameter processing as itself; wrapped, the
    message would carry the statement and its parameters.
    """


class ConflictError(TenantryError):
    """What was to be made exists already, or is in use."""
