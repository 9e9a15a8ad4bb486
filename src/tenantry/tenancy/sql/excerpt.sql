-- The parts of a text that match a question, up to two, joined by U+2026; a short text whole.
-- Matches stand between U+E000 and U+E001, which are of the private use area and taken out of the
-- text before, like U+E002, which stands for a < meanwhile: see tenantry.lexemes. For the search
-- functions only.
--
-- ts_headline takes the square of the number of matches: three seconds for 14,000. So of a longer
-- text it gets the first 4,000 characters that match, looked for in 100,000, or the first of all, and
-- 200 more, so that what stands across two pieces is whole in the first.
-- Accents are put together with their letters, as in tenantry.lexemes.
--
-- demanded is what has to be there, as a phrase in quotes; NULL: nothing. Where it stands comes first.
CREATE OR REPLACE FUNCTION tenantry.excerpt(
    language text, content text, question tsquery, demanded tsquery
)
    RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT translate(ts_headline(
        tenantry.word_forms(language),
        translate(
            CASE WHEN shown ~ E'[\u0300-\u036F\u0653-\u0655\u1161-\u11C2\u3099\u309A]' THEN normalize(shown) ELSE shown END,
            E'<\uE000\uE001\uE002', E'\uE002'
        ),
        CASE WHEN demanded IS NOT NULL AND tenantry.lexemes(language, shown) @@ demanded
            THEN demanded && question  -- the question's other words are marked as well
            ELSE question
        END,
        CASE WHEN char_length(content) <= 240
            THEN E'StartSel=\uE000, StopSel=\uE001, HighlightAll=true'
            ELSE E'StartSel=\uE000, StopSel=\uE001, MaxFragments=2, MaxWords=30, MinWords=12, FragmentDelimiter=" \u2026 "'
        END
    ), E'\uE002', '<')
      FROM (
        SELECT CASE WHEN char_length(content) <= 4000 THEN content ELSE coalesce(
            (SELECT piece FROM generate_series(0, 24) n, substr(content, 1 + n * 4000, 4200) piece
              WHERE demanded IS NOT NULL AND tenantry.lexemes(language, piece) @@ demanded LIMIT 1),
            (SELECT piece FROM generate_series(0, 24) n, substr(content, 1 + n * 4000, 4200) piece
              WHERE tenantry.lexemes(language, piece) @@ question LIMIT 1),
            left(content, 4000)
        ) END AS shown
      ) t
$$;

REVOKE ALL ON FUNCTION tenantry.excerpt(text, text, tsquery, tsquery) FROM PUBLIC;
