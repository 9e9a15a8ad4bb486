"""Walls taken down by views and functions."""

from __future__ import annotations

from tests.isolation.mutation import Mutation, on

__all__ = ["FUNCTIONS", "VIEWS"]

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
