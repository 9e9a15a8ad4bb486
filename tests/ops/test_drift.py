from __future__ import annotations

import re
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.pool import NullPool

from tenantry import Database
from tenantry.errors import DataLossError, MigrationError, SchemaMissingError
from tenantry.ops import drift
from tenantry.ops.migrations import migrate
from tenantry.ops.revisions import revision
from tenantry.ops.surroundings import surrounding_differences
from tenantry.schema import Base, Widget
from tenantry.tenancy.connecting import create_engine
from tests.conftest import Connect, TenantPair, Urls
from tests.ops.projects import NOTES, NOTES_WITHOUT_KEY, declare

# What somebody may do to a database by hand, and what `db check` must call it.
MUTATIONS = [
    (
        "DROP POLICY tenant_isolation ON widgets",
        "table widgets: policy tenant_isolation is missing",
    ),
    (
        "ALTER POLICY tenant_isolation ON widgets USING (true)",
        "table widgets: policy tenant_isolation is missing or differs",
    ),
    (
        "ALTER POLICY tenant_isolation ON users WITH CHECK (true)",
        "table users: policy tenant_isolation is missing or differs",
    ),
    (
        "ALTER POLICY tenant_isolation ON users TO tenantry_app, tenantry_operator",
        "table users: policy tenant_isolation is missing or differs",
    ),
    (
        "DROP POLICY tenant_isolation ON meetings; CREATE POLICY tenant_isolation ON meetings"
        " AS RESTRICTIVE TO tenantry_app USING (tenant_id = tenantry.current_tenant())"
        " WITH CHECK (tenant_id = tenantry.current_tenant())",
        "table meetings: policy tenant_isolation is missing or differs",
    ),
    (
        "CREATE POLICY open ON messages FOR SELECT TO PUBLIC USING (true)",
        "table messages: policy open is not declared",
    ),
    ("ALTER TABLE messages NO FORCE ROW LEVEL SECURITY", "table messages: FORCE is missing"),
    ("ALTER TABLE tenants DISABLE ROW LEVEL SECURITY", "table tenants: row security is off"),
    (
        "REVOKE UPDATE ON widgets FROM tenantry_app",
        "table widgets: tenantry_app lacks UPDATE",
    ),
    (
        "GRANT TRUNCATE ON widgets TO tenantry_app",
        "table widgets: tenantry_app holds TRUNCATE, which is not declared",
    ),
    ("GRANT SELECT ON users TO PUBLIC", "table users: public holds SELECT"),
    (
        "GRANT UPDATE (slug) ON tenants TO tenantry_app",
        "table tenants: tenantry_app holds UPDATE of column slug",
    ),
    (
        "REVOKE UPDATE (name) ON tenants FROM tenantry_app",
        "table tenants: tenantry_app lacks UPDATE of column name",
    ),
    (
        "GRANT SELECT ON widgets TO tenantry_app WITH GRANT OPTION",
        "table widgets: tenantry_app holds SELECT WITH GRANT OPTION",
    ),
    (
        "ALTER TABLE widgets OWNER TO postgres",
        "table widgets: its owner is postgres instead of tenantry_owner",
    ),
    (
        "CREATE OR REPLACE FUNCTION tenantry.current_tenant() RETURNS uuid LANGUAGE sql STABLE"
        " PARALLEL SAFE RETURN '00000000-0000-0000-0000-000000000000'::uuid",
        "function tenantry.current_tenant() differs",
    ),
    (
        "ALTER FUNCTION tenantry.current_tenant() VOLATILE",
        "function tenantry.current_tenant() differs",
    ),
    (
        "ALTER FUNCTION tenantry.current_tenant() LEAKPROOF",
        "function tenantry.current_tenant() differs",
    ),
    (
        "ALTER FUNCTION tenantry.current_tenant() OWNER TO postgres",
        "function tenantry.current_tenant() differs",
    ),
    (
        "GRANT EXECUTE ON FUNCTION tenantry.current_tenant() TO PUBLIC",
        "function tenantry.current_tenant() differs",
    ),
    *(
        (
            change,
            "function tenantry.validate_session(tenant uuid, session text, hash bytea) differs",
        )
        for change in (
            "GRANT EXECUTE ON FUNCTION tenantry.validate_session TO PUBLIC",
            "GRANT EXECUTE ON FUNCTION tenantry.validate_session TO tenantry_operator",
            "ALTER FUNCTION tenantry.validate_session SET search_path = public",
            "ALTER FUNCTION tenantry.validate_session OWNER TO tenantry_owner",
        )
    ),
    (
        "DROP FUNCTION tenantry.authenticate_api_keys",
        "function tenantry.authenticate_api_keys(tenants uuid[], hashes bytea[]) is missing",
    ),
    (
        "DROP FUNCTION tenantry.authenticate_api_key; CREATE FUNCTION"
        " tenantry.authenticate_api_key(spy uuid, hash bytea) RETURNS uuid LANGUAGE sql RETURN spy",
        "function tenantry.authenticate_api_key(spy uuid, hash bytea) is not declared",
    ),
    (
        "CREATE OR REPLACE FUNCTION tenantry.find_tenant(slug text) RETURNS uuid LANGUAGE plpgsql"
        " STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS"
        " 'BEGIN RETURN (SELECT t.id FROM public.tenants t WHERE t.slug LIKE $1 LIMIT 1); END'",
        "function tenantry.find_tenant(slug text) differs",
    ),
    (
        "REVOKE SELECT (slug) ON tenants FROM tenantry_auth",
        "table tenants: tenantry_auth lacks SELECT of column slug",
    ),
    (
        "GRANT SELECT (hashed_password) ON users TO tenantry_auth",
        "table users: tenantry_auth holds SELECT of column hashed_password",
    ),
    (
        "ALTER POLICY auth_look_up ON sessions TO tenantry_app",
        "table sessions: policy auth_look_up is missing or differs",
    ),
    (
        "GRANT DELETE ON security_events TO tenantry_app",
        "table security_events: tenantry_app holds DELETE",
    ),
    (
        "CREATE FUNCTION tenantry.spy() RETURNS int LANGUAGE sql RETURN 1",
        "function tenantry.spy() is not declared",
    ),
    ("ALTER TABLE widgets DROP COLUMN config", "column widgets.config is missing"),
    ("ALTER TABLE widgets ADD COLUMN x int", "column widgets.x is not declared"),
    ("ALTER TABLE widgets ALTER COLUMN name DROP NOT NULL", "column widgets.name: it may be NULL"),
    ("ALTER TABLE widgets ALTER COLUMN name TYPE varchar(9)", "column widgets.name: its type is"),
    (
        "ALTER TABLE widgets ALTER COLUMN tenant_id DROP DEFAULT",
        "column widgets.tenant_id: its default differs",
    ),
    (
        "DROP INDEX knowledge_chunks_embedding_idx",
        "index knowledge_chunks_embedding_idx is missing",
    ),
    ("CREATE INDEX extra ON widgets (name)", "index extra is not declared"),
    *(
        (f"DROP INDEX {name}", f"index {name} is missing")
        for name in ("knowledge_chunks_lexemes_idx", "knowledge_documents_metadata_idx")
    ),
    (
        "ALTER TABLE knowledge_chunks ALTER COLUMN embedding SET STORAGE EXTERNAL",
        "column knowledge_chunks.embedding: its storage is EXTERNAL, declared is PLAIN",
    ),
    (
        "ALTER TABLE knowledge_documents RESET (toast_tuple_target)",
        "table knowledge_documents: toast_tuple_target is not set, declared is 8160",
    ),
    (
        "ALTER TABLE knowledge_documents SET (toast_tuple_target = 2000)",
        "table knowledge_documents: toast_tuple_target is 2000, declared is 8160",
    ),
    (
        "ALTER TABLE knowledge_chunks DROP COLUMN lexemes, ADD COLUMN lexemes tsvector"
        " GENERATED ALWAYS AS (to_tsvector('english', content)) STORED",
        "column knowledge_chunks.lexemes is generated by another expression than declared",
    ),
    (
        "ALTER TABLE knowledge_chunks ALTER COLUMN lexemes DROP EXPRESSION",
        "column knowledge_chunks.lexemes is not generated as declared",
    ),
    ("ALTER TABLE knowledge_chunks DROP COLUMN lexemes", "column knowledge_chunks.lexemes is"),
    (
        "ALTER TABLE knowledge_chunks DROP CONSTRAINT knowledge_chunks_language_check",
        "constraint knowledge_chunks_language_check of knowledge_chunks is missing",
    ),
    (
        "REVOKE SELECT (lexemes) ON knowledge_chunks FROM tenantry_auth",
        "table knowledge_chunks: tenantry_auth lacks SELECT of column lexemes",
    ),
    (
        "GRANT SELECT (source) ON knowledge_documents TO tenantry_auth",
        "table knowledge_documents: tenantry_auth holds SELECT of column source",
    ),
    (
        "ALTER FUNCTION tenantry.nearest_chunks SECURITY DEFINER",
        "function tenantry.nearest_chunks(",
    ),
    ("DROP FUNCTION tenantry.plan_vector_search", "function tenantry.plan_vector_search("),
    (
        "ALTER TABLE messages DROP CONSTRAINT messages_tenant_id_session_id_fkey",
        "constraint messages_tenant_id_session_id_fkey of messages is missing",
    ),
    (
        "ALTER TABLE users DROP CONSTRAINT users_tenant_id_email_key",
        "constraint users_tenant_id_email_key of users is missing",
    ),
    (
        "ALTER TABLE cost_events DROP CONSTRAINT cost_events_tokens_check",
        "constraint cost_events_tokens_check of cost_events is missing",
    ),
    ("COMMENT ON TABLE widgets IS 'x'", "table widgets: its comment differs"),
    (
        "SET ROLE tenantry_owner; CREATE TABLE stray (id int); RESET ROLE",
        "table stray is not declared",
    ),
    ("DROP TABLE cost_events", "table cost_events is missing"),
]

