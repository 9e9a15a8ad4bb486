"""Passwords: what a new one must be, hashing and verifying. Pure, and slow on purpose.

No rule of composition: length, and nothing easily guessed (NIST SP 800-63B-4, section 3.1.1.2,
and OWASP ASVS 5.0, section 6.2). `hashing` runs it beside an event loop.
"""

from __future__ import annotations

import hmac
import secrets
import statistics
import time
import unicodedata
from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from tenantry.auth.argon2id import (
    DIGEST_BYTES,
    SALT_BYTES,
    Stored,
    derive,
    format_phc,
    parse_phc,
)
from tenantry.auth.guessing import check_guessable
from tenantry.auth.profiles import MAX_PASSWORD_BYTES, Argon2Parameters, Profile
from tenantry.errors import PasswordRefusedError

__all__ = [
    "Verification",
    "check_new",
    "hash_password",
    "prepare",
    "verify",
]

_FILLER: Final = Argon2Parameters(time_cost=1, memory_kib=1024, parallelism=1)
"""About half a millisecond: the grain in which work is filled up."""


class Verification(NamedTuple):
    """What verifying a password has shown.

    Attributes:
        ok: Whether it is the password.
        rehash: Whether it is, and is stored with other parameters than the current ones: hash
            it anew and store that.
    """

    ok: bool
    rehash: bool


def prepare(password: str, *, max_bytes: int = MAX_PASSWORD_BYTES) -> bytes:
    """Return the bytes of a password that are hashed: UTF-8 of its NFC.

    The same letter typed on two keyboards may differ in code points; NIST SP 800-63B-4, section
    3.1.1.2, asks to normalize.

    Raises:
        PasswordRefusedError: Not a str, with NUL or a lone surrogate (``not_text``), or of more
            than ``max_bytes`` bytes (``too_long``). A long one costs nothing.
    """
    if not isinstance(password, str):
        raise PasswordRefusedError(
            f"The password is a {type(password).__name__}; a str is required.", reason="not_text"
        )
    # NFC shortens UTF-8 to a third at most.
    if len(password) > 3 * max_bytes:
        raise _too_long(max_bytes)
    # Looked for, and not left to encode(): its exception would carry the password.
    if "\0" in password or any("\ud800" <= each <= "\udfff" for each in password):
        raise PasswordRefusedError(
            "The password contains NUL or a lone surrogate, which no keyboard makes. Decode its "
            "source with the right encoding.",
            reason="not_text",
        )
    prepared = unicodedata.normalize("NFC", password).encode()
    if len(prepared) > max_bytes:
        raise _too_long(max_bytes)
    return prepared


def check_new(password: str, *, profile: Profile, personal: Iterable[str] = ()) -> bytes:
    """Check a password that somebody chooses, and return it prepared for hashing.

    Args:
        password: As it was typed.
        profile: How long it must be.
        personal: What an attacker knows: the email, the user's name, the tenant's name and slug.

    Raises:
        PasswordRefusedError: It is no text or too long (as `prepare` says), too short
            (``too_short``), easily guessed (``common``), or made of what is known of the user
            (``personal``). Of a password above 40 characters the first 24 and last 16 count.
    """
    prepared = prepare(password, max_bytes=profile.max_password_bytes)
    length = len(prepared.decode())
    if length < profile.min_password_length:
        raise PasswordRefusedError(
            f"The password has {length} characters; at least {profile.min_password_length} are "
            "required. A few words that do not belong together are easy to keep in mind.",
            reason="too_short",
        )
    check_guessable(password, personal=personal)
    return prepared


def hash_password(prepared: bytes, parameters: Argon2Parameters) -> str:
    """Return the hash of a prepared password as a PHC string, with a new random salt.

    Raises:
        BusyError: There is not enough memory.
    """
    salt = secrets.token_bytes(SALT_BYTES)
    digest = derive(prepared, salt, parameters, DIGEST_BYTES)
    return format_phc(Stored(parameters, salt, digest))


def verify(stored: str | None, prepared: bytes, *, parameters: Argon2Parameters) -> Verification:
    """Verify a prepared password against what is stored for a user.

    It takes the same work whatever is stored, so that its duration tells nothing: nothing at all
    (no such user, or one without a password), what is no Argon2id hash, one that asks for more
    than CEILING, and one with cheaper parameters than the current ones. A hash dearer than the
    current ones takes longer until its user signs in: who lowers the parameters shows which
    accounts there were before.

    Args:
        stored: A PHC string, or None.
        prepared: As `prepare` returns it.
        parameters: The current ones.

    Raises:
        BusyError: There is not enough memory.
    """
    started = time.thread_time()
    known = parse_phc(stored)
    if known is None:
        derive(prepared, bytes(SALT_BYTES), parameters, DIGEST_BYTES)
        _References.add(parameters, time.thread_time() - started)
        return Verification(ok=False, rehash=False)
    digest = derive(prepared, known.salt, known.parameters, len(known.digest))
    ok = hmac.compare_digest(digest, known.digest)
    if known.parameters == parameters:
        _References.add(parameters, time.thread_time() - started)
    else:
        _fill_up(started, parameters)
    return Verification(ok=ok, rehash=ok and known.parameters != parameters)


class _References:
    """How long a hash with the current parameters takes here, in seconds of CPU time."""

    _seen: Final[dict[Argon2Parameters, deque[float]]] = {}

    @classmethod
    def add(cls, parameters: Argon2Parameters, seconds: float) -> None:
        cls._seen.setdefault(parameters, deque(maxlen=15)).append(seconds)

    @classmethod
    def median(cls, parameters: Argon2Parameters) -> float:
        seen = cls._seen.get(parameters)
        if not seen:
            started = time.thread_time()
            derive(b"", bytes(SALT_BYTES), parameters, DIGEST_BYTES)
            cls.add(parameters, time.thread_time() - started)
            seen = cls._seen[parameters]
        return statistics.median(tuple(seen))


def _fill_up(started: float, parameters: Argon2Parameters) -> None:
    """Work until this thread has worked as long as a hash with ``parameters`` takes.

    Measured and not computed: what a pass costs depends on the allocator and the caches, and two
    fillers of the missing memory times passes were off by 7 to 31 %.
    """
    until = started + _References.median(parameters)
    while time.thread_time() < until:
        derive(b"", bytes(SALT_BYTES), _FILLER, DIGEST_BYTES)


def _too_long(max_bytes: int) -> PasswordRefusedError:
    return PasswordRefusedError(
        f"The password is too long; at most {max_bytes:,} bytes of UTF-8 are required.",
        reason="too_long",
    )
