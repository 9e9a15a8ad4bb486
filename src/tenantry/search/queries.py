"""What a person has typed, taken apart: words, "phrases", -exclusions and OR."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass
from typing import Final

__all__ = ["MAX_CHARACTERS", "Query"]

MAX_CHARACTERS: Final = 4_000
"""Of a question's text are looked at; four pages say all that a search can use."""

MAX_DEMANDS: Final = 16
"""Phrases that are demanded, and as many that are excluded: each is looked for in every chunk."""

_MAX_PAIRS: Final = 128

_IDEOGRAPHS: Final = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Chinese characters and kana: what the SQL function tenantry.lexemes takes apart as well."""

_RUN: Final = re.compile(f"[{_IDEOGRAPHS}]+")
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
        required: Groups of phrases; one of each has to be there.
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
    def is_plain(self) -> bool:
        """Whether it has nothing but words, so that they may be looked for in other ways."""
        return not self.required and not self.excluded

    @classmethod
    def parse(cls, text: str) -> Query:
        """Take ``text`` apart. Whatever it is, it is a question: nothing is an error.

        ``"two words"`` have to stand side by side, ``-word`` and ``-"two words"`` must not be
        there, ``"one" OR "other"`` is satisfied by either. Other words are better found than not.
        The first 16 demands and the first 16 exclusions count.
        """
        text = _storable(text)[:MAX_CHARACTERS]
        words: list[str] = []
        excluded: list[str] = []
        required: list[tuple[str, ...]] = []
        joins = False  # the last token was OR, and the one before it a phrase
        last_is_phrase = False
        for token in _TOKEN.finditer(text.translate(_QUOTES)):
            phrase, word = token["phrase"], token["word"]
            content = phrase if word is None else word
            if token["minus"] and content.strip():
                excluded.append(_spaced(content))
                last_is_phrase = joins = False
            elif word == "OR":
                joins = last_is_phrase
                last_is_phrase = False
            elif word is not None:
                words.append(word)
                last_is_phrase = joins = False
            elif content.strip():
                words.append(content)
                group = (*required.pop(), _spaced(content)) if joins else (_spaced(content),)
                required.append(group)
                last_is_phrase, joins = True, False
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


def _storable(text: str) -> str:
    """Return ``text`` without NUL and lone surrogates, which PostgreSQL's text cannot hold."""
    return text.replace("\0", " ").encode(errors="replace").decode()


def _spaced(text: str) -> str:
    return re.sub(f"([{_IDEOGRAPHS}])", r" \1 ", text).strip()
