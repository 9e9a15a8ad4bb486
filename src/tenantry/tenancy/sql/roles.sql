-- The four roles. They belong to the whole server, so this runs again for every database on it
-- and leaves roles that exist alone. None may log in but the application's, which without a
-- password gets in nowhere that asks for one. Not ALTERed when present: a CREATEROLE user of a
-- managed service may not touch roles that somebody else made; what they may do is checked after.
DO $$
DECLARE
    wanted record;
BEGIN
    FOR wanted IN
        SELECT * FROM (VALUES
            ('tenantry_owner', 'NOLOGIN'),
            ('tenantry_app', 'LOGIN'),
            ('tenantry_auth', 'NOLOGIN'),
            ('tenantry_operator', 'NOLOGIN')
        ) AS roles (name, login)
    LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = wanted.name) THEN
            BEGIN
                EXECUTE pg_catalog.format('CREATE ROLE %I %s', wanted.name, wanted.login);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;  -- a migrator of another database on this server was faster
            END;
        END IF;
        -- Whoever migrates must be able to become the owner and the operator. A superuser can;
        -- a CREATEROLE user holds only the ADMIN option on the roles that it has made.
        IF wanted.name <> 'tenantry_app'
            AND NOT pg_catalog.pg_has_role(current_user, wanted.name, 'SET')
        THEN
            EXECUTE pg_catalog.format(
                'GRANT %I TO %I WITH SET TRUE, INHERIT FALSE', wanted.name, current_user
            );
        END IF;
    END LOOP;
END
$$;
