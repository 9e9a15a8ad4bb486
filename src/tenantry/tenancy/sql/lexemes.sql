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
