"""Passwords: what is refused, what a hash holds, and that verifying takes the same work always."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
import threading
import time
import unicodedata
from datetime import timedelta

import pytest
from argon2.low_level import Type, hash_secret, hash_secret_raw, verify_secret
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantry.auth import argon2id, passwords
from tenantry.auth.argon2id import derive
from tenantry.auth.passwords import check_new, hash_password, prepare, verify
from tenantry.auth.profiles import (
    CEILING,
    OWASP_FLOOR,
    RFC_9106_SECOND,
    STANDARD,
    STRICT,
    TESTING,
    TESTING_HASHING,
    Argon2Parameters,
    Profile,
)
from tenantry.errors import ConfigurationError, PasswordRefusedError

PASSWORD = b"correct horse battery staple"
CHEAP = TESTING_HASHING


# Profiles


def test_the_profiles_have_the_numbers_of_the_design() -> None:
    """The two profiles hold what the design promises; the numbers of Argon2 are RFC 9106's."""
    assert dataclasses.astuple(RFC_9106_SECOND) == (3, 64 * 1024, 4)
    assert dataclasses.astuple(OWASP_FLOOR) == (2, 19 * 1024, 1)
    for profile, idle, lifetime, length in (
        (STANDARD, timedelta(hours=24), timedelta(days=30), 8),
        (STRICT, timedelta(minutes=30), timedelta(hours=12), 15),
    ):
        assert profile.hashing == RFC_9106_SECOND
        assert (profile.idle_timeout, profile.absolute_lifetime) == (idle, lifetime)
        assert (profile.min_password_length, profile.max_password_bytes) == (length, 1024)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hashing": Argon2Parameters(2, 19_455, 1)}, "below the floor"),
        ({"hashing": Argon2Parameters(1, 30_000, 1)}, "below the floor"),
        ({"hashing": Argon2Parameters(1, 4 * 2**20, 4)}, "above what verification accepts"),
        ({"idle_timeout": timedelta(days=31)}, "longer than absolute_lifetime"),
        ({"idle_timeout": timedelta(0)}, "a timedelta above 0"),
        ({"api_key_grace": 30}, "a timedelta above 0"),
        ({"account_attempts": 0}, "a whole number above 0"),
        ({"max_sessions_per_user": True}, "a whole number above 0"),
        ({"min_password_length": 8.0}, "a whole number above 0"),
        ({"max_password_bytes": 255}, "256 to 1024"),
        ({"max_password_bytes": 1025}, "256 to 1024"),
    ],
)
def test_a_profile_cannot_hold_numbers_that_protect_nothing(
    change: dict[str, object], message: str
) -> None:
    """A profile below the floor, above the ceiling or with nonsense in it is never made."""
    with pytest.raises(ConfigurationError, match=message):
        dataclasses.replace(STANDARD, **change)  # type: ignore[arg-type]


def test_argon2_refuses_what_it_cannot_compute() -> None:
    """Fewer than 8 KiB for each lane, or no passes, is refused when it is written down."""
    with pytest.raises(ConfigurationError, match="at least 32 KiB"):
        Argon2Parameters(1, 31, 4)
    with pytest.raises(ConfigurationError, match="time_cost is 0"):
        Argon2Parameters(0, 64, 1)


# Preparing


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("a" * 1025, "too_long"),
        ("é" * 513, "too_long"),
        ("nul\0inside", "not_text"),
        ("lone \ud800 surrogate", "not_text"),
        (b"bytes", "not_text"),
    ],
)
def test_what_is_no_password_is_refused_without_being_repeated(password: str, reason: str) -> None:
    """No text, NUL, lone surrogates and too many bytes are refused; the error holds none of it."""
    with pytest.raises(PasswordRefusedError) as caught:
        prepare(password)
    assert caught.value.reason == reason
    assert str(password)[:9] not in str(caught.value)
    assert caught.value.__context__ is None  # which would hold it, too


@pytest.mark.parametrize("letter", ["a", "\u0308", "\ud800", "가"])
def test_ten_megabytes_cost_nothing(letter: str) -> None:
    """A password of 10 MB is refused before anything looks at its letters."""
    password = letter * 10_000_000
    started = time.thread_time()
    with pytest.raises(PasswordRefusedError, match="too long"):
        prepare(password)
    assert time.thread_time() - started < 0.005


@given(st.text(max_size=200))
def test_every_spelling_of_a_password_is_the_same_password(text: str) -> None:
    """NFC and NFD of a text prepare to the same bytes, and what fits as NFC fits as NFD."""
    if "\0" in text:
        return
    composed = unicodedata.normalize("NFC", text)
    if len(composed.encode()) <= 1024:
        assert prepare(unicodedata.normalize("NFD", text)) == prepare(composed)