# The same for what is not a table's: schemas, defaults, the database. `db migrate` and every other
# command that connects as the owner puts these back, so they are looked at from outside of it.
SURROUNDINGS = [
    (
        "REVOKE USAGE ON SCHEMA tenantry FROM tenantry_app",
        "schema tenantry: tenantry_app lacks USAGE",
    ),
    ("GRANT CREATE ON SCHEMA public TO tenantry_app", "schema public: tenantry_app holds CREATE"),
    (
        "GRANT CREATE ON SCHEMA tenantry TO tenantry_auth",
        "schema tenantry: tenantry_auth holds CREATE",
    ),
    ("GRANT CREATE ON SCHEMA public TO PUBLIC", "schema public: public holds CREATE"),
    (
        "ALTER DEFAULT PRIVILEGES FOR ROLE tenantry_owner GRANT EXECUTE ON FUNCTIONS TO PUBLIC",
        "default privileges of tenantry_owner: PUBLIC may execute",
    ),
    ("GRANT TEMPORARY ON DATABASE {database} TO PUBLIC", "database: PUBLIC holds TEMPORARY"),
    ("GRANT CREATE ON DATABASE {database} TO tenantry_app", "database: tenantry_app holds CREATE"),
    (
        "ALTER DATABASE {database} RESET hnsw.iterative_scan",
        "database: hnsw.iterative_scan is not set",
    ),
    (
        "ALTER DATABASE {database} SET search_path = public",
        "database sets search_path, which is not declared",
    ),
    (
        "GRANT USAGE ON SCHEMA tenantry TO tenantry_app WITH GRANT OPTION",
        "schema tenantry: tenantry_app holds USAGE WITH GRANT OPTION",
    ),
    (
        "ALTER DEFAULT PRIVILEGES FOR ROLE tenantry_owner GRANT ALL ON TABLES TO tenantry_app",
        "default privileges of tenantry_owner: tenantry_app may delete new tables",
    ),
    (
        "GRANT INSERT ON tenantry.alembic_version TO tenantry_app",
        "table tenantry.alembic_version: tenantry_app holds INSERT",
    ),
    (
        "ALTER TABLE tenantry.alembic_version OWNER TO postgres",
        "table tenantry.alembic_version: its owner is postgres",
    ),
    ("CREATE TABLE tenantry.spy (id int)", "table tenantry.spy is not declared"),
    (
        "CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        " CREATE TRIGGER spy AFTER INSERT ON messages EXECUTE FUNCTION spy()",
        "table messages: trigger spy is not declared",
    ),
    ("ALTER TABLE messages DISABLE TRIGGER ALL", "table messages: triggers are disabled"),
    (
        "CREATE RULE spy AS ON INSERT TO messages DO ALSO NOTIFY spy",
        "table messages: rule spy is not declared",
    ),
    (
        "ALTER TABLE messages DROP CONSTRAINT messages_pkey, ADD PRIMARY KEY (id)",
        "table messages: its primary key is (id), declared is (tenant_id, id)",
    ),
    (
        "ALTER TABLE messages DROP CONSTRAINT messages_tenant_id_fkey;"
        " ALTER TABLE messages ADD CONSTRAINT messages_tenant_id_fkey FOREIGN KEY (tenant_id)"
        " REFERENCES tenants ON DELETE CASCADE NOT VALID",
        "table messages: constraint messages_tenant_id_fkey is not validated",
    ),
    ("CREATE TABLE child () INHERITS (messages)", "table messages: table child inherits from it"),
    ("ALTER TABLE messages SET UNLOGGED", "table messages: it is not logged"),
]


