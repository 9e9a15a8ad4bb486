-- Search: the language of documents and chunks, the words that a chunk is found by, indexes on
-- these and on metadata, vectors that stay in their rows, and the search functions. Frozen: changes
-- come as new migrations.
-- The new column of knowledge_chunks is computed for the rows that are there: the table is written
-- anew, with its vectors in the rows, under a lock that lets nobody in.

SET LOCAL lock_timeout = '5s';

GRANT EXECUTE ON FUNCTION tenantry.current_tenant() TO tenantry_auth;

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

-- What keyword search finds a text by: its words in their basic form, with their positions. The
-- column knowledge_chunks.lexemes is made by it.
--
-- PostgreSQL's parser takes a run of Chinese or Japanese for one word: here each character becomes
-- one, and search puts neighbours together again. What comes after the first 100,000 characters is
-- not found by keywords: a tsvector holds at most 1 MB, and a text with more would be refused.
--
-- For its parser, what stands between < and > is markup, and no text: so words of an inequality, or
-- a program's types, would not be found. Without the < it is text.
--
-- A letter with its accent can be one sign or two. Where there are accents, syllables' parts or kana's
-- marks that stand for themselves, they are put together (NFC), as those of a question are.
--
-- The parser drops signs: C, C++ and C# would be one word, and .NET a net. A letter with ++ or #, and .NET,
-- are spelled as people do who cannot type the signs: cplusplus, csharp, dotnet.
--
-- Not STRICT, so that it becomes part of the INSERT: a call for each chunk would cost more than to
-- look for these names.
CREATE OR REPLACE FUNCTION tenantry.lexemes(language text, content text) RETURNS tsvector
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN pg_catalog.to_tsvector(
        tenantry.word_forms(language),
        pg_catalog.replace(
            CASE
                WHEN content ~ '(?<![A-Za-z0-9_])([A-Za-z](\+\+|#)|\.(NET|Net|net)(?![A-Za-z0-9_]))'
                    THEN pg_catalog.regexp_replace(
                        pg_catalog.regexp_replace(
                            pg_catalog.regexp_replace(
                                pg_catalog.regexp_replace(
                                    pg_catalog.normalize(pg_catalog.left(content, 100000)),
                                    '([\u3005-\u3007\u3040-\u30FF\u3400-\u4DBF\u4E00-\u9FFF\uF900-\uFAFF])',
                                    ' \1 ', 'g'),
                                '(?<![A-Za-z0-9_])([A-Za-z])\+\+', ' \1plusplus ', 'g'),
                            '(?<![A-Za-z0-9_])([A-Za-z])#', ' \1sharp ', 'g'),
                        '(?<![A-Za-z0-9_])\.(NET|Net|net)(?![A-Za-z0-9_])', ' dotnet ', 'g')
                WHEN pg_catalog.octet_length(content) <= 100000
                     AND pg_catalog.octet_length(content) = pg_catalog.char_length(content)
                    THEN content
                ELSE pg_catalog.regexp_replace(
                    CASE WHEN pg_catalog.left(content, 100000) ~ '[\u0300-\u036F\u0653-\u0655\u1161-\u11C2\u3099\u309A]'
                        THEN pg_catalog.normalize(pg_catalog.left(content, 100000))
                        ELSE pg_catalog.left(content, 100000)
                    END,
                    '([\u3005-\u3007\u3040-\u30FF\u3400-\u4DBF\u4E00-\u9FFF\uF900-\uFAFF])',
                    ' \1 ', 'g')
            END, '<', ' ')
    );

