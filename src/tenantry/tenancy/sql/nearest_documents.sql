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
        SELECT array_agg(n.id), array_agg(n.distance) INTO ids, distances FROM (
            SELECT d.id, d.embedding <=> question AS distance FROM knowledge_documents d
             WHERE d.tenant_id = tenant
               AND (wanted_documents IS NULL OR d.id = ANY (wanted_documents))
             ORDER BY d.embedding <=> question LIMIT k
        ) n;
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
