-- What 0002 added to tables that may be large, checked against the rows that are there.
SET LOCAL lock_timeout = '5s';
ALTER TABLE sessions VALIDATE CONSTRAINT sessions_absolute_expires_at_check;
ALTER TABLE sessions VALIDATE CONSTRAINT sessions_idle_timeout_check;
ALTER TABLE tenants VALIDATE CONSTRAINT tenants_previous_api_key_check;