REVOKE ALL ON FUNCTION tenantry.lexemes(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantry.lexemes(text, text)
    TO tenantry_app, tenantry_operator, tenantry_auth;

-- Which of 16 parts a tenant's chunks belong to. `tenantry knowledge tune` makes a vector index for
-- each part of a large database, so that an index holds few tenants: what is wanted is then found
-- sooner and more completely than among everybody's vectors. See docs/search.md.
--
-- From the last four bits of the id, which are random in a UUID of version 4 or 7.
CREATE OR REPLACE FUNCTION tenantry.search_part(tenant uuid) RETURNS integer
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN pg_catalog.get_byte(pg_catalog.uuid_send(tenant), 15) & 15;

REVOKE ALL ON FUNCTION tenantry.search_part(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantry.search_part(uuid)
    TO tenantry_app, tenantry_operator, tenantry_auth;

ALTER TABLE knowledge_documents
    ADD COLUMN language TEXT DEFAULT 'english' NOT NULL,
    -- squawk-ignore constraint-missing-not-valid
    ADD CONSTRAINT knowledge_documents_language_check CHECK (language IN ('arabic', 'armenian', 'basque', 'catalan', 'danish', 'dutch', 'english', 'finnish', 'french', 'german', 'greek', 'hindi', 'hungarian', 'indonesian', 'irish', 'italian', 'lithuanian', 'nepali', 'norwegian', 'portuguese', 'romanian', 'russian', 'serbian', 'simple', 'spanish', 'swedish', 'tamil', 'turkish', 'yiddish')),
    ALTER COLUMN embedding SET STORAGE PLAIN,
    SET (toast_tuple_target = 8160);
COMMENT ON COLUMN knowledge_documents.language IS 'Whose word forms keyword search knows; its chunks have the same.';
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX knowledge_documents_lower_content_trgm_idx ON knowledge_documents USING gin (tenant_id, lower(content) gin_trgm_ops);
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX knowledge_documents_metadata_idx ON knowledge_documents USING gin (tenant_id, metadata jsonb_path_ops);

ALTER TABLE knowledge_chunks
    ALTER COLUMN embedding SET STORAGE PLAIN,
    SET (toast_tuple_target = 8160);
ALTER TABLE knowledge_chunks
    ADD COLUMN language TEXT DEFAULT 'english' NOT NULL,
    -- squawk-ignore constraint-missing-not-valid
    ADD CONSTRAINT knowledge_chunks_language_check CHECK (language IN ('arabic', 'armenian', 'basque', 'catalan', 'danish', 'dutch', 'english', 'finnish', 'french', 'german', 'greek', 'hindi', 'hungarian', 'indonesian', 'irish', 'italian', 'lithuanian', 'nepali', 'norwegian', 'portuguese', 'romanian', 'russian', 'serbian', 'simple', 'spanish', 'swedish', 'tamil', 'turkish', 'yiddish'));
ALTER TABLE knowledge_chunks
    -- squawk-ignore adding-field-with-default
    ADD COLUMN lexemes TSVECTOR GENERATED ALWAYS AS (tenantry.lexemes(language, content)) STORED;
COMMENT ON COLUMN knowledge_chunks.lexemes IS 'What keyword search finds the chunk by.';
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX knowledge_chunks_lexemes_idx ON knowledge_chunks USING gin (tenant_id, lexemes);

-- The search functions run as tenantry_auth and ask for the bound tenant's rows themselves.
CREATE POLICY auth_look_up ON knowledge_documents
    AS PERMISSIVE FOR SELECT TO tenantry_auth
    USING (true);
CREATE POLICY auth_look_up ON knowledge_chunks
    AS PERMISSIVE FOR SELECT TO tenantry_auth
    USING (true);
GRANT SELECT (tenant_id, id, title, content, embedding, metadata) ON knowledge_documents TO tenantry_auth;
GRANT SELECT (tenant_id, id, document_id, content, embedding, language, lexemes) ON knowledge_chunks TO tenantry_auth;

GRANT CREATE ON SCHEMA tenantry TO tenantry_auth;
SET LOCAL ROLE tenantry_auth;
-- Whether a vector search compares with every chunk of the tenant's, or asks an HNSW index, and
-- which. For the search functions, which do as it says.
--
--   wanted_documents   the documents that a filter lets through; NULL: no filter
--   k, recall          as in tenantry.nearest_chunks
--   of_documents       whether whole documents are searched, and not chunks
--
--   plan               'exact'; 'part': the index of the tenant's part, see tenantry.search_part;
--                      'whole': the index of all tenants' vectors
--
-- Comparing costs the same for each candidate. An index finds the nearest of all rows in it and
-- leaves out what is not wanted: it visits the more of them the fewer are wanted. Where n of N
-- rows are wanted, the one costs n and the other k * N / n, so they cost the same at a multiple of
-- the root of k * N. n is counted up to there and no further: a tenth of what comparing would cost.
-- Rows without a vector count as well, since to tell them apart their rows would have to be read;
-- only where an index would be asked, and the tenant's 64 oldest and 64 newest rows have some, are
-- they left out.
--
-- That multiple, and the ef_search that each recall takes, depend on the vectors and the machine.
-- `tenantry knowledge tune` measures them and keeps them in the database's setting
-- tenantry.vector_search; what stands here is for a database where nobody has. Where no ef_search
-- has reached the recall, the index is not asked. A value that cannot be read is an error of its own,
-- of SQLSTATE F0000.
CREATE OR REPLACE FUNCTION tenantry.plan_vector_search(
    tenant uuid, wanted_documents uuid[], k integer, recall double precision,
    of_documents boolean,
    OUT plan text, OUT candidates bigint, OUT exact_up_to bigint, OUT ef_search integer
)
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off
    SET enable_bitmapscan = off
    SET jit = off
AS $$
DECLARE
    -- For each index: a multiple of the root of k * N, the least number of candidates, and by the
    -- recall that they reach, settings of ef_search.
    tuned jsonb;
    total double precision;
    searched oid := CASE WHEN of_documents THEN 'public.knowledge_documents'::regclass
                         ELSE 'public.knowledge_chunks'::regclass END;
    lacks_some boolean;
BEGIN
    tuned := coalesce(
        nullif(current_setting('tenantry.vector_search', true), ''),
        '{"whole": {"roots": 7, "least": 2000,
                    "ef_search": {"0.9": 400, "0.95": 800, "0.97": 1000}},
          "part": {"roots": 0.7, "least": 1500,
                   "ef_search": {"0.9": 60, "0.95": 120, "0.97": 250, "0.99": 500}}}'
    );
    plan := CASE
        WHEN NOT of_documents AND (
            SELECT i.indisvalid AND i.indisready FROM pg_index i
             WHERE i.indexrelid = to_regclass(format(
                 'public.knowledge_chunks_embedding_part_%s_idx', tenantry.search_part(tenant)))
        ) THEN 'part' ELSE 'whole' END;
    tuned := tuned -> plan;
    SELECT min(least(1000, ceil(reached.value::integer * greatest(1, k / 20.0)))) INTO ef_search
      FROM jsonb_each_text(tuned -> 'ef_search') reached
     WHERE reached.key::double precision >= recall;
    IF ef_search < k THEN
        ef_search := NULL;
    END IF;
    SELECT greatest(c.reltuples, 0) INTO total
      FROM pg_class c
     WHERE c.oid = searched;
    exact_up_to := greatest(
        (tuned ->> 'roots')::double precision * sqrt(k * total), (tuned ->> 'least')::integer, 10 * k
    );
    IF of_documents AND wanted_documents IS NOT NULL THEN
        candidates := cardinality(wanted_documents);
    ELSIF of_documents THEN
        SELECT count(*) INTO candidates FROM (
            SELECT FROM public.knowledge_documents d WHERE d.tenant_id = tenant
             LIMIT exact_up_to + 1
        ) counted;
    ELSIF wanted_documents IS NULL THEN
        SELECT count(*) INTO candidates FROM (
            SELECT FROM public.knowledge_chunks c WHERE c.tenant_id = tenant LIMIT exact_up_to + 1
        ) counted;
    ELSE
        SELECT count(*) INTO candidates FROM (
            SELECT FROM unnest(wanted_documents) wanted
              JOIN public.knowledge_chunks c ON c.tenant_id = tenant AND c.document_id = wanted
             LIMIT exact_up_to + 1
        ) counted;
    END IF;
    IF candidates <= exact_up_to OR ef_search IS NULL THEN
        plan := 'exact';
        RETURN;
    END IF;
    IF plan = 'whole' AND NOT EXISTS (
        SELECT FROM pg_index i
          JOIN pg_class c ON c.oid = i.indexrelid
          JOIN pg_am a ON a.oid = c.relam
         WHERE i.indrelid = searched AND a.amname = 'hnsw' AND i.indpred IS NULL
           AND i.indisvalid AND i.indisready
    ) THEN
        plan := 'exact';
        RETURN;
    END IF;
    IF of_documents THEN
        lacks_some := EXISTS (
            SELECT FROM (
                (SELECT d.embedding IS NULL AS lacks FROM public.knowledge_documents d
                  WHERE d.tenant_id = tenant ORDER BY d.id LIMIT 64)
                UNION ALL
                (SELECT d.embedding IS NULL FROM public.knowledge_documents d
                  WHERE d.tenant_id = tenant ORDER BY d.id DESC LIMIT 64)
            ) sample WHERE lacks
        );
    ELSE
        lacks_some := EXISTS (
            SELECT FROM (
                (SELECT c.embedding IS NULL AS lacks FROM public.knowledge_chunks c
                  WHERE c.tenant_id = tenant ORDER BY c.id LIMIT 64)
                UNION ALL
                (SELECT c.embedding IS NULL FROM public.knowledge_chunks c
                  WHERE c.tenant_id = tenant ORDER BY c.id DESC LIMIT 64)
            ) sample WHERE lacks
        );
    END IF;
    IF NOT lacks_some THEN
        RETURN;
    END IF;
    IF of_documents THEN
        SELECT count(*) INTO candidates FROM (
            SELECT FROM public.knowledge_documents d
             WHERE d.tenant_id = tenant AND d.embedding IS NOT NULL
               AND (wanted_documents IS NULL OR d.id = ANY (wanted_documents))
             LIMIT exact_up_to + 1
        ) counted;
    ELSIF wanted_documents IS NULL THEN
        SELECT count(*) INTO candidates FROM (
            SELECT FROM public.knowledge_chunks c
             WHERE c.tenant_id = tenant AND c.embedding IS NOT NULL LIMIT exact_up_to + 1
        ) counted;
    ELSE
        SELECT count(*) INTO candidates FROM (
            SELECT FROM unnest(wanted_documents) wanted
              JOIN public.knowledge_chunks c ON c.tenant_id = tenant AND c.document_id = wanted
             WHERE c.embedding IS NOT NULL
             LIMIT exact_up_to + 1
        ) counted;
    END IF;
    IF candidates <= exact_up_to THEN
        plan := 'exact';
    END IF;
