"""The live part on databases that tenantry did not make, and on tables of every kind."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import URL

from tenantry.errors import ConfigurationError, ConflictError, PrivilegeError
from tenantry.ops.audit.scope import Scope
from tests.conftest import Connect, Server
from tests.ops.audit.test_live import ALL, attack, content, crossed

TYPES = """
    CREATE EXTENSION IF NOT EXISTS citext; CREATE EXTENSION IF NOT EXISTS hstore;
    CREATE EXTENSION IF NOT EXISTS ltree; CREATE EXTENSION IF NOT EXISTS vector;
    CREATE EXTENSION IF NOT EXISTS btree_gist;
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s "good"');
    CREATE TYPE place AS (street text, number int);
    CREATE TYPE temperatures AS RANGE (subtype = float8);
    CREATE DOMAIN email AS citext CHECK (VALUE ~ '^[^@]+@[^@]+[.][a-z]+$');
    CREATE DOMAIN percent AS numeric(5,2) NOT NULL CHECK (VALUE BETWEEN 5 AND 95);
    CREATE DOMAIN code AS varchar(3);
    CREATE DOMAIN inner_code AS code CHECK (length(VALUE) = 3);
"""

# Each a table's columns beside the tenant and the id, with what makes them hard to plant.
KINDS = {
    "numbers": "a smallint NOT NULL, b integer NOT NULL, c bigint NOT NULL, d numeric NOT NULL,"
    " e numeric(6,4) NOT NULL, f numeric(3,3) NOT NULL, g real NOT NULL, h float8 NOT NULL,"
    " i money NOT NULL, j numeric(5,-2) NOT NULL, k oid NOT NULL, UNIQUE (tenant, e, f)",
    "texts": 'a text NOT NULL, b varchar(2) NOT NULL, c char(4) NOT NULL, d "char" NOT NULL,'
    " e name NOT NULL, f citext NOT NULL, g inner_code NOT NULL, h ltree NOT NULL,"
    " UNIQUE (tenant, b), UNIQUE (tenant, f), UNIQUE (tenant, h)",
    "times": "a date NOT NULL, b time NOT NULL, c timetz NOT NULL, d timestamp(0) NOT NULL,"
    " e timestamptz NOT NULL, f interval NOT NULL, UNIQUE (tenant, d)",
    "documents": "a json NOT NULL, b jsonb NOT NULL, c xml, d hstore NOT NULL,"
    " e jsonpath NOT NULL, f bytea NOT NULL, UNIQUE (tenant, b)",
    "nets": "a inet NOT NULL, b cidr NOT NULL, c macaddr NOT NULL, d macaddr8 NOT NULL,"
    " e pg_lsn NOT NULL, UNIQUE (tenant, a)",
    "shapes": "a point NOT NULL, b line NOT NULL, c lseg NOT NULL, d box NOT NULL,"
    " e path NOT NULL, f polygon NOT NULL, g circle NOT NULL",
    "bits": "a bit(5) NOT NULL, b bit NOT NULL, c varbit(9) NOT NULL, d varbit NOT NULL,"
    " e boolean NOT NULL, f uuid NOT NULL",
    "words": "a tsvector NOT NULL, b tsquery NOT NULL",
    "vectors": "a vector(1024) NOT NULL, b halfvec(8) NOT NULL, c sparsevec(16) NOT NULL,"
    " d vector NOT NULL",
    "ranges": "a int4range NOT NULL, b int8range NOT NULL, c numrange NOT NULL,"
    " d daterange NOT NULL, e tsrange NOT NULL, f tstzrange NOT NULL, g int4multirange NOT NULL,"
    " h temperatures NOT NULL, UNIQUE (tenant, a)",
    "arrays": "a int[] NOT NULL, b text[][] NOT NULL, c mood[] NOT NULL, d uuid[] NOT NULL,"
    " e timestamptz[] NOT NULL, f jsonb[] NOT NULL, g place[] NOT NULL, h email[] NOT NULL,"
    " i varchar(2)[] NOT NULL, UNIQUE (tenant, a)",
    "own types": "a mood NOT NULL, b place NOT NULL, c email NOT NULL, d percent,"
    " UNIQUE (tenant, c)",
    "sequences": "a bigserial, b serial UNIQUE, c int GENERATED ALWAYS AS IDENTITY,"
    " UNIQUE (tenant, c)",
    "generated": "a int NOT NULL, b int GENERATED ALWAYS AS (a * 2) STORED",
    'Capitals "and" so.on': '"Select" text NOT NULL, "a b" text NOT NULL, UNIQUE (tenant, "a b")',
    "checks": "a text NOT NULL CHECK (a IN ('owner', 'it''s')), b int NOT NULL CHECK (b > 41),"
    " c text NOT NULL CHECK (length(c) = 12), d text CHECK (d ~ '^https?://'),"
    " e int NOT NULL, f int NOT NULL, CHECK (e < f), g numeric NOT NULL CHECK (g > 0 AND g < 1),"
    " h bytea NOT NULL CHECK (octet_length(h) = 20), i date NOT NULL, j date NOT NULL,"
    " CHECK (i < j), k text NOT NULL UNIQUE CHECK (k LIKE 'cus_%'),"
    " l jsonb NOT NULL CHECK (jsonb_typeof(l) = 'array')",
    "one of two": "a int, b int, CHECK (num_nonnulls(a, b) = 1), kind text NOT NULL"
    " CHECK (kind IN ('x', 'y')), c text, CHECK ((kind = 'x') = (c IS NULL))",
    "defaults": "a text NOT NULL DEFAULT 'x' CHECK (a ~ '^x$'), b uuid DEFAULT gen_random_uuid(),"
    " c timestamptz NOT NULL DEFAULT clock_timestamp(), d bigint NOT NULL"
    " DEFAULT nextval('counter'), e text NOT NULL DEFAULT lower('A')",
    "exclusion": "a tstzrange NOT NULL, room int NOT NULL,"
    " EXCLUDE USING gist (tenant WITH =, room WITH =, a WITH &&)",
}
LOOSE = {("sequences", "probe"), ("checks", "probe")}
"""What crosses by a key of its own that the tables above have without the tenant."""


@dataclass(frozen=True)
class Estate:
    """A database with roles of its own."""

    url: URL
    owner: str
    app: str
    admin: str

    @property
    def scope(self) -> Scope:
        return Scope(
            app_role=self.app,
            is_ours=False,
            tenant_column="tenant",
            tenant_table="public.accounts",
            tenant_setting="app.tenant",
            tenant_expression="nullif(current_setting('app.tenant', true), '')::integer",
        )

    def table(self, name: str, columns: str, *, key: str = "tenant, id") -> str:
        quoted = '"' + name.replace('"', '""') + '"'
        own = "tenant = nullif(current_setting('app.tenant', true), '')::integer"
        return f"""
            CREATE TABLE {quoted} (tenant integer NOT NULL REFERENCES accounts (number),
                id bigint GENERATED BY DEFAULT AS IDENTITY, {columns}, PRIMARY KEY ({key}));
            ALTER TABLE {quoted} ENABLE ROW LEVEL SECURITY;
            ALTER TABLE {quoted} FORCE ROW LEVEL SECURITY;
            CREATE POLICY own ON {quoted} TO {self.app} USING ({own});
            GRANT SELECT, INSERT, UPDATE, DELETE ON {quoted} TO {self.app};
        """


@pytest.fixture
async def estate(server: Server, empty_database: URL) -> AsyncIterator[Estate]:
    """Accounts numbered by a sequence; the application reads its own."""
    suffix = uuid4().hex[:8]
    roles = Estate(empty_database, f"own_{suffix}", f"app_{suffix}", f"adm_{suffix}")
    database = str(empty_database.database)
    own = "number = nullif(current_setting('app.tenant', true), '')::integer"
    await server.run(
        f"CREATE ROLE {roles.app}; CREATE ROLE {roles.owner}; CREATE ROLE {roles.admin} LOGIN",
        f"""CREATE TABLE accounts (number serial PRIMARY KEY, name text NOT NULL);
            CREATE SEQUENCE counter;
            INSERT INTO accounts (name) VALUES ('real'), ('other');
            ALTER TABLE accounts ENABLE ROW LEVEL SECURITY;
            CREATE POLICY own ON accounts TO {roles.app} USING ({own});
            GRANT SELECT ON accounts TO {roles.app}""",
        database=database,
    )
    yield roles
    await server.run(
        f"DROP OWNED BY {roles.app}, {roles.owner}, {roles.admin}",
        f"DROP ROLE {roles.app}, {roles.owner}, {roles.admin}",
        database=database,
    )


@pytest.fixture
async def boss(estate: Estate, connect: Connect) -> asyncpg.Connection:
    """A bare connection to it as the superuser."""
    return await connect(estate.url)


async def test_rows_of_every_type_are_planted(estate: Estate, boss: asyncpg.Connection) -> None:
    """Whatever the columns are, everything is tried; sequences and identities stay put."""
    await boss.execute(TYPES)
    for name, columns in KINDS.items():
        await boss.execute(estate.table(name, columns))
    before = await content(boss)
    cells, findings = await attack(
        estate.url,
        "public.accounts",
        *(f"public.{name}" for name in KINDS),
        scope=estate.scope,
    )
    untried = {cell: each.detail for cell, each in cells.items() if each.outcome == "not tried"}
    assert untried == {}
    assert crossed(cells) == {(f"public.{table}", operation) for table, operation in LOOSE}
    assert {each.check for each in findings} == {"live-probe"}
    assert await content(boss) == before


NETWORK = """
    CREATE TABLE currencies (code char(3) PRIMARY KEY CHECK (code ~ '^[A-Z]{3}$'), id serial);
    INSERT INTO currencies VALUES ('EUR');
    GRANT SELECT ON currencies TO public;
