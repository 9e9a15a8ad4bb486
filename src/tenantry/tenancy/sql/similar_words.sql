-- For each of a question's words that the bound tenant's knowledge base does not have: words that it
-- has, of about the same length, by their share of trigrams. For the application; see
-- tenantry.search.keyword_search, which chooses among them.
--
-- A word with a digit is not taken for a misspelt one: another year, or another part, is not what was
-- meant. Up to eight words are looked at, each in up to 500 chunks with words of the same three first
-- letters, and in the 512 newest chunks, where no letter has to be the same.
CREATE OR REPLACE FUNCTION tenantry.similar_words(words text, spoken text[])
    RETURNS TABLE (word text, candidates text[])
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    SET plan_cache_mode = force_custom_plan
    SET jit = off
AS $$
DECLARE
    tenant uuid := tenantry.current_tenant();
    asked text;
    vocabulary text[];
BEGIN
    IF tenant IS NULL THEN
        RETURN;
    END IF;
    IF spoken IS NULL THEN
        spoken := ARRAY(
            SELECT DISTINCT c.language FROM (  -- the sample of tenantry.weigh_terms
                (SELECT o.language FROM public.knowledge_chunks o
                  WHERE o.tenant_id = tenant ORDER BY o.id LIMIT 512)
                UNION ALL
                (SELECT n.language FROM public.knowledge_chunks n
                  WHERE n.tenant_id = tenant ORDER BY n.id DESC LIMIT 512)
            ) c
        );
    END IF;
    FOR asked IN
        SELECT w.lexeme FROM unnest(spoken) l, unnest(tenantry.lexemes(l, words)) w
         WHERE char_length(w.lexeme) BETWEEN 4 AND 64 AND w.lexeme !~ '[0-9]'
         GROUP BY w.lexeme ORDER BY min(w.positions[1]) LIMIT 8
    LOOP
        CONTINUE WHEN EXISTS (
            SELECT FROM public.knowledge_chunks c
             WHERE c.tenant_id = tenant AND c.lexemes @@ array_to_tsvector(ARRAY[asked])::text::tsquery
        );
        word := asked;
        vocabulary := coalesce(vocabulary, ARRAY(
            SELECT DISTINCT u.lexeme FROM (
                SELECT c.lexemes FROM public.knowledge_chunks c
                 WHERE c.tenant_id = tenant ORDER BY c.id DESC LIMIT 512
            ) c, unnest(c.lexemes) u
        ));
        -- Each kind has places of its own: a word of letters that have changed places shares fewer
        -- trigrams with what was meant than with many others.
        candidates := ARRAY(
            (SELECT v.lexeme FROM (
                SELECT DISTINCT u.lexeme FROM (
                    SELECT c.lexemes FROM public.knowledge_chunks c
                     WHERE c.tenant_id = tenant
                       AND c.lexemes @@ (array_to_tsvector(ARRAY[left(asked, 3)])::text || ':*')::tsquery
                     LIMIT 500
                ) c, unnest(c.lexemes) u
                 WHERE left(u.lexeme, 3) = left(asked, 3)
                   AND char_length(u.lexeme) BETWEEN char_length(asked) - 2 AND char_length(asked) + 2
             ) v
              ORDER BY similarity(v.lexeme, asked) DESC, v.lexeme LIMIT 50)
            UNION
            (SELECT v.lexeme FROM unnest(vocabulary) v (lexeme)
              WHERE char_length(v.lexeme) BETWEEN char_length(asked) - 2 AND char_length(asked) + 2
              ORDER BY similarity(v.lexeme, asked) DESC, v.lexeme LIMIT 50)
             ORDER BY 1
        );
        RETURN NEXT;
    END LOOP;
END
$$;

REVOKE ALL ON FUNCTION tenantry.similar_words(text, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantry.similar_words(text, text[]) TO tenantry_app;
