-- Signing in: the limits of a session, the previous API key, throttles, known devices, single-use
-- tokens and the audit trail; and the four functions that find a session or a key before the tenant
-- is known. Frozen: changes come as new migrations.
-- 0003 validates the constraints that are NOT VALID here, under a lock that lets writers through.

SET LOCAL lock_timeout = '5s';

CREATE TABLE security_events (
    tenant_id UUID DEFAULT tenantry.current_tenant() NOT NULL,
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    kind TEXT NOT NULL,
    user_id UUID,
    address INET,
    user_agent TEXT,
    details JSONB DEFAULT '{}'::jsonb NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT security_events_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT security_events_kind_check CHECK (kind ~ '^[a-z][a-z_]{0,39}$'),
    CONSTRAINT security_events_tenant_id_fkey FOREIGN KEY(tenant_id) REFERENCES tenants (id) ON DELETE CASCADE,
    CONSTRAINT security_events_details_check CHECK (jsonb_typeof(details) = 'object')
);
COMMENT ON TABLE security_events IS 'The audit trail: append-only for the application, without any secret.';
COMMENT ON COLUMN security_events.tenant_id IS 'The tenant this row belongs to; row security compares it.';
COMMENT ON COLUMN security_events.kind IS 'As in sign_in or password_changed.';
COMMENT ON COLUMN security_events.user_id IS 'Whose account; NULL where no account has the given address.';
CREATE INDEX security_events_tenant_id_created_at_idx ON security_events (tenant_id, created_at);
CREATE INDEX security_events_tenant_id_user_id_created_at_idx ON security_events (tenant_id, user_id, created_at);

CREATE TABLE sign_in_throttles (
    tenant_id UUID DEFAULT tenantry.current_tenant() NOT NULL,
    id TEXT NOT NULL,
    free_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT sign_in_throttles_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT sign_in_throttles_tenant_id_fkey FOREIGN KEY(tenant_id) REFERENCES tenants (id) ON DELETE CASCADE,
    CONSTRAINT sign_in_throttles_id_check CHECK (char_length(id) BETWEEN 1 AND 128)
);
COMMENT ON TABLE sign_in_throttles IS 'Attempts to sign in, counted per account, address and device.';
COMMENT ON COLUMN sign_in_throttles.tenant_id IS 'The tenant this row belongs to; row security compares it.';
COMMENT ON COLUMN sign_in_throttles.id IS 'What is counted, and SHA-256 of the account, address or device.';
COMMENT ON COLUMN sign_in_throttles.free_at IS 'When every attempt has come back; the row says nothing from then on.';
CREATE INDEX sign_in_throttles_tenant_id_free_at_idx ON sign_in_throttles (tenant_id, free_at);

CREATE TABLE known_devices (
    tenant_id UUID DEFAULT tenantry.current_tenant() NOT NULL,
    id TEXT NOT NULL,
    user_id UUID NOT NULL,
    secret_hash BYTEA NOT NULL,
    last_used_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT known_devices_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT known_devices_tenant_id_user_id_fkey FOREIGN KEY(tenant_id, user_id) REFERENCES users (tenant_id, id) ON DELETE CASCADE,
    CONSTRAINT known_devices_secret_hash_check CHECK (octet_length(secret_hash) = 32),
    CONSTRAINT known_devices_tenant_id_fkey FOREIGN KEY(tenant_id) REFERENCES tenants (id) ON DELETE CASCADE,
    CONSTRAINT known_devices_id_check CHECK (char_length(id) BETWEEN 1 AND 128)
);
COMMENT ON TABLE known_devices IS 'Devices that users have signed in from. Holds no token.';
COMMENT ON COLUMN known_devices.tenant_id IS 'The tenant this row belongs to; row security compares it.';
COMMENT ON COLUMN known_devices.id IS 'Random; finds the row, proves nothing.';
COMMENT ON COLUMN known_devices.secret_hash IS 'SHA-256 of the device token''s secret.';
CREATE INDEX known_devices_tenant_id_user_id_idx ON known_devices (tenant_id, user_id);

