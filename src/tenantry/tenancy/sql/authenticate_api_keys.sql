-- authenticate_api_key for many keys in one statement: a row for each that is good, with its place
-- in the arrays, counted from 1.
CREATE OR REPLACE FUNCTION tenantry.authenticate_api_keys(tenants uuid[], hashes bytea[])
    RETURNS TABLE (place bigint, expires_at timestamptz)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    salt bytea := float8send(random());
BEGIN
    RETURN QUERY
    SELECT asked.place,
           CASE WHEN sha256(salt || t.api_key) = sha256(salt || asked.hash) THEN NULL
                ELSE t.previous_api_key_expires_at END
      FROM unnest(tenants, hashes) WITH ORDINALITY asked (tenant, hash, place)
     CROSS JOIN LATERAL (
               SELECT t.api_key, t.previous_api_key, t.previous_api_key_expires_at
                 FROM public.tenants t
                WHERE t.id = asked.tenant
                LIMIT 1) t
     WHERE sha256(salt || t.api_key) = sha256(salt || asked.hash)
        OR sha256(salt || t.previous_api_key) = sha256(salt || asked.hash)
           AND t.previous_api_key_expires_at > statement_timestamp();
END
$$;

REVOKE ALL ON FUNCTION tenantry.authenticate_api_keys(uuid[], bytea[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantry.authenticate_api_keys(uuid[], bytea[]) TO tenantry_app;
