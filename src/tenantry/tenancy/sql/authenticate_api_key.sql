-- Whether an API key opens its tenant, before the tenant is known: one row if it does, none if not.
--
--   tenant   the second part of the key
--   hash     SHA-256 of its third part
--
-- The key before the last rotation still opens it until expires_at; for the key of today that is
-- NULL. The digests are compared as in validate_session.
CREATE OR REPLACE FUNCTION tenantry.authenticate_api_key(tenant uuid, hash bytea)
    RETURNS TABLE (expires_at timestamptz)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    salt bytea := float8send(random());
    given bytea := sha256(salt || hash);
BEGIN
    RETURN QUERY
    SELECT CASE WHEN sha256(salt || t.api_key) = given THEN NULL
                ELSE t.previous_api_key_expires_at END
      FROM public.tenants t
     WHERE t.id = tenant
       AND (sha256(salt || t.api_key) = given
            OR sha256(salt || t.previous_api_key) = given
               AND t.previous_api_key_expires_at > statement_timestamp());
END
$$;

REVOKE ALL ON FUNCTION tenantry.authenticate_api_key(uuid, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantry.authenticate_api_key(uuid, bytea) TO tenantry_app;
