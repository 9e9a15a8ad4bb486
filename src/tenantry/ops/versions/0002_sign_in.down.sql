-- Everything that 0002 made, with all rows of its tables.
DROP FUNCTION tenantry.authenticate_api_keys(uuid[], bytea[]);
DROP FUNCTION tenantry.authenticate_api_key(uuid, bytea);
DROP FUNCTION tenantry.validate_sessions(uuid[], text[], bytea[]);
DROP FUNCTION tenantry.validate_session(uuid, text, bytea);
DROP TABLE single_use_tokens;
DROP TABLE known_devices;
DROP TABLE sign_in_throttles;
DROP TABLE security_events;
DROP POLICY auth_renewal ON sessions;
DROP POLICY auth_look_up ON sessions;
DROP POLICY auth_look_up ON users;
DROP POLICY auth_look_up ON tenants;
REVOKE ALL ON sessions, users, tenants FROM tenantry_auth;
REVOKE UPDATE (api_key) ON tenants FROM tenantry_app;
COMMENT ON COLUMN sessions.address IS 'Where the device was last seen.';
ALTER TABLE users DROP COLUMN email_verified_at;
ALTER TABLE tenants DROP COLUMN previous_api_key, DROP COLUMN previous_api_key_expires_at;
ALTER TABLE sessions DROP COLUMN absolute_expires_at, DROP COLUMN idle_timeout;
