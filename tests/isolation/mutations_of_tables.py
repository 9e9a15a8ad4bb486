"""Walls taken down by keys, indexes, and tables themselves."""

from __future__ import annotations

from tests.isolation.mutation import Mutation, on

__all__ = ["KEYS", "TABLES"]

KEYS = [
    *on(
        "messages",
        (
            "primary-key-id",
            "ALTER TABLE messages DROP CONSTRAINT messages_pkey, ADD PRIMARY KEY (id)",
            "primary-key-without-tenant",
        ),
        (
            "primary-key-order",
            "ALTER TABLE messages DROP CONSTRAINT messages_pkey, ADD PRIMARY KEY (id, tenant_id)",
            "primary-key-without-tenant",
        ),
        (
            "primary-key-none",
            "ALTER TABLE messages DROP CONSTRAINT messages_pkey",
            "primary-key-without-tenant",
        ),
        (
            "single-column-foreign-key",
            "ALTER TABLE conversation_sessions ADD UNIQUE (id); ALTER TABLE messages"
            " DROP CONSTRAINT messages_tenant_id_session_id_fkey,"
            " ADD FOREIGN KEY (session_id) REFERENCES conversation_sessions (id)",
            "foreign-key-without-tenant",
        ),
        (
            "extra-foreign-key",
            "CREATE UNIQUE INDEX ON widgets (id);"
            " ALTER TABLE messages ADD COLUMN widget_id uuid REFERENCES widgets (id)",
            "foreign-key-without-tenant",
        ),
        (
            "crossed-foreign-key",
            "ALTER TABLE messages DROP CONSTRAINT messages_tenant_id_session_id_fkey,"
            " ADD CONSTRAINT messages_tenant_id_session_id_fkey FOREIGN KEY (session_id, tenant_id)"
            " REFERENCES conversation_sessions (tenant_id, id)",
            "foreign-key-without-tenant",
        ),
        (
            "foreign-key-to-any-tenant",
            "ALTER TABLE messages ADD COLUMN partner uuid REFERENCES tenants (id)",
            "foreign-key-without-tenant",
        ),
        (
            "no-foreign-key",
            "ALTER TABLE messages DROP CONSTRAINT messages_tenant_id_session_id_fkey",
            "foreign-key-missing",
        ),
        (
            "no-tenant-foreign-key",
            "ALTER TABLE messages DROP CONSTRAINT messages_tenant_id_fkey",
            "tenant-without-foreign-key",
        ),
        (
            "foreign-key-not-valid",
            "ALTER TABLE messages DROP CONSTRAINT messages_tenant_id_fkey, ADD CONSTRAINT"
            " messages_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants ON DELETE CASCADE"
            " NOT VALID",
            "foreign-key-not-valid",
        ),
        (
            "tenant-column-renamed",
            "ALTER TABLE messages RENAME COLUMN tenant_id TO whose",
            "tenant-column-missing",
        ),
        (
            "tenant-column-dropped",
            "ALTER TABLE messages DROP COLUMN tenant_id CASCADE",
            "tenant-column-missing",
        ),
        (
            "inherits-from-outside",
            "CREATE TABLE stray (id uuid, content text);"
            " ALTER TABLE stray ALTER id SET NOT NULL, ALTER content SET NOT NULL;"
            " ALTER TABLE messages INHERIT stray",
            "table-inherits",
        ),
        ("triggers-disabled", "ALTER TABLE messages DISABLE TRIGGER ALL", "triggers-disabled"),
        (
            "default-tenant",
            "ALTER TABLE messages ALTER COLUMN tenant_id SET DEFAULT gen_random_uuid()",
            "tenant-default",
        ),
        (
            "no-default-tenant",
            "ALTER TABLE messages ALTER COLUMN tenant_id DROP DEFAULT",
            "tenant-default",
        ),
        ("plain-index", "CREATE INDEX extra ON messages (created_at)", "index-without-tenant"),
        (
            "plain-index-hash",
            "CREATE INDEX extra ON messages USING hash (content)",
            "index-without-tenant",
        ),
        (
            "plain-index-partial",
            "CREATE INDEX extra ON messages (created_at DESC, tenant_id) WHERE role = 'user'",
            "index-without-tenant",
        ),
    ),
    *on(
        "cost_events",
        (
            "set-null-empties-tenant",
            "ALTER TABLE cost_events DROP CONSTRAINT cost_events_tenant_id_session_id_fkey,"
            " ADD CONSTRAINT cost_events_tenant_id_session_id_fkey"
            " FOREIGN KEY (tenant_id, session_id) REFERENCES conversation_sessions (tenant_id, id)"
            " ON DELETE SET NULL",
            "foreign-key-empties-tenant",
        ),
        (
            "tenant-nullable",
            "ALTER TABLE cost_events DROP CONSTRAINT cost_events_pkey,"
            " ALTER COLUMN tenant_id DROP NOT NULL",
            "tenant-nullable",
        ),
        (
            "exclusion",
            "CREATE EXTENSION btree_gist; ALTER TABLE cost_events"
            " ADD CONSTRAINT alone EXCLUDE USING gist (provider WITH =)",
            "exclusion-without-tenant",
        ),
    ),
    *on(
        "users",
        ("unique-email", "ALTER TABLE users ADD UNIQUE (email)", "unique-without-tenant"),
        (
            "unique-email-instead",
            "ALTER TABLE users DROP CONSTRAINT users_tenant_id_email_key,"
            " ADD CONSTRAINT users_tenant_id_email_key UNIQUE (email)",
            "unique-without-tenant",
        ),
        (
            "unique-expression",
            "CREATE UNIQUE INDEX extra ON users (lower(email))",
            "unique-without-tenant",
        ),
        (
            "unique-partial",
            "CREATE UNIQUE INDEX extra ON users (email) WHERE disabled_at IS NULL",
            "unique-without-tenant",
        ),
        (
            "unique-order",
            "CREATE UNIQUE INDEX extra ON users (email, tenant_id)",
            "unique-without-tenant",
        ),
        (
            "unique-referred-to",
            "ALTER TABLE users ADD CONSTRAINT one UNIQUE (id); ALTER TABLE sessions"
            " ADD CONSTRAINT other FOREIGN KEY (user_id) REFERENCES users (id)",
            "unique-without-tenant",
        ),
    ),
    *on(
        "tenants",
        (
            "tenants-primary-key",
            "ALTER TABLE tenants DROP CONSTRAINT tenants_pkey CASCADE",
            "primary-key-without-tenant",
        ),
        ("unique-name", "CREATE UNIQUE INDEX extra ON tenants (name)", "unique-without-tenant"),
        (
            "unique-name-expression",
            "CREATE UNIQUE INDEX extra ON tenants (lower(name))",
            "unique-without-tenant",
        ),
    ),
    *on(
        "conversation_sessions",
        (
            "primary-key-cascade",
            "ALTER TABLE conversation_sessions DROP CONSTRAINT conversation_sessions_pkey CASCADE,"
            " ADD PRIMARY KEY (id)",
            "primary-key-without-tenant",
        ),
    ),
]

