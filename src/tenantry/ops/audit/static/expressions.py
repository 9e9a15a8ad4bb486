"""Policies' expressions as trees, so that parentheses and spelling make no difference.

PostgreSQL prints an expression anew from what it has parsed, with parentheses, casts and spelling
of its own. Declared text and printed text become the same tree where they mean the same. It is no
parser of SQL: what it does not know, such as a sub-select, becomes a leaf of its words, which is
equal to nothing but itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

__all__ = ["Node", "conjuncts", "parse", "uncast", "walk", "words"]

_KEPT: Final = 4_096
"""Results: tables have the same expressions as other tables, and keep them between two audits."""

_TOKEN: Final = re.compile(
    r"""\s+|(?P<string>[eE]?'(?:[^']|'')*')|(?P<number>\d+(?:\.\d+)?)
    |(?P<name>(?:"(?:[^"]|"")+"|[A-Za-z_][\w$]*)(?:\.(?:"(?:[^"]|"")+"|[A-Za-z_][\w$]*))*)
    |(?P<cast>::)|(?P<operator>[-+*/<>=~!@\#%^&|`?]+)|(?P<mark>.)""",
    re.VERBOSE | re.DOTALL,
)
_BINDING: Final = {
    **dict.fromkeys(("OR",), 1),
    **dict.fromkeys(("AND",), 2),
    **dict.fromkeys(("=", "<", ">", "<=", ">=", "<>", "!="), 5),
    **dict.fromkeys(("+", "-"), 8),
    **dict.fromkeys(("*", "/", "%"), 9),
}
_NOT: Final = 3
_IS: Final = 4
_OTHER: Final = 7
_MULTIPLE_WORDS: Final = (
    "bit varying",
    "character varying",
    "double precision",
    "time with time zone",
    "time without time zone",
    "timestamp with time zone",
    "timestamp without time zone",
)
_UNKNOWN: Final = frozenset(
    {"SELECT", "CASE", "BETWEEN", "IN", "LIKE", "ILIKE", "SIMILAR", "ANY", "ALL", "SOME"}
    | {"EXISTS", "ARRAY", "ROW", "COLLATE", "OPERATOR", "INTERVAL", "AT", "DISTINCT", "OVER"}
)


@dataclass(frozen=True, slots=True)
class Node:
    """A piece of an expression.

    Args:
        kind: ``name``, ``value``, ``call``, ``cast``, ``words``, or an operator.
        text: The name, value, function, type or words.
        parts: What it is made of.
    """

    kind: str
    text: str = ""
    parts: tuple[Node, ...] = ()


@lru_cache(maxsize=_KEPT)
def parse(expression: str | None, *, cases: bool = False) -> Node | None:
    """Return the tree of ``expression``, None for None.

    Args:
        expression: As declared or as PostgreSQL prints it.
        cases: Look into CASE. Of a policy it stays a leaf: what one of its branches demands, the
            policy does not.
    """
    if expression is None:
        return None
    tokens = words(expression)
    reader = _Reader(tokens, cases=cases)
    try:
        return reader.whole()
    except (_NotUnderstoodError, RecursionError):
        return Node("words", " ".join(tokens))


@lru_cache(maxsize=_KEPT)
def words(expression: str) -> tuple[str, ...]:
    """Return the tokens of ``expression``; names and keywords in one case where unquoted."""
    # A string's own text stays as it is, so it goes around the rest.
    return tuple(
        word if word[:1] == "'" else _plain(word)
        for match in _TOKEN.finditer(expression)
        if (word := match.group()).strip()
    )


def _plain(word: str) -> str:
    if re.fullmatch(r'"[a-z_]+"', word) and word[1:-1].upper() not in _KEYWORDS:
        return word[1:-1]  # as PostgreSQL prints "left", which is a keyword
    if '"' in word:
        return word
    # PostgreSQL prints the names of its own catalog without the schema.
    lowered = word.lower().removeprefix("pg_catalog.")
    return lowered.upper() if lowered.upper() in _KEYWORDS else lowered


def walk(node: Node) -> Iterator[Node]:
    """Return ``node`` and everything in it."""
    yield node
    for part in node.parts:
        yield from walk(part)


def conjuncts(node: Node) -> tuple[Node, ...]:
    """Return what ``node`` demands all of."""
    return node.parts if node.kind == "AND" else (node,)


def uncast(node: Node) -> Node:
    """Return ``node`` without the casts around it."""
    while node.kind == "cast":
        (node,) = node.parts
    return node


_KEYWORDS: Final = frozenset({"AND", "OR", "NOT", "IS", "NULL", "TRUE", "FALSE"}) | _UNKNOWN


class _NotUnderstoodError(Exception):
    pass


class _Reader:
    def __init__(self, tokens: tuple[str, ...], *, cases: bool) -> None:
        self._tokens = tokens
        self._cases = cases
        self._place = 0

    @property
    def at_end(self) -> bool:
        return self._place >= len(self._tokens)

    def _peek(self) -> str:
        return "" if self.at_end else self._tokens[self._place]

    def _next(self) -> str:
        word = self._peek()
        if not word:
            raise _NotUnderstoodError
        self._place += 1
        return word

    def _expect(self, word: str) -> None:
        if self._next() != word:
            raise _NotUnderstoodError

    def whole(self) -> Node:
        node = self.expression(0)
        if not self.at_end:
            raise _NotUnderstoodError
        return node

    def expression(self, binding: int) -> Node:
        left = self._prefix()
        while not self.at_end:
            word = self._peek()
            if word == "::":
                self._next()
                left = self._cast(left)
                continue
            strength = self._strength(word)
            if strength is None or strength <= binding:
                break
            self._next()
            left = self._infix(left, word, strength)
        return left

    def _strength(self, word: str) -> int | None:
        if word == "IS":
            return _IS
        if word in _BINDING:
            return _BINDING[word]
        return _OTHER if re.fullmatch(r"[-+*/<>=~!@#%^&|`?]+", word) else None

    def _infix(self, left: Node, word: str, strength: int) -> Node:
        if word == "IS":
            negated = self._peek() == "NOT" and bool(self._next())
            return Node("IS NOT" if negated else "IS", self._next(), (left,))
        right = self.expression(strength)
        if word in {"AND", "OR"}:  # a chain is one node, however it is bracketed
            parts = [
                part
                for each in (left, right)
                for part in (each.parts if each.kind == word else (each,))
            ]
            return Node(word, "", tuple(parts))
        return Node("<>" if word == "!=" else word, "", (left, right))

    def _prefix(self) -> Node:
        word = self._next()
        if word == "NOT":
            return Node("NOT", "", (self.expression(_NOT),))
        if word == "(":
            return self._group()
        if word == "CASE" and self._cases:
            return self._case()
        if word in _UNKNOWN or not re.match(r"""['"\w]""", word):
            raise _NotUnderstoodError
        if word[0] == "'" or word[0].isdigit() or word in {"TRUE", "FALSE", "NULL"}:
            return Node("value", word)
        return self._call(word) if self._peek() == "(" else Node("name", word)

    def _group(self) -> Node:
        start = self._place
        try:
            inner = self.expression(0)
            self._expect(")")
        except _NotUnderstoodError:
            self._place, depth = start, 1
            while depth:
                depth += {"(": 1, ")": -1}.get(self._next(), 0)
            return Node("words", " ".join(self._tokens[start : self._place - 1]))
        return inner

    def _case(self) -> Node:
        parts = [] if self._peek() == "when" else [self.expression(0)]
        # Which words stand where is part of what it means: CASE x WHEN and CASE WHEN x differ.
        order = ["case"] * len(parts)
        while self._peek() != "end":
            word = self._next()
            if word not in {"when", "then", "else"}:
                raise _NotUnderstoodError
            order.append(word)
            parts.append(self.expression(0))
        self._next()
        return Node("CASE", " ".join(order), tuple(parts))

    def _call(self, name: str) -> Node:
        self._expect("(")
        arguments: list[Node] = []
        while self._peek() != ")":
            arguments.append(self.expression(0))
            if self._peek() == ",":
                self._next()
        self._next()
        return Node("call", name, tuple(arguments))

    def _cast(self, inner: Node) -> Node:
        type_ = self._next()
        for several in _MULTIPLE_WORDS:
            rest = tuple(several.split())
            if self._tokens[self._place - 1 : self._place - 1 + len(rest)] == rest:
                self._place += len(rest) - 1
                type_ = several
        while self._peek() in {"(", "["}:
            opened = self._next()
            type_ += opened
            while self._peek() not in {")", "]"}:
                type_ += self._next()
            type_ += self._next()
        if inner.kind == "value" and type_ == "regconfig":
            inner = Node("value", inner.text.replace("'pg_catalog.", "'", 1))
        # PostgreSQL writes 'x' as 'x'::text.
        return inner if inner.kind == "value" and type_ == "text" else Node("cast", type_, (inner,))
