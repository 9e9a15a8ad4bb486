-- What the owner sets up in its own schema. Safe to run again.
GRANT USAGE ON SCHEMA tenantry TO tenantry_app, tenantry_auth, tenantry_operator;

-- A function that somebody adds later is not everyone's until it is granted.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

-- Which migrations have run. The application reads it when it starts, to see that it fits.
CREATE TABLE IF NOT EXISTS tenantry.alembic_version (
    version_num varchar(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
GRANT SELECT ON tenantry.alembic_version TO tenantry_app, tenantry_operator;
