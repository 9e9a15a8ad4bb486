-- What a question insists on, as a condition on lexemes; NULL: on nothing. For the search
-- functions only.
--
--   required   groups of phrases, as in [["refund policy"], ["monday", "tuesday"]]: of each group
--              one has to be in the text
--   excluded   phrases that must not be in it
CREATE OR REPLACE FUNCTION tenantry.demands(languages text[], required jsonb, excluded text[])
    RETURNS tsquery
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH phrases AS (
        SELECT g.number, phraseto_tsquery(tenantry.word_forms(l), translate(p, '<', ' ')) AS phrase
          FROM jsonb_array_elements(required) WITH ORDINALITY g (phrases, number),
               jsonb_array_elements_text(g.phrases) p, unnest(languages) l
    ), groups AS (
        SELECT '(' || string_agg(DISTINCT phrase::text, ' | ') || ')' AS condition
          FROM phrases WHERE numnode(phrase) > 0 GROUP BY number
        UNION ALL
        SELECT DISTINCT '!(' || phrase::text || ')'
          FROM unnest(excluded) p, unnest(languages) l,
               phraseto_tsquery(tenantry.word_forms(l), translate(p, '<', ' ')) phrase
         WHERE numnode(phrase) > 0
    )
    SELECT string_agg(condition, ' & ')::tsquery FROM groups
$$;

REVOKE ALL ON FUNCTION tenantry.demands(text[], jsonb, text[]) FROM PUBLIC;
