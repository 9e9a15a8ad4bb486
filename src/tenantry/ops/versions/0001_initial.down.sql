-- Everything that 0001 made, with all rows. Roles, extensions and schemas stay: other databases
-- and other tables may use them.
DROP TABLE messages;
DROP TABLE cost_events;
DROP TABLE sessions;
DROP TABLE knowledge_chunks;
DROP TABLE conversation_sessions;
DROP TABLE widgets;
DROP TABLE users;
DROP TABLE meetings;
DROP TABLE knowledge_documents;
DROP TABLE tenants;
DROP FUNCTION tenantry.current_tenant();