CREATE TABLE single_use_tokens (
    tenant_id UUID DEFAULT tenantry.current_tenant() NOT NULL,
    id TEXT NOT NULL,
    user_id UUID NOT NULL,
    purpose TEXT NOT NULL,
    email TEXT NOT NULL,
    secret_hash BYTEA NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT single_use_tokens_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT single_use_tokens_secret_hash_check CHECK (octet_length(secret_hash) = 32),
    CONSTRAINT single_use_tokens_tenant_id_fkey FOREIGN KEY(tenant_id) REFERENCES tenants (id) ON DELETE CASCADE,
    CONSTRAINT single_use_tokens_tenant_id_user_id_fkey FOREIGN KEY(tenant_id, user_id) REFERENCES users (tenant_id, id) ON DELETE CASCADE,
    CONSTRAINT single_use_tokens_id_check CHECK (char_length(id) BETWEEN 1 AND 128),
    CONSTRAINT single_use_tokens_purpose_check CHECK (purpose ~ '^[a-z][a-z_]{0,39}$')
);
COMMENT ON TABLE single_use_tokens IS 'Tokens of mailed links; deleted by their use. Holds no token.';
COMMENT ON COLUMN single_use_tokens.tenant_id IS 'The tenant this row belongs to; row security compares it.';
COMMENT ON COLUMN single_use_tokens.id IS 'Random; finds the row, proves nothing.';
COMMENT ON COLUMN single_use_tokens.purpose IS 'verify_email or reset_password.';
COMMENT ON COLUMN single_use_tokens.email IS 'Where it was sent; it is void once the user has another address.';
COMMENT ON COLUMN single_use_tokens.secret_hash IS 'SHA-256 of the token''s secret, 256 random bits.';
CREATE INDEX single_use_tokens_tenant_id_expires_at_idx ON single_use_tokens (tenant_id, expires_at);
CREATE INDEX single_use_tokens_tenant_id_user_id_idx ON single_use_tokens (tenant_id, user_id);

ALTER TABLE sessions ADD COLUMN absolute_expires_at TIMESTAMP WITH TIME ZONE DEFAULT now() + interval '30 days' NOT NULL;
COMMENT ON COLUMN sessions.absolute_expires_at IS 'End of the session whatever its use; never moved.';

ALTER TABLE sessions ADD COLUMN idle_timeout INTERVAL DEFAULT '24:00:00'::interval NOT NULL;
COMMENT ON COLUMN sessions.idle_timeout IS 'How far expires_at lies after the last renewal.';

-- Whoever kept sessions in this table before may have given them more time than 30 days.
SET LOCAL ROLE tenantry_operator;
UPDATE sessions SET absolute_expires_at = expires_at WHERE expires_at > absolute_expires_at;
SET LOCAL ROLE tenantry_owner;

ALTER TABLE sessions ADD CONSTRAINT sessions_absolute_expires_at_check CHECK (expires_at <= absolute_expires_at) NOT VALID;

ALTER TABLE sessions ADD CONSTRAINT sessions_idle_timeout_check CHECK (idle_timeout > interval '0') NOT VALID;

COMMENT ON COLUMN sessions.address IS 'Where the user signed in from.';

ALTER TABLE tenants ADD COLUMN previous_api_key BYTEA;
COMMENT ON COLUMN tenants.previous_api_key IS 'The key before the last rotation, as api_key; NULL: none.';

ALTER TABLE tenants ADD COLUMN previous_api_key_expires_at TIMESTAMP WITH TIME ZONE;
COMMENT ON COLUMN tenants.previous_api_key_expires_at IS 'Until when the previous key still opens the tenant.';

ALTER TABLE tenants ADD CONSTRAINT tenants_previous_api_key_check CHECK (octet_length(previous_api_key) = 32 AND previous_api_key_expires_at IS NOT NULL OR previous_api_key IS NULL AND previous_api_key_expires_at IS NULL) NOT VALID;

ALTER TABLE users ADD COLUMN email_verified_at TIMESTAMP WITH TIME ZONE;
COMMENT ON COLUMN users.email_verified_at IS 'When the user has shown to read mail at the address; NULL: not yet.';
CREATE POLICY auth_look_up ON tenants FOR SELECT TO tenantry_auth USING (true);
GRANT UPDATE (api_key, previous_api_key, previous_api_key_expires_at) ON TABLE tenants TO tenantry_app;
GRANT SELECT (api_key, id, previous_api_key, previous_api_key_expires_at) ON TABLE tenants TO tenantry_auth;

ALTER TABLE security_events ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON security_events FOR ALL TO tenantry_app USING ((tenant_id = tenantry.current_tenant())) WITH CHECK ((tenant_id = tenantry.current_tenant()));
CREATE POLICY operator_access ON security_events FOR ALL TO tenantry_operator USING (true) WITH CHECK (true);
GRANT SELECT ON TABLE security_events TO tenantry_app;
GRANT INSERT (address, details, id, kind, tenant_id, user_agent, user_id) ON TABLE security_events TO tenantry_app;
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE security_events TO tenantry_operator;

