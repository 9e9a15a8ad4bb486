"""The catalog queries of an audit: a fixed number of them, however many tables there are.

Each column has the name of the field that it fills in `tenantry.ops.audit.static.snapshot`. They
expect the search_path to be ``pg_catalog``, so that whatever PostgreSQL prints is qualified.
PUBLIC is written ``public``, which no role can be called.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import text

from tenantry.ops.audit.triggers import STAMPS_A_TIME

__all__ = [
    "COLUMNS",
    "CONSTRAINTS",
    "DATABASE",
    "DEFAULT_PRIVILEGES",
    "DEPENDENCIES",
    "FUNCTIONS",
    "INDEXES",
    "LARGE_OBJECTS",
    "MEMBERSHIPS",
    "OPERATORS",
    "POLICIES",
    "PRIVILEGES",
    "PUBLICATIONS",
    "RELATIONS",
    "ROLES",
    "RULES",
    "SCHEMAS",
    "SETTINGS",
    "STRANGERS",
    "SYSTEM_PRIVILEGES",
    "SYSTEM_VIEWS",
    "TRIGGERS",
]

# Schemas of PostgreSQL itself; no other may begin with pg_.
_USERS: Final = "n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'"
_OURS: Final = 16384
"""The first oid that is not PostgreSQL's own."""


def _from_extension(catalog: str, oid: str) -> str:
    return (
        f"(SELECT e.extname FROM pg_depend x JOIN pg_extension e ON e.oid = x.refobjid"  # noqa: S608 - constants
        f" WHERE x.classid = '{catalog}'::regclass AND x.objid = {oid} AND x.deptype = 'e' LIMIT 1)"
    )


def _made(oid: str) -> str:
    """Return the condition that somebody made it: in a schema of PostgreSQL's own, too."""
    return (
        f"(({_USERS}) OR (n.nspname IN ('pg_catalog', 'information_schema') AND {oid} >= {_OURS}))"
    )


def _role(oid: str) -> str:
    return f"CASE WHEN {oid} = 0 THEN 'public' ELSE pg_get_userbyid({oid})::text END"


DATABASE = text("""
    SELECT current_database()::text AS name, pg_get_userbyid(d.datdba)::text AS owner,
           current_setting('server_version_num')::int AS server_number,
           current_setting('server_version') AS server_version,
           session_user::text AS session_role,
           nullif(current_setting(:setting, true), '') AS bound_tenant,
           current_setting('lo_compat_privileges')::boolean AS open_large_objects,
           current_setting('session_replication_role') AS replication_role,
           ARRAY(SELECT e.extname::text FROM pg_extension e) AS extensions
      FROM pg_database d WHERE d.datname = current_database()
""")

ROLES = text("""
    SELECT rolname::text AS name, rolsuper AS superuser, rolbypassrls AS bypasses,
           rolcreaterole AS creates_roles, rolcreatedb AS creates_databases,
           rolreplication AS replicates, rolcanlogin AS logs_in
      FROM pg_roles
""")

MEMBERSHIPS = text("""
    SELECT pg_get_userbyid(roleid)::text AS role, pg_get_userbyid(member)::text AS member,
           admin_option AS admin, inherit_option AS inherits,
           pg_get_userbyid(grantor)::text AS grantor
      FROM pg_auth_members
""")

SCHEMAS = text(f"""
    SELECT n.nspname::text AS name, pg_get_userbyid(n.nspowner)::text AS owner,
           {_from_extension("pg_namespace", "n.oid")} AS extension
      FROM pg_namespace n WHERE {_USERS}
""")  # noqa: S608 - constants

RELATIONS = text(f"""
    SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name, n.nspname::text AS schema,
           c.relname::text AS relname, c.relkind::text AS kind,
           pg_get_userbyid(c.relowner)::text AS owner, c.relrowsecurity AS enabled,
           c.relforcerowsecurity AS forced, c.relpersistence = 'u' AS unlogged,
           c.relispartition AS is_partition, {_from_extension("pg_class", "c.oid")} AS extension,
           EXISTS (SELECT FROM pg_options_to_table(c.reloptions)
                    WHERE option_name = 'security_invoker' AND option_value::boolean) AS invoker,
           ARRAY(SELECT format('%I.%I', m.nspname, q.relname) FROM pg_inherits i
                   JOIN pg_class q ON q.oid = i.inhparent
                   JOIN pg_namespace m ON m.oid = q.relnamespace
                  WHERE i.inhrelid = c.oid ORDER BY i.inhseqno) AS parents
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND {_made("c.oid")}
     ORDER BY 2
""")  # noqa: S608 - constants

