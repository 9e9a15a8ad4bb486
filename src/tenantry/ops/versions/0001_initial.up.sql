-- The ten tables, who may see their rows, and the function that every policy compares with.
-- Frozen: it runs as tenantry_owner, after roles, extensions and schemas exist.

CREATE OR REPLACE FUNCTION tenantry.current_tenant() RETURNS uuid
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN nullif(pg_catalog.current_setting('tenantry.tenant_id', true), '')::uuid;

REVOKE ALL ON FUNCTION tenantry.current_tenant() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tenantry.current_tenant() TO tenantry_app, tenantry_operator;

CREATE TABLE tenants (
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    name TEXT NOT NULL,
    slug TEXT NOT NULL,
    api_key BYTEA,
    settings JSONB DEFAULT '{}'::jsonb NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT tenants_pkey PRIMARY KEY (id),
    CONSTRAINT tenants_api_key_check CHECK (octet_length(api_key) = 32),
    CONSTRAINT tenants_settings_check CHECK (jsonb_typeof(settings) = 'object'),
    CONSTRAINT tenants_name_check CHECK (name <> ''),
    CONSTRAINT tenants_slug_check CHECK (slug ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
    CONSTRAINT tenants_slug_key UNIQUE (slug)
);

COMMENT ON TABLE tenants IS 'One row per tenant. Every other table refers to it by tenant_id.';
COMMENT ON COLUMN tenants.slug IS 'Unique name in URLs and on the command line; a DNS label.';
COMMENT ON COLUMN tenants.api_key IS 'SHA-256 of the secret part of the API key, never the key; NULL: none.';

CREATE TABLE knowledge_documents (
    tenant_id UUID DEFAULT tenantry.current_tenant() NOT NULL,
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    title TEXT NOT NULL,
    content TEXT NOT NULL,
    embedding VECTOR(1024),
    metadata JSONB DEFAULT '{}'::jsonb NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    source TEXT,
    source_digest BYTEA,
    CONSTRAINT knowledge_documents_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT knowledge_documents_embedding_check CHECK (vector_norm(embedding) > 0),
    CONSTRAINT knowledge_documents_tenant_id_source_key UNIQUE (tenant_id, source),
    CONSTRAINT knowledge_documents_metadata_check CHECK (jsonb_typeof(metadata) = 'object'),
    CONSTRAINT knowledge_documents_content_check CHECK (octet_length(content) <= 16777216),
    CONSTRAINT knowledge_documents_source_digest_check CHECK (octet_length(source_digest) = 32),
    CONSTRAINT knowledge_documents_tenant_id_fkey FOREIGN KEY (tenant_id)
        REFERENCES tenants (id) ON DELETE CASCADE
);

COMMENT ON TABLE knowledge_documents IS 'Documents as they were added; what is searched are their chunks.';
COMMENT ON COLUMN knowledge_documents.tenant_id IS 'The tenant this row belongs to; row security compares it.';
COMMENT ON COLUMN knowledge_documents.embedding IS 'NULL: not embedded.';
COMMENT ON COLUMN knowledge_documents.source IS 'Where an import read it, relative to the imported folder.';
COMMENT ON COLUMN knowledge_documents.source_digest IS 'SHA-256 of what was imported and how; the same digest: unchanged.';

CREATE INDEX knowledge_documents_content_trgm_idx ON knowledge_documents USING gin (content gin_trgm_ops);
CREATE INDEX knowledge_documents_embedding_idx ON knowledge_documents USING hnsw (embedding vector_cosine_ops);

CREATE TABLE meetings (
    tenant_id UUID DEFAULT tenantry.current_tenant() NOT NULL,
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    room_name TEXT NOT NULL,
    status TEXT DEFAULT 'scheduled' NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE,
    ended_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT meetings_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT meetings_status_check CHECK (status IN ('scheduled', 'active', 'ended')),
    CONSTRAINT meetings_ended_at_check CHECK (ended_at >= started_at),
    CONSTRAINT meetings_tenant_id_fkey FOREIGN KEY (tenant_id)
        REFERENCES tenants (id) ON DELETE CASCADE,
    CONSTRAINT meetings_room_name_check CHECK (room_name <> '')
);

COMMENT ON TABLE meetings IS 'Audio or video rooms.';
COMMENT ON COLUMN meetings.tenant_id IS 'The tenant this row belongs to; row security compares it.';
COMMENT ON COLUMN meetings.started_at IS 'NULL while the meeting is only scheduled.';

CREATE INDEX meetings_tenant_id_idx ON meetings (tenant_id);

CREATE TABLE users (
    tenant_id UUID DEFAULT tenantry.current_tenant() NOT NULL,
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    email TEXT NOT NULL,
    hashed_password TEXT,
    name TEXT NOT NULL,
    role TEXT DEFAULT 'member' NOT NULL,
    disabled_at TIMESTAMP WITH TIME ZONE,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT users_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT users_tenant_id_fkey FOREIGN KEY (tenant_id)
        REFERENCES tenants (id) ON DELETE CASCADE,
    CONSTRAINT users_email_check CHECK (email = lower(email) AND email ~ '^[^@[:space:]]+@[^@[:space:]]+$'),
    CONSTRAINT users_role_check CHECK (role IN ('owner', 'admin', 'member')),
    CONSTRAINT users_tenant_id_email_key UNIQUE (tenant_id, email)
);

COMMENT ON TABLE users IS 'People who can sign in to a tenant; emails are unique per tenant.';
COMMENT ON COLUMN users.tenant_id IS 'The tenant this row belongs to; row security compares it.';
COMMENT ON COLUMN users.email IS 'The canonical, lower-case form.';
COMMENT ON COLUMN users.hashed_password IS 'Argon2id in PHC string format; NULL: cannot use a password.';
COMMENT ON COLUMN users.disabled_at IS 'Since when the user cannot sign in; NULL: can.';

CREATE INDEX users_tenant_id_idx ON users (tenant_id);

CREATE TABLE widgets (
    tenant_id UUID DEFAULT tenantry.current_tenant() NOT NULL,
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    name TEXT NOT NULL,
    config JSONB DEFAULT '{}'::jsonb NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT widgets_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT widgets_config_check CHECK (jsonb_typeof(config) = 'object'),
    CONSTRAINT widgets_tenant_id_fkey FOREIGN KEY (tenant_id)
        REFERENCES tenants (id) ON DELETE CASCADE,
    CONSTRAINT widgets_name_check CHECK (name <> '')
);

COMMENT ON TABLE widgets IS 'Chat widgets that a tenant embeds in its site.';
COMMENT ON COLUMN widgets.tenant_id IS 'The tenant this row belongs to; row security compares it.';

CREATE INDEX widgets_tenant_id_idx ON widgets (tenant_id);

CREATE TABLE conversation_sessions (
    tenant_id UUID DEFAULT tenantry.current_tenant() NOT NULL,
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    meeting_id UUID,
    widget_id UUID,
    started_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    ended_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT conversation_sessions_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT conversation_sessions_ended_at_check CHECK (ended_at >= started_at),
    CONSTRAINT conversation_sessions_tenant_id_meeting_id_fkey FOREIGN KEY (tenant_id, meeting_id)
        REFERENCES meetings (tenant_id, id) ON DELETE SET NULL (meeting_id),
    CONSTRAINT conversation_sessions_tenant_id_fkey FOREIGN KEY (tenant_id)
        REFERENCES tenants (id) ON DELETE CASCADE,
    CONSTRAINT conversation_sessions_tenant_id_widget_id_fkey FOREIGN KEY (tenant_id, widget_id)
        REFERENCES widgets (tenant_id, id) ON DELETE SET NULL (widget_id)
);

COMMENT ON TABLE conversation_sessions IS 'Conversations; they outlive the meeting or widget they began in.';
COMMENT ON COLUMN conversation_sessions.tenant_id IS 'The tenant this row belongs to; row security compares it.';

CREATE INDEX conversation_sessions_tenant_id_meeting_id_idx ON conversation_sessions (tenant_id, meeting_id);
CREATE INDEX conversation_sessions_tenant_id_started_at_idx ON conversation_sessions (tenant_id, started_at);
CREATE INDEX conversation_sessions_tenant_id_widget_id_idx ON conversation_sessions (tenant_id, widget_id);

CREATE TABLE knowledge_chunks (
    tenant_id UUID DEFAULT tenantry.current_tenant() NOT NULL,
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    document_id UUID NOT NULL,
    content TEXT NOT NULL,
    embedding VECTOR(1024),
    position INTEGER NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT knowledge_chunks_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT knowledge_chunks_tenant_id_fkey FOREIGN KEY (tenant_id)
        REFERENCES tenants (id) ON DELETE CASCADE,
    CONSTRAINT knowledge_chunks_position_check CHECK (position >= 0),
    CONSTRAINT knowledge_chunks_content_check CHECK (octet_length(content) <= 16777216),
    CONSTRAINT knowledge_chunks_tenant_id_document_id_position_key UNIQUE (tenant_id, document_id, position),
    CONSTRAINT knowledge_chunks_embedding_check CHECK (vector_norm(embedding) > 0),
    CONSTRAINT knowledge_chunks_tenant_id_document_id_fkey FOREIGN KEY (tenant_id, document_id)
        REFERENCES knowledge_documents (tenant_id, id) ON DELETE CASCADE
);

COMMENT ON TABLE knowledge_chunks IS 'Passages of documents, in order of position; what search finds.';
COMMENT ON COLUMN knowledge_chunks.tenant_id IS 'The tenant this row belongs to; row security compares it.';
COMMENT ON COLUMN knowledge_chunks.embedding IS 'NULL: not embedded, so vector search does not find it.';
COMMENT ON COLUMN knowledge_chunks.position IS 'From 0, in reading order.';

CREATE INDEX knowledge_chunks_embedding_idx ON knowledge_chunks USING hnsw (embedding vector_cosine_ops);

CREATE TABLE sessions (
    tenant_id UUID DEFAULT tenantry.current_tenant() NOT NULL,
    id TEXT NOT NULL,
    user_id UUID NOT NULL,
    secret_hash BYTEA NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    last_seen_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    address INET,
    user_agent TEXT,
    CONSTRAINT sessions_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT sessions_tenant_id_fkey FOREIGN KEY (tenant_id)
        REFERENCES tenants (id) ON DELETE CASCADE,
    CONSTRAINT sessions_expires_at_check CHECK (expires_at > created_at),
    CONSTRAINT sessions_secret_hash_check CHECK (octet_length(secret_hash) = 32),
    CONSTRAINT sessions_tenant_id_user_id_fkey FOREIGN KEY (tenant_id, user_id)
        REFERENCES users (tenant_id, id) ON DELETE CASCADE,
    CONSTRAINT sessions_id_check CHECK (char_length(id) BETWEEN 1 AND 128)
);

COMMENT ON TABLE sessions IS 'Signed-in devices. Holds no token: a copy of this table opens nothing.';
COMMENT ON COLUMN sessions.tenant_id IS 'The tenant this row belongs to; row security compares it.';
COMMENT ON COLUMN sessions.id IS 'Random, made by the application; finds the row and proves nothing.';
COMMENT ON COLUMN sessions.secret_hash IS 'SHA-256 of the token''s secret, 256 random bits.';
COMMENT ON COLUMN sessions.expires_at IS 'End of the idle timeout; moved by use, up to the absolute lifetime.';
COMMENT ON COLUMN sessions.address IS 'Where the device was last seen.';

CREATE INDEX sessions_tenant_id_expires_at_idx ON sessions (tenant_id, expires_at);
CREATE INDEX sessions_tenant_id_user_id_idx ON sessions (tenant_id, user_id);

CREATE TABLE cost_events (
    tenant_id UUID DEFAULT tenantry.current_tenant() NOT NULL,
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    session_id UUID,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    tokens BIGINT NOT NULL,
    cost NUMERIC(20, 10) NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT cost_events_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT cost_events_cost_check CHECK (cost >= 0),
    CONSTRAINT cost_events_tokens_check CHECK (tokens >= 0),
    CONSTRAINT cost_events_tenant_id_session_id_fkey FOREIGN KEY (tenant_id, session_id)
        REFERENCES conversation_sessions (tenant_id, id) ON DELETE SET NULL (session_id),
    CONSTRAINT cost_events_tenant_id_fkey FOREIGN KEY (tenant_id)
        REFERENCES tenants (id) ON DELETE CASCADE
);

COMMENT ON TABLE cost_events IS 'Charges of model providers; they outlive the conversation they arose in.';
COMMENT ON COLUMN cost_events.tenant_id IS 'The tenant this row belongs to; row security compares it.';
COMMENT ON COLUMN cost_events.cost IS 'US dollars; one token can cost less than a millionth.';

CREATE INDEX cost_events_tenant_id_created_at_idx ON cost_events (tenant_id, created_at);
CREATE INDEX cost_events_tenant_id_session_id_idx ON cost_events (tenant_id, session_id);

CREATE TABLE messages (
    tenant_id UUID DEFAULT tenantry.current_tenant() NOT NULL,
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    session_id UUID NOT NULL,
    role TEXT NOT NULL,
    content TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT messages_pkey PRIMARY KEY (tenant_id, id),
    CONSTRAINT messages_content_check CHECK (octet_length(content) <= 16777216),
    CONSTRAINT messages_tenant_id_session_id_fkey FOREIGN KEY (tenant_id, session_id)
        REFERENCES conversation_sessions (tenant_id, id) ON DELETE CASCADE,
    CONSTRAINT messages_role_check CHECK (role IN ('system', 'user', 'assistant', 'tool')),
    CONSTRAINT messages_tenant_id_fkey FOREIGN KEY (tenant_id)
        REFERENCES tenants (id) ON DELETE CASCADE
);

COMMENT ON TABLE messages IS 'The turns of a conversation, in order of created_at and id.';
COMMENT ON COLUMN messages.tenant_id IS 'The tenant this row belongs to; row security compares it.';

CREATE INDEX messages_tenant_id_session_id_created_at_idx ON messages (tenant_id, session_id, created_at);

ALTER TABLE tenants ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON tenants
    FOR ALL TO tenantry_app
    USING (id = tenantry.current_tenant())
    WITH CHECK (id = tenantry.current_tenant());
CREATE POLICY operator_access ON tenants
    FOR ALL TO tenantry_operator USING (true) WITH CHECK (true);
GRANT SELECT ON TABLE tenants TO tenantry_app;
GRANT UPDATE (name, settings, updated_at) ON TABLE tenants TO tenantry_app;
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE tenants TO tenantry_operator;

ALTER TABLE knowledge_documents ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON knowledge_documents
    FOR ALL TO tenantry_app
    USING (tenant_id = tenantry.current_tenant())
    WITH CHECK (tenant_id = tenantry.current_tenant());
CREATE POLICY operator_access ON knowledge_documents
    FOR ALL TO tenantry_operator USING (true) WITH CHECK (true);
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE knowledge_documents TO tenantry_app;
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE knowledge_documents TO tenantry_operator;

ALTER TABLE meetings ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON meetings
    FOR ALL TO tenantry_app
    USING (tenant_id = tenantry.current_tenant())
    WITH CHECK (tenant_id = tenantry.current_tenant());
CREATE POLICY operator_access ON meetings
    FOR ALL TO tenantry_operator USING (true) WITH CHECK (true);
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE meetings TO tenantry_app;
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE meetings TO tenantry_operator;

ALTER TABLE users ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON users
    FOR ALL TO tenantry_app
    USING (tenant_id = tenantry.current_tenant())
    WITH CHECK (tenant_id = tenantry.current_tenant());
CREATE POLICY operator_access ON users
    FOR ALL TO tenantry_operator USING (true) WITH CHECK (true);
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE users TO tenantry_app;
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE users TO tenantry_operator;

ALTER TABLE widgets ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON widgets
    FOR ALL TO tenantry_app
    USING (tenant_id = tenantry.current_tenant())
    WITH CHECK (tenant_id = tenantry.current_tenant());
CREATE POLICY operator_access ON widgets
    FOR ALL TO tenantry_operator USING (true) WITH CHECK (true);
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE widgets TO tenantry_app;
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE widgets TO tenantry_operator;

ALTER TABLE conversation_sessions ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON conversation_sessions
    FOR ALL TO tenantry_app
    USING (tenant_id = tenantry.current_tenant())
    WITH CHECK (tenant_id = tenantry.current_tenant());
CREATE POLICY operator_access ON conversation_sessions
    FOR ALL TO tenantry_operator USING (true) WITH CHECK (true);
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE conversation_sessions TO tenantry_app;
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE conversation_sessions TO tenantry_operator;

ALTER TABLE knowledge_chunks ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON knowledge_chunks
    FOR ALL TO tenantry_app
    USING (tenant_id = tenantry.current_tenant())
    WITH CHECK (tenant_id = tenantry.current_tenant());
CREATE POLICY operator_access ON knowledge_chunks
    FOR ALL TO tenantry_operator USING (true) WITH CHECK (true);
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE knowledge_chunks TO tenantry_app;
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE knowledge_chunks TO tenantry_operator;

ALTER TABLE sessions ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON sessions
    FOR ALL TO tenantry_app
    USING (tenant_id = tenantry.current_tenant())
    WITH CHECK (tenant_id = tenantry.current_tenant());
CREATE POLICY operator_access ON sessions
    FOR ALL TO tenantry_operator USING (true) WITH CHECK (true);
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE sessions TO tenantry_app;
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE sessions TO tenantry_operator;

ALTER TABLE cost_events ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON cost_events
    FOR ALL TO tenantry_app
    USING (tenant_id = tenantry.current_tenant())
    WITH CHECK (tenant_id = tenantry.current_tenant());
CREATE POLICY operator_access ON cost_events
    FOR ALL TO tenantry_operator USING (true) WITH CHECK (true);
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE cost_events TO tenantry_app;
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE cost_events TO tenantry_operator;

ALTER TABLE messages ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON messages
    FOR ALL TO tenantry_app
    USING (tenant_id = tenantry.current_tenant())
    WITH CHECK (tenant_id = tenantry.current_tenant());
CREATE POLICY operator_access ON messages
    FOR ALL TO tenantry_operator USING (true) WITH CHECK (true);
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE messages TO tenantry_app;
GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE messages TO tenantry_operator;
