-- The bound tenant's chunks that contain a text as it is, in whatever case: parts of words, numbers
-- of parts, languages whose words PostgreSQL does not know. For the application; see
-- tenantry.search.keyword_search. Documents are found by their trigrams, chunks within them by looking, so
-- a chunk is found if its document has the text as well.
--
-- Of the two indexes on trigrams only the one that leads with the tenant is on lower(content): the
-- other would have the documents of others looked into, which takes a time that shows.
--
-- The score compares with what stands around the first place only: word_similarity takes the square
-- of the number of places, 25 seconds for a text that repeats a word 14,000 times.
CREATE OR REPLACE FUNCTION tenantry.search_substrings(wanted text, k integer, filter jsonpath)
    RETURNS TABLE (
        id uuid, document_id uuid, title text, content text, score double precision
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    SET plan_cache_mode = force_custom_plan
    SET jit = off
AS $$
DECLARE
    tenant uuid := tenantry.current_tenant();
    pattern text := '%' || replace(replace(replace(lower(wanted), E'\\', E'\\\\'), '%', E'\\%'), '_', E'\\_') || '%';
    wanted_documents uuid[];
BEGIN
    IF tenant IS NULL OR wanted = '' THEN
        RETURN;
    END IF;
    wanted_documents := tenantry.filtered_documents(tenant, filter);
    RETURN QUERY
    SELECT c.id, c.document_id, d.title, c.content, n.nearness
      FROM (
        SELECT c.id, c.document_id, c.content
          FROM public.knowledge_documents d
          JOIN public.knowledge_chunks c ON c.tenant_id = tenant AND c.document_id = d.id
         WHERE d.tenant_id = tenant AND lower(d.content) LIKE pattern
           AND lower(c.content) LIKE pattern
           AND (wanted_documents IS NULL OR d.id = ANY (wanted_documents))
         LIMIT greatest(k, 100)
      ) c
      JOIN public.knowledge_documents d ON d.tenant_id = tenant AND d.id = c.document_id
     CROSS JOIN LATERAL (
        SELECT word_similarity(
                   left(wanted, 256),
                   substr(c.content, greatest(1, strpos(lower(c.content), lower(wanted)) - 64), 384)
               )::double precision AS nearness
     ) n
     ORDER BY 5 DESC, 1 LIMIT k;
END
$$;

REVOKE ALL ON FUNCTION tenantry.search_substrings(text, integer, jsonpath) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantry.search_substrings(text, integer, jsonpath) TO tenantry_app;
