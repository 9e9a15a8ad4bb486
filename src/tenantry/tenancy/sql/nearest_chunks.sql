-- The tenant's k chunks nearest to a vector, nearest first, and all its chunks where there are
-- fewer. For the search functions only, which run as tenantry_auth.
--
--   wanted_documents   search in these only; NULL: in all
--   recall             which share of the true k nearest is wanted where the index is asked
--
-- The settings hold for this function alone. Its plans must not depend on estimates: the first
-- query cannot use the HNSW index, since it orders by a sum, and the second one has nothing else
-- that orders without sorting. Where that index is absent or invalid, the second sorts as well and
-- is as slow as the first.
CREATE OR REPLACE FUNCTION tenantry.nearest_chunks(
    tenant uuid, question vector, k integer, wanted_documents uuid[], recall double precision
)
    RETURNS TABLE (chunk_id uuid, distance double precision)
    LANGUAGE plpgsql STABLE
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
    IF chosen.plan = 'hnsw' THEN
        PERFORM set_config('hnsw.ef_search', chosen.ef_search::text, true);
        IF wanted_documents IS NULL THEN
            SELECT array_agg(n.id), array_agg(n.distance) INTO ids, distances FROM (
                SELECT c.id, c.embedding <=> question AS distance
                  FROM knowledge_chunks c
                 WHERE c.tenant_id = tenant
                 ORDER BY c.embedding <=> question LIMIT k
            ) n;
        ELSE
            SELECT array_agg(n.id), array_agg(n.distance) INTO ids, distances FROM (
                SELECT c.id, c.embedding <=> question AS distance
                  FROM knowledge_chunks c
                 WHERE c.tenant_id = tenant AND c.document_id = ANY (wanted_documents)
                 ORDER BY c.embedding <=> question LIMIT k
            ) n;
        END IF;
        -- An index scan ends after hnsw.max_scan_tuples, found or not: then it is compared.
        IF cardinality(ids) = k THEN
            RETURN QUERY SELECT * FROM unnest(ids, distances) n (id, distance) ORDER BY 2, 1;
            RETURN;
        END IF;
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
    tenantry.nearest_chunks(uuid, vector, integer, uuid[], double precision) FROM PUBLIC;