"""


async def test_what_a_row_refers_to_is_planted(estate: Estate, boss: asyncpg.Connection) -> None:
    """Parents over several tables, shared tables, references to itself, circles: all are tried."""
    tables = {
        "projects": "name text NOT NULL, lead bigint,"
        " currency char(3) NOT NULL REFERENCES currencies",
        "tasks": "project bigint NOT NULL, parent bigint,"
        " FOREIGN KEY (tenant, project) REFERENCES projects (tenant, id),"
        " FOREIGN KEY (tenant, parent) REFERENCES tasks (tenant, id)",
        "steps": "project bigint NOT NULL, task bigint NOT NULL,"
        " UNIQUE (tenant, task), FOREIGN KEY (tenant, task) REFERENCES tasks (tenant, id),"
        " FOREIGN KEY (tenant, project) REFERENCES projects (tenant, id)",
        "roots": "root bigint NOT NULL, FOREIGN KEY (tenant, root) REFERENCES roots (tenant, id)",
    }
    await boss.execute(NETWORK)
    for name, columns in tables.items():
        await boss.execute(estate.table(name, columns))
    await boss.execute(
        "ALTER TABLE projects ADD FOREIGN KEY (tenant, lead) REFERENCES tasks (tenant, id)"
    )
    before = await content(boss)
    names = [f"public.{name}" for name in tables]
    cells, findings = await attack(estate.url, *names, "public.currencies", scope=estate.scope)
    assert findings == []
    assert {each.outcome for (table, _), each in cells.items() if table in names} == {"kept apart"}
    assert {each.detail for each in cells.values() if each.outcome == "not tried"} == {
        "no tenant column"
    }
    assert await content(boss) == before


async def test_tables_that_could_leave_a_trace_are_not_written_to(
    estate: Estate, boss: asyncpg.Connection
) -> None:
    """Triggers, rules and volatile checks: read only, and a finding says why and what to do."""
    for name in ("triggered", "ruled", "checked", "stated", "child"):
        await boss.execute(estate.table(name, "note text"))
    await boss.execute("""
        CREATE SEQUENCE calls;
        CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM nextval(''calls''); RETURN NEW; END';
        CREATE FUNCTION odd(text) RETURNS boolean LANGUAGE plpgsql AS
            'BEGIN RETURN nextval(''calls'') > 0; END';
        CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON triggered
            FOR EACH ROW EXECUTE FUNCTION act();
        CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON stated
            FOR EACH STATEMENT EXECUTE FUNCTION act();
        CREATE RULE r AS ON INSERT TO ruled DO ALSO SELECT nextval('calls');
        ALTER TABLE checked ADD CONSTRAINT odd CHECK (odd(note));
        ALTER TABLE child ADD above bigint NOT NULL,
            ADD FOREIGN KEY (tenant, above) REFERENCES triggered (tenant, id)
    """)
    before = await content(boss)
    names = [f"public.{name}" for name in ("triggered", "ruled", "checked", "stated", "child")]
    cells, findings = await attack(estate.url, *names, scope=estate.scope)
    assert await content(boss) == before
    assert {each.table for each in findings} == set(names)
    assert {each.check for each in findings} == {"not-tried"}
    assert {cells[name, "read"].outcome for name in names} == {"kept apart"}
    assert {cells[name, "insert"].outcome for name in names} == {"not tried"}
    assert "trigger t of public.triggered" in cells["public.child", "insert"].detail


async def test_a_trigger_that_notes_a_time_stops_nothing(
    estate: Estate, boss: asyncpg.Connection
) -> None:
    """It leaves no trace, so everything is tried; one that assigns anything else is not run."""
    await boss.execute(estate.table("touched", "changed_at timestamptz"))
    await boss.execute("""
        CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN NEW.changed_at = now(); RETURN NEW; END; $$;
        CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON touched
            FOR EACH ROW EXECUTE FUNCTION touch()
    """)
    before = await content(boss)
    cells, findings = await attack(estate.url, "public.touched", scope=estate.scope)
    assert findings == []
    assert {each.outcome for each in cells.values()} == {"kept apart"}
    assert await content(boss) == before
    await boss.execute("""
        CREATE OR REPLACE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN NEW.changed_at = now(); NEW.tenant = 1; RETURN NEW; END; $$
    """)
    _, findings = await attack(estate.url, "public.touched", scope=estate.scope)
    assert [each.check for each in findings] == ["not-tried"]
    await boss.execute(findings[0].mend)


async def test_a_table_that_cannot_be_planted_says_which_constraint(
    estate: Estate, boss: asyncpg.Connection
) -> None:
    """Not tried, with the constraint's name and no value; what needs no row is tried."""
    await boss.execute(
        estate.table(
            "hard", "note text NOT NULL CONSTRAINT secret CHECK (md5(note) LIKE '0000000%')"
        )
    )
    cells, findings = await attack(estate.url, "public.hard", scope=estate.scope)
    assert "23514 by secret" in cells["public.hard", "insert"].detail
    assert cells["public.hard", "delete"].outcome == "kept apart"
    assert [each.check for each in findings] == ["not-tried"]


