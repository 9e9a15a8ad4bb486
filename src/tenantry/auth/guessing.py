"""Whether a password is easily guessed: common, a pattern, or made of what is known of a user."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, Final

from tenantry.errors import PasswordRefusedError

__all__ = ["check_guessable"]

_GUESSES: Final = 10**6
"""Fewer guesses than this are too few: zxcvbn's scores 0 and 1 (Wheeler, USENIX Security 2016,
section 3: up to 10^6 are within reach of an attacker who guesses at a throttled sign-in)."""

# The estimate's time grows faster than the length; both ends tell enough.
_HEAD: Final = 24
_TAIL: Final = 16

# zxcvbn tries every reading of such characters: 64 of them at random take seconds.
_LEET: Final = str.maketrans("@({[<!|$+%", "acccciistx")
_MAX_LEET: Final = 1

_MAX_WORDS: Final = 40
_SHORTEST_WORD: Final = 3
_LEAST_REST: Final = 4


def check_guessable(password: str, *, personal: Iterable[str] = ()) -> None:
    """Refuse a password that an attacker would guess.

    Args:
        password: As it was typed; not longer than what `prepare` admits.
        personal: What an attacker knows: the email, the user's name, the tenant's name and slug.

    Raises:
        PasswordRefusedError: ``common`` or ``personal``.
    """
    folded = _folded(password)
    if not any(_is_visible(each) for each in folded):
        raise _common()
    words = tuple(_words(personal))
    if _rest(folded, words) < _LEAST_REST:
        raise _personal()
    analysis = _estimate(folded, words)
    if analysis["guesses"] < _GUESSES:
        used = {each.get("dictionary_name") for each in analysis["sequence"]}
        raise _personal() if "user_inputs" in used else _common()


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _is_visible(character: str) -> bool:
    return unicodedata.category(character)[0] not in "CZ"


def _words(personal: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for each in personal:
        whole = _folded(each[:320])
        parts = re.findall(r"[^\W_]+", whole)
        for word in (whole, "".join(parts), *parts):
            if len(word) >= _SHORTEST_WORD and word not in seen and len(seen) < _MAX_WORDS:
                seen.add(word)
                yield word


def _rest(folded: str, words: Iterable[str]) -> int:
    """Return how many visible characters are left without the words."""
    if not any(word in folded for word in words):
        return len(folded)
    for word in sorted(words, key=len, reverse=True):
        folded = folded.replace(word, " ")
    return sum(map(_is_visible, folded))


def _estimate(folded: str, words: tuple[str, ...]) -> Any:
    # 45 ms and 12 MiB to load, and only needed where somebody chooses a password.
    from zxcvbn.matching import RANKED_DICTIONARIES, omnimatch  # noqa: PLC0415
    from zxcvbn.scoring import most_guessable_match_sequence  # noqa: PLC0415

    looked_at = folded if len(folded) <= _HEAD + _TAIL else folded[:_HEAD] + folded[-_TAIL:]
    if sum(chr(each) in looked_at for each in _LEET) > _MAX_LEET:
        looked_at = looked_at.translate(_LEET)
    # Not zxcvbn(): it leaves one caller's words in a global, where another thread would use them.
    known = {word: rank for rank, word in enumerate(words, 1)}
    matches = omnimatch(looked_at, {**RANKED_DICTIONARIES, "user_inputs": known})
    return most_guessable_match_sequence(looked_at, matches)


def _common() -> PasswordRefusedError:
    return PasswordRefusedError(
        "The password is easily guessed: it is common, repeats itself or follows the keyboard. "
        "A few words that do not belong together are harder to guess.",
        reason="common",
    )


def _personal() -> PasswordRefusedError:
    return PasswordRefusedError(
        "The password is too close to the email, the name or the organization, which an attacker "
        "tries first. Choose one that has nothing to do with them.",
        reason="personal",
    )