TABLES = [
    *on(
        "stray",
        ("undeclared", "CREATE TABLE stray (id int)", "table-undeclared"),
        (
            "undeclared-granted",
            "CREATE TABLE stray (id int); GRANT SELECT ON stray TO tenantry_app",
            "table-undeclared",
        ),
        (
            "undeclared-tenant-table",
            "CREATE TABLE stray (tenant_id uuid, body text)",
            "table-undeclared",
        ),
        (
            "undeclared-without-row-security",
            "CREATE TABLE stray (tenant_id uuid NOT NULL REFERENCES tenants, id uuid,"
            " PRIMARY KEY (tenant_id, id)); GRANT SELECT ON stray TO tenantry_app",
            "row-security-off",
        ),
        (
            "undeclared-text-tenant",
            "CREATE TABLE stray (tenant_id text NOT NULL, id uuid, PRIMARY KEY (tenant_id, id))",
            "tenant-type",
        ),
        (
            "undeclared-in-another-schema",
            "CREATE SCHEMA more; CREATE TABLE more.stray (); ALTER TABLE more.stray"
            " SET SCHEMA public",
            "table-undeclared",
        ),
        (
            "undeclared-policies-for-web",
            "CREATE ROLE audit_web LOGIN; GRANT tenantry_app TO audit_web;"
            " CREATE TABLE stray (tenant_id uuid NOT NULL REFERENCES tenants, id uuid,"
            " PRIMARY KEY (tenant_id, id));"
            " ALTER TABLE stray ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
            " CREATE POLICY open ON stray TO audit_web USING (true) WITH CHECK (true)",
            "policy-open",
        ),
        ("inherits", "CREATE TABLE stray () INHERITS (messages)", "table-inherits"),
        (
            "partition-granted",
            "CREATE TABLE whole (tenant_id uuid NOT NULL REFERENCES tenants, id uuid,"
            " PRIMARY KEY (tenant_id, id)) PARTITION BY HASH (tenant_id);"
            " CREATE TABLE stray PARTITION OF whole FOR VALUES WITH (MODULUS 1, REMAINDER 0);"
            " GRANT SELECT ON stray TO tenantry_app",
            "row-security-off",
        ),
    ),
    Mutation(
        "table-in-our-schema",
        "CREATE TABLE tenantry.spy (id int)",
        "table tenantry.spy",
        "table-undeclared",
    ),
    Mutation(
        "grant-all-on-all",
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC",
        "table public.sessions",
        "grant-too-wide",
    ),
    *on(
        "lines",
        (
            "tables-of-another-make",
            "CREATE TABLE orders (id serial PRIMARY KEY, tenant_id uuid NOT NULL REFERENCES"
            " tenants, number text UNIQUE); CREATE TABLE lines (id serial PRIMARY KEY, order_id int"
            " REFERENCES orders ON DELETE SET NULL, tenant_id uuid NOT NULL REFERENCES tenants);"
            " GRANT ALL ON orders, lines, orders_id_seq, lines_id_seq TO tenantry_app;"
            " INSERT INTO tenants (name, slug) VALUES ('a', 'a');"
            " INSERT INTO orders (tenant_id) SELECT id FROM tenants;"
            " INSERT INTO lines (tenant_id, order_id) SELECT tenant_id, id FROM orders",
            "foreign-key-without-tenant",
        ),
    ),
    Mutation(
        "copy-of-rows",
        "CREATE TABLE users_backup AS SELECT * FROM users;"
        " GRANT SELECT ON users_backup TO tenantry_app",
        "table public.users_backup",
        "row-security-off",
    ),
]