@pytest.mark.parametrize("right", ["none", "to grant", "to become"])
async def test_an_administrator_needs_to_become_the_application(
    right: str, estate: Estate, boss: asyncpg.Connection, server: Server
) -> None:
    """It is granted for the transaction where it may be; else the missing right is named."""
    await boss.execute(estate.table("notes", "note text"))
    if right != "none":
        options = "ADMIN TRUE, SET FALSE" if right == "to grant" else "ADMIN FALSE, SET TRUE"
        await boss.execute(f"GRANT {estate.app} TO {estate.admin} WITH {options}, INHERIT FALSE")
    await boss.execute(f"GRANT INSERT ON accounts TO {estate.app}")
    before = await content(boss)
    url = estate.url.set(username=estate.admin)
    if right == "none":
        with pytest.raises(PrivilegeError, match=f"GRANT {estate.app} TO {estate.admin}"):
            await attack(url, "public.notes", scope=estate.scope)
        return
    cells, findings = await attack(url, "public.notes", scope=estate.scope)
    assert findings == []
    assert {each.outcome for each in cells.values()} == {"kept apart"}
    assert await content(boss) == before
    await boss.execute("ALTER TABLE notes DISABLE ROW LEVEL SECURITY")
    cells, _ = await attack(url, "public.notes", scope=estate.scope)
    assert {operation for _, operation in crossed(cells)} >= {"read", "insert", "update", "delete"}


