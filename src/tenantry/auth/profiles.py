"""Every security number of sign-in, in frozen, named profiles."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import Final

from tenantry.errors import ConfigurationError

__all__ = [
    "CEILING",
    "MAX_PASSWORD_BYTES",
    "OWASP_FLOOR",
    "RFC_9106_SECOND",
    "STANDARD",
    "STRICT",
    "TESTING",
    "TESTING_HASHING",
    "Argon2Parameters",
    "Profile",
]


MAX_PASSWORD_BYTES: Final = 1024
"""Longest password, in bytes of UTF-8 after NFC: our bound on the work of normalizing it."""

_LEAST_MAX_PASSWORD_BYTES: Final = 4 * 64
"""64 characters at least must be permitted: NIST SP 800-63B-4, section 3.1.1.2."""


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(f"{name} is {value!r}; a whole number above 0 is required.")


def _check_duration(name: str, value: object) -> None:
    if not isinstance(value, timedelta) or value <= timedelta(0):
        raise ConfigurationError(f"{name} is {value!r}; a timedelta above 0 is required.")


@dataclass(frozen=True, slots=True)
class Argon2Parameters:
    """What one Argon2id hash costs.

    Args:
        time_cost: Passes over the memory.
        memory_kib: Memory in KiB; at least 8 for each lane (RFC 9106, section 3.1).
        parallelism: Lanes. They are computed one after the other, in one thread.

    Raises:
        ConfigurationError: Argon2 does not permit these numbers.
    """

    time_cost: int
    memory_kib: int
    parallelism: int

    def __post_init__(self) -> None:
        for each in fields(self):
            _check_count(each.name, getattr(self, each.name))
        if self.memory_kib < 8 * self.parallelism:
            raise ConfigurationError(
                f"Argon2 with memory_kib={self.memory_kib} and parallelism={self.parallelism} is "
                f"not possible; at least {8 * self.parallelism} KiB are required."
            )

    @property
    def work(self) -> int:
        """Memory times passes, in KiB: what an attacker pays for each guess."""
        return self.time_cost * self.memory_kib

    def exceeds(self, ceiling: Argon2Parameters) -> bool:
        """Return whether memory, work or lanes are above those of ``ceiling``."""
        return (
            self.memory_kib > ceiling.memory_kib
            or self.work > ceiling.work
            or self.parallelism > ceiling.parallelism
        )


RFC_9106_SECOND: Final = Argon2Parameters(time_cost=3, memory_kib=65_536, parallelism=4)
"""RFC 9106, section 4, second recommended option: 3 passes over 64 MiB, 4 lanes."""

OWASP_FLOOR: Final = Argon2Parameters(time_cost=2, memory_kib=19_456, parallelism=1)
"""OWASP Password Storage Cheat Sheet: 2 passes over 19 MiB, 1 lane. Nothing less is accepted."""

CEILING: Final = Argon2Parameters(time_cost=3, memory_kib=262_144, parallelism=16)
"""What a stored hash may ask for at most: 256 MiB and four times the work of RFC_9106_SECOND.

