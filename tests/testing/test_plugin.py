"""The plugin as its users have it: their project, in a folder and a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

import pytest

from tenantry.settings import url_text
from tests.conftest import Server, open_connection

pytest_plugins = ["pytester"]

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "testing.md").read_text(encoding="utf-8")
QUICKSTART = (DOCS / "quickstart.md").read_text(encoding="utf-8")
_FILE = re.compile(r"^<!-- file: ([\w.]+) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Other plugins that happen to be installed here take seconds to load.
PLUGINS = ("-p", "pytest_asyncio.plugin", "-p", "xdist.plugin", "-p", "no:cacheprovider")

# What is left open, and what pytest finds fault with; FastAPI's own warnings are not ours.
STRICT = ("-W", "error::ResourceWarning", "-W", "error::pytest.PytestWarning")


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """The files that the documentation shows."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.delenv("TENANTRY_TEST_SERVER_URL", raising=False)
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_TESTRUNUID", "PYTEST_XDIST_WORKER_COUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, code in _FILE.findall(QUICKSTART):
        (pytester.path / name).write_text(code, encoding="utf-8")
    return pytester


def test_a_newcomer_is_done_in_under_60_lines() -> None:
    """From an empty folder to a tenant table of one's own, protected and tested.

    That it works, `tests/docs/test_quickstart.py` shows.
    """
    files = _FILE.findall(QUICKSTART)
    assert [name for name, _ in files] == [
        "pyproject.toml",
        "notes.py",
        "two_tenants.py",
        "conftest.py",
        "test_notes.py",
    ]
    lines = [line for _, code in files for line in code.splitlines() if line.strip()]
    assert len(lines) < 60


SCOPES = """
    import os
    import pytest
    from pathlib import Path
    from tenantry import Database
    from tenantry.schema import Tenant
    from tenantry.testing import recorded_sql as record
    from sqlalchemy import select, text
    from notes import Note

    def note(settings):
        with open("servers", "a") as file:
            print(settings.database_url.query["host"], os.getpid(), file=file)

    @pytest.mark.asyncio
    @pytest.mark.parametrize("number", range(4))
    async def test_a_database_of_its_own(number, tenantry_db, make_tenant, tenantry_settings):
        note(tenantry_settings)
        tenant = await make_tenant("Acme")
        async with tenantry_db.tenant(tenant.id) as tx:
            tx.add(Note(body=str(number)))
        async with tenantry_db.operator() as tx:
            assert [each.body for each in await tx.scalars(select(Note))] == [str(number)]
        async with Database.connect() as found:      # by the environment
            async with found.tenant(tenant.id) as tx:
                assert await tx.scalar(text("SELECT current_user")) == "tenantry_app"

    class TestScopes:
        pytestmark = pytest.mark.asyncio(loop_scope="class")

        async def test_class(self, tenantry_db, make_user):
            assert (await make_user(role="admin")).role == "admin"

    @pytest.mark.asyncio(loop_scope="module")
    async def test_module(client_of, make_user, attacker, anonymous_client, recorded_sql):
        ada = await client_of(await make_user())
        assert (await ada.get("/notes")).json() == []
        with record() as sent:
            await ada.get("/notes")
        assert len(sent.matching("FROM notes")) == 1
        assert len(sent.matching("validate_session")) == 1
        assert "FROM notes" in str(list(recorded_sql))
        assert (await attacker.get("/notes")).status_code == 200
        assert (await (await anonymous_client()).get("/notes")).status_code == 401

    @pytest.mark.asyncio(loop_scope="session")
    async def test_session(tenantry_db, tenantry_auth, make_user):
        user = await make_user()
        assert await tenantry_auth.sessions(user.tenant_id, user.id) == []

    def test_without_a_loop(tenantry_settings, tenantry_db):
        assert tenantry_db.settings == tenantry_settings
"""


@pytest.mark.usefixtures("traced_processes")
def test_processes_share_a_server_and_loops_are_of_any_scope(project: pytest.Pytester) -> None:
    """With pytest-xdist there is one server, which is gone afterwards."""
    project.makepyfile(test_scopes=SCOPES)
    options = ("-o", "asyncio_mode=strict", "-n", "2")
    result = project.runpytest_subprocess(*PLUGINS, *STRICT, *options, "test_scopes.py")
    result.assert_outcomes(passed=8)
    result.stdout.re_match_lines([r"tenantry: 8 databases cloned, median \d+ ms"])
    noted = [each.split() for each in (project.path / "servers").read_text().splitlines()]
    hosts, processes = {host for host, _ in noted}, {process for _, process in noted}
    assert (len(hosts), len(processes)) == (1, 2)
    assert not Path(hosts.pop()).exists()


