-- The tenant's k chunks nearest to a vector, nearest first, and all its chunks where there are
-- fewer. For the search functions only, which run as tenantry_auth.
--
--   wanted_documents   search in these only; NULL: in all
--   recall             which share of the true k nearest is wanted where the index is asked
--
-- The settings hold for this function alone. Its plans must not depend on estimates: where the
-- rows are compared, no index can be used, since they are ordered by a sum; where an index is to be
-- asked, nothing else orders without sorting. Where that index is dropped meanwhile, they are sorted
-- all the same, and it is as slow as comparing. EXECUTE plans anew: only of an array that it
-- sees does the planner make a hash table.
-- A setting of pgvector's is known only once pgvector is loaded, which the cast does.
DO $$ BEGIN PERFORM '[1]'::public.vector; END $$;
CREATE OR REPLACE FUNCTION tenantry.nearest_chunks(
    tenant uuid, question public.vector, k integer, wanted_documents uuid[], recall double precision
)
    RETURNS TABLE (chunk_id uuid, distance double precision)
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
    chosen := tenantry.plan_vector_search(tenant, wanted_documents, k, recall, false);
    IF chosen.plan <> 'exact' THEN
        PERFORM set_config('hnsw.ef_search', chosen.ef_search::text, true);
    END IF;
    IF chosen.plan = 'part' THEN
        -- Its vectors are of half precision: twice as many are taken, and compared in full. The
        -- planner takes a partial index only where it sees the part's number.
        EXECUTE format($query$
            SELECT array_agg(n.id), array_agg(n.embedding <=> $2) FROM (
                SELECT c.id, c.embedding FROM knowledge_chunks c
                 WHERE c.tenant_id = $1 AND tenantry.search_part(c.tenant_id) = %s
                   AND c.embedding IS NOT NULL
                   AND ($4 IS NULL OR c.document_id = ANY ($4))
                 ORDER BY l2_normalize(c.embedding)::halfvec(1024)
                          <#> l2_normalize($2)::halfvec(1024)
                 LIMIT 2 * $3
            ) n
        $query$, tenantry.search_part(tenant))
        INTO ids, distances USING tenant, question, k, wanted_documents;
    ELSIF chosen.plan = 'whole' THEN
        EXECUTE $query$
            SELECT array_agg(n.id), array_agg(n.distance) FROM (
                SELECT c.id, c.embedding <=> $2 AS distance FROM knowledge_chunks c
                 WHERE c.tenant_id = $1 AND c.embedding IS NOT NULL
                   AND ($4 IS NULL OR c.document_id = ANY ($4))
                 ORDER BY c.embedding <=> $2 LIMIT $3
            ) n
        $query$ INTO ids, distances USING tenant, question, k, wanted_documents;
    END IF;
    -- The scan of an index ends after hnsw.max_scan_tuples, found or not: then it is compared.
    IF cardinality(ids) >= k THEN
        RETURN QUERY
        SELECT * FROM unnest(ids, distances) n (id, distance) ORDER BY 2, 1 LIMIT k;
        RETURN;
    END IF;
    IF wanted_documents IS NULL THEN
        RETURN QUERY
        SELECT c.id, c.embedding <=> question
          FROM knowledge_chunks c
         WHERE c.tenant_id = tenant AND c.embedding IS NOT NULL
         ORDER BY (c.embedding <=> question) + 0, c.id LIMIT k;
    ELSE
        RETURN QUERY
        SELECT c.id, c.embedding <=> question
          FROM unnest(wanted_documents) wanted
          JOIN knowledge_chunks c ON c.tenant_id = tenant AND c.document_id = wanted
         WHERE c.embedding IS NOT NULL
         ORDER BY (c.embedding <=> question) + 0, c.id LIMIT k;
    END IF;
END
$$;

REVOKE ALL ON FUNCTION
    tenantry.nearest_chunks(uuid, public.vector, integer, uuid[], double precision) FROM PUBLIC;
