"""`tenantry audit`: what is printed, to whom, and with which exit code."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import URL

from tenantry.settings import url_text
from tests.cli.conftest import Command
from tests.cli.hostile import HOSTILE, KNOWN_TAGS, Reader
from tests.conftest import Connect, Server, Urls

# The command, on a real server


def test_a_fresh_database_passes(tenantry: Command) -> None:
    """Exit code 0, the report on stdout, progress on stderr."""
    result = tenantry("audit")
    assert (result.code, result.err) == (0, "auditing\n"), result
    assert "✗" not in result.out.replace("✗ crossed", "")
    assert result.out.splitlines()[-1].startswith("no finding, 98 attempts kept apart: 14 tables")


async def test_a_fallen_wall_is_found_and_the_sql_that_is_shown_mends_it(
    tenantry: Command, urls: Urls, connect: Connect, tmp_path: Path
) -> None:
    """Exit code 1; the SQL, copied from the terminal as it is, brings exit code 0 back."""
    admin = await connect(urls.admin)
    await admin.execute("ALTER TABLE widgets DISABLE ROW LEVEL SECURITY")
    result = tenantry("audit", "--json", "--html", "audit.html")
    value = json.loads(result.out)
    assert (result.code, value["passed"], value["live"]) == (1, False, True)
    assert "error:" not in result.err
    assert {each["table"] for each in value["findings"]} == {"public.widgets"}
    crossed = {each["operation"] for each in value["attempts"] if each["outcome"] == "crossed"}
    assert {"catalog", "read", "update", "delete"} <= crossed
    reader = Reader((tmp_path / "audit.html").read_text(encoding="utf-8"))
    assert value["findings"][0]["what"] in "".join(reader.text)
    shown = tenantry("audit", COLUMNS="60")
    assert shown.code == 1
    mend = value["findings"][0]["mend"].rstrip()
    assert f"\n\n{mend}\n" in shown.out
    await admin.execute(mend)
    assert tenantry("audit").code == 0


def test_without_the_admin_url_the_catalog_is_read(tenantry: Command) -> None:
    """The error says what is missing and what still works, and that does work."""
    given = {"TENANTRY_ADMIN_URL": ""}
    refused = tenantry("audit", "--json", **given)
    assert refused.out == ""
    assert "TENANTRY_ADMIN_URL is not set" in refused.error
    assert "`tenantry audit --static`" in refused.error
    result = tenantry("audit", "--static", "--json", **given)
    value = json.loads(result.out)
    assert (result.code, value["passed"], value["live"]) == (0, True, False)
    assert len(value["tables"]) == 14


def test_the_administrators_url_is_enough(tenantry: Command) -> None:
    """A database of others is audited with one URL, and the embedded server stays down."""
    given = {"TENANTRY_DATABASE_URL": "", "TENANTRY_DATA_DIR": "/nowhere"}
    result = tenantry("audit", "--role", "tenantry_app", **given)
    assert result.code == 0, result


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json", "--html", "-"], "would both print to stdout"),
        (["--html", "nowhere/audit.html"], "Cannot write nowhere/audit.html"),
        (["--html", "."], "must not be a folder"),
        (["--html", ""], "a file without a name"),
        (["--role", "nobody_at_all"], "no role nobody_at_all"),
        (["--models", "nowhere"], "'nowhere'"),
    ],
)
def test_an_audit_that_cannot_be_made_prints_no_result(
    tenantry: Command, arguments: list[str], message: str
) -> None:
    """One error on stderr, nothing on stdout: so a program tells it from findings."""
    result = tenantry("audit", *arguments)
    assert message in result.error
    assert result.out == ""


def test_an_error_sends_no_control_character(tenantry: Command) -> None:
    """What an error quotes is shown as text, too."""
    result = tenantry("audit", "--role", "[bold]a[/]\x1b[2J")
    assert r"There is no role [bold]a[/]\x1b[2J on this server" in result.error
    assert "\x1b" not in result.err


def test_a_server_that_is_away_is_an_error_without_secrets(tenantry: Command) -> None:
    """It is not a finding, and not a pass."""
    away = "postgresql://a:hunter2@127.0.0.1:1/d"
    result = tenantry("audit", "--json", TENANTRY_ADMIN_URL=away)
    assert "Cannot reach PostgreSQL at a@127.0.0.1:1/d" in result.error
    assert result.out == ""
    assert "hunter2" not in result.err


def test_the_page_on_stdout_is_all_there_is(tenantry: Command) -> None:
    """`--html -` can be piped, whatever the terminal's encoding."""
    result = tenantry("audit", "--static", "--html", "-", PYTHONIOENCODING="ascii:strict")
    assert result.code == 0
    assert result.out.startswith("<!DOCTYPE html>")
    assert result.out.endswith("</html>\n")
    assert "✓" in result.out


