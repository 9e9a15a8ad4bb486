"""`tenantry user`, `session` and the API keys: no password is an argument, and none is shown."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from tenantry import Database
from tenantry.auth import API_KEY_PATTERN, Auth
from tenantry.auth.profiles import TESTING
from tenantry.errors import AuthenticationError, InvalidCredentialsError
from tenantry.schema import Tenant
from tenantry.settings import ADMIN_URL, DATABASE_URL, url_text
from tests.cli.conftest import Command
from tests.conftest import Urls
from tests.forked import Result
from tests.tracing import traced

PASSWORD = "correct horse battery staple"
EMAIL = "ada@acme.example"
ACME = ("--tenant", "acme")


@pytest.fixture
async def acme(db: Database) -> Tenant:
    """A tenant."""
    tenant = Tenant(name="Acme", slug="acme")
    async with db.operator(reason="test") as tx:
        tx.add(tenant)
    return tenant


@pytest.fixture
async def auth(db: Database) -> Auth:
    """The product's own, on the same database."""
    return Auth(db, profile=TESTING)


def words(result: Result) -> str:
    """All that a command has printed."""
    return " ".join((result.out + result.err).split())


async def test_a_user_is_made_with_a_password_from_stdin(
    tenantry: Command, auth: Auth, acme: Tenant
) -> None:
    """The id and the canonical email are printed, the password is not; and it opens the account."""
    for number, end in enumerate(("", "\n", "\r\n")):
        result = tenantry(
            *("user", "create", f"Ada{number}@ACME.example", *ACME, "--password-stdin"),
            stdin=f"{PASSWORD}{end}",
        )
        user = (await auth.users(acme.id))[number]
        assert (result.code, result.out) == (0, f"{user.id}  ada{number}@acme.example\n")
        assert PASSWORD not in words(result)
        await auth.sign_in(acme.id, user.email, PASSWORD)


def seen(controller: int) -> bytes:
    """What appears on the screen next; nothing once the program has ended."""
    assert select.select([controller], [], [], 30)[0], "nothing appears"
    try:
        return os.read(controller, 1024)
    except OSError:  # Linux says so at the end
        return b""


