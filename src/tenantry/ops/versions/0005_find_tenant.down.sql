-- Everything that 0005 made.
DROP FUNCTION tenantry.find_tenant(text);
REVOKE SELECT (slug) ON TABLE tenants FROM tenantry_auth;