# A push works as the owner, and these need a superuser.
MENDED = [each for each in MUTATIONS if not re.search("OWNER TO postgres|LEAKPROOF", each[0])]
OTHERS = [each for each in MUTATIONS if each not in MENDED]


def apart(changes: list[tuple[str, str]], groups: int) -> list[list[tuple[str, str]]]:
    """Deal the changes out, so that those of one object, which are neighbours, do not meet."""
    return [changes[number::groups] for number in range(groups)]


async def make(changes: list[tuple[str, str]], urls: Urls, admin: asyncpg.Connection) -> None:
    """Make them, and find that `check` calls each by its name."""
    for statement, _ in changes:
        await admin.execute(statement.format(database=urls.admin.database))
    found = await drift.check(urls.admin)
    named = [{line for line in found if line.startswith(finding)} for _, finding in changes]
    assert all(named), found
    assert sum(map(len, named)) == len(set().union(*named)), "a line speaks for two changes"


@pytest.mark.parametrize("changes", apart(MENDED, 9))
async def test_drift_is_named_and_mended(
    urls: Urls, admin: asyncpg.Connection, changes: list[tuple[str, str]]
) -> None:
    """Changes by hand are called by name, security like columns; after a push nothing differs."""
    await make(changes, urls, admin)
    assert await drift.push(urls.admin, accept_data_loss=True) >= len(changes)
    assert await drift.check(urls.admin) == []