def test_a_password_may_have_all_its_bytes() -> None:
    """1,024 bytes are a password, spaces and emoji included; nothing is cut off."""
    password = "🐘 " * 204 + "abcd"
    assert prepare(password) == password.encode()
    stored = hash_password(prepare(password), CHEAP)
    assert verify(stored, prepare(password), parameters=CHEAP).ok
    assert not verify(stored, prepare(password[:-1] + "e"), parameters=CHEAP).ok


# New passwords

PERSONAL = ("ada.lovelace@acme.example", "Ada Lovelace", "Acme Widgets Ltd", "acme-widgets")


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("", "too_short"),
        ("kx7#Qz!", "too_short"),
        ("e\u0301" * 7, "too_short"),  # 14 code points as typed, 7 letters
        ("        ", "common"),
        ("\u200b" * 20, "common"),
        ("password", "common"),
        ("PASSWORD1", "common"),
        ("\uff50\uff41\uff53\uff53\uff57\uff4f\uff52\uff44", "common"),
        ("P@ssw0rd", "common"),
        ("qwertyuiop", "common"),
        ("12345678", "common"),
        ("aaaaaaaaaaaaaaaaaaaa", "common"),
        ("passwordpassword", "common"),
        ("a" * 1000, "common"),
        ("drowssap", "common"),
        ("ada.lovelace@acme.example", "personal"),
        ("AdaLovelace1", "personal"),
        ("lovelace2026", "personal"),
        ("acme-widgets!", "personal"),
        ("adaadaada", "personal"),
        ("WidgetsAcmeLovelace", "personal"),
    ],
)
def test_a_guessable_password_is_refused(password: str, reason: str) -> None:
    """Short, common, patterned and personal passwords are refused, each with its reason."""
    with pytest.raises(PasswordRefusedError) as caught:
        check_new(password, profile=STANDARD, personal=PERSONAL)
    assert caught.value.reason == reason
    assert password.lower() in {"", " " * 8, "password"} or password not in str(caught.value)


@pytest.mark.parametrize(
    "password",
    [
        "kx7#Qz!w",
        "tjwqzvkh",  # lower case alone: no rule of composition
        "83920174651",
        "correct horse battery staple",
        "die grüne Straße im Regen",
        "密码很长而且没有人会猜到",
        "lovelace bought nine umbrellas",
        "🐘🦒🦓🐆🦏🐊🦔🐿",
    ],
)
def test_a_good_password_of_any_kind_is_taken(password: str) -> None:
    """No composition rules: any script, spaces, digits alone; a name within more is no reason."""
    assert check_new(password, profile=STANDARD, personal=PERSONAL) == prepare(password)


def test_the_strict_profile_asks_for_fifteen_code_points() -> None:
    """Code points count, and not bytes: 14 letters of 4 bytes are too short, 15 are enough."""
    letters = "🐘🦒🦓🐆🦏🐊🦔🐿🦜🦩🐢🦎🐙🦀🐝"
    with pytest.raises(PasswordRefusedError, match="14 characters; at least 15"):
        check_new(letters[:14], profile=STRICT)
    assert check_new(letters, profile=STRICT)


def test_the_most_common_passwords_are_refused() -> None:
    """Every one of the 3,000 most common passwords that are long enough (OWASP ASVS 6.2.4)."""
    from zxcvbn.frequency_lists import FREQUENCY_LISTS

    long_enough = [each for each in FREQUENCY_LISTS["passwords"] if len(each) >= 8][:3000:20]
    assert len(long_enough) == 150
    for password in long_enough:
        with pytest.raises(PasswordRefusedError) as caught:
            check_new(password, profile=STANDARD)
        assert caught.value.reason == "common", password


@pytest.mark.parametrize(
    "password", ["4@8({[<369!1|70$5+%2" * 50, "0123456789@" * 90, "ab" * 500, "aab" * 300]
)
def test_no_password_makes_the_check_slow(password: str) -> None:
    """Passwords made to be slow to judge, one of them for minutes by zxcvbn, take under 0.25 s."""
    check_new("a warm-up, which loads the lists", profile=STANDARD)
    started = time.thread_time()
    with contextlib.suppress(PasswordRefusedError):
        check_new(password, profile=STANDARD)
    assert time.thread_time() - started < 0.25


@given(st.text(min_size=8, max_size=30), st.lists(st.text(max_size=20), max_size=3))
@settings(deadline=None, max_examples=50)
def test_judging_a_password_never_breaks(password: str, personal: list[str]) -> None:
    """Whatever the letters: a password is taken or refused, and nothing else is raised."""
    with contextlib.suppress(PasswordRefusedError):
        assert check_new(password, profile=STANDARD, personal=personal) == prepare(password)