EXCEPTION WHEN data_exception OR statement_too_complex THEN
    -- By nothing but the setting: rows and arguments have their types already.
    RAISE EXCEPTION USING
        ERRCODE = 'config_file_error',
        MESSAGE = format(
            'The setting tenantry.vector_search cannot be used: %s. Run `tenantry knowledge tune`, which '
            'writes it anew, or ALTER DATABASE ... RESET tenantry.vector_search; then connect again.',
            SQLERRM);
END
$$;

REVOKE ALL ON FUNCTION
    tenantry.plan_vector_search(uuid, uuid[], integer, double precision, boolean) FROM PUBLIC;

-- The ids of the tenant's documents whose metadata a filter lets through; NULL: there is no filter.
-- For the search functions only: behind a policy, @@ could not use the index.
CREATE OR REPLACE FUNCTION tenantry.filtered_documents(tenant uuid, filter jsonpath) RETURNS uuid[]
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    SET jit = off
AS $$
BEGIN
    IF filter IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN ARRAY(
        SELECT d.id FROM public.knowledge_documents d
         WHERE d.tenant_id = tenant AND d.metadata @@ filter
    );
END
$$;

REVOKE ALL ON FUNCTION tenantry.filtered_documents(uuid, jsonpath) FROM PUBLIC;

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

