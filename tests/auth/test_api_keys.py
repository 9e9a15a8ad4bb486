"""API keys: shown once, rotated without a gap, and found by scanners where they leak."""

from __future__ import annotations

import re
from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest

from tenantry import Database
from tenantry.auth import API_KEY_PATTERN, Auth
from tenantry.auth.tokens import read_api_key
from tenantry.errors import InvalidTokenError, InvalidValueError, TenantUnknownError
from tests.auth.conftest import Later, kinds
from tests.conftest import TenantPair

HOUR = timedelta(hours=1)


async def works(auth: Auth, key: str) -> bool:
    """Whether a key opens its tenant."""
    try:
        await auth.authenticate_api_key(key)
    except InvalidTokenError:
        return False
    return True


async def test_a_key_opens_its_tenant_and_says_so(auth: Auth, tenants: TenantPair) -> None:
    """The principal is the tenant: no user, no role, no session."""
    issued = await auth.issue_api_key(tenants.a.id)
    assert issued.previous_expires_at is None
    principal = await auth.authenticate_api_key(issued.key)
    assert (principal.tenant_id, principal.kind) == (tenants.a.id, "api_key")
    assert (principal.user_id, principal.role, principal.session_id) == (None, None, None)
    assert (principal.signed_in_at, principal.expires_at) == (None, None)


async def test_a_key_is_shown_once(
    auth: Auth, tenants: TenantPair, observer: asyncpg.Connection
) -> None:
    """Neither its repr nor any row of the database holds it, or its secret part."""
    first = await auth.issue_api_key(tenants.a.id)
    second = await auth.issue_api_key(str(tenants.a.id))
    tables = await observer.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    rows = "".join(
        [str(await observer.fetch(f'SELECT t::text FROM "{table[0]}" t')) for table in tables]
    )
    assert str(tenants.a.id) in rows
    for issued in (first, second):
        secret = issued.key.rpartition("_")[2]
        for text in (repr(issued), str(issued), rows):
            assert secret not in text
            assert secret.encode().hex() not in text


async def test_the_old_key_works_during_its_grace(
    auth: Auth, tenants: TenantPair, later: Later
) -> None:
    """By the database's clock; its principal says when it ends."""
    old = await auth.issue_api_key(tenants.a.id)
    new = await auth.issue_api_key(tenants.a.id, grace=2 * HOUR)
    assert new.previous_expires_at is not None
    await later(HOUR)
    principal = await auth.authenticate_api_key(old.key)
    assert principal.expires_at == new.previous_expires_at - HOUR
    assert (await auth.authenticate_api_key(new.key)).expires_at is None
    await later(HOUR)
    assert not await works(auth, old.key)
    assert await works(auth, new.key)


async def test_the_grace_is_the_profiles_unless_given(
    auth: Auth, tenants: TenantPair, later: Later
) -> None:
    """A day in the standard profile."""
    old = await auth.issue_api_key(tenants.a.id)
    await auth.issue_api_key(tenants.a.id)
    await later(23 * HOUR)
    assert await works(auth, old.key)
    await later(HOUR)
    assert not await works(auth, old.key)


async def test_two_rotations_in_a_row_end_the_first_key(auth: Auth, tenants: TenantPair) -> None:
    """There are never more than two."""
    first, second, third = [await auth.issue_api_key(tenants.a.id) for _ in range(3)]
    assert [await works(auth, each.key) for each in (first, second, third)] == [False, True, True]


async def test_without_grace_the_old_keys_end_at_once(auth: Auth, tenants: TenantPair) -> None:
    """Both of them: what has become known must not go on."""
    first, second = [await auth.issue_api_key(tenants.a.id) for _ in range(2)]
    third = await auth.issue_api_key(tenants.a.id, grace=timedelta(0))
    assert third.previous_expires_at is None
    assert [await works(auth, each.key) for each in (first, second, third)] == [False, False, True]


async def test_keys_are_taken_away(auth: Auth, tenants: TenantPair, db: Database) -> None:
    """The one in its grace too; the tenant may be given a new one, and others keep theirs."""
    kept = await auth.issue_api_key(tenants.b.id)
    keys = [await auth.issue_api_key(tenants.a.id) for _ in range(2)]
    assert await auth.revoke_api_key(tenants.a.id)
    assert not await auth.revoke_api_key(tenants.a.id)
    assert [await works(auth, each.key) for each in keys] == [False, False]
    assert await works(auth, kept.key)
    assert await works(auth, (await auth.issue_api_key(tenants.a.id)).key)
    assert not await works(auth, keys[-1].key)
    assert await kinds(db, tenants.a.id) == [
        "api_key_issued",
        "api_key_issued",
        "api_key_revoked",
        "api_key_issued",
    ]


