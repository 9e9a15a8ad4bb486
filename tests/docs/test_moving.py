"""What the page on moving from fastapi-users shows moves what fastapi-users has made."""

from __future__ import annotations

import os
from pathlib import Path

import asyncpg
import pytest

from tenantry import Database
from tenantry.auth import Auth
from tenantry.errors import AuthenticationError
from tenantry.settings import url_text
from tests.conftest import Server, TenantPair, Urls
from tests.docs.test_examples import blocks, run

# SQLAlchemyBaseUserTableUUID of fastapi-users 15.0.5, as SQLAlchemy makes it.
OLD_TABLE = """
    CREATE TABLE "user" (
        id UUID NOT NULL,
        email VARCHAR(320) NOT NULL,
        hashed_password VARCHAR(1024) NOT NULL,
        is_active BOOLEAN NOT NULL,
        is_superuser BOOLEAN NOT NULL,
        is_verified BOOLEAN NOT NULL,
        PRIMARY KEY (id)
    );
    CREATE UNIQUE INDEX ix_user_email ON "user" (email);
"""
PASSWORD = "seven ducks crossed a bridge"
# Both of that password, by pwdlib 0.3.0.
ARGON2ID = (
    "$argon2id$v=19$m=65536,t=3,p=4$WEZLzAVU2Ngv524oTZMKfQ"
    "$u5cP7gPvp39p+x2QO21ryev20Dl7rJdnZzNIoN0cGqg"
)
BCRYPT = "$2b$12$XNOWX6E2JJ0eiIOLX1kAzOjg7AuwXskBJQtb2KiDtSRUQBrwKNEnO"
OLD_USERS = [
    # email, hash, is_active, is_verified
    ("Ada@acme.example", ARGON2ID, True, True),
    ("bob@globex.example", BCRYPT, True, False),
    ("eve@acme.example", ARGON2ID, False, True),
    ("ada@ACME.example", ARGON2ID, True, True),
    ("who@acme.localhost", ARGON2ID, True, True),
    ("joe@nobody.example", ARGON2ID, True, True),
]


async def test_users_of_fastapi_users_move_and_sign_in(
    server: Server, urls: Urls, db: Database, tenants: TenantPair, tmp_path: Path
) -> None:
    """Argon2id passwords go on working, bcrypt ones do not, and a second run moves nobody."""
    (block,) = [each for each in blocks() if each.file == "move_users.py"]
    old = await server.create_database()
    connection = await asyncpg.connect(url_text(server.at(old)))
    await connection.execute(OLD_TABLE)
    for number, (email, hashed, active, verified) in enumerate(OLD_USERS):
        await connection.execute(
            'INSERT INTO "user" VALUES ($1, $2, $3, $4, false, $5)',
            f"00000000-0000-4000-8000-{number:012}",
            email,
            hashed,
            active,
            verified,
        )
    await connection.close()
    (tmp_path / "move_users.py").write_text(block.code, encoding="utf-8")
    os.environ["OLD_DATABASE_URL"] = url_text(server.at(old))
    try:
        page = block.page.read_text(encoding="utf-8")
        printed = run(tmp_path, urls, "move_users.py")
        assert f"```text\n{printed}```\n" in page
        assert "3 there already" in run(tmp_path, urls, "move_users.py")
    finally:
        del os.environ["OLD_DATABASE_URL"]
        await server.drop_database(old)

    auth = Auth(db)
    ada = (await auth.sign_in(tenants.a.id, "ada@acme.example", PASSWORD)).user
    assert str(ada.id) == "00000000-0000-4000-8000-000000000000"
    assert ada.email_verified_at is not None
    for tenant, email in ((tenants.b, "bob@globex.example"), (tenants.a, "eve@acme.example")):
        with pytest.raises(AuthenticationError):
            await auth.sign_in(tenant.id, email, PASSWORD)
    async with db.operator(reason="test") as tx:
        driver = await tx.connection()
        found = await driver.exec_driver_sql(
            "SELECT email, left(hashed_password, 30), disabled_at IS NULL FROM users ORDER BY 1"
        )
    assert [tuple(row) for row in found] == [
        ("ada@acme.example", ARGON2ID[:30], True),
        ("bob@globex.example", None, True),
        ("eve@acme.example", ARGON2ID[:30], False),
    ]
