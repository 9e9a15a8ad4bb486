"""Emails: one form for each address, and every form fits the table."""

from __future__ import annotations

import time
import unicodedata

import asyncpg
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tenantry.auth.emails import account_of, canonical_email
from tenantry.errors import InvalidValueError


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("ada@acme.example", "ada@acme.example"),
        ("Ada.Lovelace@ACME.Example", "ada.lovelace@acme.example"),
        ("ada+tag@acme.example", "ada+tag@acme.example"),
        ("a@münchen.de", "a@xn--mnchen-3ya.de"),
        ("a@MU\u0308NCHEN.de", "a@xn--mnchen-3ya.de"),
        ("a@XN--MNCHEN-3YA.de", "a@xn--mnchen-3ya.de"),
        ("a@m\u3002example.com", "a@m.example.com"),
        ("u\u0308ber@acme.example", "über@acme.example"),
        ("ÜBER@acme.example", "über@acme.example"),
        ("İpek@acme.example", "i\u0307pek@acme.example"),
        ("straße@acme.example", "straße@acme.example"),
        ("strasse@acme.example", "strasse@acme.example"),
        ("o'hara!#$%&*+-/=?^_`{|}~@acme.example", "o'hara!#$%&*+-/=?^_`{|}~@acme.example"),
    ],
)
def test_spellings_of_an_address_become_one(text: str, canonical: str) -> None:
    """Case, Unicode and IDNA make no second address; what may be another mailbox stays apart."""
    assert canonical_email(text) == canonical
    assert account_of(text) == canonical


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "@"),
        ("@", "before the @"),
        ("ada", "@"),
        ("ada@", "after the @"),
        ("@acme.example", "before the @"),
        ("ada@acme@globex.example", "@"),
        ('"ada lovelace"@acme.example', "Quoting"),
        ("ada(comment)@acme.example", "invalid characters"),
        ("ada@(comment)acme.example", "invalid characters"),
        ("Ada <ada@acme.example>", "."),
        ("ada@acme.example,bob@acme.example", "."),
        ("ada@[127.0.0.1]", "."),
        ("ada@localhost", "period"),
        ("ada@acme.local", "special-use"),
        ("ada..lovelace@acme.example", "period"),
        (".ada@acme.example", "period"),
        ("ada@acme..example", "period"),
        ("ada@-acme.example", "hyphen"),
        (" ada@acme.example", "invalid characters"),
        ("ada@acme.example ", "invalid characters"),
        ("ada@acme.example\n", "control character"),
        ("a\0da@acme.example", "control character"),
        ("ada\r\nBcc: x@acme.example", "control character"),
        ("a\ud800@acme.example", "surrogate"),
        ("a\u202e@acme.example", "."),
        ("a" * 300 + "@acme.example", "too long"),
        ("a@" + "b." * 150 + "example", "too long"),
        ("Ⱥ" * 120 + "@acme.example", "at most 254"),
        (None, "NoneType"),
        (b"ada@acme.example", "bytes"),
    ],
)
def test_what_is_no_address_is_refused(text: str, says: str) -> None:
    """Anything but one plain address is refused in clear words, with nothing hanging on it."""
    with pytest.raises(InvalidValueError) as caught:
        canonical_email(text)
    assert says in str(caught.value)
    assert caught.value.__context__ is None
    assert str(caught.value).isprintable()


def test_ten_megabytes_are_refused_unread() -> None:
    """An address of 10 MB costs nothing."""
    text = "a" * 10_000_000 + "@acme.example"
    started = time.thread_time()
    with pytest.raises(InvalidValueError, match="at most 254"):
        canonical_email(text)
    account_of(text)
    assert time.thread_time() - started < 0.02


@pytest.mark.parametrize("text", ["", "ada", "a\0@x", "\ud800", "a@b@c", None, 5])
def test_what_is_no_address_is_no_account(text: str) -> None:
    """A sign-in with nonsense for an email is counted, under what no user's email can be."""
    account = account_of(text)
    assert "@" not in account
    assert account == account_of(text)
    assert account.isprintable()
    assert len(account) < 100


_LOCAL = st.text(
    st.one_of(
        st.sampled_from(
            "abcABC019.+_-'ÄäßẞİΣςǅﬁ\u0131\u017f\u03c3\u212a\u212b\u0301\u0308\u0345가ก"
        ),
        st.characters(exclude_categories=("Cs", "Cc", "Cn", "Co", "Zs")),
    ),
    min_size=1,
    max_size=30,
)
_DOMAIN = st.sampled_from(
    ["acme.example", "ACME.Example", "münchen.de", "MU\u0308NCHEN.DE", "xn--mnchen-3ya.de",
     "faß.de", "例え.jp", "ΑΣ.gr", "x.co.uk"]
)  # fmt: skip
_EMAIL = st.builds("{}@{}".format, _LOCAL, _DOMAIN)


def _canonical(text: str) -> str:
    try:
        return canonical_email(text)
    except InvalidValueError:
        assume(False)
        raise


@given(_EMAIL)
@example("İ@acme.example")
@example("ΑΣ@acme.example")
@example("\u1fc8@acme.example")
@settings(deadline=None)
def test_the_canonical_form_is_its_own(text: str) -> None:
    """The canonical form of a canonical form is itself, whatever was typed."""
    canonical = _canonical(text)
    assert canonical_email(canonical) == canonical
    assert canonical == canonical.lower()
    assert len(canonical.encode()) <= 254


@given(_EMAIL)
@settings(deadline=None)
def test_other_spellings_have_the_same_form(text: str) -> None:
    """Composed or decomposed, and the domain in any case: the same address."""
    canonical = _canonical(text)
    local, _, domain = text.rpartition("@")
    for spelling in (
        unicodedata.normalize("NFC", text),
        unicodedata.normalize("NFD", text),
        f"{local}@{domain.upper() if domain.isascii() else domain}",
        f"{local.lower()}@{domain}",
    ):
        assert canonical_email(spelling) == canonical, ascii(spelling)


async def test_the_database_takes_every_canonical_form(admin: asyncpg.Connection) -> None:
    """No canonical email is refused by the table: its lower case is PostgreSQL's, too."""
    made: set[str] = set()

    @given(st.lists(_EMAIL, min_size=5, max_size=5))
    @settings(deadline=None, max_examples=60, database=None)
    def make(texts: list[str]) -> None:
        for text in texts:
            try:
                made.add(canonical_email(text))
            except InvalidValueError:
                continue

    make()
    # Each letter that has another case, in every spelling.
    for code in range(0x20000):
        letter = chr(code)
        if letter.lower() != letter or letter.upper() != letter:
            try:
                made.add(canonical_email(f"{letter}@acme.example"))
            except InvalidValueError:
                continue
    assert len(made) > 1000
    await admin.execute("INSERT INTO tenants (name, slug) VALUES ('Acme', 'acme')")
    inserted = await admin.fetchval(
        """
        WITH new AS (
            INSERT INTO users (tenant_id, email, name)
            SELECT t.id, e, 'x' FROM tenants t, unnest($1::text[]) AS e RETURNING email
        ) SELECT count(*) FROM new
        """,
        sorted(made),
    )
    assert inserted == len(made)
