"""The walls taken down one by one: what somebody may do to a database, and what the audit says."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["MUTATIONS", "NEWER", "Mutation"]


class Mutation(NamedTuple):
    """One wall taken down.

    Args:
        name: For people.
        sql: What takes it down, as a superuser; ``{database}`` stands for the database's name.
        subject: What the audit must call it.
        check: The check that must find it.
    """

    name: str
    sql: str
    subject: str
    check: str


def on(table: str, *cases: tuple[str, str, str]) -> list[Mutation]:
    """Return mutations of one table: name, SQL, check."""
    return [Mutation(name, sql, f"table public.{table}", check) for name, sql, check in cases]


OWN = "tenant_id = tenantry.current_tenant()"

ROW_SECURITY = [
    *on(
        "widgets",
        ("row-security-off", "ALTER TABLE widgets DISABLE ROW LEVEL SECURITY", "row-security-off"),
        ("no-force", "ALTER TABLE widgets NO FORCE ROW LEVEL SECURITY", "row-security-not-forced"),
        ("policy-dropped", "DROP POLICY tenant_isolation ON widgets", "policy-missing"),
        ("operator-policy-dropped", "DROP POLICY operator_access ON widgets", "policy-missing"),
        (
            "policy-renamed",
            "ALTER POLICY tenant_isolation ON widgets RENAME TO mine",
            "policy-missing",
        ),
        ("using-true", "ALTER POLICY tenant_isolation ON widgets USING (true)", "policy-open"),
        (
            "using-not-null",
            "ALTER POLICY tenant_isolation ON widgets USING (tenant_id IS NOT NULL)",
            "policy-not-direct",
        ),
        (
            "check-true",
            "ALTER POLICY tenant_isolation ON widgets WITH CHECK (true)",
            "policy-without-check",
        ),
        (
            "no-check",
            "DROP POLICY tenant_isolation ON widgets; CREATE POLICY tenant_isolation ON widgets"
            f" TO tenantry_app USING ({OWN})",
            "policy-without-check",
        ),
        (
            "sub-select",
            "ALTER POLICY tenant_isolation ON widgets"
            " USING (tenant_id = (SELECT tenantry.current_tenant()))"
            " WITH CHECK (tenant_id = (SELECT tenantry.current_tenant()))",
            "policy-not-direct",
        ),
        (
            "or-unbound",
            "ALTER POLICY tenant_isolation ON widgets"
            f" USING ({OWN} OR tenantry.current_tenant() IS NULL)",
            "policy-not-direct",
        ),
        (
            "coalesce",
            "ALTER POLICY tenant_isolation ON widgets"
            " USING (tenant_id = coalesce(tenantry.current_tenant(), tenant_id))",
            "policy-not-direct",
        ),
        (
            "cast-column",
            "ALTER POLICY tenant_isolation ON widgets"
            " USING (tenant_id::text = tenantry.current_tenant()::text)",
            "policy-not-direct",
        ),
        (
            "another-setting",
            "ALTER POLICY tenant_isolation ON widgets"
            " USING (tenant_id = current_setting('app.tenant')::uuid)",
            "policy-not-direct",
        ),
        (
            "not-equal",
            "ALTER POLICY tenant_isolation ON widgets"
            " USING (tenant_id <> tenantry.current_tenant())",
            "policy-not-direct",
        ),
        (
            "another-column",
            "ALTER POLICY tenant_isolation ON widgets USING (id = tenantry.current_tenant())",
            "policy-open",
        ),
        (
            "policy-for-public",
            "ALTER POLICY tenant_isolation ON widgets TO PUBLIC",
            "policy-for-others",
        ),
        (
            "operator-policy-for-app",
            "ALTER POLICY operator_access ON widgets TO tenantry_operator, tenantry_app",
            "policy-for-others",
        ),
        (
            "select-only-policy",
            "DROP POLICY tenant_isolation ON widgets; CREATE POLICY tenant_isolation ON widgets"
            f" FOR SELECT TO tenantry_app USING ({OWN})",
            "policy-differs",
        ),
        (
            "restrictive",
            "DROP POLICY tenant_isolation ON widgets; CREATE POLICY tenant_isolation ON widgets"
            f" AS RESTRICTIVE TO tenantry_app USING ({OWN}) WITH CHECK ({OWN})",
            "policy-differs",
        ),
        (
            "second-policy-open",
            "CREATE POLICY extra ON widgets TO tenantry_app USING (true)",
            "policy-open",
        ),
        (
            "second-policy-for-public",
            "CREATE POLICY extra ON widgets FOR SELECT USING (true)",
            "policy-open",
        ),
        (
            "second-policy-insert",
            "CREATE POLICY extra ON widgets FOR INSERT TO tenantry_app WITH CHECK (true)",
            "policy-without-check",
        ),
        (
            "policy-for-a-stranger",
            "CREATE ROLE audit_reporting; CREATE POLICY extra ON widgets TO audit_reporting"
            " USING (true)",
            "policy-undeclared",
        ),
    ),
    *on(
        "tenants",
        ("tenants-open", "ALTER POLICY tenant_isolation ON tenants USING (true)", "policy-open"),
        ("tenants-off", "ALTER TABLE tenants DISABLE ROW LEVEL SECURITY", "row-security-off"),
    ),
]

GRANTS = [
    *(
        mutation
        for privilege in ("TRUNCATE", "REFERENCES", "TRIGGER")
        for mutation in on(
            "widgets",
            (
                f"grant-{privilege.lower()}",
                f"GRANT {privilege} ON widgets TO tenantry_app",
                "grant-too-wide",
            ),
        )
    ),
    *on(
        "users",
        ("grant-public", "GRANT SELECT ON users TO PUBLIC", "grant-too-wide"),
        (
            "grant-option",
            "GRANT SELECT ON users TO tenantry_app WITH GRANT OPTION",
            "grant-too-wide",
        ),
        (
            "grant-passed-on",
            "CREATE ROLE audit_other; GRANT SELECT ON users TO tenantry_app WITH GRANT OPTION;"
            " SET LOCAL ROLE tenantry_app; GRANT SELECT ON users TO audit_other; RESET ROLE",
            "grant-too-wide",
        ),
        (
            "grant-another-role",
            "CREATE ROLE audit_other; GRANT SELECT ON users TO audit_other",
            "grant-too-wide",
        ),
        ("grant-auth", "GRANT SELECT ON users TO tenantry_auth", "grant-too-wide"),
        ("grant-all", "GRANT ALL ON users TO tenantry_app", "grant-too-wide"),
        (
            "grant-column-public",
            "GRANT SELECT (hashed_password) ON users TO PUBLIC",
            "grant-too-wide",
        ),
    ),
    *on(
        "tenants",
        ("grant-slug", "GRANT UPDATE (slug) ON tenants TO tenantry_app", "grant-too-wide"),
        ("grant-tenants-insert", "GRANT INSERT ON tenants TO tenantry_app", "grant-too-wide"),
    ),
    Mutation(
        "grant-versions",
        "GRANT INSERT ON tenantry.alembic_version TO tenantry_app",
        "table tenantry.alembic_version",
        "grant-too-wide",
    ),
    Mutation(
        "schema-create", "GRANT CREATE ON SCHEMA public TO PUBLIC", "schema public", "schema-grant"
    ),
    Mutation(
        "schema-create-app",
        "GRANT CREATE ON SCHEMA tenantry TO tenantry_app",
        "schema tenantry",
        "schema-grant",
    ),
    Mutation(
        "schema-usage-public",
        "GRANT USAGE ON SCHEMA tenantry TO PUBLIC",
        "schema tenantry",
        "schema-grant",
    ),
    Mutation(
        "schema-usage-option",
        "GRANT USAGE ON SCHEMA tenantry TO tenantry_app WITH GRANT OPTION",
        "schema tenantry",
        "schema-grant",
    ),
    Mutation(
        "database-temporary",
        "GRANT TEMPORARY ON DATABASE {database} TO PUBLIC",
        "database {database}",
        "database-grant",
    ),
    Mutation(
        "database-create",
        "GRANT CREATE ON DATABASE {database} TO tenantry_app",
        "database {database}",
        "database-grant",
    ),
    Mutation(
        "default-tables",
        "ALTER DEFAULT PRIVILEGES FOR ROLE tenantry_owner GRANT SELECT ON TABLES TO tenantry_app",
        "role tenantry_owner",
        "default-privileges",
    ),
    Mutation(
        "default-tables-in-schema",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO PUBLIC",
        "role {admin}",
        "default-privileges",
    ),
    Mutation(
        "default-functions",
        "ALTER DEFAULT PRIVILEGES FOR ROLE tenantry_owner GRANT EXECUTE ON FUNCTIONS TO PUBLIC",
        "role tenantry_owner",
        "default-privileges",
    ),
    Mutation(
        "statistics",
        "GRANT SELECT ON pg_statistic TO PUBLIC",
        "table pg_catalog.pg_statistic",
        "system-catalog-open",
    ),
    Mutation(
        "passwords",
        "GRANT SELECT (rolpassword) ON pg_authid TO tenantry_app",
        "table pg_catalog.pg_authid",
        "system-catalog-open",
    ),
    Mutation(
        "server-files",
        "GRANT EXECUTE ON FUNCTION pg_read_file(text) TO tenantry_app",
        "function pg_catalog.pg_read_file(text)",
        "system-catalog-open",
    ),
    Mutation(
        "parameter",
        "GRANT SET ON PARAMETER session_replication_role TO tenantry_app",
        "parameter session_replication_role",
        "parameter-open",
    ),
]

ROLES = [
    *(
        Mutation(
            f"app-{attribute.lower()}",
            f"ALTER ROLE tenantry_app {attribute}",
            "role tenantry_app",
            "role-bypasses",
        )
        for attribute in ("SUPERUSER", "BYPASSRLS", "CREATEROLE", "REPLICATION", "CREATEDB")
    ),
    *(
        Mutation(
            f"{role}-{attribute.lower()}",
            f"ALTER ROLE tenantry_{role} {attribute}",
            f"role tenantry_{role}",
            check,
        )
        for role, attribute, check in (
            ("owner", "BYPASSRLS", "role-bypasses"),
            ("operator", "BYPASSRLS", "role-bypasses"),
            ("auth", "SUPERUSER", "role-bypasses"),
            ("owner", "LOGIN", "role-logs-in"),
            ("operator", "LOGIN", "role-logs-in"),
        )
    ),
    *(
        Mutation(
            f"app-member-of-{role}",
            f"GRANT {role} TO tenantry_app",
            "role tenantry_app",
            "role-membership",
        )
        for role in (
            "tenantry_owner",
            "tenantry_auth",
            "tenantry_operator",
            "pg_read_all_data",
            "pg_write_all_data",
            "pg_monitor",
            "pg_read_all_stats",
            "pg_read_server_files",
            "pg_execute_server_program",
            "pg_signal_backend",
            "pg_database_owner",
        )
        if role != "pg_database_owner"  # which has no members but the owner
    ),
    Mutation(
        "app-may-become-operator",
        "GRANT tenantry_operator TO tenantry_app WITH INHERIT FALSE, SET FALSE, ADMIN TRUE",
        "role tenantry_app",
        "role-membership",
    ),
    Mutation(
        "app-member-through-another",
        "CREATE ROLE audit_between BYPASSRLS; GRANT audit_between TO tenantry_app",
        "role audit_between",
        "role-bypasses",
    ),
    Mutation(
        "owner-member-of-operator",
        "GRANT tenantry_operator TO tenantry_owner",
        "role tenantry_owner",
        "role-membership",
    ),
    Mutation(
        "login-is-app-and-operator",
        "CREATE ROLE audit_web LOGIN; GRANT tenantry_app, tenantry_operator TO audit_web",
        "role audit_web",
        "role-membership",
    ),
    Mutation(
        "login-is-app-and-bypasses",
        "CREATE ROLE audit_web LOGIN BYPASSRLS; GRANT tenantry_app TO audit_web",
        "role audit_web",
        "role-bypasses",
    ),
]

SETTINGS = [
    Mutation(
        "tenant-for-role",
        "ALTER ROLE tenantry_app SET tenantry.tenant_id = '00000000-0000-0000-0000-000000000000'",
        "role tenantry_app",
        "setting-tenant",
    ),
    Mutation(
        "tenant-for-database",
        "ALTER DATABASE {database} SET tenantry.tenant_id = '00000000-0000-0000-0000-000000000000'",
        "database {database}",
        "setting-tenant",
    ),
    Mutation(
        "tenant-for-role-in-database",
        "ALTER ROLE tenantry_app IN DATABASE {database} SET tenantry.tenant_id = 'x'",
        "role tenantry_app",
        "setting-tenant",
    ),
    *(
        Mutation(
            f"role-sets-{name}",
            f"ALTER ROLE tenantry_app SET {name} = {value}",
            "role tenantry_app",
            "setting",
        )
        for name, value in (
            ("row_security", "off"),
            ("session_replication_role", "replica"),
            ("role", "tenantry_operator"),
            ("search_path", "mine, public"),
            ("lo_compat_privileges", "on"),
        )
    ),
    Mutation(
        "tenant-for-all-roles",
        "ALTER ROLE ALL SET tenantry.tenant_id = '00000000-0000-0000-0000-000000000000'",
        "server",
        "setting-tenant",
    ),
    Mutation(
        "no-iterative-scan-for-app",
        "ALTER ROLE tenantry_app SET hnsw.iterative_scan = off",
        "role tenantry_app",
        "setting",
    ),
    Mutation(
        "no-iterative-scan",
        "ALTER DATABASE {database} RESET hnsw.iterative_scan",
        "database {database}",
        "vector-scan",
    ),
]

OWNERS = [
    Mutation(
        "table-of-app",
        "ALTER TABLE widgets OWNER TO tenantry_app",
        "table public.widgets",
        "owner-is-application",
    ),
    Mutation(
        "table-of-superuser",
        "ALTER TABLE widgets OWNER TO {admin}",
        "table public.widgets",
        "owner-differs",
    ),
    Mutation(
        "schema-of-app",
        "ALTER SCHEMA tenantry OWNER TO tenantry_app",
        "schema tenantry",
        "owner-is-application",
    ),
    Mutation(
        "database-of-app",
        "ALTER DATABASE {database} OWNER TO tenantry_app",
        "database {database}",
        "owner-is-application",
    ),
    Mutation(
        "function-of-app",
        "CREATE FUNCTION spy() RETURNS int LANGUAGE sql RETURN 1;"
        " ALTER FUNCTION spy() OWNER TO tenantry_app",
        "function public.spy()",
        "owner-is-application",
    ),
    Mutation(
        "materialized-view-for-web",
        "CREATE ROLE audit_web LOGIN; GRANT tenantry_app TO audit_web;"
        " CREATE MATERIALIZED VIEW seen AS SELECT * FROM users; GRANT SELECT ON seen TO audit_web",
        "materialized view public.seen",
        "materialized-view-open",
    ),
    Mutation(
        "view-of-app",
        "CREATE VIEW seen AS SELECT 1 AS one; ALTER VIEW seen OWNER TO tenantry_app",
        "view public.seen",
        "owner-is-application",
    ),
]

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

VIEWS = [
    Mutation(
        "view",
        "CREATE VIEW seen AS SELECT * FROM users",
        "view public.seen",
        "view-without-invoker",
    ),
    Mutation(
        "view-instead-of-the-table",
        "ALTER TABLE widgets RENAME TO widgets_behind; CREATE VIEW widgets AS SELECT * FROM"
        " widgets_behind; GRANT SELECT ON widgets TO tenantry_app",
        "view public.widgets",
        "view-without-invoker",
    ),
    Mutation(
        "view-granted",
        "CREATE VIEW seen AS SELECT * FROM users; GRANT SELECT ON seen TO tenantry_app",
        "view public.seen",
        "view-without-invoker",
    ),
    Mutation(
        "view-over-view",
        "CREATE VIEW below WITH (security_invoker) AS SELECT * FROM users;"
        " CREATE VIEW seen AS SELECT email FROM below",
        "view public.seen",
        "view-without-invoker",
    ),
    Mutation(
        "view-invoker-off",
        "CREATE VIEW seen WITH (security_invoker = off) AS SELECT count(*) FROM users",
        "view public.seen",
        "view-without-invoker",
    ),
    Mutation(
        "materialized-view",
        "CREATE MATERIALIZED VIEW seen AS SELECT * FROM users;"
        " GRANT SELECT ON seen TO tenantry_app",
        "materialized view public.seen",
        "materialized-view-open",
    ),
    Mutation(
        "sequence",
        "CREATE SEQUENCE counted; GRANT USAGE ON SEQUENCE counted TO tenantry_app",
        "sequence public.counted",
        "sequence-open",
    ),
    Mutation(
        "serial",
        "ALTER TABLE messages ADD COLUMN number bigserial;"
        " GRANT USAGE ON SEQUENCE messages_number_seq TO PUBLIC",
        "sequence public.messages_number_seq",
        "sequence-open",
    ),
    *on(
        "messages",
        ("rule", "CREATE RULE spy AS ON INSERT TO messages DO ALSO NOTIFY spy", "rule"),
        (
            "trigger",
            "CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
            " CREATE TRIGGER spy AFTER INSERT ON messages EXECUTE FUNCTION spy()",
            "trigger",
        ),
        ("unlogged", "ALTER TABLE messages SET UNLOGGED", "table-unlogged"),
    ),
    Mutation(
        "event-trigger",
        "CREATE FUNCTION spy() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';"
        " CREATE EVENT TRIGGER spy ON ddl_command_end EXECUTE FUNCTION spy()",
        "event trigger spy",
        "event-trigger",
    ),
    Mutation(
        "publication-all",
        "CREATE PUBLICATION sent FOR ALL TABLES",
        "publication sent",
        "publication",
    ),
    Mutation(
        "publication-schema",
        "CREATE PUBLICATION sent FOR TABLES IN SCHEMA public",
        "publication sent",
        "publication",
    ),
    Mutation(
        "publication-table",
        "CREATE PUBLICATION sent FOR TABLE users, messages",
        "publication sent",
        "publication",
    ),
    Mutation(
        "schema-of-the-role",
        "CREATE SCHEMA tenantry_app; CREATE TABLE tenantry_app.users ()",
        "schema tenantry_app",
        "schema-shadows",
    ),
    Mutation(
        "large-object",
        "SELECT lo_from_bytea(0, 'x'); DO $$ BEGIN EXECUTE (SELECT format("
        "'GRANT SELECT ON LARGE OBJECT %s TO PUBLIC', oid) FROM pg_largeobject_metadata); END $$",
        "large objects",
        "large-objects-open",
    ),
    Mutation(
        "foreign-server",
        "CREATE EXTENSION postgres_fdw; CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw;"
        " GRANT USAGE ON FOREIGN SERVER other TO tenantry_app",
        "foreign server other",
        "foreign-server-open",
    ),
    Mutation(
        "user-mapping",
        "CREATE EXTENSION postgres_fdw; CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw;"
        " CREATE USER MAPPING FOR PUBLIC SERVER other",
        "foreign server other",
        "foreign-server-open",
    ),
    Mutation(
        "foreign-table",
        "CREATE EXTENSION postgres_fdw; CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw;"
        " CREATE FOREIGN TABLE far (id int) SERVER other; GRANT SELECT ON far TO tenantry_app",
        "table public.far",
        "foreign-table-open",
    ),
    Mutation(
        "dblink",
        "CREATE EXTENSION dblink",
        "function public.dblink(text)",
        "function-outside",
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

FUNCTIONS = [
    *(
        Mutation(name, sql, "function tenantry.current_tenant()", check)
        for name, sql, check in (
            (
                "tenant-replaced",
                "CREATE OR REPLACE FUNCTION tenantry.current_tenant() RETURNS uuid LANGUAGE sql"
                " STABLE PARALLEL SAFE RETURN '00000000-0000-0000-0000-000000000000'::uuid",
                "function-differs",
            ),
            (
                "tenant-plpgsql",
                "CREATE OR REPLACE FUNCTION tenantry.current_tenant() RETURNS uuid LANGUAGE plpgsql"
                " STABLE PARALLEL SAFE AS $$ BEGIN RETURN"
                " nullif(current_setting('tenantry.tenant_id', true), '')::uuid; END $$",
                "function-differs",
            ),
            (
                "tenant-coalesce",
                "CREATE OR REPLACE FUNCTION tenantry.current_tenant() RETURNS uuid LANGUAGE sql"
                " STABLE PARALLEL SAFE RETURN coalesce(nullif(pg_catalog.current_setting("
                "'tenantry.tenant_id', true), '')::uuid, gen_random_uuid())",
                "function-differs",
            ),
            (
                "tenant-volatile",
                "ALTER FUNCTION tenantry.current_tenant() VOLATILE",
                "function-differs",
            ),
            (
                "tenant-immutable",
                "ALTER FUNCTION tenantry.current_tenant() IMMUTABLE",
                "function-differs",
            ),
            (
                "tenant-path",
                "ALTER FUNCTION tenantry.current_tenant() SET search_path = pg_catalog",
                "function-differs",
            ),
            (
                "tenant-setting",
                "ALTER FUNCTION tenantry.current_tenant() SET tenantry.tenant_id = 'x'",
                "function-differs",
            ),
            (
                "tenant-definer",
                "ALTER FUNCTION tenantry.current_tenant() SECURITY DEFINER",
                "function-differs",
            ),
            (
                "tenant-parallel",
                "ALTER FUNCTION tenantry.current_tenant() PARALLEL UNSAFE",
                "function-differs",
            ),
            (
                "tenant-leakproof",
                "ALTER FUNCTION tenantry.current_tenant() LEAKPROOF",
                "function-leakproof",
            ),
            (
                "tenant-owner",
                "ALTER FUNCTION tenantry.current_tenant() OWNER TO tenantry_app",
                "function-differs",
            ),
            (
                "tenant-public",
                "GRANT EXECUTE ON FUNCTION tenantry.current_tenant() TO PUBLIC",
                "function-differs",
            ),
            (
                "tenant-not-for-app",
                "REVOKE EXECUTE ON FUNCTION tenantry.current_tenant() FROM tenantry_app",
                "function-differs",
            ),
            (
                "tenant-renamed",
                "ALTER FUNCTION tenantry.current_tenant() RENAME TO somebody",
                "function-missing",
            ),
            (
                "tenant-dropped",
                "DROP FUNCTION tenantry.current_tenant() CASCADE",
                "function-missing",
            ),
        )
    ),
    Mutation(
        "our-schema",
        "CREATE FUNCTION tenantry.spy() RETURNS int LANGUAGE sql RETURN 1",
        "function tenantry.spy()",
        "function-undeclared",
    ),
    *(
        Mutation(name, sql, "function public.spy()", check)
        for name, sql, check in (
            (
                "definer-no-path",
                "CREATE FUNCTION spy() RETURNS int SECURITY DEFINER LANGUAGE sql AS 'SELECT 1';"
                " REVOKE EXECUTE ON FUNCTION spy() FROM PUBLIC",
                "definer-path",
            ),
            (
                "definer-public",
                "CREATE FUNCTION spy() RETURNS int SECURITY DEFINER LANGUAGE sql"
                " SET search_path = pg_catalog, pg_temp AS 'SELECT 1'",
                "definer-open",
            ),
            (
                "definer-of-superuser-for-app",
                "CREATE FUNCTION spy() RETURNS int SECURITY DEFINER LANGUAGE sql"
                " SET search_path = pg_catalog, pg_temp AS 'SELECT 1';"
                " REVOKE EXECUTE ON FUNCTION spy() FROM PUBLIC;"
                " GRANT EXECUTE ON FUNCTION spy() TO tenantry_app",
                "definer-open",
            ),
            (
                "definer-of-operator-for-app",
                "CREATE FUNCTION spy() RETURNS int SECURITY DEFINER LANGUAGE sql"
                " SET search_path = pg_catalog, pg_temp AS 'SELECT 1';"
                " ALTER FUNCTION spy() OWNER TO tenantry_operator;"
                " REVOKE EXECUTE ON FUNCTION spy() FROM PUBLIC;"
                " GRANT EXECUTE ON FUNCTION spy() TO tenantry_app",
                "definer-open",
            ),
            (
                "definer-temporary-first",
                "CREATE FUNCTION spy() RETURNS int SECURITY DEFINER LANGUAGE sql"
                " SET search_path = pg_temp, pg_catalog AS 'SELECT 1';"
                " REVOKE EXECUTE ON FUNCTION spy() FROM PUBLIC",
                "definer-path",
            ),
            (
                "definer-writable-path",
                "CREATE SCHEMA open; GRANT CREATE ON SCHEMA open TO PUBLIC;"
                " CREATE FUNCTION spy() RETURNS int SECURITY DEFINER LANGUAGE sql"
                " SET search_path = open, pg_temp AS 'SELECT 1';"
                " REVOKE EXECUTE ON FUNCTION spy() FROM PUBLIC",
                "definer-path",
            ),
            (
                "leakproof",
                "CREATE FUNCTION spy() RETURNS int LEAKPROOF LANGUAGE sql AS 'SELECT 1'",
                "function-leakproof",
            ),
            (
                "untrusted",
                "CREATE FUNCTION spy() RETURNS int LANGUAGE internal AS 'pg_backend_pid'",
                "function-outside",
            ),
        )
    ),
    Mutation(
        "procedure-definer",
        "CREATE PROCEDURE spy() SECURITY DEFINER LANGUAGE sql AS 'SELECT 1'",
        "procedure public.spy()",
        "definer-path",
    ),
    Mutation(
        "leakproof-built-in",
        "ALTER FUNCTION pg_catalog.texticlike(text, text) LEAKPROOF",
        "function pg_catalog.texticlike(text, text)",
        "function-leakproof",
    ),
    Mutation(
        "leakproof-extension",
        "ALTER FUNCTION public.similarity(text, text) LEAKPROOF",
        "function public.similarity(text, text)",
        "function-leakproof",
    ),
    Mutation(
        "shadowing-function",
        "CREATE FUNCTION public.lower(varchar) RETURNS text LANGUAGE sql AS 'SELECT ''x'''",
        "function public.lower(character varying)",
        "function-shadows",
    ),
    Mutation(
        "shadowing-operator",
        "CREATE FUNCTION spy(uuid, uuid) RETURNS boolean LANGUAGE sql AS 'SELECT true';"
        " CREATE OPERATOR public.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = spy)",
        "operator public.= (uuid, uuid)",
        "operator-shadows",
    ),
    Mutation(
        "shadowing-cast",
        "CREATE CAST (text AS uuid) WITH INOUT AS IMPLICIT",
        "cast (text AS uuid)",
        "cast-shadows",
    ),
]

# What only newer servers know: the version that does, and the mutation.
NEWER = [
    (17, mutation)
    for mutation in on(
        "widgets", ("grant-maintain", "GRANT MAINTAIN ON widgets TO tenantry_app", "grant-too-wide")
    )
] + [
    (18, mutation)
    for mutation in on(
        "messages",
        (
            "foreign-key-not-enforced",
            "ALTER TABLE messages ALTER CONSTRAINT messages_tenant_id_fkey NOT ENFORCED",
            "foreign-key-not-enforced",
        ),
        (
            "unique-without-overlaps",
            "CREATE EXTENSION btree_gist; ALTER TABLE messages ADD COLUMN during tstzrange,"
            " ADD CONSTRAINT once UNIQUE (content, during WITHOUT OVERLAPS)",
            "unique-without-tenant",
        ),
    )
]

MUTATIONS = [
    *ROW_SECURITY,
    *GRANTS,
    *ROLES,
    *SETTINGS,
    *OWNERS,
    *KEYS,
    *VIEWS,
    *TABLES,
    *FUNCTIONS,
]
