-- Everything that 0004 made. Vectors stay in their rows: to move them out would write both tables anew.
DROP FUNCTION tenantry.explain_vector_search(integer, jsonpath, double precision, boolean);
DROP FUNCTION tenantry.search_substrings(text, integer, jsonpath);
DROP FUNCTION tenantry.similar_words(text, text[]);
DROP FUNCTION tenantry.search_hybrid(public.vector, text, text[], jsonb, text[], text[], integer, jsonpath, integer, double precision, double precision, boolean);
DROP FUNCTION tenantry.search_keywords(text, text[], jsonb, text[], text[], integer, jsonpath, boolean);
DROP FUNCTION tenantry.search_documents(public.vector, integer, jsonpath, double precision);
DROP FUNCTION tenantry.search_vectors(public.vector, integer, jsonpath, double precision);
DROP FUNCTION tenantry.matching_chunks(uuid, tsquery, tsquery, tsquery[], double precision[], tsquery, integer, uuid[]);
DROP FUNCTION tenantry.nearest_documents(uuid, public.vector, integer, uuid[], double precision);
DROP FUNCTION tenantry.nearest_chunks(uuid, public.vector, integer, uuid[], double precision);
DROP FUNCTION tenantry.excerpt(text, text, tsquery, tsquery);
DROP FUNCTION tenantry.demands(text[], jsonb, text[]);
DROP FUNCTION tenantry.weigh_terms(uuid, text, text[], text[]);
DROP FUNCTION tenantry.filtered_documents(uuid, jsonpath);
DROP FUNCTION tenantry.plan_vector_search(uuid, uuid[], integer, double precision, boolean);
DROP POLICY auth_look_up ON knowledge_chunks;
DROP POLICY auth_look_up ON knowledge_documents;
REVOKE ALL ON knowledge_chunks, knowledge_documents FROM tenantry_auth;
REVOKE ALL ON FUNCTION tenantry.current_tenant() FROM tenantry_auth;
ALTER TABLE knowledge_chunks DROP COLUMN lexemes;
ALTER TABLE knowledge_chunks
    DROP COLUMN language, ALTER COLUMN embedding SET STORAGE EXTERNAL, RESET (toast_tuple_target);
DROP INDEX knowledge_documents_lower_content_trgm_idx;
DROP INDEX knowledge_documents_metadata_idx;
ALTER TABLE knowledge_documents
    DROP COLUMN language, ALTER COLUMN embedding SET STORAGE EXTERNAL, RESET (toast_tuple_target);
DROP FUNCTION tenantry.search_part(uuid);
DROP FUNCTION tenantry.lexemes(text, text);
DROP FUNCTION tenantry.word_forms(text);