@pytest.mark.parametrize("changes", [*apart(OTHERS, 2), *apart(SURROUNDINGS, 4)])
async def test_drift_that_no_push_mends_is_named(
    urls: Urls, admin: asyncpg.Connection, changes: list[tuple[str, str]]
) -> None:
    """The same for what only a superuser can mend, and what every command of the owner's does."""
    await make(changes, urls, admin)


@pytest.mark.parametrize(
    ("statement", "finding"),
    [
        *(
            (f"ALTER ROLE tenantry_app {attribute}", f"role tenantry_app has {attribute}, which")
            for attribute in ("BYPASSRLS", "SUPERUSER", "CREATEROLE", "CREATEDB", "REPLICATION")
        ),
        ("ALTER ROLE tenantry_operator LOGIN", "role tenantry_operator has LOGIN, which"),
        *(
            (f"GRANT {above} TO tenantry_app", f"role tenantry_app is a member of {above}, which")
            for above in ("tenantry_operator", "pg_read_all_data", "pg_execute_server_program")
        ),
        (
            "ALTER ROLE tenantry_app SET tenantry.tenant_id = 'x'",
            "role tenantry_app sets tenantry.tenant_id, which",
        ),
        ("ALTER ROLE tenantry_app SET row_security = off", "role tenantry_app sets row_security"),
    ],
)
async def test_a_role_that_may_too_much_is_named(urls: Urls, statement: str, finding: str) -> None:
    """None of the four roles may have an attribute, membership or setting that opens a wall."""
    engine = create_engine(urls.admin, pool_class=NullPool)
    async with engine.connect() as connection:
        # Not committed: roles are the whole server's, and other tests are at work there.
        await connection.exec_driver_sql(statement)
        found = await connection.run_sync(surrounding_differences, Base.metadata)
        await connection.rollback()
    assert [line.startswith(finding) for line in found] == [True], found


