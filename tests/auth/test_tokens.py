"""Tokens: one spelling each, nothing else accepted, and nothing stored that opens anything."""

from __future__ import annotations

import asyncio
import base64
import itertools
import string
from collections.abc import Iterator
from dataclasses import replace
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tenantry.auth import Auth, Mail, SignedIn, UserInfo
from tenantry.auth.profiles import TESTING
from tenantry.auth.tokens import make_token, read_api_key, read_id, read_token
from tenantry.errors import InvalidCredentialsError, InvalidTokenError
from tests.auth.conftest import EMAIL, PASSWORD
from tests.conftest import TenantPair

ALPHABET = string.ascii_letters + string.digits + "-_"
TENANT = UUID("018f5e3a-7b1c-7def-8abc-0123456789ab")
TOKEN = make_token(TENANT)[0]


def spoiled(token: str, other: str) -> Iterator[object]:
    """Tokens that are almost `token`; `other` is another good one."""
    tenant, id_, secret = token.split(".")
    yield from (None, 7, b"", token.encode(), [token], bytearray(token.encode()), object())
    yield from ("", " ", ".", "..", tenant, f"{tenant}.{id_}", f"{tenant}.{id_}.", f"..{secret}")
    yield from (token[:-1], token[1:], token[: len(token) // 2], token + token)
    yield from (f"{tenant}.{secret}.{id_}", f"{id_}.{tenant}.{secret}", f"{secret}.{id_}.{tenant}")
    yield from (f"{token}.", f".{token}", f"{token}\n", f"\n{token}", f"{token} ", f" {token}")
    yield from (f"{token}\x00", f"{token}=", f"{token}.x", f"Bearer {token}", f'"{token}"')
    yield from (token + "\ufeff", "\ufeff" + token, token + "\ud800", token.replace(".", "\u2024"))
    yield f"{tenant.upper()}.{id_}.{secret}"
    yield f"{tenant.replace('-', '')}.{id_}.{secret}"
    yield f"{{{tenant}}}.{id_}.{secret}"
    yield from (token + "x" * 1_000_000, "x" * 1_000_000, "." * 1_000_000)
    # Digits and letters of other scripts, of the same length, that int() or casefold() would take.
    for zero in (0xFF10, 0x0660):
        for part in (token, tenant, id_, secret):
            digits = (chr(zero + int(each)) if each.isdecimal() else each for each in part)
            if (strange := "".join(digits)) != part:
                yield token.replace(part, strange)
    yield "".join(chr(ord(each) + 0xFEE0) for each in token)
    for at, each in enumerate(tenant):
        if each.isalpha():
            yield token[:at] + each.upper() + token[at + 1 :]
    yield from _swapped(token, other)
    yield _other_end(token)


def _swapped(token: str, other: str) -> Iterator[str]:
    for parts in itertools.product((0, 1), repeat=3):
        mixed = ".".join((token, other)[take].split(".")[at] for at, take in enumerate(parts))
        if mixed not in {token, other}:
            yield mixed


def _other_end(token: str) -> str:
    """The same bytes in another spelling: the last letter holds two bits that count for nothing."""
    last = ALPHABET_IN_ORDER.index(token[-1])
    same = token[:-1] + ALPHABET_IN_ORDER[last ^ 1]
    raw = [base64.urlsafe_b64decode(each.rpartition(".")[2] + "=") for each in (token, same)]
    assert raw[0] == raw[1]
    return same


ALPHABET_IN_ORDER = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"


async def test_bad_tokens_are_refused(auth: Auth, signed_in: SignedIn, tenants: TenantPair) -> None:
    """Each as invalid, alone and in a crowd, with one text that quotes nothing of it."""
    await auth.register(tenants.b.id, EMAIL, PASSWORD)
    other = await auth.sign_in(tenants.b.id, EMAIL, PASSWORD)
    mine = await auth.sign_in(tenants.a.id, EMAIL, PASSWORD)
    bad = [
        *spoiled(signed_in.token, other.token),
        *spoiled(signed_in.token, mine.token),
        signed_in.device_token,
        signed_in.session.id,
        (await auth.issue_api_key(tenants.a.id)).key,
    ]
    for token in bad:
        with pytest.raises(InvalidTokenError) as caught:
            await auth.validate(token)  # type: ignore[arg-type]
        assert caught.value.args == ("The session is not, or no longer, valid. Sign in again.",)
    calls = (auth.validate(token) for token in [*bad, signed_in.token])  # type: ignore[arg-type]
    *refused, good = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(each) for each in refused} == {InvalidTokenError}
    assert not isinstance(good, BaseException)


async def test_bad_api_keys_are_refused(auth: Auth, signed_in: SignedIn) -> None:
    """The same for keys; a session's token is none."""
    key = (await auth.issue_api_key(signed_in.user.tenant_id)).key
    head, secret = key[:37], key[37:]
    bad: list[object] = [
        None, 7, b"", key.encode(), "", "tnt_", head, secret, key[:-1], key[1:], key + "\n",
        " " + key, key + "=", key.upper(), key.replace("tnt_", "TNT_"), key * 2, "x" * 1_000_000,
        f"tnt_{uuid4().hex}_{secret}", head + secret[:-6] + "000000", head + "0" * 49,
        "".join(chr(0xFF10 + int(each)) if each.isdecimal() else each for each in key),
        signed_in.token, signed_in.device_token,
    ]  # fmt: skip
    for each in bad:
        with pytest.raises(InvalidTokenError):
            await auth.authenticate_api_key(each)  # type: ignore[arg-type]
    assert (await auth.authenticate_api_key(key)).kind == "api_key"


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(
        st.text(max_size=200),
        st.text(alphabet=ALPHABET + ".", min_size=103, max_size=103),
        st.from_regex(r"[\w-]{22}", fullmatch=True).map(lambda id_: f"{TENANT}.{id_}{TOKEN[-44:]}"),
        st.from_regex(r"[\w-]{43}", fullmatch=True).map(lambda secret: TOKEN[:60] + secret),
        st.tuples(st.integers(0, 102), st.characters()).map(
            lambda at: TOKEN[: at[0]] + at[1] + TOKEN[at[0] + 1 :]
        ),
        st.tuples(st.integers(0, 103), st.text(max_size=3)).map(
            lambda at: TOKEN[: at[0]] + at[1] + TOKEN[at[0] :]
        ),
    )
)
@example(TOKEN)
def test_any_other_text_is_another_token_or_none(text: str) -> None:
    """No two texts are read as the same token, whatever they are made of."""
    read = read_token(text)
    assert read != read_token(TOKEN) or text == TOKEN
    if read is not None:
        assert text.isascii()
        assert f"{read.tenant}.{read.id}." == text[:60]
        assert str(UUID(read.tenant)) == read.tenant
        assert read_id(read.id) == read.id
    assert read_api_key(text) is None
    assert read_id(text) in {"", text}


