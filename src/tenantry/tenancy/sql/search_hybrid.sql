-- The bound tenant's chunks that suit a question best by its words and by its vector. For the
-- application; see tenantry.search.hybrid_search.
--
--   pool            how many chunks are taken from either search
--   vector_weight   the vector's share of the score, 0 to 1; the words have the rest
--
-- Each chunk of either pool gets both scores, also the one that it was not found by, and both are
-- measured in standard deviations from the mean of all of them. So no score is missing, as with a
-- fusion of ranks, and neither the range nor the offset of a model's similarities matters. The sum
-- is put between 0 and 1 by the logistic function. Deviations below 1e-6 are rounding, and count
-- for nothing.
--
-- Where the question excludes or insists, the pool is filled from the 1,000 nearest: the nearest 50
-- may all have the word that must not be there.
CREATE OR REPLACE FUNCTION tenantry.search_hybrid(
    question public.vector, words text, pairs text[], required jsonb, excluded text[], spoken text[],
    k integer, filter jsonpath, pool integer, vector_weight double precision,
    recall double precision, marked boolean
)
    RETURNS TABLE (
        id uuid, document_id uuid, title text, content text, score double precision, excerpt text
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    SET enable_seqscan = off
    SET enable_hashjoin = off
    SET enable_mergejoin = off
    SET join_collapse_limit = 1
    SET jit = off
AS $$
DECLARE
    tenant uuid := tenantry.current_tenant();
    wanted_documents uuid[];
    t record;
    demanded tsquery;
    present tsquery;  -- what is demanded but for what must not be there, which every excerpt is without
BEGIN
    IF tenant IS NULL THEN
        RETURN;
    END IF;
    wanted_documents := tenantry.filtered_documents(tenant, filter);
    t := tenantry.weigh_terms(tenant, words, pairs, spoken);
    demanded := tenantry.demands(t.languages, required, excluded);
    present := nullif(nullif(querytree(demanded), ''), 'T')::tsquery;
    RETURN QUERY
    WITH found AS MATERIALIZED (
        (SELECT n.chunk_id
           FROM tenantry.nearest_chunks(
                    tenant, question,
                    CASE WHEN demanded IS NULL THEN pool ELSE greatest(pool, 1000) END,
                    wanted_documents, recall
                ) WITH ORDINALITY n (chunk_id, distance, number)
          WHERE demanded IS NULL OR EXISTS (
                SELECT FROM public.knowledge_chunks c
                 WHERE c.tenant_id = tenant AND c.id = n.chunk_id AND c.lexemes @@ demanded
                )
          ORDER BY n.number LIMIT pool)
        UNION
        SELECT m.chunk_id
          FROM tenantry.matching_chunks(
                   tenant, t.everything, t.rare, t.terms, t.weights, demanded, pool,
                   wanted_documents
               ) m
    ), scored AS (
        SELECT c.id, 1 - (c.embedding <=> question) AS similarity, coalesce(r.score, 0) AS keywords
          FROM found f
         CROSS JOIN LATERAL (  -- each row by its key, as in search_vectors
            SELECT g.id, g.embedding, g.lexemes FROM public.knowledge_chunks g
             WHERE g.tenant_id = tenant AND g.id = f.chunk_id OFFSET 0
         ) c
         CROSS JOIN LATERAL (
            SELECT sum(each.weight * ts_rank(c.lexemes, each.term, 16)) AS score
              FROM unnest(t.terms, t.weights) each (term, weight)
         ) r
         WHERE demanded IS NULL OR c.lexemes @@ demanded
    ), best AS (
        SELECT s.id,
               vector_weight * coalesce(
                   (coalesce(s.similarity, min(s.similarity) OVER ()) - avg(s.similarity) OVER ())
                   / greatest(stddev_pop(s.similarity) OVER (), 1e-6), 0)
               + (1 - vector_weight) * coalesce(
                   (s.keywords - avg(s.keywords) OVER ())
                   / greatest(stddev_pop(s.keywords) OVER (), 1e-6), 0) AS score
          FROM scored s ORDER BY score DESC, s.id LIMIT k
    )
    SELECT c.id, c.document_id, d.title, c.content, 1 / (1 + exp(-b.score)),
           CASE WHEN marked THEN
               tenantry.excerpt(
                   c.language, c.content, coalesce(t.everything || present, t.everything, present),
                   present
               )
           END
      FROM best b
     CROSS JOIN LATERAL (
        SELECT f.id, f.document_id, f.content, f.language FROM public.knowledge_chunks f
         WHERE f.tenant_id = tenant AND f.id = b.id OFFSET 0
     ) c
     CROSS JOIN LATERAL (
        SELECT f.title FROM public.knowledge_documents f
         WHERE f.tenant_id = tenant AND f.id = c.document_id OFFSET 0
     ) d
     ORDER BY b.score DESC, b.id;
END
$$;

REVOKE ALL ON FUNCTION tenantry.search_hybrid(
    public.vector, text, text[], jsonb, text[], text[], integer, jsonpath, integer, double precision,
    double precision, boolean
) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantry.search_hybrid(
    public.vector, text, text[], jsonb, text[], text[], integer, jsonpath, integer, double precision,
    double precision, boolean
) TO tenantry_app;
