-- The terms of a question, each with its weight for the tenant: the rarer a term is in its
-- knowledge base, the more it says. For the search functions only, which run as tenantry_auth.
--
--   words    the question's words
--   pairs    neighbours in a script without spaces, as in '退 款': a term each
--   spoken   the question's languages; NULL: those that the tenant's chunks are in
--
-- terms and weights belong together, at most 32, the weightiest: of more, those come last that no
-- chunk has. everything finds a chunk by any of them. rare is for a large knowledge base: it finds by
-- those terms that are in a tenth of the chunks at most, and a term that is everywhere only adds to
-- their score; in a small one, or where every term is common, it is the same as everything. Common
-- terms that together outweigh the rarest one are not left to that, but for the commonest: a chunk
-- that has them all may be the best.
--
-- The weight is BM25's: ln(1 + (N - n + 0.5) / (n + 0.5)) (Robertson and Zaragoza, 2009, in the
-- form of Lucene). N and n are counted in a sample, the 512 oldest and the 512 newest chunks;
-- they are the tenant's own, so that no tenant's words show in another's results.
CREATE OR REPLACE FUNCTION tenantry.weigh_terms(
    tenant uuid, words text, pairs text[], spoken text[],
    OUT languages text[], OUT terms tsquery[], OUT weights double precision[],
    OUT everything tsquery, OUT rare tsquery
)
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
AS $$
BEGIN
    WITH oldest AS MATERIALIZED (
        SELECT c.id, c.language, c.lexemes FROM public.knowledge_chunks c
         WHERE c.tenant_id = tenant ORDER BY c.id LIMIT 512
    ), sample AS MATERIALIZED (
        SELECT o.language, o.lexemes FROM oldest o
        UNION ALL
        (SELECT c.language, c.lexemes FROM public.knowledge_chunks c
          WHERE c.tenant_id = tenant
            AND c.id > (SELECT o.id FROM oldest o ORDER BY o.id DESC LIMIT 1)
          ORDER BY c.id DESC LIMIT 512)
    ), heard AS (
        SELECT DISTINCT s.language FROM sample s WHERE spoken IS NULL
        UNION ALL
        SELECT unnest(spoken)
    ), asked AS (
        (SELECT ('''' || replace(replace(word.lexeme, E'\\', E'\\\\'), '''', '''''') || '''')::tsquery
                    AS term
           FROM heard h, unnest(tenantry.lexemes(h.language, words)) word
          GROUP BY word.lexeme ORDER BY min(word.positions[1]) LIMIT 128)
        UNION
        SELECT phraseto_tsquery('pg_catalog.simple', pair) FROM unnest(pairs) pair
    ), counted AS (
        SELECT a.term, count(s.lexemes) AS found, (SELECT count(*) FROM sample) AS size,
               count(*) OVER () > 32 AS too_many
          FROM asked a LEFT JOIN sample s ON s.lexemes @@ a.term
         GROUP BY a.term
    ), weighed AS (
        SELECT c.term, c.size < 512 OR c.found <= c.size * 0.1 AS is_rare, c.found > 0 AS is_known,
               ln(1 + (c.size - c.found + 0.5) / (c.found + 0.5))::double precision AS weight
          FROM counted c
         ORDER BY c.too_many AND c.found = 0 AND 0 = (
                    SELECT count(*) FROM public.knowledge_chunks k
                     WHERE k.tenant_id = tenant AND k.lexemes @@ c.term
               ), weight DESC, c.term LIMIT 32
    ), divided AS (
        SELECT w.term, w.weight,
               w.is_rare OR sum(w.weight) OVER (ORDER BY w.weight, w.term)
                          > max(w.weight) FILTER (WHERE w.is_rare AND w.is_known) OVER () AS finds
          FROM weighed w
    )
    SELECT (SELECT array_agg(h.language) FROM heard h),
           array_agg(d.term), array_agg(d.weight),
           string_agg(d.term::text, ' | ')::tsquery,
           coalesce(string_agg(d.term::text, ' | ') FILTER (WHERE d.finds),
                    string_agg(d.term::text, ' | '))::tsquery
      INTO languages, terms, weights, everything, rare
      FROM divided d;
END
$$;

REVOKE ALL ON FUNCTION tenantry.weigh_terms(uuid, text, text[], text[]) FROM PUBLIC;