def typed(urls: Urls, folder: Path, *arguments: str, keys: tuple[str, ...]) -> tuple[int, str, str]:
    """Run a command on a terminal where somebody types; return its code, stdout and the screen."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "tenantry", *arguments],
        env={
            **os.environ,
            **traced(),
            DATABASE_URL: url_text(urls.app),
            ADMIN_URL: url_text(urls.admin),
        },
        cwd=folder,
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    screen = b""
    try:
        for prompt, key in zip((b"Password: ", b"Once more: "), keys, strict=True):
            while not screen.endswith(prompt):
                screen += (more := seen(controller))
                assert more, screen
            os.write(controller, f"{key}\n".encode())
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    while more := seen(controller):
        screen += more
    os.close(controller)
    return process.returncode, out.decode(), screen.decode()


async def test_a_password_is_asked_for_twice_and_never_shown(
    urls: Urls, auth: Auth, acme: Tenant, tmp_path: Path
) -> None:
    """On a terminal: prompts on the screen, the result on stdout, nothing of what was typed."""
    create = ("user", "create", EMAIL, *ACME)
    code, out, screen = typed(urls, tmp_path, *create, keys=(PASSWORD, PASSWORD + "x"))
    assert code == 1
    assert "The two passwords differ" in screen
    assert await auth.users(acme.id) == []
    code, out, screen = typed(urls, tmp_path, *create, keys=(PASSWORD, PASSWORD))
    assert (code, out.endswith(f"  {EMAIL}\n")) == (0, True), screen
    assert "correct" not in screen + out
    await auth.sign_in(acme.id, EMAIL, PASSWORD)


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        ([EMAIL], PASSWORD, "no terminal to ask for the password"),
        ([EMAIL, "--password-stdin", "--no-password"], PASSWORD, "exclude each other"),
        ([EMAIL, "--password-stdin"], "", "no password on stdin"),
        ([EMAIL, "--password-stdin"], f"{PASSWORD}\nmore", "more than one line"),
        ([EMAIL, "--password-stdin"], "short", "at least 8"),
        ([EMAIL, "--password-stdin"], "x" * 20_000, "too long"),
        ([EMAIL, "--password-stdin"], EMAIL, "password"),
        (["no email", "--no-password"], "", "email cannot be used"),
        ([EMAIL, "--no-password", "--name", "x" * 300], "", "at most 200"),
    ],
)
async def test_a_user_that_cannot_be_is_one_error(
    tenantry: Command,
    auth: Auth,
    acme: Tenant,
    arguments: list[str],
    stdin: str,
    message: str,
) -> None:
    """Exit code 1, one message, no traceback, and nothing of the password."""
    result = tenantry("user", "create", *arguments, *ACME, stdin=stdin)
    assert message in result.error
    assert PASSWORD not in words(result)
    assert result.out == ""
    assert await auth.users(acme.id) == []


def test_a_password_is_no_argument(tenantry: Command, acme: Tenant) -> None:
    """There is no such option: other users of the machine can read arguments."""
    result = tenantry("user", "create", EMAIL, *ACME, "--password", PASSWORD)
    assert (result.code, result.out) == (1, "")
    assert PASSWORD not in words(result)


def test_a_password_that_is_no_utf_8_is_one_error(urls: Urls, acme: Tenant, tmp_path: Path) -> None:
    """Its bytes are not quoted."""
    process = subprocess.run(
        [sys.executable, "-m", "tenantry", "user", "create", EMAIL, *ACME, "--password-stdin"],
        env={**os.environ, DATABASE_URL: url_text(urls.app), ADMIN_URL: url_text(urls.admin)},
        cwd=tmp_path,
        input=b"secret\xff\xfeword",
        capture_output=True,
        check=False,
    )
    assert process.returncode == 1
    assert b"no UTF-8" in process.stderr
    assert not any(part in process.stderr for part in (b"secret", b"word\n", b"Traceback"))


async def test_users_are_listed(
    tenantry: Command, auth: Auth, acme: Tenant, admin: asyncpg.Connection
) -> None:
    """As a table and as JSON, in the order of their emails; no hash, and no escape sequences."""
    made = json.loads(
        tenantry("user", "create", EMAIL, *ACME, "--no-password", "--role", "owner", "--json").out
    )
    bob = await auth.register(acme.id, "bob@acme.example", PASSWORD)
    # As `register` does not let it be, but a statement of the application's own does.
    await admin.execute("UPDATE users SET name = $1 WHERE id = $2", "[red]\x1b[2JBob", bob.id)
    listed = json.loads(tenantry("user", "list", *ACME, "--json").out)
    assert [each["email"] for each in listed] == [EMAIL, "bob@acme.example"]
    assert listed[0] == made
    assert (made["role"], made["name"], made["disabled_at"]) == ("owner", "ada", None)
    result = tenantry("user", "list", "--tenant", str(acme.id))
    assert "[red]\\x1b[2JBob" in result.out
    assert "email not verified" in result.out
    assert not any(part in words(result) for part in ("\x1b", "argon2"))


async def test_a_user_is_disabled_and_enabled(tenantry: Command, auth: Auth, acme: Tenant) -> None:
    """Sessions end; then the user may sign in again."""
    await auth.register(acme.id, EMAIL, PASSWORD)
    signed_in = await auth.sign_in(acme.id, EMAIL, PASSWORD)
    assert "signed out everywhere" in tenantry("user", "disable", "ADA@acme.example", *ACME).out
    with pytest.raises(AuthenticationError):
        await auth.validate(signed_in.token)
    with pytest.raises(InvalidCredentialsError):
        await auth.sign_in(acme.id, EMAIL, PASSWORD)
    assert "disabled since" in tenantry("user", "list", *ACME).out
    assert tenantry("user", "enable", EMAIL, *ACME).out == f"{EMAIL} is enabled\n"
    await auth.sign_in(acme.id, EMAIL, PASSWORD)


async def test_a_password_is_set_and_taken_away(
    tenantry: Command, auth: Auth, acme: Tenant
) -> None:
    """Both end the user's sessions."""
    await auth.register(acme.id, EMAIL, PASSWORD)
    signed_in = await auth.sign_in(acme.id, EMAIL, PASSWORD)
    new = "another fine day by the lake"
    result = tenantry("user", "set-password", EMAIL, *ACME, "--password-stdin", stdin=new)
    assert "has a new password" in result.out
    assert new not in words(result)
    with pytest.raises(AuthenticationError):
        await auth.validate(signed_in.token)
    await auth.sign_in(acme.id, EMAIL, new)
    assert "has no password" in tenantry("user", "set-password", EMAIL, *ACME, "--no-password").out
    with pytest.raises(InvalidCredentialsError):
        await auth.sign_in(acme.id, EMAIL, new)


async def test_mistakes_are_one_error(tenantry: Command, auth: Auth, acme: Tenant) -> None:
    """Tenants and users that are not there, owners that are needed, sessions that are gone."""
    await auth.register(acme.id, EMAIL, None, role="owner")
    session = ("session", "revoke", *ACME, "--user", EMAIL)
    for arguments, message in (
        (("user", "list", "--tenant", "nobody"), "no tenant 'nobody'"),
        (("user", "create", "ADA@acme.example", *ACME, "--no-password"), "this email already"),
        (("user", "disable", "bob@acme.example", *ACME), "no user 'bob@acme.example'"),
        (("user", "disable", EMAIL, *ACME), "last owner"),
        (("session", "list", *ACME, "--user", "bob@acme.example"), "no user 'bob@acme.example'"),
        ((*session, "nothing"), "no such session"),
        (session, "or --all"),
        ((*session, "one", "--all"), "or --all"),
        (("tenant", "rotate-key", "nobody"), "no tenant 'nobody'"),
        (("tenant", "rotate-key", "acme", "--grace", "1e300"), "number of hours"),
        (("tenant", "rotate-key", "acme", "--grace", "9999"), "366 days"),
    ):
        result = tenantry(*arguments)
        assert message in result.error
        assert result.out == ""