ALTER TABLE sign_in_throttles ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON sign_in_throttles FOR ALL TO tenantry_app USING ((tenant_id = tenantry.current_tenant())) WITH CHECK ((tenant_id = tenantry.current_tenant()));
CREATE POLICY operator_access ON sign_in_throttles FOR ALL TO tenantry_operator USING (true) WITH CHECK (true);
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE sign_in_throttles TO tenantry_app;
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE sign_in_throttles TO tenantry_operator;
CREATE POLICY auth_look_up ON users FOR SELECT TO tenantry_auth USING (true);
GRANT SELECT (disabled_at, id, role, tenant_id) ON TABLE users TO tenantry_auth;

ALTER TABLE known_devices ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON known_devices FOR ALL TO tenantry_app USING ((tenant_id = tenantry.current_tenant())) WITH CHECK ((tenant_id = tenantry.current_tenant()));
CREATE POLICY operator_access ON known_devices FOR ALL TO tenantry_operator USING (true) WITH CHECK (true);
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE known_devices TO tenantry_app;
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE known_devices TO tenantry_operator;
CREATE POLICY auth_look_up ON sessions FOR SELECT TO tenantry_auth USING (true);
CREATE POLICY auth_renewal ON sessions FOR UPDATE TO tenantry_auth USING (true) WITH CHECK (true);
GRANT SELECT (absolute_expires_at, created_at, expires_at, id, idle_timeout, last_seen_at, secret_hash, tenant_id, user_id) ON TABLE sessions TO tenantry_auth;
GRANT UPDATE (expires_at, last_seen_at) ON TABLE sessions TO tenantry_auth;

ALTER TABLE single_use_tokens ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON single_use_tokens FOR ALL TO tenantry_app USING ((tenant_id = tenantry.current_tenant())) WITH CHECK ((tenant_id = tenantry.current_tenant()));
CREATE POLICY operator_access ON single_use_tokens FOR ALL TO tenantry_operator USING (true) WITH CHECK (true);
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE single_use_tokens TO tenantry_app;
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE single_use_tokens TO tenantry_operator;

GRANT CREATE ON SCHEMA tenantry TO tenantry_auth;
SET LOCAL ROLE tenantry_auth;
-- Whose session a token is, in one call, before the tenant is known: no row for a token that is
-- unknown, expired or revoked, or whose user is disabled. A service in any language may call it.
--
--   tenant, session   the first two parts of the token
--   hash              SHA-256 of its third part
--
-- A session that is used is renewed, at most once in an hour, or in a sixth of its idle timeout
-- where that is shorter; never past its absolute end, and not on a replica. What another
-- transaction holds is not waited for: it is renewed next time, or was revoked. The time is that of
-- the statement: a transaction that began before a session's end does not outlive it.
--
-- The digests are compared in a form that a caller can neither foresee nor shape, hashed anew
-- with random bytes: how long the comparison takes says nothing about the digest that is stored.
-- random() is enough for that, as nobody sees it and each call has another; gen_random_uuid() would
-- make a validation 5 % slower.
CREATE OR REPLACE FUNCTION tenantry.validate_session(tenant uuid, session text, hash bytea)
    RETURNS TABLE (
        user_id uuid, role text, signed_in_at timestamptz, expires_at timestamptz
    )
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    salt bytea := float8send(random());
    is_due boolean;
    renewed timestamptz;
BEGIN
    SELECT s.user_id, u.role, s.created_at, s.expires_at,
           s.last_seen_at < statement_timestamp() - least(interval '1 hour', s.idle_timeout / 6)
      INTO user_id, role, signed_in_at, expires_at, is_due
      FROM public.sessions s
      JOIN public.users u ON u.tenant_id = s.tenant_id AND u.id = s.user_id
     WHERE s.tenant_id = tenant AND s.id = session
       AND sha256(salt || s.secret_hash) = sha256(salt || hash)
       AND s.expires_at > statement_timestamp() AND s.absolute_expires_at > statement_timestamp()
       AND u.disabled_at IS NULL;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF is_due AND current_setting('transaction_read_only') = 'off' THEN
        WITH free AS (
            SELECT s.tenant_id, s.id
              FROM public.sessions s
             WHERE s.tenant_id = tenant AND s.id = session
               FOR NO KEY UPDATE SKIP LOCKED
        )
        UPDATE public.sessions s
           SET last_seen_at = statement_timestamp(),
               expires_at = least(statement_timestamp() + s.idle_timeout, s.absolute_expires_at)
          FROM free
         WHERE s.tenant_id = free.tenant_id AND s.id = free.id
        RETURNING s.expires_at INTO renewed;
        expires_at := coalesce(renewed, expires_at);
    END IF;
    RETURN NEXT;
END
$$;