async def test_the_wrong_setting_proves_nothing(estate: Estate, boss: asyncpg.Connection) -> None:
    """When no tenant ever sees its own row, that is a finding and not a success."""
    await boss.execute(estate.table("notes", "note text"))
    scope = Scope(
        app_role=estate.app,
        is_ours=False,
        tenant_column="tenant",
        tenant_table="public.accounts",
        tenant_setting="app.tennant",
    )
    _, findings = await attack(estate.url, "public.notes", scope=scope)
    assert [each.check for each in findings] == ["not-tried"]
    assert "saw no row" in findings[0].what


async def test_without_a_setting_nothing_is_tried(estate: Estate) -> None:
    """Every cell says so, and so does one finding."""
    scope = Scope(app_role=estate.app, is_ours=False, tenant_table=None, tenant_setting=None)
    cells, findings = await attack(estate.url, "public.accounts", scope=scope)
    assert {each.outcome for each in cells.values()} == {"not tried"}
    assert [each.check for each in findings] == ["not-tried"]


async def test_a_role_that_does_not_exist_is_named(estate: Estate) -> None:
    """It is an error that says which role."""
    with pytest.raises(ConfigurationError, match="no role nobody_here"):
        await attack(estate.url, "public.accounts", scope=Scope(app_role="nobody_here"))


