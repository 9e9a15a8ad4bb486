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
