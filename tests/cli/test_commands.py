from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import text

from tenantry import Database, __version__
from tenantry.ops.project import load_project
from tenantry.settings import url_text
from tests.cli.conftest import Command
from tests.conftest import Connect, Urls

MODELS = """
from sqlalchemy.orm import Mapped
from tenantry.schema import Base, TenantScoped

class Note(TenantScoped, Base):
    __tablename__ = "notes"
    body: Mapped[str]
"""


def test_the_version_is_printed(command: Command) -> None:
    """`--version` prints the version and nothing else."""
    assert command("--version").out == f"tenantry {__version__}\n"


def test_help_names_every_command(command: Command) -> None:
    """A newcomer finds the commands from --help."""
    groups = ("db", "tenant", "user", "session", "knowledge")
    for group in groups:
        assert command(group, "--help").code == 0
    assert all(word in command("--help").out for word in ("demo", *groups))


@pytest.mark.parametrize("role", ["app", "owner", "operator"])
async def test_db_url_prints_a_url_that_connects(tenantry: Command, role: str) -> None:
    """`db url --role` prints one line; whoever connects with it is that role."""
    result = tenantry("db", "url", "--role", role)
    assert (result.code, result.err) == (0, "")
    assert result.out.count("\n") == 1
    connection = await asyncpg.connect(result.out.strip())
    assert await connection.fetchval("SELECT current_user::text") == f"tenantry_{role}"
    await connection.close()


def test_psql_passes_its_arguments_on(tenantry: Command) -> None:
    """`db psql` is psql as the role that was asked for."""
    result = tenantry("db", "psql", "--role", "operator", "--", "-Atc", "SELECT current_user")
    assert (result.code, result.out) == (0, "tenantry_operator\n")


@pytest.mark.usefixtures("traced_processes")
def test_psql_is_not_given_the_password_as_an_argument() -> None:
    """Every user of a machine can read the arguments of a process."""
    url = "postgresql://app:hunter2@127.0.0.1:1/d?password=hunter3"
    program = (
        "import os, sys; from tenantry.cli import db, main;"
        " os.execv = lambda path, argv: print(argv, os.environ['PGPASSWORD']);"
        " sys.argv = ['tenantry', 'db', 'psql']; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TENANTRY_DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    argv, _, password = result.stdout.strip().rpartition(" ")
    assert "hunter" not in argv, result.stderr
    assert password == "hunter3"


def test_tenants_are_made_and_listed(tenantry: Command) -> None:
    """What `tenant create` prints is what `tenant list` shows."""
    assert tenantry("tenant", "create", "Müller & Söhne").out.endswith("  muller-sohne\n")
    made = json.loads(tenantry("tenant", "create", "Second", "--slug", "zwei", "--json").out)
    listed = json.loads(tenantry("tenant", "list", "--json").out)
    assert [tenant["slug"] for tenant in listed] == ["muller-sohne", "zwei"]
    assert listed[1]["id"] == made["id"]
    assert made["id"] in tenantry("tenant", "list", COLUMNS="60").out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["create", ""], "name is empty"),
        (["create", "日本"], "No slug can be made"),
        (["create", "x", "--slug", "Not A Slug"], "is no slug"),
        (["create", "x" * 300], "300 bytes of UTF-8; at most 200"),
    ],
)
def test_a_tenant_that_cannot_be_is_one_error(
    tenantry: Command, arguments: list[str], message: str
) -> None:
    """Bad names and slugs are refused with what is required."""
    assert message in tenantry("tenant", *arguments).error


def test_a_slug_that_is_taken_is_said(tenantry: Command) -> None:
    """The second of the same slug is a conflict, and the message says what to do."""
    tenantry("tenant", "create", "Acme")
    assert "'acme' exists already. Choose another" in tenantry("tenant", "create", "Acme").error


def test_seed_is_repeatable(tenantry: Command) -> None:
    """The same seed twice loads once; another one needs --replace."""
    sizes = ("--users", "6", "--chunks", "12")
    first = json.loads(tenantry("db", "seed", *sizes, "--json").out)
    assert first["rows"]["tenants"] == 3
    assert "nothing to do" in tenantry("db", "seed", *sizes).out
    assert "--replace" in tenantry("db", "seed", *sizes, "--seed", "8").error
    assert "3 tenants" in tenantry("db", "seed", *sizes, "--seed", "8", "--replace").out


