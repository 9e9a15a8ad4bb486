-- The bound tenant's chunks that match a question's words. For the application; see
-- tenantry.search.keyword_search, which takes what a person has typed apart.
--
--   words, pairs, spoken   as in tenantry.weigh_terms
--   required, excluded     as in tenantry.demands
--   filter                 on the metadata of documents; NULL: none
--   marked                 whether excerpts are wanted: up to two, joined by U+2026; matches stand
--                          between U+E000 and U+E001, which are taken out of the text before
CREATE OR REPLACE FUNCTION tenantry.search_keywords(
    words text, pairs text[], required jsonb, excluded text[], spoken text[], k integer,
    filter jsonpath, marked boolean
)
    RETURNS TABLE (
        id uuid, document_id uuid, title text, content text, score double precision, excerpt text
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET enable_hashjoin = off
    SET enable_mergejoin = off
    SET join_collapse_limit = 1
    SET jit = off
AS $$
DECLARE
    tenant uuid := tenantry.current_tenant();
    t record;
    demanded tsquery;
    present tsquery;  -- what is demanded but for what must not be there, which every excerpt is without
BEGIN
    IF tenant IS NULL THEN
        RETURN;
    END IF;
    t := tenantry.weigh_terms(tenant, words, pairs, spoken);
    demanded := tenantry.demands(t.languages, required, excluded);
    present := nullif(nullif(querytree(demanded), ''), 'T')::tsquery;
    RETURN QUERY
    SELECT c.id, c.document_id, d.title, c.content, n.score,
           CASE WHEN marked THEN
               tenantry.excerpt(
                   c.language, c.content, coalesce(t.everything || present, t.everything, present),
                   present
               )
           END
      FROM tenantry.matching_chunks(
               tenant, t.everything, t.rare, t.terms, t.weights, demanded, k,
               tenantry.filtered_documents(tenant, filter)
           ) WITH ORDINALITY n (chunk_id, score, number)
     -- Each row by its key, as in search_vectors.
     CROSS JOIN LATERAL (
        SELECT f.id, f.document_id, f.content, f.language FROM public.knowledge_chunks f
         WHERE f.tenant_id = tenant AND f.id = n.chunk_id OFFSET 0
     ) c
     CROSS JOIN LATERAL (
        SELECT f.title FROM public.knowledge_documents f
         WHERE f.tenant_id = tenant AND f.id = c.document_id OFFSET 0
     ) d
     ORDER BY n.number;
END
$$;

REVOKE ALL ON FUNCTION tenantry.search_keywords(
    text, text[], jsonb, text[], text[], integer, jsonpath, boolean
) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantry.search_keywords(
    text, text[], jsonb, text[], text[], integer, jsonpath, boolean
) TO tenantry_app;