async def test_a_key_of_another_tenant_opens_nothing(auth: Auth, tenants: TenantPair) -> None:
    """Not with the tenants exchanged either, even where the checksum is made to fit."""
    a, b = [(await auth.issue_api_key(tenant.id)).key for tenant in tenants]
    crossed = f"tnt_{tenants.b.id.hex}_{a.rpartition('_')[2]}"
    assert not await works(auth, crossed)
    assert not await works(auth, with_checksum(crossed[:-6]))
    assert (await auth.authenticate_api_key(b)).tenant_id == tenants.b.id


def with_checksum(start: str) -> str:
    """Complete a key as anybody could who knows how keys are made."""
    from tenantry.auth.tokens import _checksum

    return start + _checksum(start)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda key: "",
        lambda key: None,
        lambda key: key.encode(),
        lambda key: key[:-1],
        lambda key: key + "\n",
        lambda key: " " + key,
        lambda key: key.upper(),
        lambda key: key.replace("tnt_", "tnt-"),
        lambda key: key[:-6] + key[:-7:-1],
        lambda key: key[:-1] + ("A" if key[-1] != "A" else "B"),
        lambda key: with_checksum(key[:40] + ("A" if key[40] != "A" else "B") + key[41:-6]),
        lambda key: key * 12_000,
        lambda key: key.translate({ord(digit): chr(0xFF10 + int(digit)) for digit in "0123456789"}),
    ],
)
async def test_bad_keys_are_one_error(auth: Auth, tenants: TenantPair, spoil: object) -> None:
    """Whatever is wrong with one, it is refused without being quoted."""
    assert callable(spoil)
    issued = await auth.issue_api_key(tenants.a.id)
    with pytest.raises(InvalidTokenError) as caught:
        await auth.authenticate_api_key(spoil(issued.key))
    assert issued.key[-20:] not in repr(caught.value)
    assert await works(auth, issued.key)


async def test_a_wrong_checksum_is_not_looked_up(auth: Auth, tenants: TenantPair) -> None:
    """What only looks like a key costs no round trip."""
    key = (await auth.issue_api_key(tenants.a.id)).key
    assert read_api_key(key) is not None
    assert read_api_key(key[:-1] + ("A" if key[-1] != "A" else "B")) is None


async def test_a_grace_that_cannot_be_is_refused(auth: Auth, tenants: TenantPair) -> None:
    """Below nothing, or longer than PostgreSQL's calendar; the old key goes on."""
    key = (await auth.issue_api_key(tenants.a.id)).key
    for grace in (timedelta(microseconds=-1), timedelta(days=400), timedelta.max):
        with pytest.raises(InvalidValueError, match="grace"):
            await auth.issue_api_key(tenants.a.id, grace=grace)
    assert await works(auth, key)


async def test_a_tenant_that_is_not_there_has_no_key(auth: Auth) -> None:
    """To issue one is an error; to revoke one says that there was none."""
    with pytest.raises(TenantUnknownError):
        await auth.issue_api_key(uuid4())
    assert not await auth.revoke_api_key(uuid4())


# As gitleaks has them for such keys: a prefix, the alphabet, the length, and an end.
SCANNERS = (
    API_KEY_PATTERN,
    r"""\b(tnt_[0-9a-f]{32}_[0-9A-Za-z]{49})(?:['|\"|\n|\r|\s|\x60|;]|$)""",
    r"(?i)(?:key|api|token|secret)\w*\s*[=:]\s*[\"']?([0-9a-z\-_.=]{10,150})",
)


@pytest.mark.parametrize("scanner", SCANNERS)
async def test_scanners_find_a_key_where_it_leaks(
    auth: Auth, tenants: TenantPair, scanner: str
) -> None:
    """In code, in a configuration file and in a log, the whole of it is found."""
    key = (await auth.issue_api_key(tenants.a.id)).key
    for text in (f'API_KEY = "{key}"\n', f"tenantry_key: {key}\n", f"export TOKEN={key}"):
        found = re.search(scanner, text)
        assert found is not None
        assert key in (found[0], *found.groups())


async def test_keys_are_not_alike(auth: Auth, tenants: TenantPair) -> None:
    """Each has a secret of its own, with all letters in it: 256 bits of chance."""
    keys = [(await auth.issue_api_key(tenants.a.id)).key for _ in range(20)]
    secrets = [key.rpartition("_")[2][:-6] for key in keys]
    assert len(set(secrets)) == len(keys)
    assert all(len(set(secret)) > 20 for secret in secrets)
    assert len(set("".join(secrets))) == 62
