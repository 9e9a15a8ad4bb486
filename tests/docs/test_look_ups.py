"""What the documentation shows to services in other languages works as it stands there."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg

from tenantry.ops import embedded
from tenantry.settings import url_text
from tests.conftest import TenantPair, Urls
from tests.docs.test_examples import blocks


async def shell(script: str, *, token: str, urls: Urls) -> str:
    """Run a script with what a service has: the application's URL and a token."""
    process = await asyncio.create_subprocess_exec(
        "sh",
        "-eu",
        "-c",
        script,
        env={
            "PATH": f"{Path(embedded.binary('psql')).parent}{os.pathsep}{os.environ['PATH']}",
            "TENANTRY_DATABASE_URL": url_text(urls.app),
            "TOKEN": token,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, err) == (0, b"")
    return out.decode()


async def test_a_service_in_another_language_validates_a_session(
    urls: Urls, admin: asyncpg.Connection, tenants: TenantPair
) -> None:
    """One call with psql: the user and role for the right token, and nothing for others."""
    (block,) = [each for each in blocks() if each.file == "validate.sh"]
    user: UUID = uuid4()
    for tenant in tenants:
        await admin.execute(
            "INSERT INTO users (tenant_id, id, email, name, role)"
            " VALUES ($1, $2, 'ada@acme.example', 'Ada', 'admin')",
            tenant.id,
            user,
        )
        await admin.execute(
            "INSERT INTO sessions (tenant_id, id, user_id, secret_hash, expires_at)"
            " VALUES ($1, 'one', $2, $3, now() + interval '1 hour')",
            tenant.id,
            user,
            hashlib.sha256(f"secret of {tenant.slug}".encode()).digest(),
        )
    good = f"{tenants.a.id}.one.secret of acme"
    assert await shell(block.code, token=good, urls=urls) == f"{user}|admin\n"
    for bad in (
        f"{tenants.a.id}.one.secret of globex",
        f"{tenants.b.id}.one.secret of acme",
        f"{tenants.a.id}.two.secret of acme",
        f"{tenants.a.id}.one.",
        f"{tenants.a.id}.' OR true --.secret of acme",
    ):
        assert await shell(block.code, token=bad, urls=urls) == ""