It admits hashes brought from libsodium's "moderate" (3 passes over 256 MiB) and Django's (2 passes
over 100 MiB, 8 lanes). A row in the database must not be able to take all memory.
"""

TESTING_HASHING: Final = Argon2Parameters(time_cost=1, memory_kib=64, parallelism=1)
"""Some 0.1 ms, and no protection at all: for tests only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """The security numbers of sign-in.

    Args:
        hashing: What a password's hash costs.
        min_password_length: Shortest new password, in code points after NFC.
        max_password_bytes: Longest new password, in bytes of UTF-8; 256 to MAX_PASSWORD_BYTES.
        idle_timeout: A session that was not used for so long has ended.
        absolute_lifetime: A session ends after so long, used or not.
        max_sessions_per_user: The oldest goes when there would be more.
        device_lifetime: How long a device that has signed in before counts as known.
        max_devices_per_user: Known devices that are kept; the oldest goes.
        verify_email_lifetime: How long a token that proves an email is good for.
        reset_password_lifetime: How long a token that resets a password is good for.
        api_key_grace: How long the old API key works after a rotation.
        account_attempts: Failed sign-ins on one account, in a burst, before it is throttled.
        account_recovery: After the burst, one more attempt in so long: at most 1,450 guesses a
            day. OWASP ASVS 6.3.1 asks for a limit and leaves the number to us.
        address_attempts: The same from one address, behind which an office may be.
        address_recovery: The same from one address.
        for_tests: Permits ``hashing`` below OWASP_FLOOR.

    Raises:
        ConfigurationError: A number is not positive, the idle timeout is longer than the absolute
            lifetime, or hashing is below the floor or above the ceiling.
    """

    hashing: Argon2Parameters = RFC_9106_SECOND
    min_password_length: int
    max_password_bytes: int = MAX_PASSWORD_BYTES
    idle_timeout: timedelta
    absolute_lifetime: timedelta
    max_sessions_per_user: int = 20
    device_lifetime: timedelta = timedelta(days=180)
    max_devices_per_user: int = 20
    verify_email_lifetime: timedelta = timedelta(days=1)
    reset_password_lifetime: timedelta = timedelta(minutes=30)
    api_key_grace: timedelta = timedelta(days=1)
    account_attempts: int = 10
    account_recovery: timedelta = timedelta(minutes=1)
    address_attempts: int = 100
    address_recovery: timedelta = timedelta(seconds=6)
    for_tests: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.type == "int":
                _check_count(each.name, value)
            elif each.type == "timedelta":
                _check_duration(each.name, value)
        if self.idle_timeout > self.absolute_lifetime:
            raise ConfigurationError(
                f"idle_timeout is {self.idle_timeout}, longer than absolute_lifetime, "
                f"{self.absolute_lifetime}; it must not be. Shorten it."
            )
        if not _LEAST_MAX_PASSWORD_BYTES <= self.max_password_bytes <= MAX_PASSWORD_BYTES:
            raise ConfigurationError(
                f"max_password_bytes is {self.max_password_bytes}; "
                f"{_LEAST_MAX_PASSWORD_BYTES} to {MAX_PASSWORD_BYTES} is required."
            )
        self._check_hashing()

    def _check_hashing(self) -> None:
        if self.hashing.exceeds(CEILING):
            raise ConfigurationError(
                f"hashing is {self.hashing}, above what verification accepts; at most {CEILING} "
                "is required, with memory times passes no higher."
            )
        weak = self.hashing.memory_kib < OWASP_FLOOR.memory_kib
        if (weak or self.hashing.work < OWASP_FLOOR.work) and not self.for_tests:
            raise ConfigurationError(
                f"hashing is {self.hashing}, below the floor; at least {OWASP_FLOOR} is required. "
                "In tests, use the profile TESTING."
            )


STANDARD: Final = Profile(
    min_password_length=8,
    idle_timeout=timedelta(hours=24),
    absolute_lifetime=timedelta(days=30),
)
"""For most products. 8 code points: NIST SP 800-63B-4, section 3.1.1.2, beside a second factor,
and OWASP ASVS 6.2.1. 24 hours and 30 days: NIST SP 800-63B-4, section 2.1.3, AAL1."""

STRICT: Final = Profile(
    min_password_length=15,
    idle_timeout=timedelta(minutes=30),
    absolute_lifetime=timedelta(hours=12),
)
"""For administration and sensitive data. 15 code points: NIST SP 800-63B-4, section 3.1.1.2, for
a password that stands alone. 30 minutes and 12 hours: within its section 2.2.3, AAL2."""

TESTING: Final = Profile(
    hashing=TESTING_HASHING,
    min_password_length=STANDARD.min_password_length,
    idle_timeout=STANDARD.idle_timeout,
    absolute_lifetime=STANDARD.absolute_lifetime,
    for_tests=True,
)
"""STANDARD with hashes that cost nothing. For tests only: they protect no password."""
