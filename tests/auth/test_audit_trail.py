"""The audit trail: what happened to accounts, without a secret, and for good."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, get_args

import asyncpg
import pytest
from sqlalchemy import select

from tenantry import Database
from tenantry.auth import Auth, EventKind, Mail, SignedIn
from tenantry.errors import InvalidCredentialsError
from tenantry.schema import SecurityEvent
from tests.auth.conftest import EMAIL, PASSWORD, events, kinds
from tests.conftest import TenantPair, bind

NEW = "another fine day by the lake"
THIRD = "seven ducks crossed a bridge"
WRONG = "what somebody guessed"
BROWSER = "a browser of 2026"


class Life:
    """Everything that can happen to an account, in the first tenant; and its secrets."""

    def __init__(self, auth: Auth, tenants: TenantPair, mails: list[Mail]) -> None:
        self.auth, self.tenants, self.mails = auth, tenants, mails
        self.secrets = {PASSWORD, NEW, THIRD, WRONG}
        self.users: list[Any] = []

    async def live(self) -> None:
        """Let it happen, in the order that the test expects."""
        auth, tenant = self.auth, self.tenants.a.id
        owner = await auth.register(tenant, "owner@acme.example", None, role="owner")
        ada = await auth.register(tenant, EMAIL, PASSWORD, role="admin")
        self.users = [owner, ada]
        with pytest.raises(InvalidCredentialsError):
            await auth.sign_in(tenant, EMAIL, WRONG, address="192.0.2.7", user_agent=BROWSER)
        with pytest.raises(InvalidCredentialsError):
            await auth.sign_in(tenant, "nobody@acme.example", WRONG)
        first = await self._sign_in()
        await auth.sign_out(first.token)
        await self._sign_in()
        await self._sign_in()
        await auth.revoke_all(tenant, ada.id)
        with pytest.raises(InvalidCredentialsError):
            await auth.change_password(tenant, ada.id, WRONG, NEW)
        await auth.change_password(tenant, ada.id, PASSWORD, NEW, address="2001:db8::1")
        await auth.request_email_verification(tenant, ada.id)
        await auth.verify_email(await self._mailed())
        await auth.request_password_reset(tenant, EMAIL, address="192.0.2.9")
        await auth.reset_password(await self._mailed(), THIRD)
        await auth.set_password(tenant, ada.id, NEW)
        await auth.set_role(tenant, ada.id, "owner")
        await auth.disable_user(tenant, owner.id)
        await auth.enable_user(tenant, owner.id)
        await auth.delete_user(tenant, owner.id)
        for grace in (None, timedelta(0)):
            issued = await auth.issue_api_key(tenant, grace=grace)
            self.secrets |= {issued.key, issued.key.rpartition("_")[2]}
        await auth.revoke_api_key(tenant)

    async def _sign_in(self) -> SignedIn:
        signed_in = await self.auth.sign_in(
            self.tenants.a.id, EMAIL, PASSWORD, address="192.0.2.7", user_agent=BROWSER
        )
        self._keep(signed_in.token)
        self._keep(signed_in.device_token)
        return signed_in

    async def _mailed(self) -> str:
        async with asyncio.timeout(10):
            while not self.mails:  # noqa: ASYNC110 - the list is no task's to signal
                await asyncio.sleep(0.005)
        return self._keep(self.mails.pop().token)

    def _keep(self, token: str) -> str:
        self.secrets |= {token, token.rpartition(".")[2]}
        return token


@pytest.fixture
async def life(auth: Auth, tenants: TenantPair, mails: list[Mail]) -> Life:
    """A tenant that has seen everything, and another that has seen nothing."""
    lived = Life(auth, tenants, mails)
    await lived.live()
    return lived


async def test_every_kind_of_event_is_recorded(life: Life, db: Database) -> None:
    """In the order in which it happened, each once for each time; no kind is missing here."""
    assert await kinds(db, life.tenants.a.id) == [
        "registered",
        "registered",
        "sign_in_failed",
        "sign_in_failed",
        "sign_in",
        "sign_out",
        "sign_in",
        "sign_in",
        "sessions_revoked",
        "password_change_failed",
        "password_changed",
        "email_verified",
        "password_reset_requested",
        "password_reset",
        "password_set",
        "role_changed",
        "user_disabled",
        "user_enabled",
        "user_deleted",
        "api_key_issued",
        "api_key_issued",
        "api_key_revoked",
    ]
    assert set(await kinds(db, life.tenants.a.id)) == set(get_args(EventKind))


async def test_events_say_whose_account_and_from_where(life: Life, db: Database) -> None:
    """As far as it is known; where no account has the address, nobody's."""
    found = {each.kind: each for each in await events(db, life.tenants.a.id)}
    _, ada = life.users
    assert found["role_changed"].details == {"was": "admin", "role": "owner"}
    assert found["sessions_revoked"].details == {"count": 2}
    assert str(found["sign_in"].address) == "192.0.2.7"
    assert found["sign_in"].user_agent == BROWSER
    assert str(found["password_changed"].address) == "2001:db8::1"
    assert str(found["password_reset_requested"].address) == "192.0.2.9"
    failed = [e for e in await events(db, life.tenants.a.id) if e.kind == "sign_in_failed"]
    assert [each.user_id for each in failed] == [ada.id, None]
    assert found["api_key_revoked"].user_id is None