async def test_no_drift_in_a_migrated_database(urls: Urls) -> None:
    """What was just migrated is as declared."""
    assert await drift.check(urls.admin) == []


async def test_check_changes_nothing(urls: Urls, connect: Connect) -> None:
    """Looking at a drifted database does not mend it behind one's back."""
    admin = await connect(urls.admin)
    await admin.execute("ALTER POLICY tenant_isolation ON widgets USING (tenant_id IS NOT NULL)")
    assert await drift.check(urls.admin) == await drift.check(urls.admin) != []
    leftovers = await admin.fetchval("SELECT count(*) FROM pg_proc WHERE proname LIKE '%_declared'")
    assert leftovers == 0


GLOBAL = """
    from sqlalchemy.orm import Mapped, mapped_column
    from tenantry.schema import Base

    class Mine(Base):
        __abstract__ = True
        metadata = metadata

    class Plan(Mine):
        __tablename__ = "plans"
        name: Mapped[str] = mapped_column(primary_key=True)
"""


async def test_a_table_that_declares_nothing_is_the_owners_alone(
    urls: Urls, connect: Connect, tmp_path: Path
) -> None:
    """Without row security every grant is for all tenants, so each is named."""
    project = declare(tmp_path, GLOBAL)
    await drift.push(urls.admin, project=project)
    assert await drift.check(urls.admin, project=project) == []
    admin = await connect(urls.admin)
    await admin.execute("GRANT SELECT ON plans TO tenantry_app")
    assert await drift.check(urls.admin, project=project) == [
        "table plans: tenantry_app holds SELECT, which is not declared"
    ]


async def test_check_of_an_empty_database_says_what_to_do(empty_database: object) -> None:
    """A database that was never migrated is no list of a hundred differences."""
    with pytest.raises(SchemaMissingError, match="tenantry db migrate"):
        await drift.check(empty_database)  # type: ignore[arg-type]


POLICIES = """
    from sqlalchemy.orm import Mapped
    from tenantry.schema import Base, Grant, Policy, RowSecurity, TenantScoped

    class Mine(Base):
        __abstract__ = True
        metadata = metadata

    class Memo(TenantScoped, Mine):
        __tablename__ = "memos"
        body: Mapped[str]

    own = "tenant_id=tenantry.current_tenant()"
    Memo.__table__.info["row_security"] = RowSecurity(
        policies=(
            Policy("own", ("tenantry_operator", "tenantry_app"), using=own, check=own),
            Policy("short", ("tenantry_app",), check="length(body)<10", command="INSERT",
                   permissive=False),
        ),
        grants=(Grant("tenantry_app", frozenset({"SELECT", "INSERT"})),),
    )
"""


async def test_policies_of_ones_own_are_compared_as_postgresql_writes_them(
    urls: Urls, connect: Connect, tmp_path: Path
) -> None:
    """However a policy is spelled, it is no drift until it means something else."""
    project = declare(tmp_path, POLICIES)
    await drift.push(urls.admin, project=project)
    assert await drift.check(urls.admin, project=project) == []
    admin = await connect(urls.admin)
    await admin.execute("ALTER POLICY short ON memos WITH CHECK (length(body) < 11)")
    assert await drift.check(urls.admin, project=project) == [
        "table memos: policy short is not declared",
        "table memos: policy short is missing or differs from what is declared",
    ]


# Push


