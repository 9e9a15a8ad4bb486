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