-- The tenant's k chunks nearest to a vector, nearest first, and all its chunks where there are
-- fewer. For the search functions only, which run as tenantry_auth.
--
--   wanted_documents   search in these only; NULL: in all
--   recall             which share of the true k nearest is wanted where the index is asked
--
-- The settings hold for this function alone. Its plans must not depend on estimates: where the
-- rows are compared, no index can be used, since they are ordered by a sum; where an index is to be
-- asked, nothing else orders without sorting. Where that index is dropped meanwhile, they are sorted
-- all the same, and it is as slow as comparing. EXECUTE plans anew: only of an array that it
-- sees does the planner make a hash table.
-- A setting of pgvector's is known only once pgvector is loaded, which the cast does.
DO $$ BEGIN PERFORM '[1]'::public.vector; END $$;
CREATE OR REPLACE FUNCTION tenantry.nearest_chunks(
    tenant uuid, question public.vector, k integer, wanted_documents uuid[], recall double precision
)
    RETURNS TABLE (chunk_id uuid, distance double precision)
    LANGUAGE plpgsql STABLE ROWS 50
    SET search_path = pg_catalog, public, pg_temp
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off
    SET enable_sort = off
    SET jit = off
    SET hnsw.iterative_scan = relaxed_order
    SET hnsw.ef_search = 40