@pytest.mark.parametrize(
    "arguments", [["--tenants", "0"], ["--users", "-1"], ["--chunks", "1"], ["--seed", "x"]]
)
def test_a_seed_of_impossible_size_is_refused(tenantry: Command, arguments: list[str]) -> None:
    """Numbers out of range are refused before anything is loaded."""
    result = tenantry("db", "seed", *arguments)
    assert result.code == 1
    assert "Traceback" not in result.err
    assert arguments[0] in result.err


def test_knowledge_is_imported_and_changes_are_found(tenantry: Command, tmp_path: Path) -> None:
    """A folder goes in; the next time only what changed; an unreadable file is named."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.md").write_text("# Refunds\n\nWithin thirty days.")
    (folder / "b.txt").write_text("Shipping takes two days.")
    tenantry("tenant", "create", "Acme")
    run = ("knowledge", "import", str(folder), "--tenant", "acme")
    assert tenantry(*run).out.startswith("2 added, 0 changed, 0 unchanged")
    (folder / "a.md").write_text("# Refunds\n\nWithin sixty days.")
    (folder / "c.md").write_bytes(b"\xff\xfe\x00bad")
    result = tenantry(*run)
    assert result.code == 1
    assert result.out.startswith("0 added, 1 changed, 1 unchanged")
    assert "not imported: c.md" in result.err
    (folder / "b.txt").unlink()
    (folder / "c.md").unlink()
    assert "--prune removes them" in tenantry(*run).err
    pruned = json.loads(tenantry(*run, "--prune", "--json").out)
    assert pruned["removed"] == ["b.txt"]


def test_names_of_files_are_shown_as_text(tenantry: Command, tmp_path: Path) -> None:
    """The name of a file that was not imported moves no cursor, and begins no line of its own."""
    (tmp_path / "red\x1b[31m\nerror: x.md").write_text("")
    tenantry("tenant", "create", "Acme")
    shown = tenantry("knowledge", "import", str(tmp_path), "--tenant", "acme").err
    assert r"not imported: red\x1b[31m\nerror: x.md: is empty" in shown


def test_an_embedder_of_ones_own(tenantry: Command, tmp_path: Path) -> None:
    """`module:function` in the current folder is found and used; its mistakes are named."""
    (tmp_path / "mine.py").write_text(
        "def embed(texts):\n    return [[float(len(t))] + [1.0] * 1023 for t in texts]\n"
        "def short(texts):\n    return [[1.0] for t in texts]\n"
        "async def gone(texts):\n    import asyncio\n    raise asyncio.CancelledError\n"
    )
    (tmp_path / "a.md").write_text("Hello.")
    tenantry("tenant", "create", "Acme")
    run = ("knowledge", "import", "a.md", "--tenant", "acme", "--embedder")
    assert tenantry(*run, "mine:embed").code == 0
    (tmp_path / "a.md").write_text("Hello again.")
    assert "1 dimensions; 1024 are required" in tenantry(*run, "mine:short").error
    assert "mine:gone failed with CancelledError" in tenantry(*run, "mine:gone").error
    assert "no missing" in tenantry(*run, "mine:missing").error
    assert "module:function" in tenantry(*run, "mine").error


def test_unknown_names_are_one_error(tenantry: Command, tmp_path: Path) -> None:
    """A tenant, folder, role or command that is not there."""
    (tmp_path / "a.md").write_text("x")
    nobody = tenantry("knowledge", "import", "a.md", "--tenant", "nobody")
    assert "no tenant 'nobody'" in nobody.error
    tenantry("tenant", "create", "Acme")
    nowhere = tenantry("knowledge", "import", "nowhere", "--tenant", "acme")
    assert "nowhere" in nowhere.error
    for arguments in (["db", "url", "--role", "king"], ["db", "fly"]):
        result = tenantry(*arguments)
        assert result.code == 1
        assert "Traceback" not in result.err
        assert arguments[-1] in result.err


def test_own_tables_from_pyproject_to_the_database(tenantry: Command, tmp_path: Path) -> None:
    """Models in a file, named in pyproject.toml: revision, migrate, check, push find them."""
    (tmp_path / "pyproject.toml").write_text('[tool.tenantry]\nmodels = ["notes.py"]\n')
    (tmp_path / "notes.py").write_text(MODELS)
    checked = tenantry("db", "check", "--json")
    assert checked.code == 1
    assert "table notes is missing" in json.loads(checked.out)["differences"]
    written = tenantry("db", "revision", "-m", "add notes")
    assert Path(written.out.strip()).is_file()
    assert "add_notes" in written.out
    assert "add notes" in tenantry("db", "migrate").out
    assert "nothing to do" in tenantry("db", "migrate").out
    assert tenantry("db", "check").code == 0
    (tmp_path / "notes.py").rename(tmp_path / "kept.py")
    (tmp_path / "notes.py").write_text("")
    assert "name their models with --models" in tenantry("db", "check").err
    assert "drop table notes" in tenantry("db", "push").error
    (tmp_path / "kept.py").rename(tmp_path / "notes.py")
    assert "nothing to do" in tenantry("db", "revision", "-m", "again").out
    assert "message is empty" in tenantry("db", "revision", "-m", " ").error
    (tmp_path / "notes.py").write_text(MODELS + "    stars: Mapped[int | None]\n")
    pushed = tenantry("db", "push")
    assert pushed.out.strip() == "ALTER TABLE notes ADD COLUMN stars INTEGER;"
    assert tenantry("db", "check").code == 0


@pytest.mark.parametrize("with_init", [True, False])
def test_a_file_of_a_package_is_imported_once(
    with_init: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the name that the application has for it: else its tables would be there twice."""
    package = f"shop_{uuid4().hex}"
    (tmp_path / package).mkdir()
    if with_init:
        (tmp_path / package / "__init__.py").touch()
    file = tmp_path / package / "models.py"
    file.write_text("loaded = []\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    load_project(tmp_path, models=(f"{package}/models.py",))
    first = importlib.import_module(f"{package}.models")
    load_project(tmp_path, models=(f"./{package}/models.py",))
    load_project(tmp_path / package, models=("models.py",))
    names = [n for n, each in sys.modules.items() if getattr(each, "__file__", None) == str(file)]
    assert names == [f"{package}.models"]
    assert sys.modules[f"{package}.models"] is first


def test_models_that_cannot_be_imported_are_named(tenantry: Command, tmp_path: Path) -> None:
    """A missing module, a mistake in it, and a pyproject.toml that is none."""
    (tmp_path / "broken.py").write_text("1/0")
    assert "'nowhere'" in tenantry("db", "check", "--models", "nowhere").error
    assert "ZeroDivisionError" in tenantry("db", "check", "--models", "broken.py").error
    assert "no file" in tenantry("db", "check", "--models", "missing.py").error
    (tmp_path / "pyproject.toml").write_text("[tool.tenantry]\nmodels = 7\n")
    assert "must be a list" in tenantry("db", "check").error
    (tmp_path / "pyproject.toml").write_text("[tool.tenantry]\nmodel = ['notes.py']\n")
    assert "has model; only migrations and models are known" in tenantry("db", "push").error
    (tmp_path / "pyproject.toml").write_text("[tool")
    assert "Cannot read" in tenantry("db", "check").error


async def test_push_refuses_to_destroy_rows(tenantry: Command, urls: Urls) -> None:
    """--accept-data-loss is needed, and said."""
    admin = await asyncpg.connect(url_text(urls.admin))
    await admin.execute("SET ROLE tenantry_owner; CREATE TABLE stray AS SELECT 1 AS id; RESET ROLE")
    await admin.close()
    assert "drop table stray" in tenantry("db", "push").error
    assert tenantry("db", "push", "--accept-data-loss").out.strip() == "DROP TABLE stray;"


async def test_reset_asks_first(tenantry: Command, db: Database) -> None:
    """Without --yes it asks, and no answer is a no."""
    tenantry("tenant", "create", "Acme")
    for answer in ("", "n\n"):
        result = tenantry("db", "reset", stdin=answer)
        assert result.code == 1
        assert "Destroy all rows" in result.err
        assert "Give --yes" in result.err
    assert len(json.loads(tenantry("tenant", "list", "--json").out)) == 1
    result = tenantry("db", "reset", "--yes")
    assert (result.code, result.out.splitlines()[0]) == (0, "dropped everything")
    async with db.operator() as tx:
        assert await tx.scalar(text("SELECT count(*) FROM tenants")) == 0


# The environment


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"TENANTRY_DATABASE_URL": "nonsense"}, "TENANTRY_DATABASE_URL is not a URL"),
        (
            {"TENANTRY_DATABASE_URL": "", "TENANTRY_ADMIN_URL": "postgresql://a:hunter2@h/d"},
            "TENANTRY_DATABASE_URL is not",
        ),
        ({"TENANTRY_ADMIN_URL": ""}, "TENANTRY_ADMIN_URL is not set"),
        (
            {"TENANTRY_ADMIN_URL": "postgresql://a:hunter2@127.0.0.1:1/d"},
            "Cannot reach PostgreSQL at a@127.0.0.1:1/d",
        ),
    ],
)
def test_a_wrong_environment_is_one_error(
    tenantry: Command, variables: dict[str, str], message: str
) -> None:
    """Each wrong variable is named, and no password is shown."""
    result = tenantry("db", "migrate", **variables)
    assert message in result.error
    assert "hunter2" not in result.err + result.out


