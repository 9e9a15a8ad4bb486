"""`tenantry doctor` from the command line."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import asyncpg
import pytest
from rich.console import Console

from tenantry.cli.console import THEME
from tenantry.cli.doctor import _print
from tenantry.ops.diagnosis.report import Diagnosis
from tenantry.schema.base import SCHEMA_REVISION
from tenantry.settings import url_text
from tests.cli.conftest import Command
from tests.conftest import Urls


def test_a_migrated_database_is_healthy(tenantry: Command) -> None:
    """Exit code 0, a line for each thing, and warnings do not fail."""
    result = tenantry("doctor")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert any(re.match(rf"ok +migrations +at {SCHEMA_REVISION}", line) for line in lines)
    assert any(re.match(r"warning +statement-timeout", line) for line in lines)
    assert re.fullmatch(r"0 problems, \d+ warnings?", lines[-1])


def test_the_json_says_the_same(tenantry: Command) -> None:
    """One object, with the keys that docs/doctor.md names."""
    result = tenantry("doctor", "--json")
    value = json.loads(result.out)
    assert list(value) == ["format", "healthy", "diagnoses"]
    assert (result.code, value["healthy"]) == (0, True)
    assert all(list(each) == ["name", "state", "found", "advice"] for each in value["diagnoses"])
    assert {each["state"] for each in value["diagnoses"]} <= {"ok", "warning"}


def test_a_problem_is_exit_code_1(tenantry: Command, urls: Urls) -> None:
    """A superuser as the application, and too many processes for the server."""
    result = tenantry("doctor", TENANTRY_DATABASE_URL=url_text(urls.admin))
    assert result.code == 1
    assert re.search(r"problem +application-role .*superuser", result.out)
    result = tenantry("doctor", "--processes", "5000", "--json")
    assert result.code == 1
    (pools,) = [each for each in json.loads(result.out)["diagnoses"] if each["name"] == "pools"]
    assert (pools["state"], "5000 times" in pools["found"]) == ("problem", True)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (
            {
                "TENANTRY_DATABASE_URL": "postgresql://a:hunter2@127.0.0.1:1/d",
                "TENANTRY_ADMIN_URL": "postgresql://b:hunter2@127.0.0.1:1/d",
            },
            "Cannot reach PostgreSQL at a@127.0.0.1:1/d",
        ),
        ({"TENANTRY_DATABASE_URL": "nonsense:hunter2"}, "TENANTRY_DATABASE_URL is not a URL"),
    ],
)
def test_what_cannot_be_reached_is_said_without_secrets(
    tenantry: Command, variables: dict[str, str], said: str
) -> None:
    """One diagnosis, no traceback; what can be said without a server is said."""
    result = tenantry("doctor", **variables)
    assert (result.code, result.err) == (1, "")
    assert said in result.out
    assert "is not set, and there is no embedded server" not in result.out
    assert re.search(r"ok +tenantry +tenantry \d", result.out)
    assert "hunter2" not in result.out
    assert "Traceback" not in result.out


def test_models_that_cannot_be_imported_are_one_diagnosis(
    tenantry: Command, tmp_path: Path
) -> None:
    """The server is looked at all the same."""
    (tmp_path / "broken.py").write_text("1/0")
    result = tenantry("doctor", "--models", "broken.py")
    assert result.code == 1
    assert re.search(r"problem +project .*ZeroDivisionError", result.out)
    assert re.search(r"ok +postgresql-version", result.out)


async def test_the_projects_migrations_are_looked_at(
    tenantry: Command, urls: Urls, tmp_path: Path
) -> None:
    """Models and migrations are found as other commands find them."""
    (tmp_path / "notes.py").write_text(
        "from sqlalchemy.orm import Mapped\n"
        "from tenantry.schema import Base, TenantScoped\n"
        "class Note(TenantScoped, Base):\n"
        "    __tablename__ = 'notes'\n"
        "    body: Mapped[str]\n"
    )
    arguments = ("--models", "notes.py", "--migrations", "steps")
    assert tenantry("db", "revision", "-m", "notes", *arguments).code == 0
    result = tenantry("doctor", *arguments)
    assert re.search(r"problem +migrations +1 pending", result.out)
    assert tenantry("db", "migrate", "--migrations", "steps").code == 0
    assert tenantry("doctor", *arguments).code == 0
    admin = await asyncpg.connect(url_text(urls.admin))
    assert await admin.fetchval("SELECT count(*) FROM notes") == 0
    await admin.close()


def test_hostile_text_is_printed_as_text() -> None:
    """A role or an extension can have any name."""
    buffer = io.StringIO()
    console = Console(file=buffer, theme=THEME, highlight=False, soft_wrap=True, width=80)
    _print([Diagnosis("x", "problem", "[bold]a[/]\x1b[2J\n\u202e", "\x9b[/b]")], console)
    text = buffer.getvalue()
    assert r"[bold]a[/]\x1b[2J\n\u202e" in text
    assert r"\x9b[/b]" in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