AS $$
DECLARE
    chosen record;
    ids uuid[];
    distances double precision[];
BEGIN
    chosen := tenantry.plan_vector_search(tenant, wanted_documents, k, recall, false);
    IF chosen.plan <> 'exact' THEN
        PERFORM set_config('hnsw.ef_search', chosen.ef_search::text, true);
    END IF;
    IF chosen.plan = 'part' THEN
        -- Its vectors are of half precision: twice as many are taken, and compared in full. The
        -- planner takes a partial index only where it sees the part's number.
        EXECUTE format($query$
            SELECT array_agg(n.id), array_agg(n.embedding <=> $2) FROM (
                SELECT c.id, c.embedding FROM knowledge_chunks c
                 WHERE c.tenant_id = $1 AND tenantry.search_part(c.tenant_id) = %s
                   AND c.embedding IS NOT NULL
                   AND ($4 IS NULL OR c.document_id = ANY ($4))
                 ORDER BY l2_normalize(c.embedding)::halfvec(1024)
                          <#> l2_normalize($2)::halfvec(1024)
                 LIMIT 2 * $3
            ) n
        $query$, tenantry.search_part(tenant))
        INTO ids, distances USING tenant, question, k, wanted_documents;
    ELSIF chosen.plan = 'whole' THEN
        EXECUTE $query$
            SELECT array_agg(n.id), array_agg(n.distance) FROM (
                SELECT c.id, c.embedding <=> $2 AS distance FROM knowledge_chunks c
                 WHERE c.tenant_id = $1 AND c.embedding IS NOT NULL
                   AND ($4 IS NULL OR c.document_id = ANY ($4))
                 ORDER BY c.embedding <=> $2 LIMIT $3
            ) n
        $query$ INTO ids, distances USING tenant, question, k, wanted_documents;
    END IF;
    -- The scan of an index ends after hnsw.max_scan_tuples, found or not: then it is compared.
    IF cardinality(ids) >= k THEN
        RETURN QUERY
        SELECT * FROM unnest(ids, distances) n (id, distance) ORDER BY 2, 1 LIMIT k;
        RETURN;
    END IF;
    IF wanted_documents IS NULL THEN
        RETURN QUERY
        SELECT c.id, c.embedding <=> question
          FROM knowledge_chunks c
         WHERE c.tenant_id = tenant AND c.embedding IS NOT NULL
         ORDER BY (c.embedding <=> question) + 0, c.id LIMIT k;
    ELSE
        RETURN QUERY
        SELECT c.id, c.embedding <=> question
          FROM unnest(wanted_documents) wanted
          JOIN knowledge_chunks c ON c.tenant_id = tenant AND c.document_id = wanted
         WHERE c.embedding IS NOT NULL
         ORDER BY (c.embedding <=> question) + 0, c.id LIMIT k;
    END IF;
