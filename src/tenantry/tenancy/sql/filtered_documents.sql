-- The ids of the tenant's documents whose metadata a filter lets through; NULL: there is no filter.
-- For the search functions only: behind a policy, @@ could not use the index.
CREATE OR REPLACE FUNCTION tenantry.filtered_documents(tenant uuid, filter jsonpath) RETURNS uuid[]
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
AS $$
BEGIN
    IF filter IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN ARRAY(
        SELECT d.id FROM public.knowledge_documents d
         WHERE d.tenant_id = tenant AND d.metadata @@ filter
    );
END
$$;

REVOKE ALL ON FUNCTION tenantry.filtered_documents(uuid, jsonpath) FROM PUBLIC;