async def test_what_did_not_happen_is_not_recorded(auth: Auth, ada: Any, db: Database) -> None:
    """To disable the disabled, to revoke nothing, to sign out twice: no event."""
    tenant = ada.tenant_id
    await auth.set_role(tenant, ada.id, "member")
    await auth.enable_user(tenant, ada.id)
    await auth.revoke_all(tenant, ada.id)
    await auth.revoke(tenant, ada.id, "no session")
    assert not await auth.revoke_api_key(tenant)
    signed_in = await auth.sign_in(tenant, EMAIL, PASSWORD)
    assert [await auth.sign_out(signed_in.token) for _ in range(2)] == [True, False]
    await auth.disable_user(tenant, ada.id)
    await auth.disable_user(tenant, ada.id)
    assert await kinds(db, tenant) == ["registered", "sign_in", "sign_out", "user_disabled"]


async def test_the_trail_holds_no_secret(life: Life, observer: asyncpg.Connection) -> None:
    """No password, no token, no key, no hash of one, not even the address that was guessed at."""
    hashes = [
        row[0]
        for row in await observer.fetch(
            "SELECT hashed_password FROM users WHERE hashed_password IS NOT NULL"
            " UNION ALL SELECT encode(secret_hash, 'hex') FROM sessions"
        )
    ]
    rows = await observer.fetch("SELECT e::text FROM security_events e")
    trail = "\n".join(row[0] for row in rows)
    assert len(rows) == 22
    assert len(life.secrets) > 14
    for secret in (*life.secrets, *hashes, "$argon2", "nobody@"):
        assert secret not in trail


async def test_a_tenant_sees_its_own_trail(life: Life, db: Database) -> None:
    """The other tenant has none, and finds no event by its id."""
    own = await events(db, life.tenants.a.id)
    async with db.tenant(life.tenants.b.id) as tx:
        assert (await tx.scalars(select(SecurityEvent))).all() == []
        assert await tx.get(SecurityEvent, own[0].id) is None


REFUSED = (
    "UPDATE security_events SET kind = 'sign_out'",
    "UPDATE security_events SET details = '{}'",
    "UPDATE security_events SET tenant_id = tenant_id",
    "DELETE FROM security_events",
    "TRUNCATE security_events",
    "INSERT INTO security_events (tenant_id, kind, created_at)"
    " VALUES (tenantry.current_tenant(), 'sign_in', '2001-01-01')",
    "INSERT INTO security_events (tenant_id, id, kind)"
    " SELECT tenant_id, id, 'sign_out' FROM security_events LIMIT 1"
    " ON CONFLICT (tenant_id, id) DO UPDATE SET kind = excluded.kind",
    "MERGE INTO security_events e USING security_events o ON e.id = o.id WHEN MATCHED THEN DELETE",
    "SELECT FROM security_events FOR UPDATE",
    "ALTER TABLE security_events DISABLE ROW LEVEL SECURITY",
)


@pytest.mark.parametrize("statement", REFUSED)
async def test_the_application_adds_and_changes_nothing(
    auth: Auth, tenants: TenantPair, app: asyncpg.Connection, statement: str
) -> None:
    """PostgreSQL itself refuses to change, remove or antedate an event, for the own tenant too."""
    await auth.register(tenants.a.id, EMAIL, None)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with app.transaction():
            await bind(app, tenants.a.id)
            await app.execute(statement)
    async with app.transaction():
        await bind(app, tenants.a.id)
        await app.execute("INSERT INTO security_events (kind, details) VALUES ('own_kind', '{}')")
        found = await app.fetch("SELECT kind FROM security_events ORDER BY created_at")
    assert [row[0] for row in found] == ["registered", "own_kind"]


async def test_an_event_and_what_it_tells_of_stand_or_fall_together(
    auth: Auth, tenants: TenantPair, db: Database, admin: asyncpg.Connection
) -> None:
    """Where the trail cannot be written, nothing happens that it would not tell of."""
    ada = await auth.register(tenants.a.id, EMAIL, PASSWORD)
    await admin.execute(
        "ALTER TABLE security_events ADD CONSTRAINT full_ CHECK (kind = 'registered')"
    )
    for happening in (
        auth.disable_user(tenants.a.id, ada.id),
        auth.issue_api_key(tenants.a.id),
        auth.sign_in(tenants.a.id, EMAIL, PASSWORD),
        auth.set_password(tenants.a.id, ada.id, None),
    ):
        with pytest.raises(Exception, match="full_"):
            await happening
    assert await auth.users(tenants.a.id) == [ada]
    assert await auth.sessions(tenants.a.id, ada.id) == []
    assert not await auth.revoke_api_key(tenants.a.id)
