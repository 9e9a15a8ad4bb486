"""Walls taken down by policies, grants, roles, settings and owners."""

from __future__ import annotations

from tests.isolation.mutation import OWN, Mutation, on

__all__ = ["GRANTS", "OWNERS", "ROLES", "ROW_SECURITY", "SETTINGS"]

ROW_SECURITY = [
    *on(
        "widgets",
        ("row-security-off", "ALTER TABLE widgets DISABLE ROW LEVEL SECURITY", "row-security-off"),
        ("no-force", "ALTER TABLE widgets NO FORCE ROW LEVEL SECURITY", "row-security-not-forced"),
        ("policy-dropped", "DROP POLICY tenant_isolation ON widgets", "policy-missing"),
        ("operator-policy-dropped", "DROP POLICY operator_access ON widgets", "policy-missing"),
        (
            "policy-renamed",
            "ALTER POLICY tenant_isolation ON widgets RENAME TO mine",
            "policy-missing",
        ),
        ("using-true", "ALTER POLICY tenant_isolation ON widgets USING (true)", "policy-open"),
        (
            "using-not-null",
            "ALTER POLICY tenant_isolation ON widgets USING (tenant_id IS NOT NULL)",
            "policy-not-direct",
        ),
        (
            "check-true",
            "ALTER POLICY tenant_isolation ON widgets WITH CHECK (true)",
            "policy-without-check",
        ),
        (
            "no-check",
            "DROP POLICY tenant_isolation ON widgets; CREATE POLICY tenant_isolation ON widgets"
            f" TO tenantry_app USING ({OWN})",
            "policy-without-check",
        ),
        (
            "sub-select",
            "ALTER POLICY tenant_isolation ON widgets"
            " USING (tenant_id = (SELECT tenantry.current_tenant()))"
            " WITH CHECK (tenant_id = (SELECT tenantry.current_tenant()))",
            "policy-not-direct",
        ),
        (
            "or-unbound",
            "ALTER POLICY tenant_isolation ON widgets"
            f" USING ({OWN} OR tenantry.current_tenant() IS NULL)",
            "policy-not-direct",
        ),
        (
            "coalesce",
            "ALTER POLICY tenant_isolation ON widgets"
            " USING (tenant_id = coalesce(tenantry.current_tenant(), tenant_id))",
            "policy-not-direct",
        ),
        (
            "cast-column",
            "ALTER POLICY tenant_isolation ON widgets"
            " USING (tenant_id::text = tenantry.current_tenant()::text)",
            "policy-not-direct",
        ),
        (
            "another-setting",
            "ALTER POLICY tenant_isolation ON widgets"
            " USING (tenant_id = current_setting('app.tenant')::uuid)",
            "policy-not-direct",
        ),
        (
            "not-equal",
            "ALTER POLICY tenant_isolation ON widgets"
            " USING (tenant_id <> tenantry.current_tenant())",
            "policy-not-direct",
        ),
        (
            "another-column",
            "ALTER POLICY tenant_isolation ON widgets USING (id = tenantry.current_tenant())",
            "policy-open",
        ),
        (
            "policy-for-public",
            "ALTER POLICY tenant_isolation ON widgets TO PUBLIC",
            "policy-for-others",
        ),
        (
            "operator-policy-for-app",
            "ALTER POLICY operator_access ON widgets TO tenantry_operator, tenantry_app",
            "policy-for-others",
        ),
        (
            "select-only-policy",
            "DROP POLICY tenant_isolation ON widgets; CREATE POLICY tenant_isolation ON widgets"
            f" FOR SELECT TO tenantry_app USING ({OWN})",
            "policy-differs",
        ),
        (
            "restrictive",
            "DROP POLICY tenant_isolation ON widgets; CREATE POLICY tenant_isolation ON widgets"
            f" AS RESTRICTIVE TO tenantry_app USING ({OWN}) WITH CHECK ({OWN})",
            "policy-differs",
        ),
        (
            "second-policy-open",
            "CREATE POLICY extra ON widgets TO tenantry_app USING (true)",
            "policy-open",
        ),
        (
            "second-policy-for-public",
            "CREATE POLICY extra ON widgets FOR SELECT USING (true)",
            "policy-open",
        ),
        (
            "second-policy-insert",
            "CREATE POLICY extra ON widgets FOR INSERT TO tenantry_app WITH CHECK (true)",
            "policy-without-check",
        ),
        (
            "policy-for-a-stranger",
            "CREATE ROLE audit_reporting; CREATE POLICY extra ON widgets TO audit_reporting"
            " USING (true)",
            "policy-undeclared",
        ),
    ),
    *on(
        "tenants",
        ("tenants-open", "ALTER POLICY tenant_isolation ON tenants USING (true)", "policy-open"),
        ("tenants-off", "ALTER TABLE tenants DISABLE ROW LEVEL SECURITY", "row-security-off"),
    ),
]