END
$$;

REVOKE ALL ON FUNCTION
    tenantry.nearest_chunks(uuid, public.vector, integer, uuid[], double precision) FROM PUBLIC;

-- The same as tenantry.nearest_chunks, for whole documents; they have no parts.
-- A setting of pgvector's is known only once pgvector is loaded, which the cast does.
DO $$ BEGIN PERFORM '[1]'::public.vector; END $$;
CREATE OR REPLACE FUNCTION tenantry.nearest_documents(
    tenant uuid, question public.vector, k integer, wanted_documents uuid[], recall double precision
)
    RETURNS TABLE (document_id uuid, distance double precision)
    LANGUAGE plpgsql STABLE ROWS 50
    SET search_path = pg_catalog, public, pg_temp
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off
    SET enable_sort = off
    SET jit = off
    SET hnsw.iterative_scan = relaxed_order
    SET hnsw.ef_search = 40
AS $$
DECLARE
    chosen record;
    ids uuid[];
    distances double precision[];
BEGIN
    chosen := tenantry.plan_vector_search(tenant, wanted_documents, k, recall, true);
    IF chosen.plan <> 'exact' THEN
        PERFORM set_config('hnsw.ef_search', chosen.ef_search::text, true);
        EXECUTE $query$
            SELECT array_agg(n.id), array_agg(n.distance) FROM (
                SELECT d.id, d.embedding <=> $2 AS distance FROM knowledge_documents d
                 WHERE d.tenant_id = $1 AND d.embedding IS NOT NULL
                   AND ($4 IS NULL OR d.id = ANY ($4))
                 ORDER BY d.embedding <=> $2 LIMIT $3
            ) n
        $query$ INTO ids, distances USING tenant, question, k, wanted_documents;
        IF cardinality(ids) = k THEN
            RETURN QUERY SELECT * FROM unnest(ids, distances) n (id, distance) ORDER BY 2, 1;
            RETURN;
        END IF;
    END IF;
    IF wanted_documents IS NULL THEN
        RETURN QUERY
        SELECT d.id, d.embedding <=> question
          FROM knowledge_documents d
         WHERE d.tenant_id = tenant AND d.embedding IS NOT NULL
         ORDER BY (d.embedding <=> question) + 0, d.id LIMIT k;
    ELSE
        RETURN QUERY
        SELECT d.id, d.embedding <=> question
          FROM unnest(wanted_documents) wanted
          JOIN knowledge_documents d ON d.tenant_id = tenant AND d.id = wanted
         WHERE d.embedding IS NOT NULL
         ORDER BY (d.embedding <=> question) + 0, d.id LIMIT k;
    END IF;
END
$$;

REVOKE ALL ON FUNCTION
    tenantry.nearest_documents(uuid, public.vector, integer, uuid[], double precision) FROM PUBLIC;

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