def test_one_callers_words_are_not_used_for_another() -> None:
    """What is known of one user is neither kept nor used to judge another's password."""
    from zxcvbn.matching import RANKED_DICTIONARIES

    with pytest.raises(PasswordRefusedError):
        check_new("zyqwovexik7", profile=STANDARD, personal=["zyqwovexik"])
    assert check_new("zyqwovexik7", profile=STANDARD)
    assert "zyqwovexik" not in str(RANKED_DICTIONARIES.get("user_inputs"))


def test_signing_in_loads_no_word_lists() -> None:
    """The lists for new passwords are loaded by the first new password, and not on import."""
    code = (
        "import sys, tenantry.auth.passwords, tenantry.auth.emails, tenantry.auth.hashing; "
        "print([m for m in ('zxcvbn', 'email_validator', 'dns') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Hashing and verifying


def test_hashes_are_those_of_every_argon2_library() -> None:
    """Lanes computed in one thread give the hash that argon2-cffi gives, in both directions."""
    parameters = Argon2Parameters(2, 256, 4)
    expected = hash_secret_raw(PASSWORD, b"s" * 16, 2, 256, 4, 32, Type.ID)
    assert derive(PASSWORD, b"s" * 16, parameters, 32) == expected
    assert verify_secret(hash_password(PASSWORD, parameters).encode(), PASSWORD, Type.ID)
    theirs = hash_secret(PASSWORD, b"t" * 8, 2, 256, 4, 16, Type.ID).decode()
    assert verify(theirs, PASSWORD, parameters=parameters).ok


def test_a_hash_takes_no_thread_but_its_own() -> None:
    """All of a hash's CPU time is its own thread's: lanes start no threads."""
    process, thread = time.process_time(), time.thread_time()
    derive(PASSWORD, b"s" * 16, Argon2Parameters(2, 32_768, 4), 32)
    thread, process = time.thread_time() - thread, time.process_time() - process
    assert thread > 0.8 * process


def test_the_same_password_never_has_the_same_hash() -> None:
    """Each hash has a salt of its own, of 16 bytes, and says what it cost."""
    hashes = {hash_password(PASSWORD, CHEAP) for _ in range(20)}
    assert len(hashes) == 20
    known = argon2id.parse_phc(hashes.pop())
    assert known is not None
    assert (known.parameters, len(known.salt), len(known.digest)) == (CHEAP, 16, 32)


def test_a_hash_of_other_parameters_is_to_be_renewed() -> None:
    """Right password and other parameters: rehash. A wrong password never asks for it."""
    old = hash_password(PASSWORD, Argon2Parameters(1, 128, 2))
    assert verify(old, PASSWORD, parameters=CHEAP) == (True, True)
    assert verify(old, b"wrong", parameters=CHEAP) == (False, False)
    assert verify(hash_password(PASSWORD, CHEAP), PASSWORD, parameters=CHEAP) == (True, False)
    assert verify(hash_password(PASSWORD, CHEAP), b"wrong", parameters=CHEAP) == (False, False)


_GOOD = hash_secret(PASSWORD, b"s" * 16, 1, 64, 1, 32, Type.ID).decode()


@pytest.mark.parametrize(
    "stored",
    [
        None,
        "",
        "!",
        _GOOD[:-1],
        _GOOD[:-20],
        _GOOD[:40],
        _GOOD + "\n",
        _GOOD + "$",
        " " + _GOOD,
        _GOOD.replace("argon2id", "argon2i"),
        hash_secret(PASSWORD, b"s" * 16, 1, 64, 1, 32, Type.I).decode(),
        hash_secret(PASSWORD, b"s" * 16, 1, 64, 1, 32, Type.ID, 16).decode(),
        hash_secret(PASSWORD, b"s" * 16, 1, 64, 1, 8, Type.ID).decode(),
        _GOOD.replace("m=64", "m=0"),
        _GOOD.replace("m=64", "m=7"),
        _GOOD.replace("m=64", "m=٦٤"),
        _GOOD.replace("t=1", "t=-1"),
        _GOOD.replace("p=1", "p=99999999"),
        _GOOD.replace("c3Nz", "c3N"),
        "$2b$12$EixZaYVK1fsbw1ZfbX3OXePaWxn96p36WQoeG6Lruj3vjPGga31lW",
        "scrypt:32768:8:1$salt$00",
        "\ud800",
        "$" * 100_000,
    ],
)
def test_what_is_no_hash_of_ours_opens_nothing(stored: str | None) -> None:
    """Nothing, truncated, argon2i, bcrypt, garbage: not the password, and never an exception."""
    assert verify(stored, PASSWORD, parameters=CHEAP) == (False, False)


@pytest.mark.parametrize(
    "asks",
    ["m=4194304,t=1,p=4", "m=262145,t=1,p=1", "m=65536,t=13,p=4", "m=64,t=4000000000,p=1"],
)
def test_a_stored_hash_cannot_ask_for_all_memory_or_time(asks: str) -> None:
    """A row that asks for 4 GiB or for hours is refused for the price of a common hash."""
    stored = _GOOD.replace("m=64,t=1,p=1", asks)
    started = time.thread_time()
    assert verify(stored, PASSWORD, parameters=CHEAP) == (False, False)
    assert time.thread_time() - started < 0.1


def test_hashes_of_well_known_programs_are_below_the_ceiling() -> None:
    """What Django, argon2-cffi and libsodium write can be read, and the ceiling itself, too."""
    for costs in ("m=102400,t=2,p=8", "m=65536,t=3,p=4", "m=262144,t=3,p=1", "m=19456,t=2,p=1"):
        assert argon2id.parse_phc(_GOOD.replace("m=64,t=1,p=1", costs)) is not None, costs
    assert not CEILING.exceeds(CEILING)


@pytest.fixture
def derived(monkeypatch: pytest.MonkeyPatch) -> list[Argon2Parameters]:
    """The parameters of each hash that is computed from here on, in order."""
    seen: list[Argon2Parameters] = []

    def recorded(prepared: bytes, salt: bytes, parameters: Argon2Parameters, length: int) -> bytes:
        seen.append(parameters)
        return derive(prepared, salt, parameters, length)

    monkeypatch.setattr(passwords, "derive", recorded)
    return seen


@pytest.mark.parametrize(
    "stored",
    [None, "!", _GOOD.replace("m=64", "m=4194304"), hash_password(b"another one", CHEAP)],
    ids=["nothing", "garbage", "too dear", "wrong"],
)
def test_where_nothing_can_match_the_same_hash_is_computed(
    stored: str | None, derived: list[Argon2Parameters]
) -> None:
    """No user, no hash, a refused one and a wrong password: one hash of the current parameters."""
    verify(stored, PASSWORD, parameters=CHEAP)
    assert derived == [CHEAP]


@pytest.mark.parametrize(
    "parameters", [OWASP_FLOOR, Argon2Parameters(2, 65_536, 4)], ids=["floor", "fewer passes"]
)
def test_a_cheaper_hash_takes_the_work_of_a_current_one(parameters: Argon2Parameters) -> None:
    """It works for as long as current hashes were seen to take, and at most 5 % longer.

    With the true parameters. What else the machine does adds to the time and never takes away from
    it: so none may be shorter, and the least of them not much longer.
    """
    current = STANDARD.hashing
    stored = hash_password(b"another one", parameters)
    for _ in range(5):
        verify(None, PASSWORD, parameters=current)
    reference = passwords._References.median(current)
    seconds = []
    for _ in range(10):
        started = time.thread_time()
        verify(stored, PASSWORD, parameters=current)
        seconds.append(time.thread_time() - started)
    assert passwords._References.median(current) == reference
    assert reference <= min(seconds) < 1.05 * reference


def test_old_parameters_take_the_same_work_from_the_first_time_on(
    derived: list[Argon2Parameters],
) -> None:
    """Before any hash with the current parameters was measured, one is measured."""
    current = Argon2Parameters(3, 20_000, 1)
    old = hash_password(b"another one", CHEAP)
    started = time.thread_time()
    verify(old, PASSWORD, parameters=current)
    assert time.thread_time() - started >= passwords._References.median(current)
    assert derived.count(current) == 1


def test_without_memory_a_hash_is_refused_for_now() -> None:
    """When memory cannot be had the answer is "busy", and not "wrong password"."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**28, 2**28))\n"
        "from tenantry.auth.passwords import verify\n"
        "from tenantry.auth.profiles import CEILING\n"
        "from tenantry.errors import BusyError\n"
        "try: verify(None, b'x', parameters=CEILING)\n"
        "except BusyError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "not enough memory for a hash of 262,144 KiB" in done.stdout


def test_threads_do_not_mix_their_hashes() -> None:
    """Hashes computed at the same moment are each their own."""
    results: dict[int, bool] = {}

    def work(number: int) -> None:
        mine, other = b"password %d" % number, b"password %d" % (number + 1)
        stored = [hash_password(mine, CHEAP) for _ in range(20)]
        results[number] = all(
            verify(each, mine, parameters=CHEAP).ok and not verify(each, other, parameters=CHEAP).ok
            for each in stored
        )

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(8), True)


def test_the_testing_profile_differs_in_hashing_alone() -> None:
    """Tests with TESTING test STANDARD; nothing but the cost of a hash is another."""
    assert dataclasses.replace(TESTING, hashing=STANDARD.hashing, for_tests=False) == STANDARD
    assert isinstance(TESTING, Profile)
    assert passwords.verify(None, b"", parameters=TESTING.hashing) == (False, False)
