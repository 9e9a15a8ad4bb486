"""One form for each email address, so that a person has one account in a tenant."""

from __future__ import annotations

import re
import unicodedata
from hashlib import sha256
from typing import Final

from tenantry.errors import InvalidValueError

__all__ = ["account_of", "canonical_email"]

MAX_BYTES: Final = 254
"""Longest address in bytes of UTF-8: RFC 5321, section 4.5.3.1.3, erratum 1690."""

_MAX_INPUT: Final = 4 * MAX_BYTES
"""Longest spelling that is looked at, in code points: decomposed letters take several."""

_MAX_ROUNDS: Final = 4


def canonical_email(text: str) -> str:
    """Return the one form of an email address under which it is stored and looked up.

    Lower case, Unicode in NFC, the domain in ASCII (IDNA). Letters that only look alike stay
    different, as do dots and ``+tags``: they are other mailboxes at some provider. No mail server
    is asked.

    Raises:
        InvalidValueError: It is not an address that can receive mail from anywhere: two @,
            quotes, comments, a display name, control characters, a domain such as ``localhost``,
            or more than 254 bytes.
    """
    if not isinstance(text, str):
        raise InvalidValueError(f"The email is a {type(text).__name__}; a str is required.")
    if len(text) > _MAX_INPUT:
        raise InvalidValueError(
            f"The email has {len(text):,} characters; at most {MAX_BYTES} bytes are required."
        )
    if any(unicodedata.category(each) in {"Cc", "Cs"} for each in text):
        raise InvalidValueError(
            "The email contains a control character or a lone surrogate; remove it."
        )
    # Lower case may be spelled in more than one way, and be longer: "İ" becomes two letters.
    for _ in range(_MAX_ROUNDS):
        normalized = _normalized(text)
        if normalized == text:
            return text
        text = normalized
    raise InvalidValueError("The email has no one spelling in lower case. Use another address.")


def account_of(text: str) -> str:
    """Return what an attempt to sign in is looked up and counted under. It never raises.

    Returns:
        The canonical email; for what is no address, a text that no user can have as email.
    """
    try:
        return canonical_email(text)
    except InvalidValueError:
        start = str(text)[:_MAX_INPUT].encode("utf-8", "surrogatepass")
        return f"no address: {sha256(start).hexdigest()}"


def _normalized(text: str) -> str:
    # 40 ms to load, and only needed where somebody signs in.
    from email_validator import EmailNotValidError, validate_email  # noqa: PLC0415

    problem, parts = "", None
    try:
        parts = validate_email(text, check_deliverability=False)
    except EmailNotValidError as error:
        # After a colon or in brackets the library quotes letters of the address.
        problem = re.split(r"[:(]", str(error))[0].strip(" .")
    # Outside of the handler, so that the library's exception does not hang on ours with the text.
    if parts is None:
        raise InvalidValueError(f"The email cannot be used. {problem}.")
    domain = parts.ascii_domain or parts.domain
    normalized = unicodedata.normalize("NFC", f"{parts.local_part}@{domain}".lower())
    size = len(normalized.encode())
    if size > MAX_BYTES:
        raise InvalidValueError(
            f"The email is {size} bytes of UTF-8; at most {MAX_BYTES} are required."
        )
    return normalized
