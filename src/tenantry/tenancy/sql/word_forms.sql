-- PostgreSQL's text search configuration for one of our languages; `simple` for any other.
--
-- Named in full and bound when the function is created, so that no search_path and no
-- default_text_search_config changes what is stored; that is why they are listed here and not
-- looked up. A column of type regconfig would keep a database from pg_upgrade.
CREATE OR REPLACE FUNCTION tenantry.word_forms(language text) RETURNS regconfig
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN
        CASE language
            WHEN 'arabic' THEN 'pg_catalog.arabic'::regconfig
            WHEN 'armenian' THEN 'pg_catalog.armenian'::regconfig
            WHEN 'basque' THEN 'pg_catalog.basque'::regconfig
            WHEN 'catalan' THEN 'pg_catalog.catalan'::regconfig
            WHEN 'danish' THEN 'pg_catalog.danish'::regconfig
            WHEN 'dutch' THEN 'pg_catalog.dutch'::regconfig
            WHEN 'english' THEN 'pg_catalog.english'::regconfig
            WHEN 'finnish' THEN 'pg_catalog.finnish'::regconfig
            WHEN 'french' THEN 'pg_catalog.french'::regconfig
            WHEN 'german' THEN 'pg_catalog.german'::regconfig
            WHEN 'greek' THEN 'pg_catalog.greek'::regconfig
            WHEN 'hindi' THEN 'pg_catalog.hindi'::regconfig
            WHEN 'hungarian' THEN 'pg_catalog.hungarian'::regconfig
            WHEN 'indonesian' THEN 'pg_catalog.indonesian'::regconfig
            WHEN 'irish' THEN 'pg_catalog.irish'::regconfig
            WHEN 'italian' THEN 'pg_catalog.italian'::regconfig
            WHEN 'lithuanian' THEN 'pg_catalog.lithuanian'::regconfig
            WHEN 'nepali' THEN 'pg_catalog.nepali'::regconfig
            WHEN 'norwegian' THEN 'pg_catalog.norwegian'::regconfig
            WHEN 'portuguese' THEN 'pg_catalog.portuguese'::regconfig
            WHEN 'romanian' THEN 'pg_catalog.romanian'::regconfig
            WHEN 'russian' THEN 'pg_catalog.russian'::regconfig
            WHEN 'serbian' THEN 'pg_catalog.serbian'::regconfig
            WHEN 'spanish' THEN 'pg_catalog.spanish'::regconfig
            WHEN 'swedish' THEN 'pg_catalog.swedish'::regconfig
            WHEN 'tamil' THEN 'pg_catalog.tamil'::regconfig
            WHEN 'turkish' THEN 'pg_catalog.turkish'::regconfig
            WHEN 'yiddish' THEN 'pg_catalog.yiddish'::regconfig
            ELSE 'pg_catalog.simple'::regconfig
        END;

REVOKE ALL ON FUNCTION tenantry.word_forms(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantry.word_forms(text)
    TO tenantry_app, tenantry_operator, tenantry_auth;