def test_a_superuser_as_the_application_is_refused(tenantry: Command, urls: Urls) -> None:
    """The command line refuses what the library refuses."""
    result = tenantry("tenant", "list", TENANTRY_DATABASE_URL=url_text(urls.admin))
    assert "is a superuser" in result.error


@pytest.mark.parametrize("arguments", [["db", "up"], ["db", "down"], ["demo"]])
def test_a_given_database_is_not_ours_to_start(tenantry: Command, arguments: list[str]) -> None:
    """With TENANTRY_DATABASE_URL set, nothing is started, stopped or filled with made-up rows."""
    assert "TENANTRY_DATABASE_URL is set" in tenantry(*arguments).error


async def _waits(admin: asyncpg.Connection, lock: str) -> None:
    """Return when a session of this database waits for a lock of that kind."""
    waiting = (
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()"
        f" AND wait_event_type = 'Lock' AND wait_event = '{lock}')"
    )
    async with asyncio.timeout(60):
        while not await admin.fetchval(waiting):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.usefixtures("traced_processes")
async def test_a_seed_that_is_interrupted_leaves_whole_tenants_only(
    tenantry: Command, urls: Urls, connect: Connect, tmp_path: Path
) -> None:
    """Ctrl-C: one message, exit code 1, nothing half-loaded, and the next run does the rest."""
    arguments = ["db", "seed", "--chunks", "1500", "--users", "6"]
    slug, table = [await connect(urls.admin) for _ in range(2)]
    # The seed stops before its second tenant, goes on to that one's messages, and stops again.
    await slug.execute("BEGIN; INSERT INTO tenants (name, slug) VALUES ('x', 'globex')")
    process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
        [sys.executable, "-m", "tenantry", *arguments],
        env={
            **os.environ,
            "TENANTRY_DATABASE_URL": url_text(urls.app),
            "TENANTRY_ADMIN_URL": url_text(urls.admin),
        },
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    await _waits(table, "transactionid")
    await table.execute("BEGIN; LOCK TABLE messages IN EXCLUSIVE MODE")
    await slug.execute("ROLLBACK")
    await _waits(slug, "relation")
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.to_thread(process.communicate, timeout=60)
    await table.execute("ROLLBACK")
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "error: interrupted" in err
    tenants = json.loads(tenantry("tenant", "list", "--json").out)
    assert [each["slug"] for each in tenants] == ["acme"]
    finished = json.loads(tenantry(*arguments, "--json").out)
    assert [each["loaded"] for each in finished["tenants"]] == [False, True, True]
    assert tenantry("db", "check").code == 0
