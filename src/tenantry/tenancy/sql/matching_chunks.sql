-- The tenant's k chunks that match a question's terms best, best first. For the search functions
-- only, which run as tenantry_auth.
--
--   everything, rare, terms, weights   from tenantry.weigh_terms
--   demanded                           from tenantry.demands
--
-- The score is the sum of each term's weight times its ts_rank, which grows ever slower with the
-- number of occurrences, over 1 + ln(number of different words): Okapi BM25 with PostgreSQL's own
-- functions. See docs/search.md for what it was compared with.
CREATE OR REPLACE FUNCTION tenantry.matching_chunks(
    tenant uuid, everything tsquery, rare tsquery, terms tsquery[], weights double precision[],
    demanded tsquery, k integer, wanted_documents uuid[]
)
    RETURNS TABLE (chunk_id uuid, score double precision)
    LANGUAGE plpgsql STABLE ROWS 50
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_custom_plan
    SET jit = off
AS $$
DECLARE
    wanted tsquery := rare;
    widest tsquery := everything;
    ids uuid[];
    scores double precision[];
BEGIN
    IF querytree(demanded) <> 'T' THEN
        wanted := demanded;
        widest := demanded;
    ELSIF demanded IS NOT NULL THEN  -- it only excludes, and finds nothing by itself
        wanted := wanted && demanded;
        widest := widest && demanded;
    END IF;
    LOOP
        SELECT array_agg(best.id), array_agg(best.score) INTO ids, scores FROM (
            SELECT c.id, coalesce(r.score, 0) AS score
              FROM public.knowledge_chunks c
             CROSS JOIN LATERAL (
                SELECT sum(each.weight * ts_rank(c.lexemes, each.term, 16)) AS score
                  FROM unnest(terms, weights) each (term, weight)
             ) r
             WHERE c.tenant_id = tenant AND c.lexemes @@ wanted
               AND (wanted_documents IS NULL OR c.document_id = ANY (wanted_documents))
             ORDER BY score DESC, c.id LIMIT k
        ) best;
        EXIT WHEN cardinality(ids) = k OR wanted IS NOT DISTINCT FROM widest;
        wanted := widest;
    END LOOP;
    RETURN QUERY SELECT * FROM unnest(ids, scores);
END
$$;

REVOKE ALL ON FUNCTION tenantry.matching_chunks(
    uuid, tsquery, tsquery, tsquery[], double precision[], tsquery, integer, uuid[]
) FROM PUBLIC;
