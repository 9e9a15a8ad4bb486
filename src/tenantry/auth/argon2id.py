"""Argon2id and its PHC strings, as plain functions: what libargon2 does, in one thread."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final, NamedTuple

from argon2.low_level import ARGON2_VERSION, Type, core, ffi

from tenantry.auth.profiles import CEILING, Argon2Parameters
from tenantry.errors import BusyError

__all__ = ["DIGEST_BYTES", "SALT_BYTES", "Stored", "derive", "format_phc", "parse_phc"]

SALT_BYTES: Final = 16
"""RFC 9106, section 3.1: 16 bytes are recommended for password hashing."""

DIGEST_BYTES: Final = 32
"""RFC 9106, section 4: a tag of 256 bits, in both recommended options."""

# 16 bytes of digest at least: a shorter one would be met by chance. Salts from 8 (RFC 9106).
_PHC: Final = re.compile(
    r"\$argon2id\$v=19\$m=([1-9][0-9]{0,9}),t=([1-9][0-9]{0,9}),p=([1-9][0-9]{0,7})"
    r"\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{22,86})"
)

_OUT_OF_MEMORY: Final = -22
"""libargon2's ARGON2_MEMORY_ALLOCATION_ERROR."""


class Stored(NamedTuple):
    """A stored hash, taken apart."""

    parameters: Argon2Parameters
    salt: bytes
    digest: bytes


def format_phc(stored: Stored) -> str:
    """Return a hash as the PHC string that every Argon2 library reads."""
    memory, time_cost = stored.parameters.memory_kib, stored.parameters.time_cost
    costs = f"m={memory},t={time_cost},p={stored.parameters.parallelism}"
    head = f"$argon2id$v={ARGON2_VERSION}${costs}"
    return f"{head}${_encoded(stored.salt)}${_encoded(stored.digest)}"


def derive(prepared: bytes, salt: bytes, parameters: Argon2Parameters, length: int) -> bytes:
    """Compute Argon2id in this thread alone.

    Args:
        prepared: The password's bytes.
        salt: 8 bytes or more.
        parameters: What it costs.
        length: Of the result, in bytes.

    Returns:
        The digest.

    Raises:
        BusyError: There is not enough memory.
    """
    # argon2-cffi's own functions start a thread for each lane. One sign-in would then take all
    # cores, for no more hashes in a second. The result is the same.
    out = ffi.new("uint8_t[]", length)
    # Names for what C points to: cffi frees it with its last name.
    secret_c, salt_c = ffi.new("uint8_t[]", prepared), ffi.new("uint8_t[]", salt)
    context = ffi.new(
        "argon2_context *",
        {
            "version": ARGON2_VERSION,
            "out": out,
            "outlen": length,
            "pwd": secret_c,
            "pwdlen": len(prepared),
            "salt": salt_c,
            "saltlen": len(salt),
            "t_cost": parameters.time_cost,
            "m_cost": parameters.memory_kib,
            "lanes": parameters.parallelism,
            "threads": 1,
        },
    )
    code = core(context, Type.ID.value)
    if code == _OUT_OF_MEMORY:
        raise BusyError(
            f"There is not enough memory for a hash of {parameters.memory_kib:,} KiB. Permit "
            "fewer hashes at a time, or give the process more.",
            retry_after_seconds=1,
        )
    if code != 0:  # pragma: no cover - the parameters were checked
        raise RuntimeError(f"libargon2 answers {code} to {parameters}.")
    return bytes(ffi.buffer(out, length))


def parse_phc(stored: str | None) -> Stored | None:
    """Take a stored hash apart.

    Returns:
        None where nothing is stored, or no Argon2id hash, or one that asks for more than CEILING.
    """
    found = _PHC.fullmatch(stored) if stored is not None else None
    if found is None:
        return None
    memory, time_cost, lanes = (int(each) for each in found.group(1, 2, 3))
    if memory < 8 * lanes:
        return None
    parameters = Argon2Parameters(time_cost=time_cost, memory_kib=memory, parallelism=lanes)
    salt, digest = (_decoded(each) for each in found.group(4, 5))
    if parameters.exceeds(CEILING) or salt is None or digest is None:
        return None
    return Stored(parameters, salt, digest)


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        return None