COLUMNS = text(f"""
    SELECT a.attrelid AS relation, a.attname::text AS name, a.attnum AS number,
           format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS required,
           pg_get_expr(d.adbin, d.adrelid) AS value, a.attidentity <> '' AS identity,
           a.attgenerated <> '' AS generated,
           (SELECT format('%I.%I', m.nspname, s.relname)
              FROM pg_depend x JOIN pg_class s ON s.oid = x.objid AND s.relkind = 'S'
              JOIN pg_namespace m ON m.oid = s.relnamespace
             WHERE x.refclassid = 'pg_class'::regclass AND x.refobjid = a.attrelid
               AND x.refobjsubid = a.attnum AND x.classid = 'pg_class'::regclass
               AND x.deptype IN ('a', 'i') LIMIT 1) AS sequence
      FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
      JOIN pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
     WHERE c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped AND {_made("c.oid")}
     ORDER BY a.attrelid, a.attnum
""")  # noqa: S608 - constants

# The owner's own privileges are implied.
PRIVILEGES = text(f"""
    SELECT c.oid AS relation, '' AS "column", {_role("a.grantee")} AS role,
           a.privilege_type AS privilege, a.is_grantable AS grantable
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND a.grantee <> c.relowner
       AND {_made("c.oid")}
     UNION ALL
    SELECT c.oid, t.attname::text, {_role("a.grantee")}, a.privilege_type, a.is_grantable
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_attribute t ON t.attrelid = c.oid, aclexplode(t.attacl) a
     WHERE NOT t.attisdropped AND a.grantee <> c.relowner AND {_made("c.oid")}
""")  # noqa: S608 - constants

POLICIES = text(f"""
    SELECT p.polrelid AS relation, p.polname::text AS name, p.polpermissive AS permissive,
           CASE p.polcmd WHEN '*' THEN 'ALL' WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT'
                         WHEN 'w' THEN 'UPDATE' ELSE 'DELETE' END AS command,
           ARRAY(SELECT {_role("r")} FROM unnest(p.polroles) AS r ORDER BY 1) AS roles,
           pg_get_expr(p.polqual, p.polrelid) AS using,
           pg_get_expr(p.polwithcheck, p.polrelid) AS "check"
      FROM pg_policy p ORDER BY p.polrelid, p.polname
""")  # noqa: S608 - constants

# conenforced exists from 18 on; through JSON an older server answers NULL for it.
CONSTRAINTS = text("""
    SELECT k.conrelid AS relation, k.conname::text AS name, k.contype::text AS kind,
           k.convalidated AS validated, k.conindid AS index, k.confrelid AS target,
           coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true) AS enforced,
           k.conparentid <> 0 AS inherited, pg_get_constraintdef(k.oid) AS definition,
           k.confdeltype::text AS on_delete, k.confupdtype::text AS on_update,
           k.condeferrable AS deferrable, k.condeferred AS deferred,
           ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS key (n, place)
                   JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = n
                  ORDER BY place) AS columns,
           ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY AS key (n, place)
                   JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = n
                  ORDER BY place) AS target_columns,
           ARRAY(SELECT a.attname::text FROM unnest(k.confdelsetcols) AS key (n)
                   JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = n)
               AS emptied,
           ARRAY(SELECT o.oprname::text FROM unnest(k.conexclop) WITH ORDINALITY AS x (n, place)
                   JOIN pg_operator o ON o.oid = x.n ORDER BY place) AS operators
      FROM pg_constraint k
     WHERE k.conrelid <> 0 AND k.contype IN ('p', 'u', 'f', 'x', 'c')
     ORDER BY k.conrelid, k.conname
""")

# '' stands for an expression.
INDEXES = text(f"""
    SELECT i.indrelid AS relation, c.oid, c.relname::text AS name, m.amname::text AS method,
           format('%I.%I', n.nspname, c.relname) AS qualified, i.indisunique AS is_unique,
           c.relispartition AS inherited, pg_get_indexdef(c.oid) AS definition,
           i.indpred IS NOT NULL AS partial, i.indisvalid AS valid,
           ARRAY(SELECT coalesce(a.attname::text, '')
                   FROM unnest(i.indkey) WITH ORDINALITY AS key (number, place)
                   LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = key.number
                        AND key.number > 0
                  WHERE place <= i.indnkeyatts ORDER BY place) AS columns
      FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
      JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_am m ON m.oid = c.relam
     WHERE {_made("i.indrelid")} ORDER BY i.indrelid, c.relname
""")  # noqa: S608 - constants