-- The bound tenant's chunks nearest to a vector. For the application; see tenantry.search.vector_search.
--
--   question   1,024 numbers
--   filter     on the metadata of documents; NULL: none
CREATE OR REPLACE FUNCTION tenantry.search_vectors(
    question public.vector, k integer, filter jsonpath, recall double precision
)
    RETURNS TABLE (
        id uuid, document_id uuid, title text, content text, score double precision
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off
    SET enable_hashjoin = off
    SET enable_mergejoin = off
    SET join_collapse_limit = 1
    SET jit = off
AS $$
DECLARE
    tenant uuid := tenantry.current_tenant();
BEGIN
    IF tenant IS NULL THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT c.id, c.document_id, d.title, c.content, 1 - n.distance
      FROM tenantry.nearest_chunks(
               tenant, question, k, tenantry.filtered_documents(tenant, filter), recall
           ) WITH ORDINALITY n (chunk_id, distance, number)
     -- Each row by its key. As joins, all rows of an average tenant look cheaper to the planner, and
     -- a large tenant has many more: 55 ms and not 3 ms for one of 8,000 chunks.
     CROSS JOIN LATERAL (
        SELECT f.id, f.document_id, f.content FROM public.knowledge_chunks f
         WHERE f.tenant_id = tenant AND f.id = n.chunk_id OFFSET 0
     ) c
     CROSS JOIN LATERAL (
        SELECT f.title FROM public.knowledge_documents f
         WHERE f.tenant_id = tenant AND f.id = c.document_id OFFSET 0
     ) d
     ORDER BY n.number;
END
$$;

REVOKE ALL ON FUNCTION
    tenantry.search_vectors(public.vector, integer, jsonpath, double precision)
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    tenantry.search_vectors(public.vector, integer, jsonpath, double precision)
    TO tenantry_app;

-- The bound tenant's documents nearest to a vector. For the application; see tenantry.search.vector_search.
CREATE OR REPLACE FUNCTION tenantry.search_documents(
    question public.vector, k integer, filter jsonpath, recall double precision
)
    RETURNS TABLE (
        id uuid, document_id uuid, title text, content text, score double precision
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp
    SET plan_cache_mode = force_generic_plan
    SET enable_seqscan = off
    SET enable_hashjoin = off
    SET enable_mergejoin = off
    SET join_collapse_limit = 1
    SET jit = off
AS $$
DECLARE
    tenant uuid := tenantry.current_tenant();
BEGIN
    IF tenant IS NULL THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT d.id, d.id, d.title, d.content, 1 - n.distance
      FROM tenantry.nearest_documents(
               tenant, question, k, tenantry.filtered_documents(tenant, filter), recall
           ) WITH ORDINALITY n (document_id, distance, number)
     -- Each row by its key, as in search_vectors.
     CROSS JOIN LATERAL (
        SELECT f.id, f.title, f.content FROM public.knowledge_documents f
         WHERE f.tenant_id = tenant AND f.id = n.document_id OFFSET 0
     ) d
     ORDER BY n.number;
END
$$;

REVOKE ALL ON FUNCTION
    tenantry.search_documents(public.vector, integer, jsonpath, double precision)
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    tenantry.search_documents(public.vector, integer, jsonpath, double precision)
    TO tenantry_app;

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

-- How tenantry.search_vectors or search_documents would go about it for the bound tenant, and from
-- what it follows. For the application; see tenantry.search.explain_vector_search.
CREATE OR REPLACE FUNCTION tenantry.explain_vector_search(
    k integer, filter jsonpath, recall double precision, of_documents boolean
)
    RETURNS TABLE (plan text, candidates bigint, exact_up_to bigint, ef_search integer)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    tenant uuid := tenantry.current_tenant();
BEGIN
    IF tenant IS NOT NULL THEN
        RETURN QUERY SELECT * FROM tenantry.plan_vector_search(
            tenant, tenantry.filtered_documents(tenant, filter), k, recall, of_documents
        );
    END IF;
END
$$;

REVOKE ALL ON FUNCTION
    tenantry.explain_vector_search(integer, jsonpath, double precision, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    tenantry.explain_vector_search(integer, jsonpath, double precision, boolean) TO tenantry_app;

SET LOCAL ROLE tenantry_owner;
REVOKE CREATE ON SCHEMA tenantry FROM tenantry_auth;