REVOKE ALL ON FUNCTION tenantry.validate_session(uuid, text, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantry.validate_session(uuid, text, bytea) TO tenantry_app;

-- validate_session for many tokens in one statement. A row for each that is good, with its place
-- in the arrays, counted from 1; whether it is due to be renewed, which validate_session does.
--
-- LIMIT 1 keeps the planner to one look-up by the primary key for each token, and the setting
-- keeps it from planning anew for each length of the arrays.
CREATE OR REPLACE FUNCTION tenantry.validate_sessions(
        tenants uuid[], sessions text[], hashes bytea[])
    RETURNS TABLE (
        place bigint, user_id uuid, role text, signed_in_at timestamptz, expires_at timestamptz,
        is_due boolean
    )
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    salt bytea := float8send(random());
BEGIN
    RETURN QUERY
    SELECT asked.place, s.user_id, u.role, s.created_at, s.expires_at,
           s.last_seen_at < statement_timestamp() - least(interval '1 hour', s.idle_timeout / 6)
      FROM unnest(tenants, sessions, hashes) WITH ORDINALITY asked (tenant, id, hash, place)
     CROSS JOIN LATERAL (
               SELECT s.user_id, s.tenant_id, s.secret_hash, s.created_at, s.expires_at,
                      s.absolute_expires_at, s.last_seen_at, s.idle_timeout
                 FROM public.sessions s
                WHERE s.tenant_id = asked.tenant AND s.id = asked.id
                LIMIT 1) s
     CROSS JOIN LATERAL (
               SELECT u.role, u.disabled_at
                 FROM public.users u
                WHERE u.tenant_id = s.tenant_id AND u.id = s.user_id
                LIMIT 1) u
     WHERE sha256(salt || s.secret_hash) = sha256(salt || asked.hash)
       AND s.expires_at > statement_timestamp() AND s.absolute_expires_at > statement_timestamp()
       AND u.disabled_at IS NULL;
END
$$;

REVOKE ALL ON FUNCTION tenantry.validate_sessions(uuid[], text[], bytea[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantry.validate_sessions(uuid[], text[], bytea[]) TO tenantry_app;

-- Whether an API key opens its tenant, before the tenant is known: one row if it does, none if not.
--
--   tenant   the second part of the key
--   hash     SHA-256 of its third part
--
-- The key before the last rotation still opens it until expires_at; for the key of today that is
-- NULL. The digests are compared as in validate_session.
CREATE OR REPLACE FUNCTION tenantry.authenticate_api_key(tenant uuid, hash bytea)
    RETURNS TABLE (expires_at timestamptz)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    salt bytea := float8send(random());
    given bytea := sha256(salt || hash);
BEGIN
    RETURN QUERY
    SELECT CASE WHEN sha256(salt || t.api_key) = given THEN NULL
                ELSE t.previous_api_key_expires_at END
      FROM public.tenants t
     WHERE t.id = tenant
       AND (sha256(salt || t.api_key) = given
            OR sha256(salt || t.previous_api_key) = given
               AND t.previous_api_key_expires_at > statement_timestamp());
END
$$;

REVOKE ALL ON FUNCTION tenantry.authenticate_api_key(uuid, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantry.authenticate_api_key(uuid, bytea) TO tenantry_app;

-- authenticate_api_key for many keys in one statement: a row for each that is good, with its place
-- in the arrays, counted from 1.
CREATE OR REPLACE FUNCTION tenantry.authenticate_api_keys(tenants uuid[], hashes bytea[])
    RETURNS TABLE (place bigint, expires_at timestamptz)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    salt bytea := float8send(random());
BEGIN
    RETURN QUERY
    SELECT asked.place,
           CASE WHEN sha256(salt || t.api_key) = sha256(salt || asked.hash) THEN NULL
                ELSE t.previous_api_key_expires_at END
      FROM unnest(tenants, hashes) WITH ORDINALITY asked (tenant, hash, place)
     CROSS JOIN LATERAL (
               SELECT t.api_key, t.previous_api_key, t.previous_api_key_expires_at
                 FROM public.tenants t
                WHERE t.id = asked.tenant
                LIMIT 1) t
     WHERE sha256(salt || t.api_key) = sha256(salt || asked.hash)
        OR sha256(salt || t.previous_api_key) = sha256(salt || asked.hash)
           AND t.previous_api_key_expires_at > statement_timestamp();
END
$$;

REVOKE ALL ON FUNCTION tenantry.authenticate_api_keys(uuid[], bytea[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantry.authenticate_api_keys(uuid[], bytea[]) TO tenantry_app;

SET LOCAL ROLE tenantry_owner;
REVOKE CREATE ON SCHEMA tenantry FROM tenantry_auth;
