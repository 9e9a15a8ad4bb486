-- Signing in: the function that finds a tenant by its slug before anybody is known, and the one
-- column that it needs beside the id. Frozen: changes come as new migrations.

SET LOCAL lock_timeout = '5s';

GRANT SELECT (slug) ON TABLE tenants TO tenantry_auth;

GRANT CREATE ON SCHEMA tenantry TO tenantry_auth;
SET LOCAL ROLE tenantry_auth;
-- The id of the tenant with this slug, before anybody is known: for a sign-in, which names its
-- tenant by the host or in its body. NULL where there is none, and for NULL.
--
-- The slug itself and nothing near it: no case is folded and no pattern is matched, so nothing can
-- be listed. There is one statement and one answer, whether the slug is somebody's or nobody's.
CREATE OR REPLACE FUNCTION tenantry.find_tenant(slug text) RETURNS uuid
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT t.id FROM public.tenants t WHERE t.slug = find_tenant.slug);
END
$$;

REVOKE ALL ON FUNCTION tenantry.find_tenant(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantry.find_tenant(text) TO tenantry_app;

SET LOCAL ROLE tenantry_owner;
REVOKE CREATE ON SCHEMA tenantry FROM tenantry_auth;
