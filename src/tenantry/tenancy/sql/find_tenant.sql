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
