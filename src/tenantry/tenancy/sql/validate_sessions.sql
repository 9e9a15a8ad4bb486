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
