-- The bound tenant's chunks nearest to a vector. For the application; see tenantry.search.vector_search.
--
--   question   1,024 numbers
--   filter     on the metadata of documents; NULL: none
CREATE OR REPLACE FUNCTION tenantry.search_vectors(
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
    SELECT c.id, c.document_id, d.title, c.content, 1 - n.distance
      FROM tenantry.nearest_chunks(
               tenant, question, k, tenantry.filtered_documents(tenant, filter), recall
           ) WITH ORDINALITY n (chunk_id, distance, number)
     -- Each row by its key. As joins, all rows of an average tenant look cheaper to the planner, and
     -- a large tenant has many more: 55 ms and not 3 ms for one of 8,000 chunks.
     CROSS JOIN LATERAL (
        SELECT f.id, f.document_id, f.content FROM public.knowledge_chunks f
         WHERE f.tenant_id = tenant AND f.id = n.chunk_id OFFSET 0
     ) c
     CROSS JOIN LATERAL (
        SELECT f.title FROM public.knowledge_documents f
         WHERE f.tenant_id = tenant AND f.id = c.document_id OFFSET 0
     ) d
     ORDER BY n.number;
END
$$;

REVOKE ALL ON FUNCTION
    tenantry.search_vectors(public.vector, integer, jsonpath, double precision)
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    tenantry.search_vectors(public.vector, integer, jsonpath, double precision)
    TO tenantry_app;