GRANTS = [
    *(
        mutation
        for privilege in ("TRUNCATE", "REFERENCES", "TRIGGER")
        for mutation in on(
            "widgets",
            (
                f"grant-{privilege.lower()}",
                f"GRANT {privilege} ON widgets TO tenantry_app",
                "grant-too-wide",
            ),
        )
    ),
    *on(
        "users",
        ("grant-public", "GRANT SELECT ON users TO PUBLIC", "grant-too-wide"),
        (
            "grant-option",
            "GRANT SELECT ON users TO tenantry_app WITH GRANT OPTION",
            "grant-too-wide",
        ),
        (
            "grant-passed-on",
            "CREATE ROLE audit_other; GRANT SELECT ON users TO tenantry_app WITH GRANT OPTION;"
            " SET LOCAL ROLE tenantry_app; GRANT SELECT ON users TO audit_other; RESET ROLE",
            "grant-too-wide",
        ),
        (
            "grant-another-role",
            "CREATE ROLE audit_other; GRANT SELECT ON users TO audit_other",
            "grant-too-wide",
        ),
        ("grant-auth", "GRANT SELECT ON users TO tenantry_auth", "grant-too-wide"),
        ("grant-all", "GRANT ALL ON users TO tenantry_app", "grant-too-wide"),
        (
            "grant-column-public",
            "GRANT SELECT (hashed_password) ON users TO PUBLIC",
            "grant-too-wide",
        ),
    ),
    *on(
        "tenants",
        ("grant-slug", "GRANT UPDATE (slug) ON tenants TO tenantry_app", "grant-too-wide"),
        ("grant-tenants-insert", "GRANT INSERT ON tenants TO tenantry_app", "grant-too-wide"),
    ),
    Mutation(
        "grant-versions",
        "GRANT INSERT ON tenantry.alembic_version TO tenantry_app",
        "table tenantry.alembic_version",
        "grant-too-wide",
    ),
    Mutation(
        "schema-create", "GRANT CREATE ON SCHEMA public TO PUBLIC", "schema public", "schema-grant"
    ),
    Mutation(
        "schema-create-app",
        "GRANT CREATE ON SCHEMA tenantry TO tenantry_app",
        "schema tenantry",
        "schema-grant",
    ),
    Mutation(
        "schema-usage-public",
        "GRANT USAGE ON SCHEMA tenantry TO PUBLIC",
        "schema tenantry",
        "schema-grant",
    ),
    Mutation(
        "schema-usage-option",
        "GRANT USAGE ON SCHEMA tenantry TO tenantry_app WITH GRANT OPTION",
        "schema tenantry",
        "schema-grant",
    ),
    Mutation(
        "database-temporary",
        "GRANT TEMPORARY ON DATABASE {database} TO PUBLIC",
        "database {database}",
        "database-grant",
    ),
    Mutation(
        "database-create",
        "GRANT CREATE ON DATABASE {database} TO tenantry_app",
        "database {database}",
        "database-grant",
    ),
    Mutation(
        "default-tables",
        "ALTER DEFAULT PRIVILEGES FOR ROLE tenantry_owner GRANT SELECT ON TABLES TO tenantry_app",
        "role tenantry_owner",
        "default-privileges",
    ),
    Mutation(
        "default-tables-in-schema",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO PUBLIC",
        "role {admin}",
        "default-privileges",
    ),
    Mutation(
        "default-functions",
        "ALTER DEFAULT PRIVILEGES FOR ROLE tenantry_owner GRANT EXECUTE ON FUNCTIONS TO PUBLIC",
        "role tenantry_owner",
        "default-privileges",
    ),
    Mutation(
        "statistics",
        "GRANT SELECT ON pg_statistic TO PUBLIC",
        "table pg_catalog.pg_statistic",
        "system-catalog-open",
    ),
    Mutation(
        "passwords",
        "GRANT SELECT (rolpassword) ON pg_authid TO tenantry_app",
        "table pg_catalog.pg_authid",
        "system-catalog-open",
    ),
    Mutation(
        "server-files",
        "GRANT EXECUTE ON FUNCTION pg_read_file(text) TO tenantry_app",
        "function pg_catalog.pg_read_file(text)",
        "system-catalog-open",
    ),
    Mutation(
        "parameter",
        "GRANT SET ON PARAMETER session_replication_role TO tenantry_app",
        "parameter session_replication_role",
        "parameter-open",
    ),
]

