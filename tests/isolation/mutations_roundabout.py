"""Walls taken down in roundabout ways: by another role, in another schema, under another name."""

from __future__ import annotations

from tests.isolation.mutation import OWN, Mutation, on

__all__ = ["ROUNDABOUT"]

ROUNDABOUT = [
    Mutation(
        "restrictive-for-another-role",
        "CREATE ROLE audit_web LOGIN; GRANT tenantry_app TO audit_web;"
        " CREATE TABLE stray (tenant_id uuid NOT NULL REFERENCES tenants, id uuid,"
        " PRIMARY KEY (tenant_id, id));"
        " ALTER TABLE stray ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
        " CREATE POLICY all_rows ON stray TO tenantry_app USING (true) WITH CHECK (true);"
        " CREATE POLICY own_rows ON stray AS RESTRICTIVE TO audit_web"
        f" USING ({OWN}) WITH CHECK ({OWN})",
        "table public.stray",
        "policy-open",
    ),
    Mutation(
        "policy-for-the-owner",
        "CREATE TABLE stray (tenant_id uuid NOT NULL REFERENCES tenants, id uuid,"
        " PRIMARY KEY (tenant_id, id));"
        " ALTER TABLE stray ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
        f" CREATE POLICY own_rows ON stray TO tenantry_app USING ({OWN}) WITH CHECK ({OWN});"
        " CREATE POLICY extra ON stray TO tenantry_owner USING (true)",
        "table public.stray",
        "policy-open",
    ),
    Mutation(
        "table-in-the-information-schema",
        "CREATE TABLE information_schema.copy AS SELECT * FROM users;"
        " GRANT SELECT ON information_schema.copy TO PUBLIC",
        "table information_schema.copy",
        "row-security-off",
    ),
    Mutation(
        "view-in-the-information-schema",
        "CREATE VIEW information_schema.seen AS SELECT * FROM users;"
        " GRANT SELECT ON information_schema.seen TO PUBLIC",
        "view information_schema.seen",
        "view-without-invoker",
    ),
    *on(
        "users",
        (
            "table-as-part-of-an-extension",
            "ALTER TABLE users DISABLE ROW LEVEL SECURITY; ALTER EXTENSION pg_trgm ADD TABLE users",
            "row-security-off",
        ),
    ),
    Mutation(
        "view-as-part-of-an-extension",
        "CREATE VIEW seen AS SELECT * FROM users; ALTER EXTENSION pg_trgm ADD VIEW seen",
        "view public.seen",
        "view-without-invoker",
    ),
    Mutation(
        "materialized-view-as-part-of-an-extension",
        "CREATE MATERIALIZED VIEW seen AS SELECT * FROM users; GRANT SELECT ON seen TO PUBLIC;"
        " ALTER EXTENSION pg_trgm ADD MATERIALIZED VIEW seen",
        "materialized view public.seen",
        "materialized-view-open",
    ),
    *(
        Mutation(
            f"copy-called-{name.replace('_', '-')}",
            f"CREATE TABLE {name} AS SELECT * FROM users; GRANT SELECT ON {name} TO tenantry_app",
            f"table public.{name}",
            "row-security-off",
        )
        for name in ("alembic_version", "spatial_ref_sys")
    ),
    *on(
        "messages",
        (
            "tenant-column-renamed-without-key",
            "ALTER TABLE messages DROP CONSTRAINT messages_tenant_id_fkey;"
            " ALTER TABLE messages RENAME COLUMN tenant_id TO whose;"
            " INSERT INTO tenants (id, name, slug) VALUES (gen_random_uuid(), 'a', 'a');"
            " INSERT INTO conversation_sessions (tenant_id, id) SELECT id, id FROM tenants;"
            " INSERT INTO messages (whose, id, session_id, role, content)"
            " SELECT id, id, id, 'user', 'x' FROM tenants",
            "tenant-column-missing",
        ),
    ),
    *on(
        "stray",
        (
            "tenant-generated",
            "CREATE TABLE stray (tenant_id uuid NOT NULL GENERATED ALWAYS AS"
            " ('00000000-0000-0000-0000-000000000000'::uuid) STORED REFERENCES tenants,"
            " id uuid, PRIMARY KEY (tenant_id, id))",
            "tenant-default",
        ),
    ),
    Mutation(
        "view-of-passwords",
        "CREATE VIEW seen AS SELECT * FROM pg_authid; GRANT SELECT ON seen TO PUBLIC",
        "view public.seen",
        "view-without-invoker",
    ),
    Mutation(
        "view-of-statistics",
        "CREATE VIEW seen AS SELECT starelid, stavalues1::text AS sample FROM pg_statistic;"
        " GRANT SELECT ON seen TO tenantry_app",
        "view public.seen",
        "view-without-invoker",
    ),
    Mutation(
        "operator-of-its-own-in-the-catalog",
        "CREATE FUNCTION spy(uuid, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';"
        " CREATE OPERATOR pg_catalog.= (LEFTARG = uuid, RIGHTARG = text, FUNCTION = spy)",
        "operator pg_catalog.= (uuid, text)",
        "operator-shadows",
    ),
    *(
        Mutation(
            f"definer-in-{schema.replace('_', '-')}",
            f"CREATE FUNCTION {schema}.spy() RETURNS SETOF public.users SECURITY DEFINER"
            " LANGUAGE sql SET search_path = pg_catalog, pg_temp AS 'SELECT * FROM public.users'",
            f"function {schema}.spy()",
            "definer-open",
        )
        for schema in ("pg_catalog", "information_schema")
    ),
    Mutation(
        "definer-built-in",
        "ALTER FUNCTION pg_catalog.pg_ls_dir(text) SECURITY DEFINER",
        "function pg_catalog.pg_ls_dir(text)",
        "definer-open",
    ),
    Mutation(
        "definer-of-owner-for-app",
        "CREATE FUNCTION spy() RETURNS int SECURITY DEFINER LANGUAGE sql"
        " SET search_path = pg_catalog, pg_temp AS 'SELECT 1';"
        " ALTER FUNCTION spy() OWNER TO tenantry_owner;"
        " REVOKE EXECUTE ON FUNCTION spy() FROM PUBLIC;"
        " GRANT EXECUTE ON FUNCTION spy() TO tenantry_app",
        "function public.spy()",
        "definer-open",
    ),
    *(
        Mutation(
            f"function-sets-{name.rpartition('.')[2].replace('_', '-')}",
            f"CREATE FUNCTION spy() RETURNS bigint LANGUAGE sql SET {name} = '{value}'"
            " AS 'SELECT count(*) FROM public.users'",
            "function public.spy()",
            "function-setting",
        )
        for name, value in (
            ("tenantry.tenant_id", "00000000-0000-0000-0000-000000000000"),
            ("row_security", "off"),
            ("role", "tenantry_operator"),
            ("session_replication_role", "replica"),
        )
    ),
    Mutation(
        "function-binds-session",
        "CREATE FUNCTION bind(one uuid) RETURNS void LANGUAGE sql AS"
        " $$ SELECT set_config('tenantry.tenant_id', one::text, false) $$",
        "function public.bind(one uuid)",
        "binds-session",
    ),
    Mutation(
        "function-binds-session-bound",
        "CREATE FUNCTION bind(one uuid) RETURNS text LANGUAGE sql"
        " RETURN set_config('tenantry.tenant_id', one::text, false)",
        "function public.bind(one uuid)",
        "binds-session",
    ),
    Mutation(
        "procedure-binds-session",
        "CREATE PROCEDURE bind(one uuid) LANGUAGE plpgsql AS"
        " $$ BEGIN EXECUTE format('SET SESSION tenantry.tenant_id = %L', one); END $$",
        "procedure public.bind(IN one uuid)",
        "binds-session",
    ),
    *(
        Mutation(
            f"{name}-of-web",
            "CREATE ROLE audit_web LOGIN; GRANT tenantry_app TO audit_web; " + sql,
            subject,
            "owner-is-application",
        )
        for name, sql, subject in (
            ("table", "ALTER TABLE widgets OWNER TO audit_web", "table public.widgets"),
            ("schema", "ALTER SCHEMA public OWNER TO audit_web", "schema public"),
            ("database", "ALTER DATABASE {database} OWNER TO audit_web", "database {database}"),
            (
                "function",
                "CREATE FUNCTION spy() RETURNS int LANGUAGE sql RETURN 1;"
                " ALTER FUNCTION spy() OWNER TO audit_web",
                "function public.spy()",
            ),
        )
    ),
    *on(
        "stray",
        *(
            (
                f"table-of-{owner.rpartition('_')[2]}",
                "CREATE ROLE audit_reporting LOGIN; CREATE TABLE stray (tenant_id uuid NOT NULL"
                " REFERENCES tenants, id uuid, PRIMARY KEY (tenant_id, id));"
                " ALTER TABLE stray ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
                f" CREATE POLICY own ON stray TO tenantry_app USING ({OWN}) WITH CHECK ({OWN});"
                f" ALTER TABLE stray OWNER TO {owner}",
                "owner-differs",
            )
            for owner in ("tenantry_operator", "audit_reporting")
        ),
    ),
    Mutation(
        "foreign-server-of-app",
        "CREATE EXTENSION postgres_fdw; CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw;"
        " ALTER SERVER other OWNER TO tenantry_app",
        "foreign server other",
        "owner-is-application",
    ),
    Mutation(
        "default-tables-for-another-role",
        "CREATE ROLE audit_reporting LOGIN; ALTER DEFAULT PRIVILEGES FOR ROLE tenantry_owner"
        " GRANT SELECT ON TABLES TO audit_reporting",
        "role tenantry_owner",
        "default-privileges",
    ),
    Mutation(
        "schema-create-information",
        "GRANT CREATE ON SCHEMA information_schema TO tenantry_app",
        "schema information_schema",
        "system-catalog-open",
    ),
    Mutation(
        "extension-function",
        "CREATE EXTENSION pgstattuple; GRANT EXECUTE ON FUNCTION pgstattuple(regclass)"
        " TO tenantry_app",
        "function public.pgstattuple(reloid regclass, OUT table_len bigint,"
        " OUT tuple_count bigint, OUT tuple_len bigint, OUT tuple_percent double precision,"
        " OUT dead_tuple_count bigint, OUT dead_tuple_len bigint,"
        " OUT dead_tuple_percent double precision, OUT free_space bigint,"
        " OUT free_percent double precision)",
        "system-catalog-open",
    ),
    Mutation(
        "web-may-make-others-the-application",
        "CREATE ROLE audit_web LOGIN; GRANT tenantry_app TO audit_web WITH ADMIN OPTION",
        "role audit_web",
        "role-membership",
    ),
    *(
        Mutation(
            f"login-inherits-{role}",
            f"CREATE ROLE audit_person LOGIN; GRANT tenantry_{role} TO audit_person",
            "role audit_person",
            "role-membership",
        )
        for role in ("operator", "owner")
    ),
    Mutation(
        "login-inherits-auth-through-a-group",
        "CREATE ROLE audit_group; GRANT tenantry_auth TO audit_group;"
        " CREATE ROLE audit_person LOGIN; GRANT audit_group TO audit_person",
        "role audit_person",
        "role-membership",
    ),
    Mutation(
        "tenant-for-role-spelled-otherwise",
        """ALTER ROLE tenantry_app SET "Tenantry.Tenant_Id" = 'x'""",
        "role tenantry_app",
        "setting-tenant",
    ),
    Mutation(
        "subscription",
        "CREATE SUBSCRIPTION received CONNECTION 'host=elsewhere' PUBLICATION sent"
        " WITH (connect = false, slot_name = 'received'); ALTER SUBSCRIPTION received ENABLE",
        "subscription received",
        "subscription",
    ),
    *on(
        "stray",
        (
            "trigger-that-also-tells",
            "CREATE TABLE stray (tenant_id uuid NOT NULL REFERENCES tenants, id uuid,"
            " changed_at timestamptz, PRIMARY KEY (tenant_id, id));"
            " CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " NEW.changed_at := now(); PERFORM pg_notify('x', NEW.id::text); RETURN NEW; END $$;"
            " CREATE TRIGGER touch BEFORE UPDATE ON stray FOR EACH ROW EXECUTE FUNCTION touch()",
            "trigger",
        ),
    ),
]