@pytest.mark.parametrize("way", ["push", "migration"])
async def test_a_new_foreign_key_is_checked_against_the_rows(
    db: Database, urls: Urls, tenants: TenantPair, connect: Connect, tmp_path: Path, way: str
) -> None:
    """Under FORCE the owner sees no row, and PostgreSQL would call any foreign key valid."""
    await drift.push(urls.admin, project=declare(tmp_path, NOTES_WITHOUT_KEY))
    admin = await connect(urls.admin)
    await admin.execute(
        "INSERT INTO notes (tenant_id, widget_id, body) VALUES ($1, gen_random_uuid(), 'orphan')",
        tenants.a.id,
    )
    project = declare(tmp_path, NOTES)

    async def bring() -> None:
        if way == "push":
            await drift.push(urls.admin, project=project)
        else:
            await revision(urls.admin, message="key", project=project)
            await migrate(urls.admin, project=project)

    with pytest.raises(MigrationError, match="notes_tenant_id_widget_id_fkey"):
        await bring()
    assert any(
        "notes_tenant_id_widget_id_fkey" in line
        for line in await drift.check(urls.admin, project=project)
    )
    await admin.execute("DELETE FROM notes")
    if way == "push":
        await bring()
    else:
        await migrate(urls.admin, project=project)
    assert await drift.check(urls.admin, project=project) == []


async def test_push_prints_exactly_what_it_runs(urls: Urls, connect: Connect) -> None:
    """The printed SQL, run by hand, does the same."""
    admin = await connect(urls.admin)
    printed: list[str] = []
    await admin.execute("DROP POLICY tenant_isolation ON widgets; DROP TABLE cost_events")
    assert await drift.push(urls.admin, on_sql=printed.append) > 1
    await admin.execute("DROP POLICY tenant_isolation ON widgets; DROP TABLE cost_events")
    await admin.execute(f"SET ROLE tenantry_owner; {printed[0]}")
    assert await drift.check(urls.admin) == []
    assert await drift.push(urls.admin, on_sql=printed.append) == 0
    assert len(printed) == 1


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("ALTER TABLE widgets ADD COLUMN x int", "drop column widgets.x"),
        (
            "SET ROLE tenantry_owner; CREATE TABLE stray AS SELECT 1 AS id; RESET ROLE",
            "drop table stray",
        ),
        ("ALTER TABLE widgets ALTER COLUMN name TYPE varchar(900)", "widgets.name: its type"),
    ],
)
async def test_push_refuses_to_destroy_rows(
    db: Database, urls: Urls, tenants: TenantPair, connect: Connect, statement: str, what: str
) -> None:
    """Without --accept-data-loss nothing is changed at all, and what would go is named."""
    async with db.tenant(tenants.a.id) as tx:
        tx.add(Widget(name="kept"))
    admin = await connect(urls.admin)
    await admin.execute(f"{statement}; DROP POLICY tenant_isolation ON users")
    with pytest.raises(DataLossError, match=f"{what}.*--accept-data-loss"):
        await drift.push(urls.admin)
    assert any("users" in line for line in await drift.check(urls.admin))
    await drift.push(urls.admin, accept_data_loss=True)
    assert await drift.check(urls.admin) == []
    async with db.operator() as tx:
        assert (await tx.get_one(Widget, (tenants.a.id, await _only_id(tx)))).name == "kept"


async def _only_id(tx: object) -> object:
    from sqlalchemy import select

    return await tx.scalar(select(Widget.id))  # type: ignore[attr-defined]


async def test_push_drops_what_holds_no_rows(urls: Urls, connect: Connect) -> None:
    """An empty column of an empty table is no loss."""
    admin = await connect(urls.admin)
    await admin.execute("ALTER TABLE widgets ADD COLUMN x int")
    assert await drift.push(urls.admin) == 1


async def test_a_push_that_fails_changes_nothing(
    db: Database, urls: Urls, tenants: TenantPair, connect: Connect, tmp_path: Path
) -> None:
    """A column that existing rows cannot have is refused, with the rest of the push."""
    async with db.tenant(tenants.a.id) as tx:
        tx.add(Widget(name="x"))
    project = declare(tmp_path, NOTES)
    project.metadata.tables["widgets"].append_column(
        __import__("sqlalchemy").Column("must", __import__("sqlalchemy").Integer, nullable=False)
    )
    with pytest.raises(MigrationError, match="nothing was changed"):
        await drift.push(urls.admin, project=project)
    assert await drift.check(urls.admin) == []
