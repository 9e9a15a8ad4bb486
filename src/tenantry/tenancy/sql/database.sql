-- What a database needs before its first table: extensions, the schema of our functions, and
-- nobody but the owner making anything. Safe to run again.
CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA public;
CREATE EXTENSION IF NOT EXISTS pg_trgm WITH SCHEMA public;
CREATE EXTENSION IF NOT EXISTS btree_gin WITH SCHEMA public;

-- TEMPORARY is taken from PUBLIC because a temporary table is found before a real one of the
-- same name: whoever can make one can shadow ours for the statements of its connection.
DO $$
BEGIN
    EXECUTE pg_catalog.format(
        'REVOKE CREATE, TEMPORARY ON DATABASE %I FROM PUBLIC', pg_catalog.current_database());
    EXECUTE pg_catalog.format(
        'GRANT CONNECT ON DATABASE %I TO tenantry_app, tenantry_operator',
        pg_catalog.current_database());
    EXECUTE pg_catalog.format(
        'GRANT TEMPORARY ON DATABASE %I TO tenantry_owner, tenantry_operator',
        pg_catalog.current_database());
    -- An HNSW scan returns the nearest rows of all tenants, and row security filters them after
    -- it: without this, one tenant's documents push another's out of its results. The cast loads
    -- pgvector, which makes its settings known. For the database, so that it holds for every
    -- client of it and behind every pooler.
    PERFORM '[1]'::public.vector;
    EXECUTE pg_catalog.format(
        'ALTER DATABASE %I SET hnsw.iterative_scan = strict_order', pg_catalog.current_database());
    -- Not IF NOT EXISTS: that asks for CREATE on the database even where there is nothing to do.
    IF pg_catalog.to_regnamespace('tenantry') IS NULL THEN
        CREATE SCHEMA tenantry AUTHORIZATION tenantry_owner;
    END IF;
END
$$;

REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT CREATE, USAGE ON SCHEMA public TO tenantry_owner;
GRANT USAGE ON SCHEMA public TO tenantry_app, tenantry_auth, tenantry_operator;
