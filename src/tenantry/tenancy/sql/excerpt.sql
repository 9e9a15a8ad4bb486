-- The parts of a text that match a question, up to two, joined by U+2026. Matches stand between
-- U+E000 and U+E001, which are of the private use area and taken out of the text before. For the
-- search functions only.
CREATE OR REPLACE FUNCTION tenantry.excerpt(language text, content text, question tsquery)
    RETURNS text
    LANGUAGE sql IMMUTABLE
    SET search_path = pg_catalog, pg_temp
    RETURN ts_headline(
        tenantry.word_forms(language),
        translate(left(content, 100000), U&'\E000\E001', ''),
        question,
        U&'StartSel=\E000, StopSel=\E001, MaxFragments=2, MaxWords=30, MinWords=12, FragmentDelimiter=" \2026 "'
    );

REVOKE ALL ON FUNCTION tenantry.excerpt(text, text, tsquery) FROM PUBLIC;
