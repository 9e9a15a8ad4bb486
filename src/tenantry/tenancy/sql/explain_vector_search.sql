-- How tenantry.search_vectors or search_documents would go about it for the bound tenant, and from
-- what it follows. For the application; see tenantry.search.explain_vector_search.
CREATE OR REPLACE FUNCTION tenantry.explain_vector_search(
    k integer, filter jsonpath, recall double precision, of_documents boolean
)
    RETURNS TABLE (plan text, candidates bigint, exact_up_to bigint, ef_search integer)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    tenant uuid := tenantry.current_tenant();
BEGIN
    IF tenant IS NOT NULL THEN
        RETURN QUERY SELECT * FROM tenantry.plan_vector_search(
            tenant, tenantry.filtered_documents(tenant, filter), k, recall, of_documents
        );
    END IF;
END
$$;

REVOKE ALL ON FUNCTION
    tenantry.explain_vector_search(integer, jsonpath, double precision, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    tenantry.explain_vector_search(integer, jsonpath, double precision, boolean) TO tenantry_app;