ROLES = [
    *(
        Mutation(
            f"app-{attribute.lower()}",
            f"ALTER ROLE tenantry_app {attribute}",
            "role tenantry_app",
            "role-bypasses",
        )
        for attribute in ("SUPERUSER", "BYPASSRLS", "CREATEROLE", "REPLICATION", "CREATEDB")
    ),
    *(
        Mutation(
            f"{role}-{attribute.lower()}",
            f"ALTER ROLE tenantry_{role} {attribute}",
            f"role tenantry_{role}",
            check,
        )
        for role, attribute, check in (
            ("owner", "BYPASSRLS", "role-bypasses"),
            ("operator", "BYPASSRLS", "role-bypasses"),
            ("auth", "SUPERUSER", "role-bypasses"),
            ("owner", "LOGIN", "role-logs-in"),
            ("operator", "LOGIN", "role-logs-in"),
        )
    ),
    *(
        Mutation(
            f"app-member-of-{role}",
            f"GRANT {role} TO tenantry_app",
            "role tenantry_app",
            "role-membership",
        )
        for role in (
            "tenantry_owner",
            "tenantry_auth",
            "tenantry_operator",
            "pg_read_all_data",
            "pg_write_all_data",
            "pg_monitor",
            "pg_read_all_stats",
            "pg_read_server_files",
            "pg_execute_server_program",
            "pg_signal_backend",
            "pg_database_owner",
        )
        if role != "pg_database_owner"  # which has no members but the owner
    ),
    Mutation(
        "app-may-become-operator",
        "GRANT tenantry_operator TO tenantry_app WITH INHERIT FALSE, SET FALSE, ADMIN TRUE",
        "role tenantry_app",
        "role-membership",
    ),
    Mutation(
        "app-member-through-another",
        "CREATE ROLE audit_between BYPASSRLS; GRANT audit_between TO tenantry_app",
        "role audit_between",
        "role-bypasses",
    ),
    Mutation(
        "owner-member-of-operator",
        "GRANT tenantry_operator TO tenantry_owner",
        "role tenantry_owner",
        "role-membership",
    ),
    Mutation(
        "login-is-app-and-operator",
        "CREATE ROLE audit_web LOGIN; GRANT tenantry_app, tenantry_operator TO audit_web",
        "role audit_web",
        "role-membership",
    ),
    Mutation(
        "login-is-app-and-bypasses",
        "CREATE ROLE audit_web LOGIN BYPASSRLS; GRANT tenantry_app TO audit_web",
        "role audit_web",
        "role-bypasses",
    ),
]

SETTINGS = [
    Mutation(
        "tenant-for-role",
        "ALTER ROLE tenantry_app SET tenantry.tenant_id = '00000000-0000-0000-0000-000000000000'",
        "role tenantry_app",
        "setting-tenant",
    ),
    Mutation(
        "tenant-for-database",
        "ALTER DATABASE {database} SET tenantry.tenant_id = '00000000-0000-0000-0000-000000000000'",
        "database {database}",
        "setting-tenant",
    ),
    Mutation(
        "tenant-for-role-in-database",
        "ALTER ROLE tenantry_app IN DATABASE {database} SET tenantry.tenant_id = 'x'",
        "role tenantry_app",
        "setting-tenant",
    ),
    *(
        Mutation(
            f"role-sets-{name}",
            f"ALTER ROLE tenantry_app SET {name} = {value}",
            "role tenantry_app",
            "setting",
        )
        for name, value in (
            ("row_security", "off"),
            ("session_replication_role", "replica"),
            ("role", "tenantry_operator"),
            ("search_path", "mine, public"),
            ("lo_compat_privileges", "on"),
        )
    ),
    Mutation(
        "tenant-for-all-roles",
        "ALTER ROLE ALL SET tenantry.tenant_id = '00000000-0000-0000-0000-000000000000'",
        "server",
        "setting-tenant",
    ),
    Mutation(
        "no-iterative-scan-for-app",
        "ALTER ROLE tenantry_app SET hnsw.iterative_scan = off",
        "role tenantry_app",
        "setting",
    ),
    Mutation(
        "no-iterative-scan",
        "ALTER DATABASE {database} RESET hnsw.iterative_scan",
        "database {database}",
        "vector-scan",
    ),
]

OWNERS = [
    Mutation(
        "table-of-app",
        "ALTER TABLE widgets OWNER TO tenantry_app",
        "table public.widgets",
        "owner-is-application",
    ),
    Mutation(
        "table-of-superuser",
        "ALTER TABLE widgets OWNER TO {admin}",
        "table public.widgets",
        "owner-differs",
    ),
    Mutation(
        "schema-of-app",
        "ALTER SCHEMA tenantry OWNER TO tenantry_app",
        "schema tenantry",
        "owner-is-application",
    ),
    Mutation(
        "database-of-app",
        "ALTER DATABASE {database} OWNER TO tenantry_app",
        "database {database}",
        "owner-is-application",
    ),
    Mutation(
        "function-of-app",
        "CREATE FUNCTION spy() RETURNS int LANGUAGE sql RETURN 1;"
        " ALTER FUNCTION spy() OWNER TO tenantry_app",
        "function public.spy()",
        "owner-is-application",
    ),
    Mutation(
        "materialized-view-for-web",
        "CREATE ROLE audit_web LOGIN; GRANT tenantry_app TO audit_web;"
        " CREATE MATERIALIZED VIEW seen AS SELECT * FROM users; GRANT SELECT ON seen TO audit_web",
        "materialized view public.seen",
        "materialized-view-open",
    ),
    Mutation(
        "view-of-app",
        "CREATE VIEW seen AS SELECT 1 AS one; ALTER VIEW seen OWNER TO tenantry_app",
        "view public.seen",
        "owner-is-application",
    ),
]