BY_COOKIE = """
    @pytest.fixture
    def tenantry_credentials():
        {code}
"""


@pytest.mark.usefixtures("traced_processes")
def test_clients_sign_in_with_cookies_as_the_page_says(project: pytest.Pytester) -> None:
    """With what the documentation has people return, `client_of` is signed in, without a header."""
    (code,) = re.findall(r"`(return lambda token: .+?)`", PAGE)
    with (project.path / "conftest.py").open("a") as conftest:
        conftest.write(dedent(BY_COOKIE.format(code=code)))
    project.makepyfile(
        test_cookies="""
            async def test_cookies(client_of, make_user):
                client = await client_of(await make_user())
                assert "Authorization" not in client.headers
                assert (await client.post("/notes", json={"body": "Mine."})).status_code == 201
        """
    )
    result = project.runpytest_subprocess(*PLUGINS, *STRICT, "test_cookies.py", "test_notes.py")
    result.assert_outcomes(passed=3)


WAITING = """
    import time

    def test_it(tenantry_settings):
        print("server", tenantry_settings.database_url.query["host"], flush=True)
        time.sleep(60)
"""


def test_a_run_that_is_killed_leaves_no_server(project: pytest.Pytester) -> None:
    """Server and data are gone within seconds, though nobody could tell the plugin."""
    project.makepyfile(test_waiting=WAITING, conftest="pytest_plugins = ['tenantry.testing']")
    command = [sys.executable, "-m", "pytest", *PLUGINS, "-s", "test_waiting.py"]
    with subprocess.Popen(command, cwd=project.path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = next(each for each in process.stdout if "server /" in each)
        folder = Path(line.split("server ")[1].strip())
        folder = next(each for each in folder.parents if each.name.startswith("tenantry-testing-"))
        assert (folder / "data").exists()
        process.kill()
        process.stdout.read()
    deadline = time.monotonic() + 30
    while folder.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.usefixtures("traced_processes")
async def test_a_server_of_the_users_own_is_left_as_it_was(
    project: pytest.Pytester, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Databases and role of the run are gone, and those of one that was killed before, too."""
    admin = await open_connection(server.url)
    found = """SELECT datname::text FROM pg_database WHERE datname LIKE 'tenantry\\_run\\_%'
         UNION SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'tenantry\\_run\\_%'"""
    try:
        await admin.execute("CREATE DATABASE tenantry_run_killed1_template")
        await admin.execute("CREATE ROLE tenantry_run_killed1 LOGIN")
        monkeypatch.setenv("TENANTRY_TEST_SERVER_URL", url_text(server.url))
        result = project.runpytest_subprocess(*PLUGINS, "-k", "its_tenants", "test_notes.py")
        result.assert_outcomes(passed=1, deselected=1)
        assert await admin.fetch(found) == []
    finally:
        await admin.close()


BAD_MIGRATION = """
from alembic import op

revision, down_revision, branch_labels, depends_on = "bad", None, ("app",), "tenantry_0005"


def upgrade():
    op.execute("CREATE TABLE bad (id nosuchtype)")
"""


async def test_a_migration_that_fails_is_what_each_process_says(
    project: pytest.Pytester, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing of the template stays on a server of the user's own."""
    (project.mkdir("migrations") / "0001_bad.py").write_text(BAD_MIGRATION)
    project.makepyfile(
        test_bad="""
        import pytest

        @pytest.mark.parametrize("number", range(2))
        def test_it(tenantry_settings, number):
            pass
        """
    )
    monkeypatch.setenv("TENANTRY_TEST_SERVER_URL", url_text(server.url))
    result = project.runpytest_subprocess(*PLUGINS, "-n", "2", "test_bad.py")
    result.assert_outcomes(errors=2)
    text = result.stdout.str()
    assert text.count("MigrationError: The migration failed") >= 2
    assert "DuplicateDatabaseError" not in text
    admin = await open_connection(server.url)
    try:
        left = "SELECT datname FROM pg_database WHERE datname LIKE 'tenantry\\_run\\_%'"
        assert await admin.fetch(left) == []
    finally:
        await admin.close()