async def test_sessions_are_listed_and_end(tenantry: Command, auth: Auth, acme: Tenant) -> None:
    """One, or all of a user's; what is listed opens nothing."""
    await auth.register(acme.id, EMAIL, PASSWORD)
    await auth.register(acme.id, "bob@acme.example", PASSWORD)
    signed = [
        await auth.sign_in(acme.id, EMAIL, PASSWORD, address="192.0.2.7", user_agent="\x1b[31mred")
        for _ in range(3)
    ]
    await auth.sign_in(acme.id, "bob@acme.example", PASSWORD)
    result = tenantry("session", "list", *ACME, "--json")
    listed = json.loads(result.out)
    assert [each["email"] for each in listed] == [EMAIL] * 3 + ["bob@acme.example"]
    assert [each["id"] for each in listed[:3]] == [each.session.id for each in reversed(signed)]
    assert not any(each.token.rpartition(".")[2] in result.out for each in signed)
    table = tenantry("session", "list", *ACME, "--user", EMAIL)
    assert table.out.count("192.0.2.7") == 3
    assert "\x1b" not in table.out
    assert all(each.session.id in table.out for each in signed)
    revoke = ("session", "revoke", *ACME, "--user", EMAIL)
    assert tenantry(*revoke, "--", signed[0].session.id).out == "1 session ended\n"
    with pytest.raises(AuthenticationError):
        await auth.validate(signed[0].token)
    await auth.validate(signed[1].token)
    assert tenantry(*revoke, "--all").out == "2 sessions ended\n"
    left = json.loads(tenantry("session", "list", *ACME, "--json").out)
    assert [each["email"] for each in left] == ["bob@acme.example"]


async def test_an_id_that_begins_with_a_hyphen_is_no_option(
    tenantry: Command, auth: Auth, acme: Tenant, admin: asyncpg.Connection
) -> None:
    """One in 64 does."""
    await auth.register(acme.id, EMAIL, PASSWORD)
    for odd in ("-AbCdEfGhIjKlMnOpQrStU", "--bCdEfGhIjKlMnOpQrStU", "-----------------hello"):
        await auth.sign_in(acme.id, EMAIL, PASSWORD)
        await admin.execute("UPDATE sessions SET id = $1", odd)
        revoked = tenantry("session", "revoke", odd, *ACME, "--user", EMAIL)
        assert revoked.out == "1 session ended\n"


async def test_expired_sessions_are_pruned(
    tenantry: Command, auth: Auth, acme: Tenant, admin: asyncpg.Connection
) -> None:
    """What has ended goes, what goes on stays, and the counts are printed."""
    await auth.register(acme.id, EMAIL, PASSWORD)
    for _ in range(2):
        await auth.sign_in(acme.id, EMAIL, PASSWORD)
    await admin.execute(
        "UPDATE sessions SET created_at = now() - interval '2 days',"
        " expires_at = now() - interval '1 hour'"
        " WHERE id = (SELECT min(id) FROM sessions)"
    )
    assert len(json.loads(tenantry("session", "list", *ACME, "--json").out)) == 1
    counts = json.loads(tenantry("session", "prune", "--json").out)
    assert counts["sessions"] == 1
    assert "sessions: 0 rows deleted" in tenantry("session", "prune").out
    assert await admin.fetchval("SELECT count(*) FROM sessions") == 1


async def test_an_api_key_is_rotated_and_taken_away(
    tenantry: Command, auth: Auth, acme: Tenant
) -> None:
    """The key alone is on stdout, so that `KEY=$(…)` works; the rest is on stderr."""
    first, second, third = (
        tenantry("tenant", "rotate-key", "acme"),
        tenantry("tenant", "rotate-key", "acme", "--grace", "0.5"),
        tenantry("tenant", "rotate-key", "acme", "--grace", "0"),
    )
    for result in (first, second, third):
        assert result.code == 0
        assert re.fullmatch(API_KEY_PATTERN + "\n", result.out)
        assert "tnt_" not in result.err
    assert (first.err, third.err) == ("", "")
    assert "works until" in second.err
    assert (await auth.authenticate_api_key(third.out.strip())).tenant_id == acme.id
    for old in (first, second):
        with pytest.raises(AuthenticationError):
            await auth.authenticate_api_key(old.out.strip())
    assert tenantry("tenant", "revoke-key", "acme").out == "revoked\n"
    assert "nothing to do" in tenantry("tenant", "revoke-key", "acme").out
    with pytest.raises(AuthenticationError):
        await auth.authenticate_api_key(third.out.strip())