async def test_a_locked_table_is_left_alone(
    estate: Estate, boss: asyncpg.Connection, connect: Connect, impatient: None
) -> None:
    """The audit waits a short time for it once, says so, and goes on with the next."""
    for name in ("busy", "free"):
        await boss.execute(estate.table(name, "note text"))
    holder = await connect(estate.url)
    async with holder.transaction():
        await holder.execute("LOCK TABLE busy IN SHARE ROW EXCLUSIVE MODE")
        started = time.monotonic()
        cells, findings = await attack(estate.url, "public.busy", "public.free", scope=estate.scope)
        assert time.monotonic() - started < 10
    assert {each.outcome for (table, _), each in cells.items() if "busy" in table} == {"not tried"}
    assert {each.outcome for (table, _), each in cells.items() if "free" in table} == {"kept apart"}
    assert [(each.table, each.check) for each in findings] == [("public.busy", "not-tried")]
    assert "55P03" in findings[0].what


async def test_partitions_and_the_whole_are_tried(estate: Estate, boss: asyncpg.Connection) -> None:
    """Rows go through the partitioned table; a partition that the application may read is found."""
    own = "tenant = nullif(current_setting('app.tenant', true), '')::integer"
    await boss.execute(f"""
        CREATE TABLE events (tenant integer NOT NULL REFERENCES accounts, id bigserial,
            at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (tenant, id))
            PARTITION BY HASH (tenant);
        CREATE TABLE events_0 PARTITION OF events FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE events_1 PARTITION OF events FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        ALTER TABLE events ENABLE ROW LEVEL SECURITY;
        CREATE POLICY own ON events TO {estate.app} USING ({own});
        GRANT SELECT, INSERT, UPDATE, DELETE ON events TO {estate.app};
    """)
    before = await content(boss)
    names = ("public.events", "public.events_0", "public.events_1")
    cells, findings = await attack(estate.url, *names, scope=estate.scope)
    assert findings == []
    assert {each.outcome for each in cells.values()} == {"kept apart"}
    await boss.execute("INSERT INTO events (tenant) VALUES (1), (2)")
    await boss.execute(f"GRANT SELECT ON events_0, events_1 TO {estate.app}")
    cells, _ = await attack(estate.url, *names, scope=estate.scope)
    assert ("public.events", "read") not in crossed(cells)
    assert {("public.events_0", "read"), ("public.events_1", "read")} & crossed(cells)
    assert set(before) == set(await content(boss))


async def test_rights_on_single_columns_are_enough_to_cross(
    estate: Estate, boss: asyncpg.Connection
) -> None:
    """A role that may only write one column, or only delete, is tried with what it may."""
    await boss.execute(estate.table("notes", "note text, secret text"))
    await boss.execute(f"""
        REVOKE ALL ON notes FROM {estate.app};
        GRANT UPDATE (note), SELECT (id) ON notes TO {estate.app};
    """)
    cells, findings = await attack(estate.url, "public.notes", scope=estate.scope)
    assert findings == []
    assert cells["public.notes", "insert"].detail == "no privilege"
    await boss.execute(f"CREATE POLICY wide ON notes FOR UPDATE TO {estate.app} USING (true)")
    cells, _ = await attack(estate.url, "public.notes", scope=estate.scope)
    assert {operation for _, operation in crossed(cells)} == {"update", "no tenant"}
    await boss.execute(f"""
        DROP POLICY wide ON notes; REVOKE ALL ON notes FROM {estate.app};
        REVOKE UPDATE (note), SELECT (id) ON notes FROM {estate.app};
        GRANT DELETE ON notes TO {estate.app};
        CREATE POLICY wide ON notes FOR DELETE TO {estate.app} USING (true)
    """)
    cells, _ = await attack(estate.url, "public.notes", scope=estate.scope)
    assert {operation for _, operation in crossed(cells)} == {"delete", "no tenant"}