DEPENDENCIES = text("""
    SELECT DISTINCT r.ev_class AS relation, d.refobjid AS target
      FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
     WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
       AND d.refobjid <> r.ev_class
""")

# PostgreSQL records no dependency on its own tables, so what a view makes of them is looked for in
# its query. These show samples of rows, or passwords.
SYSTEM_VIEWS = text(r"""
    SELECT r.ev_class AS relation, s.relname::text AS name
      FROM pg_class s JOIN pg_rewrite r ON r.ev_class >= 16384
           AND r.ev_action::text LIKE '%\:relid ' || s.oid || ' %'
     WHERE s.relnamespace = 'pg_catalog'::regnamespace
       AND s.relname IN ('pg_statistic', 'pg_statistic_ext_data', 'pg_largeobject', 'pg_authid',
                         'pg_shadow', 'pg_user_mapping', 'pg_subscription')
     ORDER BY 1, 2
""")

RULES = text(f"""
    SELECT r.ev_class AS relation, r.rulename::text AS name
      FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
      JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE r.rulename <> '_RETURN' AND {_made("c.oid")}
""")  # noqa: S608 - constants

TRIGGERS = text(f"""
    SELECT t.tgrelid AS relation, t.tgname::text AS name, t.tgisinternal AS internal,
           t.tgenabled IN ('D', 'R') AS disabled, t.tgparentid <> 0 AS inherited,
           {_from_extension("pg_trigger", "t.oid")} AS extension, {STAMPS_A_TIME} AS stamps
      FROM pg_trigger t WHERE NOT t.tgisinternal OR t.tgenabled IN ('D', 'R')
     ORDER BY 1, 2
""")  # noqa: S608 - constants

# Those of PostgreSQL itself only where somebody has changed them: to SECURITY DEFINER, which none
# of them is, or to LEAKPROOF. What initdb made still has the first transaction's number.
FUNCTIONS = text(f"""
    SELECT p.oid, n.nspname::text AS schema, p.proname::text AS name,
           format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
               AS signature,
           format('%I.%I(%s)', n.nspname, p.proname, oidvectortypes(p.proargtypes)) AS call,
           CASE p.prokind WHEN 'p' THEN 'PROCEDURE' WHEN 'a' THEN 'AGGREGATE' ELSE 'FUNCTION' END
               AS kind,
           pg_get_userbyid(p.proowner)::text AS owner, l.lanname::text AS language,
           l.lanpltrusted AS trusted, p.prosecdef AS definer, p.proleakproof AS leakproof,
           p.provolatile::text AS volatility, p.proparallel::text AS parallel,
           p.prorettype::regtype::text AS returns,
           coalesce(pg_get_function_result(p.oid), '') AS result,
           coalesce(p.proconfig, '{{}}') AS config,
           coalesce(pg_get_function_sqlbody(p.oid), p.prosrc) AS body,
           p.prosqlbody IS NOT NULL AS is_bound,
           {_from_extension("pg_proc", "p.oid")} AS extension,
           EXISTS (SELECT FROM pg_proc b WHERE b.pronamespace = 'pg_catalog'::regnamespace
                      AND b.proname = p.proname AND b.pronargs = p.pronargs AND p.pronargs > 0)
               AND NOT EXISTS (SELECT FROM unnest(p.proargtypes) AS a (type)
                                 JOIN pg_type y ON y.oid = a.type
                                WHERE y.typnamespace <> 'pg_catalog'::regnamespace) AS shadows,
           ARRAY(SELECT {_role("a.grantee")} || CASE WHEN a.is_grantable THEN '*' ELSE '' END
                   FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
                  WHERE a.grantee <> p.proowner ORDER BY 1) AS executors
      FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
      JOIN pg_language l ON l.oid = p.prolang
     WHERE {_made("p.oid")} OR p.oid < {_OURS} AND (
           p.prosecdef OR (p.proleakproof AND p.xmin::text::bigint > 2))
     ORDER BY 4
""")  # noqa: S608 - constants

