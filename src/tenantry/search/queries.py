"""What a person has typed, taken apart: words, "phrases", -exclusions and OR."""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from dataclasses import dataclass, field
from typing import Final

__all__ = ["MAX_CHARACTERS", "Query", "composed", "without_accents"]

MAX_CHARACTERS: Final = 4_000
"""Of a question's text are looked at; four pages say all that a search can use."""

MAX_DEMANDS: Final = 16
"""Phrases that are demanded, and as many that are excluded: each is looked for in every chunk."""

_MAX_PAIRS: Final = 128

_IDEOGRAPHS: Final = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Chinese characters and kana: what the SQL function tenantry.lexemes takes apart as well."""

_RUN: Final = re.compile(f"[{_IDEOGRAPHS}]+")
# PostgreSQL's parser drops the signs of such a name: it is spelled as people do who cannot type
# them, in texts by tenantry.lexemes and in questions here.
_NAME: Final = re.compile(r"(?<!\w)(?:([a-z])(\+\+|#)|\.net\b)", re.ASCII | re.IGNORECASE)
_SPELLED: Final = re.compile(r"\b(?:([a-z])(plusplus|sharp)|dotnet)\b", re.ASCII | re.IGNORECASE)
_SPELLINGS: Final = {"++": "plusplus", "#": "sharp"}
_SIGNS: Final = {"plusplus": r"\+\+", "sharp": "#"}

_TOKEN: Final = re.compile(r'(?P<minus>(?<!\S)-)?(?:"(?P<phrase>[^"]*)"?|(?P<word>[^\s"]+))')
# What phones and offices make of quotation marks.
_QUOTES: Final = str.maketrans("“”„«»", '"""""')


@dataclass(frozen=True, slots=True)
class Query:
    """A question's text, as the SQL functions take it.

    Args:
        text: The text as it was given, without what PostgreSQL cannot hold.
        words: All words that are looked for, those of phrases included.
        pairs: Neighbouring characters of scripts without spaces, spaced, as ``"退 款"``.
        required: Groups of phrases, and of words that are an alternative to one; of each group one
            has to be there.
        excluded: Phrases that must not be there.
    """

    text: str
    words: str
    pairs: tuple[str, ...]
    required: tuple[tuple[str, ...], ...]
    excluded: tuple[str, ...]

    @property
    def required_json(self) -> str:
        """``required`` as JSON."""
        return json.dumps(self.required)

    @property
    def signs(self) -> re.Pattern[str] | None:
        """What is looked for and PostgreSQL does not mark; None for nothing.

        In scripts without spaces: neighbours, and what stands alone. And names such as C++.
        """
        alone = [word for word in self.words.split() if _RUN.fullmatch(word)]
        names = [
            rf"(?<!\w){name[1]}{_SIGNS[name[2].lower()]}" if name[1] else r"(?<!\w)\.net\b"
            for name in _SPELLED.finditer(self.words)
        ]
        wanted = dict.fromkeys([*(pair.replace(" ", "") for pair in self.pairs), *alone, *names])
        return re.compile("|".join(wanted), re.ASCII | re.IGNORECASE) if wanted else None

    @property
    def correctable(self) -> str:
        """The words but for names such as C++: no other word is meant by them."""
        return _SPELLED.sub(" ", self.words)

    @property
    def is_plain(self) -> bool:
        """Whether it has nothing but words, so that they may be looked for in other ways."""
        return not self.required and not self.excluded

    @classmethod
    def parse(cls, text: str) -> Query:
        """Take ``text`` apart. Whatever it is, it is a question: nothing is an error.

        ``"two words"`` have to stand side by side, ``-word`` and ``-"two words"`` must not be
        there, ``"one phrase" OR "another" OR word`` is satisfied by any of them. Other words are
        better found than not, with or without OR. The first 16 demands and the first 16 exclusions
        count.
        """
        text = _storable(text)[:MAX_CHARACTERS]
        words: list[str] = []
        excluded: list[str] = []
        alternatives: list[_Alternatives] = []
        last: _Alternatives | None = None  # what an OR would join to
        joins = False
        for token in _TOKEN.finditer(composed(text).translate(_QUOTES)):
            phrase, word = token["phrase"], token["word"]
            content = _spelled(phrase if word is None else word)
            if word == "OR" and not token["minus"]:
                joins = last is not None
            elif not content.strip():
                continue
            elif token["minus"]:
                excluded.append(_spaced(content))
                last, joins = None, False
            else:
                words.append(content)
                if last is None or not joins:
                    last = _Alternatives()
                    alternatives.append(last)
                last.add(_spaced(content), is_phrase=word is None)
                joins = False
        required = [tuple(each.contents) for each in alternatives if each.has_phrase]
        joined = " ".join(words)
        runs = _RUN.findall(joined)
        pairs = [f"{a} {b}" for run in runs for a, b in itertools.pairwise(run)]
        return cls(
            text=text.strip(),
            words=_RUN.sub(lambda run: f" {run[0]} " if len(run[0]) == 1 else " ", joined),
            pairs=tuple(dict.fromkeys(pairs))[:_MAX_PAIRS],
            required=tuple(group[:MAX_DEMANDS] for group in required[:MAX_DEMANDS]),
            excluded=tuple(excluded[:MAX_DEMANDS]),
        )


@dataclass(slots=True)
class _Alternatives:
    """What OR joins, or what stands for itself; words alone demand nothing."""

    contents: list[str] = field(default_factory=list)
    has_phrase: bool = False

    def add(self, content: str, *, is_phrase: bool) -> None:
        self.contents.append(content)
        self.has_phrase |= is_phrase


def _storable(text: str) -> str:
    """Return ``text`` without NUL and lone surrogates, which PostgreSQL's text cannot hold."""
    return text.replace("\0", " ").encode(errors="replace").decode()


def composed(text: str) -> str:
    """Return ``text`` with letters and their accents as one sign, as tenantry.lexemes has it."""
    return unicodedata.normalize("NFC", text)


def without_accents(word: str) -> str:
    """Return ``word`` as who has no key for an accent types it."""
    letters = unicodedata.normalize("NFD", word)
    return composed("".join(each for each in letters if not unicodedata.combining(each)))


def _spelled(text: str) -> str:
    """Return ``text`` with names such as C++ in letters, as tenantry.lexemes has them."""
    return _NAME.sub(
        lambda name: f" {name[1]}{_SPELLINGS[name[2]]} " if name[1] else " dotnet ", text
    )


def _spaced(text: str) -> str:
    return re.sub(f"([{_IDEOGRAPHS}])", r" \1 ", text).strip()