BOUND = "coalesce(current_setting('app.tenant', true), '') <> ''"


@pytest.mark.parametrize(
    ("made", "column", "expected"),
    [
        (f"CREATE DOMAIN note AS text CHECK ({BOUND})", "a note NOT NULL", set()),
        ("SELECT 1", f"a text NOT NULL CHECK ({BOUND})", {"no tenant"}),
    ],
    ids=["domain", "table"],
)
async def test_what_refuses_before_the_policy_is_not_past_it(
    estate: Estate, boss: asyncpg.Connection, made: str, column: str, expected: set[str]
) -> None:
    """A domain is asked while a value is read, before any policy; a table's check after them.

    Where the policy lets inserts without a tenant through, only the check of the table shows it.
    """
    await boss.execute(made)
    await boss.execute(estate.table("notes", column))
    cells, _ = await attack(estate.url, "public.notes", scope=estate.scope)
    assert crossed(cells) == set()
    await boss.execute(f"CREATE POLICY wide ON notes FOR INSERT TO {estate.app}"
                       f" WITH CHECK (NOT ({BOUND}))")  # fmt: skip
    cells, _ = await attack(estate.url, "public.notes", scope=estate.scope)
    assert {operation for _, operation in crossed(cells)} == expected


async def test_a_role_that_row_security_does_not_bind_crosses_everywhere(
    estate: Estate, boss: asyncpg.Connection
) -> None:
    """BYPASSRLS, and an owner where it is not forced: every cell, and the SQL mends both."""
    await boss.execute(estate.table("notes", "note text"))
    await boss.execute(f"ALTER ROLE {estate.app} BYPASSRLS")
    cells, findings = await attack(estate.url, "public.notes", scope=estate.scope)
    assert {operation for _, operation in crossed(cells)} == ALL
    await boss.execute(findings[0].mend)
    _, findings = await attack(estate.url, "public.notes", scope=estate.scope)
    assert findings == []
    await boss.execute(f"ALTER TABLE notes OWNER TO {estate.app}, NO FORCE ROW LEVEL SECURITY")
    cells, findings = await attack(estate.url, "public.notes", scope=estate.scope)
    assert {operation for _, operation in crossed(cells)} == ALL
    await boss.execute(findings[0].mend)
    _, findings = await attack(estate.url, "public.notes", scope=estate.scope)
    assert findings == []


async def test_tenants_of_other_types(estate: Estate, boss: asyncpg.Connection) -> None:
    """Text, bigint and domain ids, with and without a table of tenants."""
    for number, kind in enumerate(("text", "varchar(12)", "bigint", "smallint", "org")):
        await boss.execute("CREATE DOMAIN org AS uuid" if kind == "org" else "SELECT")
        own = f"owner = nullif(current_setting('my.org', true), '')::{kind}"
        await boss.execute(f"""
            DROP TABLE IF EXISTS things; CREATE TABLE things (owner {kind}, id serial);
            ALTER TABLE things ENABLE ROW LEVEL SECURITY;
            CREATE POLICY own ON things TO {estate.app} USING ({own});
            GRANT ALL ON things TO {estate.app}
        """)
        scope = Scope(
            app_role=estate.app,
            is_ours=False,
            tenant_column="owner",
            tenant_table=None,
            tenant_setting="my.org",
        )
        cells, findings = await attack(estate.url, "public.things", scope=scope)
        assert findings == [], (number, kind)
        assert {each.outcome for each in cells.values()} == {"kept apart"}
        await boss.execute("ALTER TABLE things DISABLE ROW LEVEL SECURITY")
        cells, _ = await attack(estate.url, "public.things", scope=scope)
        assert {operation for _, operation in crossed(cells)} == ALL


async def test_a_definition_that_cannot_be_read_is_an_error(
    estate: Estate, boss: asyncpg.Connection, connect: Connect, impatient: None
) -> None:
    """An exclusive lock ends the audit within seconds, with the reason."""
    await boss.execute(estate.table("busy", "note text"))
    holder = await connect(estate.url)
    async with holder.transaction():
        await holder.execute("LOCK TABLE busy IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(ConflictError, match="locked by another session"):
            await attack(estate.url, "public.busy", scope=estate.scope)