# Operators for built-in types with a built-in operator's name, and casts between built-in types:
# either can change what an expression means whose text stays the same.
# MATERIALIZED: there are few, and the planner would go through all types for all names first.
OPERATORS = text(f"""
    WITH made AS MATERIALIZED (SELECT * FROM pg_operator WHERE oid >= {_OURS})
    SELECT 'operator' AS kind, n.nspname::text AS schema, format('%I.%s (%s, %s)', n.nspname,
                  o.oprname, CASE WHEN o.oprleft = 0 THEN 'NONE' ELSE o.oprleft::regtype::text END,
                  o.oprright::regtype) AS name
      FROM made o JOIN pg_namespace n ON n.oid = o.oprnamespace
     WHERE {_made("o.oid")} AND {_from_extension("pg_operator", "o.oid")} IS NULL
       AND EXISTS (SELECT FROM pg_operator b WHERE b.oprname = o.oprname AND b.oid < {_OURS}
                      AND b.oprnamespace = 'pg_catalog'::regnamespace)
       AND (o.oprleft = 0 OR EXISTS (SELECT FROM pg_type WHERE oid = o.oprleft
                                        AND typnamespace = 'pg_catalog'::regnamespace))
       AND EXISTS (SELECT FROM pg_type WHERE oid = o.oprright
                      AND typnamespace = 'pg_catalog'::regnamespace)
     UNION ALL
    SELECT 'cast', '', format('(%s AS %s)', k.castsource::regtype, k.casttarget::regtype)
      FROM pg_cast k JOIN pg_type s ON s.oid = k.castsource JOIN pg_type t ON t.oid = k.casttarget
     WHERE k.oid >= 16384 AND {_from_extension("pg_cast", "k.oid")} IS NULL
       AND s.typnamespace = 'pg_catalog'::regnamespace
       AND t.typnamespace = 'pg_catalog'::regnamespace
     ORDER BY 1, 3
""")  # noqa: S608 - constants

DEFAULT_PRIVILEGES = text(f"""
    SELECT pg_get_userbyid(d.defaclrole)::text AS maker, n.nspname::text AS schema,
           d.defaclobjtype::text AS kind, {_role("a.grantee")} AS role,
           a.privilege_type AS privilege, a.is_grantable AS grantable
      FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace
      CROSS JOIN aclexplode(d.defaclacl) a
""")  # noqa: S608 - constants

PUBLICATIONS = text("""
    SELECT p.pubname::text AS name, p.puballtables AS everything,
           ARRAY(SELECT n.nspname::text FROM pg_publication_namespace s
                   JOIN pg_namespace n ON n.oid = s.pnnspid WHERE s.pnpubid = p.oid
                  ORDER BY 1) AS schemas,
           ARRAY(SELECT r.prrelid FROM pg_publication_rel r WHERE r.prpubid = p.oid) AS relations
      FROM pg_publication p ORDER BY 1
""")

SETTINGS = text("""
    SELECT CASE WHEN s.setrole = 0 THEN '' ELSE pg_get_userbyid(s.setrole)::text END AS role,
           s.setdatabase <> 0 AS in_database, split_part(v, '=', 1) AS name,
           substr(v, strpos(v, '=') + 1) AS value
      FROM pg_db_role_setting s, unnest(s.setconfig) AS v
     WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
     ORDER BY 1, 3
""")

LARGE_OBJECTS = text(f"""
    SELECT pg_get_userbyid(m.lomowner)::text AS owner,
           ARRAY(SELECT DISTINCT {_role("a.grantee")} FROM aclexplode(m.lomacl) a
                  WHERE a.grantee <> m.lomowner ORDER BY 1) AS roles, count(*) AS number
      FROM pg_largeobject_metadata m GROUP BY 1, 2 ORDER BY 1, 2
""")  # noqa: S608 - constants

# What leads out of the rows of tables: other servers, programs, parameters, event triggers.
STRANGERS = text(f"""
    SELECT 'schema' AS kind, n.nspname::text AS name, {_role("a.grantee")} AS role,
           a.privilege_type AS privilege, a.is_grantable AS grantable
      FROM pg_namespace n, aclexplode(n.nspacl) a WHERE a.grantee <> n.nspowner AND {_USERS}
     UNION ALL
    SELECT 'database', d.datname::text, {_role("a.grantee")}, a.privilege_type, a.is_grantable
      FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
     WHERE d.datname = current_database() AND a.grantee <> d.datdba
     UNION ALL
    SELECT 'server', s.srvname::text, {_role("a.grantee")}, a.privilege_type, a.is_grantable
      FROM pg_foreign_server s, aclexplode(s.srvacl) a WHERE a.grantee <> s.srvowner
     UNION ALL
    SELECT 'server owner', s.srvname::text, pg_get_userbyid(s.srvowner)::text, 'OWNER', false
      FROM pg_foreign_server s
     UNION ALL
    SELECT 'subscription', s.subname::text, pg_get_userbyid(s.subowner)::text, 'OWNER', false
      FROM pg_subscription s
     WHERE s.subenabled
       AND s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
     UNION ALL
    SELECT 'wrapper', w.fdwname::text, {_role("a.grantee")}, a.privilege_type, a.is_grantable
      FROM pg_foreign_data_wrapper w, aclexplode(w.fdwacl) a WHERE a.grantee <> w.fdwowner
     UNION ALL
    SELECT 'mapping', u.srvname::text, {_role("u.umuser")}, 'USAGE', false
      FROM pg_user_mappings u
     UNION ALL
    SELECT 'parameter', p.parname, {_role("a.grantee")}, a.privilege_type, a.is_grantable
      FROM pg_parameter_acl p, aclexplode(p.paracl) a
     UNION ALL
    SELECT 'event trigger', e.evtname::text, pg_get_userbyid(e.evtowner)::text, 'OWNER', false
      FROM pg_event_trigger e
     WHERE e.evtenabled <> 'D' AND {_from_extension("pg_event_trigger", "e.oid")} IS NULL
     ORDER BY 1, 2, 3, 4
""")  # noqa: S608 - constants

