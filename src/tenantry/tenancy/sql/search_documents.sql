-- The bound tenant's documents nearest to a vector. For the application; see tenantry.search.vector_search.
CREATE OR REPLACE FUNCTION tenantry.search_documents(
    question public.vector, k integer, filter jsonpath, recall double precision
)
    RETURNS TABLE (
        id uuid, document_id uuid, title text, content text, score double precision
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off
    SET enable_hashjoin = off
    SET enable_mergejoin = off
    SET join_collapse_limit = 1
    SET jit = off
AS $$
DECLARE
    tenant uuid := tenantry.current_tenant();
BEGIN
    IF tenant IS NULL THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT d.id, d.id, d.title, d.content, 1 - n.distance
      FROM tenantry.nearest_documents(
               tenant, question, k, tenantry.filtered_documents(tenant, filter), recall
           ) WITH ORDINALITY n (document_id, distance, number)
     -- Each row by its key, as in search_vectors.
     CROSS JOIN LATERAL (
        SELECT f.id, f.title, f.content FROM public.knowledge_documents f
         WHERE f.tenant_id = tenant AND f.id = n.document_id OFFSET 0
     ) d
     ORDER BY n.number;
END
$$;

REVOKE ALL ON FUNCTION
    tenantry.search_documents(public.vector, integer, jsonpath, double precision)
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    tenantry.search_documents(public.vector, integer, jsonpath, double precision)
    TO tenantry_app;