async def test_any_text_is_refused(auth: Auth, signed_in: SignedIn) -> None:
    """Whatever is not the token itself: InvalidTokenError, and no other exception."""
    texts: list[str] = []

    @settings(max_examples=300, deadline=None, database=None)
    @given(
        st.one_of(
            st.text(max_size=150),
            st.tuples(st.integers(0, 102), st.sampled_from(ALPHABET + ".\x00\n\u0660")).map(
                lambda at: signed_in.token[: at[0]] + at[1] + signed_in.token[at[0] + 1 :]
            ),
        )
    )
    def collect(text: str) -> None:
        texts.append(text)

    collect()
    calls = (auth.validate(each) for each in texts)
    for text, result in zip(
        texts, await asyncio.gather(*calls, return_exceptions=True), strict=True
    ):
        assert isinstance(result, InvalidTokenError) or text == signed_in.token


def test_tokens_do_not_repeat() -> None:
    """128 random bits find the row, 256 prove it; neither comes twice, and every bit moves."""
    made = [make_token(TENANT)[0].split(".") for _ in range(2000)]
    for at, size in ((1, 16), (2, 32)):
        raw = [base64.urlsafe_b64decode(each[at] + "==") for each in made]
        assert len(set(raw)) == len(raw)
        ones = [sum(value[bit // 8] >> bit % 8 & 1 for value in raw) for bit in range(size * 8)]
        assert all(700 < count < 1300 for count in ones)  # 13 standard deviations


async def test_a_copy_of_the_database_opens_nothing(
    auth: Auth, signed_in: SignedIn, ada: UserInfo, mails: list[Mail], observer: asyncpg.Connection
) -> None:
    """Every stored value, and every combination of them, tried as token, key and password."""
    real = [(await auth.issue_api_key(ada.tenant_id)).key for _ in range(2)]
    await auth.request_email_verification(ada.tenant_id, ada.id)
    await auth.request_password_reset(ada.tenant_id, EMAIL)
    await asyncio.gather(*auth._errands)
    assert len(mails) == 2
    secrets = [signed_in.token, signed_in.device_token, *(mail.token for mail in mails)]
    stolen: list[list[str]] = []
    for table in ("sessions", "tenants", "known_devices", "single_use_tokens", "users"):
        rows = await observer.fetch(f"SELECT * FROM {table}")
        assert rows
        stolen += [list(_spellings(row)) for row in rows]
    copied = " ".join(itertools.chain(*stolen))
    for whole, secret in [
        *((token, token.rpartition(".")[2]) for token in secrets),
        *((key, key.rpartition("_")[2]) for key in real),
    ]:
        assert len(secret) in {43, 49}
        assert whole not in copied
        assert secret not in copied
    await _try(auth, ada, stolen)
    await auth.validate(signed_in.token)
    for key in real:
        await auth.authenticate_api_key(key)
    for mail in mails:
        if mail.purpose == "verify_email":
            await auth.verify_email(mail.token)


def _spellings(row: asyncpg.Record) -> Iterator[str]:
    for value in row.values():
        if isinstance(value, bytes):
            plain = base64.urlsafe_b64encode(value).decode()
            yield from (value.hex(), plain, plain.rstrip("="), value.decode("latin-1"))
            yield (plain.replace("-", "0").replace("_", "0").rstrip("=") + "0" * 49)[:49]
        elif isinstance(value, UUID):
            yield from (str(value), value.hex)
        elif value is not None:
            yield str(value)


async def _try(auth: Auth, ada: UserInfo, stolen: list[list[str]]) -> None:
    """Try all that fits together as a token, a key, a mailed token, or a password."""
    tenant = str(ada.tenant_id)
    values = sorted({value for row in stolen for value in row})
    ids = [value for value in values if len(value) == 22] + [str(ada.id)]
    tokens = {f"{tenant}.{id_}.{value}" for id_ in ids for value in values} | set(values)
    keys = {f"tnt_{ada.tenant_id.hex}_{value}" for value in values} | set(values)
    tried = 0
    for token in sorted(tokens):
        for attempt in (auth.validate, auth.verify_email, auth.authenticate_api_key):
            with pytest.raises(InvalidTokenError):
                await attempt(token)
        with pytest.raises(InvalidTokenError):
            await auth.reset_password(token, "another fine day of may")
        assert not await auth.sign_out(token)
        tried += 1
    for key in sorted(keys):
        with pytest.raises(InvalidTokenError):
            await auth.authenticate_api_key(key)
    patient = Auth(
        auth._db, profile=replace(TESTING, account_attempts=10_000), hashing=auth.hashing
    )
    for value in values:
        with pytest.raises(InvalidCredentialsError):
            await patient.sign_in(ada.tenant_id, EMAIL, value)
    assert tried > 100