# PostgreSQL's own relations and functions and those of extensions, where somebody has granted more
# than they came with. A TOAST table holds the long values of a user's table.
SYSTEM_PRIVILEGES = text(f"""
    WITH own AS (SELECT oid FROM pg_namespace
                  WHERE nspname IN ('pg_catalog', 'information_schema', 'pg_toast'))
    SELECT CASE WHEN c.relkind = 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind,
           format('%I.%I', c.relnamespace::regnamespace, c.relname) AS name, '' AS "column",
           {_role("a.grantee")} AS role, a.privilege_type AS privilege
      FROM pg_class c
      LEFT JOIN pg_init_privs i ON i.objoid = c.oid AND i.classoid = 'pg_class'::regclass
           AND i.objsubid = 0
     CROSS JOIN aclexplode(c.relacl) a
     WHERE a.grantee <> c.relowner AND c.relnamespace IN (SELECT oid FROM own)
       AND c.relnamespace <> 'information_schema'::regnamespace
       AND (c.oid < {_OURS} OR c.relkind = 't')
       AND NOT EXISTS (SELECT FROM aclexplode(i.initprivs) o
                        WHERE o.grantee = a.grantee AND o.privilege_type = a.privilege_type)
     UNION ALL
    SELECT 'TABLE', format('%I.%I', c.relnamespace::regnamespace, c.relname), t.attname::text,
           {_role("a.grantee")}, a.privilege_type
      FROM pg_attribute t JOIN pg_class c ON c.oid = t.attrelid
      LEFT JOIN pg_init_privs i ON i.objoid = c.oid AND i.classoid = 'pg_class'::regclass
           AND i.objsubid = t.attnum
     CROSS JOIN aclexplode(t.attacl) a
     WHERE a.grantee <> c.relowner AND c.relnamespace IN (SELECT oid FROM own)
       AND c.relnamespace <> 'information_schema'::regnamespace
       AND (c.oid < {_OURS} OR c.relkind = 't')
       AND NOT EXISTS (SELECT FROM aclexplode(i.initprivs) o
                        WHERE o.grantee = a.grantee AND o.privilege_type = a.privilege_type)
     UNION ALL
    SELECT 'FUNCTION', format('%I.%I(%s)', p.pronamespace::regnamespace, p.proname,
                              pg_get_function_identity_arguments(p.oid)), '',
           {_role("a.grantee")}, a.privilege_type
      FROM pg_proc p
      LEFT JOIN pg_init_privs i ON i.objoid = p.oid AND i.classoid = 'pg_proc'::regclass
     CROSS JOIN aclexplode(p.proacl) a
     WHERE a.grantee <> p.proowner
       AND (p.oid < {_OURS} OR {_from_extension("pg_proc", "p.oid")} IS NOT NULL)
       AND NOT EXISTS (SELECT FROM aclexplode(coalesce(i.initprivs,
                                                       acldefault('f', p.proowner))) o
                        WHERE o.grantee = a.grantee AND o.privilege_type = a.privilege_type)
     UNION ALL
    SELECT 'SCHEMA', n.nspname::text, '', {_role("a.grantee")}, a.privilege_type
      FROM pg_namespace n, aclexplode(n.nspacl) a
     WHERE n.oid IN (SELECT oid FROM own) AND a.privilege_type = 'CREATE'
       AND a.grantee <> n.nspowner
     ORDER BY 1, 2, 3, 4
""")  # noqa: S608 - constants