async def test_a_terminal_without_the_characters_gets_others(
    tenantry: Command, urls: Urls, connect: Connect
) -> None:
    """Neither a mark nor a name that its encoding lacks ends the program."""
    admin = await connect(urls.admin)
    await admin.execute("CREATE TABLE größen_会议 (tenant_id uuid, id uuid)")
    result = tenantry("audit", "--static", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert result.code == 1
    assert result.out.isascii()
    assert r"gr\xf6\xdfen_\u4f1a\u8bae" in result.out
    assert " NO " in result.out
    value = tenantry("audit", "--static", "--json", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert value.out.isascii()
    assert "größen_会议" in json.dumps(json.loads(value.out), ensure_ascii=False)


async def test_hostile_names_in_a_database_are_shown_as_text(
    tenantry: Command, urls: Urls, connect: Connect, tmp_path: Path
) -> None:
    """Whoever may create a table writes neither to the terminal nor to the page."""
    admin = await connect(urls.admin)
    for name in HOSTILE:
        quoted = '"' + name.replace('"', '""') + '"'
        await admin.execute(f"CREATE TABLE {quoted} (tenant_id uuid, id uuid)")
    result = tenantry("audit", "--html", "audit.html")
    assert result.code == 1
    assert "[bold red]x[/bold red]" in result.out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e]", result.out)
    reader = Reader((tmp_path / "audit.html").read_text(encoding="utf-8"))
    assert {tag for tag, _ in reader.tags} <= KNOWN_TAGS
    found = json.loads(tenantry("audit", "--json").out)["tables"]
    assert all(any(name.replace('"', '""') in table for table in found) for name in HOSTILE)


COUNTRIES = """
from sqlalchemy.orm import Mapped, mapped_column
from tenantry.schema import Base
from tenantry.schema.row_security import Grant, RowSecurity

class Country(Base):
    __tablename__ = "countries"
    code: Mapped[str] = mapped_column(primary_key=True)

grants = (Grant("tenantry_app", frozenset({"SELECT"})),)
RowSecurity(policies=(), grants=grants, enabled=False, forced=False).attach(Country.__table__)
"""


def test_models_and_shared_tables_say_what_is_meant(tenantry: Command, tmp_path: Path) -> None:
    """A table that all may read is a finding until somebody says that it is meant so."""
    (tmp_path / "countries.py").write_text(COUNTRIES)
    assert tenantry("db", "push", "--models", "countries.py").code == 0
    result = tenantry("audit", "--json")
    assert result.code == 1
    assert {each["table"] for each in json.loads(result.out)["findings"]} == {"public.countries"}
    assert tenantry("audit", "--shared", "countries").code == 0
    assert tenantry("audit", "--models", "countries.py").code == 0
    (tmp_path / "pyproject.toml").write_text('[tool.tenantry]\nmodels = ["countries.py"]\n')
    assert tenantry("audit").code == 0


# A database that is not tenantry's

FOREIGN = """
    CREATE TABLE orders (account_id int NOT NULL, id int, total int,
                         PRIMARY KEY (account_id, id));
    CREATE TABLE countries (code text PRIMARY KEY);
    ALTER TABLE orders ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    CREATE POLICY own ON orders TO {role}
        USING (account_id = nullif(current_setting('shop.account', true), '')::int)
        WITH CHECK (account_id = nullif(current_setting('shop.account', true), '')::int);
    GRANT SELECT, INSERT, UPDATE, DELETE ON orders TO {role};
    GRANT SELECT ON countries TO {role};
"""


@pytest.fixture
async def shop(server: Server, empty_database: URL) -> AsyncIterator[URL]:
    """The application's URL of a database that somebody else has made."""
    role = f"shop_{uuid4().hex[:8]}"
    name = str(empty_database.database)
    await server.run(f"CREATE ROLE {role} LOGIN")
    if server.url.password:
        await server.run(f"ALTER ROLE {role} PASSWORD '{server.url.password}'")
    await server.run(FOREIGN.format(role=role), database=name)
    yield server.at(name, user=role)
    await server.run(f"DROP OWNED BY {role}", database=name)
    await server.run(f"DROP ROLE {role}")


async def test_a_database_that_is_not_ours_is_audited_as_its_application(
    command: Command, shop: URL, empty_database: URL, connect: Connect
) -> None:
    """The role comes from the application's URL, and nothing is made in the database."""
    admin = await connect(empty_database)
    made = "SELECT count(*) FROM pg_class UNION ALL SELECT count(*) FROM pg_namespace"
    before = await admin.fetch(made)
    given = {
        "TENANTRY_DATABASE_URL": url_text(shop),
        "TENANTRY_ADMIN_URL": url_text(empty_database),
    }
    arguments = ("--json", "--tenant-column", "account_id", "--shared", "countries")
    value = json.loads(command("audit", *arguments, **given).out)
    assert value["app_role"] == shop.username
    assert "public.orders" in value["tables"]
    assert not [each for each in value["attempts"] if each["outcome"] == "crossed"]
    await admin.execute("ALTER POLICY own ON orders USING (true)")
    result = command("audit", *arguments, **given)
    assert result.code == 1
    assert {
        (each["table"], each["operation"])
        for each in json.loads(result.out)["attempts"]
        if each["outcome"] == "crossed"
    } >= {("public.orders", "read"), ("public.orders", "update"), ("public.orders", "delete")}
    assert await admin.fetch(made) == before


async def test_a_database_without_tables_is_no_pass(
    command: Command, server: Server, template: str, empty_database: URL
) -> None:
    """Most likely the URL is wrong; walls around nothing prove nothing."""
    del template  # its migration has made the roles
    name = str(empty_database.database)
    await server.run(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")  # the one thing to be found
    given = {
        "TENANTRY_DATABASE_URL": url_text(empty_database.set(username="tenantry_app")),
        "TENANTRY_ADMIN_URL": url_text(empty_database),
    }
    result = command("audit", **given)
    assert "There are no tables in " in result.error
    assert "so nothing was audited" in result.error
    assert result.out == ""
    looked = json.loads(command("doctor", "--json", **given).out)["diagnoses"]
    (audited,) = [each for each in looked if each["name"] == "audit"]
    assert (audited["state"], audited["found"]) == ("problem", "there are no tables to audit")
