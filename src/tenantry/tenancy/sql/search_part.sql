-- Which of 16 parts a tenant's chunks belong to. `tenantry knowledge tune` makes a vector index for
-- each part of a large database, so that an index holds few tenants: what is wanted is then found
-- sooner and more completely than among everybody's vectors. See docs/search.md.
--
-- From the last four bits of the id, which are random in a UUID of version 4 or 7.
CREATE OR REPLACE FUNCTION tenantry.search_part(tenant uuid) RETURNS integer
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN pg_catalog.get_byte(pg_catalog.uuid_send(tenant), 15) & 15;

REVOKE ALL ON FUNCTION tenantry.search_part(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantry.search_part(uuid)
    TO tenantry_app, tenantry_operator, tenantry_auth;
