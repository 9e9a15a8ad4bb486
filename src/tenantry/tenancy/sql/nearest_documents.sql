-- The same as tenantry.nearest_chunks, for whole documents; they have no parts.
-- A setting of pgvector's is known only once pgvector is loaded, which the cast does.
DO $$ BEGIN PERFORM '[1]'::public.vector; END $$;
CREATE OR REPLACE FUNCTION tenantry.nearest_documents(
    tenant uuid, question public.vector, k integer, wanted_documents uuid[], recall double precision
)
    RETURNS TABLE (document_id uuid, distance double precision)
    LANGUAGE plpgsql STABLE ROWS 50
    SET search_path = pg_catalog, public, pg_temp
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off
    SET enable_sort = off
    SET jit = off
    SET hnsw.iterative_scan = relaxed_order
    SET hnsw.ef_search = 40
AS $$
DECLARE
    chosen record;
    ids uuid[];
    distances double precision[];
BEGIN
    chosen := tenantry.plan_vector_search(tenant, wanted_documents, k, recall, true);
    IF chosen.plan <> 'exact' THEN
        PERFORM set_config('hnsw.ef_search', chosen.ef_search::text, true);
        EXECUTE $query$
            SELECT array_agg(n.id), array_agg(n.distance) FROM (
                SELECT d.id, d.embedding <=> $2 AS distance FROM knowledge_documents d
                 WHERE d.tenant_id = $1 AND d.embedding IS NOT NULL
                   AND ($4 IS NULL OR d.id = ANY ($4))
                 ORDER BY d.embedding <=> $2 LIMIT $3
            ) n
        $query$ INTO ids, distances USING tenant, question, k, wanted_documents;
        IF cardinality(ids) = k THEN
            RETURN QUERY SELECT * FROM unnest(ids, distances) n (id, distance) ORDER BY 2, 1;
            RETURN;
        END IF;
    END IF;
    IF wanted_documents IS NULL THEN
        RETURN QUERY
        SELECT d.id, d.embedding <=> question
          FROM knowledge_documents d
         WHERE d.tenant_id = tenant AND d.embedding IS NOT NULL
         ORDER BY (d.embedding <=> question) + 0, d.id LIMIT k;
    ELSE
        RETURN QUERY
        SELECT d.id, d.embedding <=> question
          FROM unnest(wanted_documents) wanted
          JOIN knowledge_documents d ON d.tenant_id = tenant AND d.id = wanted
         WHERE d.embedding IS NOT NULL
         ORDER BY (d.embedding <=> question) + 0, d.id LIMIT k;
    END IF;
END
$$;

REVOKE ALL ON FUNCTION
    tenantry.nearest_documents(uuid, public.vector, integer, uuid[], double precision) FROM PUBLIC;
