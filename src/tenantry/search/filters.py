"""Filters on the metadata of documents, as the JSON path that PostgreSQL's index understands."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from tenantry.errors import InvalidValueError

__all__ = ["Filter", "filter_path"]

Scalar: TypeAlias = str | int | float | bool | None
Filter: TypeAlias = Mapping[str, Any]
"""Conditions on metadata, all of which have to hold:

    {"language": "de", "year": {"$gte": 2020}, "tags": {"$in": ["faq", "howto"]}}

A key's value is a string, number, boolean or None it has to equal, or operators: ``$eq``,
``$ne``, ``$gt``, ``$gte``, ``$lt``, ``$lte``, ``$in``, ``$nin``, ``$exists`` and, for strings,
``$prefix``. A dot leads into an object: ``"author.name"``. Of an array one element has to satisfy
the condition; ``$ne`` and ``$nin`` are satisfied where the key is absent. ``$and`` and ``$or`` take
a list of filters, ``$not`` takes one. A string is never equal to a number.
"""

_COMPARISONS: Final = {"$eq": "==", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_OPERATORS: Final = (*_COMPARISONS, "$ne", "$in", "$nin", "$exists", "$prefix")
_DEEPEST: Final = 16
_MAX_CONDITIONS: Final = 256
_MAX_BITS: Final = 4096
"""Python writes no more than 4,300 digits of a number, and metadata has none that long."""


def filter_path(where: Filter | None) -> str | None:
    """Return the JSON path predicate of a filter; None for none.

    Every key and every value becomes a quoted literal: nothing in them is syntax.

    Raises:
        InvalidValueError: An unknown operator, a value of another type than its operator takes,
            nested deeper than 16 filters, or more than 256 conditions.
    """
    if where is None:
        return None
    conditions = _Conditions()
    path = conditions.every(where, depth=0)
    return path or None


class _Conditions:
    """The conditions of one filter, counted."""

    def __init__(self) -> None:
        self.count = 0
        self.negations = 0

    def every(self, where: object, *, depth: int) -> str:
        if not isinstance(where, Mapping):
            raise InvalidValueError(
                f"A filter is a {type(where).__name__}; a dict is required, as in "
                '{"language": "de"}.'
            )
        if depth > _DEEPEST:
            raise InvalidValueError(f"The filter is nested deeper than {_DEEPEST} filters.")
        self._counted(0 if where else 1)
        return " && ".join(self._one(key, value, depth) for key, value in where.items())

    def _one(self, key: object, value: object, depth: int) -> str:
        if not isinstance(key, str):
            raise InvalidValueError(f"A filter's key is a {type(key).__name__}; a str is required.")
        if key in {"$and", "$or"}:
            return self._combined(key, value, depth)
        if key == "$not":
            self.negations += 1
            inner = self.every(value, depth=depth + 1) or "true == true"
            self.negations -= 1
            return f"!({inner})"
        if key.startswith("$"):
            raise InvalidValueError(
                f"{key!r} is not an operator for several keys; $and, $or and $not are. A key that "
                "begins with $ cannot be filtered on."
            )
        parts = key.split(".", _DEEPEST)
        if len(parts) > _DEEPEST:
            raise InvalidValueError(f"A filter's key leads deeper than {_DEEPEST} objects.")
        accessor = "$" + "".join(f".{_literal(part, key)}" for part in parts)
        if isinstance(value, Mapping):
            if not value:
                raise InvalidValueError(f"{key}: no operator; one of {', '.join(_OPERATORS)}.")
            each = [self._compared(accessor, key, *item) for item in value.items()]
            return f"({' && '.join(each)})"
        return self._compared(accessor, key, "$eq", value)

    def _combined(self, key: str, value: object, depth: int) -> str:
        if isinstance(value, str) or not isinstance(value, Sequence) or not value:
            raise InvalidValueError(f"{key} takes a list of at least one filter.")
        parts = [self.every(each, depth=depth + 1) or "true == true" for each in value]
        return "(" + (" && " if key == "$and" else " || ").join(f"({part})" for part in parts) + ")"

    def _counted(self, conditions: int) -> None:
        self.count += conditions
        if self.count > _MAX_CONDITIONS:
            raise InvalidValueError(f"The filter has more than {_MAX_CONDITIONS} conditions.")

    def _compared(self, accessor: str, key: str, operator: object, value: object) -> str:
        if operator in {"$in", "$nin"}:
            if isinstance(value, str | bytes) or not isinstance(value, Sequence) or not value:
                raise InvalidValueError(f"{key}: {operator} takes a list of at least one value.")
            self._counted(len(value))
            any_ = " || ".join(f"{accessor} == {_literal(each, key)}" for each in value)
            return self._definite(any_) if operator == "$in" else _negated(any_)
        self._counted(1)
        if operator == "$exists":
            if not isinstance(value, bool):
                raise InvalidValueError(f"{key}: $exists takes True or False.")
            return f"exists({accessor})" if value else f"!exists({accessor})"
        if operator == "$prefix":
            if not isinstance(value, str):
                raise InvalidValueError(f"{key}: $prefix takes a str.")
            return self._definite(f"{accessor} starts with {_literal(value, key)}")
        if operator == "$ne":
            return _negated(f"{accessor} == {_literal(value, key)}")
        if not isinstance(operator, str) or operator not in _COMPARISONS:
            raise InvalidValueError(
                f"{key}: {operator!r} is no operator; {', '.join(_OPERATORS)} are."
            )
        return self._definite(f"{accessor} {_COMPARISONS[operator]} {_literal(value, key)}")

    def _definite(self, condition: str) -> str:
        # A string compared with a number is neither equal nor different but unknown to PostgreSQL,
        # and what is unknown stays so when it is negated.
        return (
            f"(({condition}) && !(({condition}) is unknown))"
            if self.negations
            else f"({condition})"
        )


def _negated(condition: str) -> str:
    return f"(!({condition}) || ({condition}) is unknown)"


def _literal(value: object, key: str) -> str:
    """Return ``value`` as a JSON path literal."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    # int.__repr__ and float.__repr__, since an enumeration's or a NumPy number's own says more. In
    # brackets, or a negative one would be arithmetic.
    if isinstance(value, int) and value.bit_length() <= _MAX_BITS:
        return f"({int.__repr__(value)})"
    if isinstance(value, float) and math.isfinite(value):
        return f"({float.__repr__(value)})"
    if not isinstance(value, str):
        raise InvalidValueError(
            f"{key}: a {type(value).__name__} cannot be compared with; a str, a finite number of "
            "up to 1,200 digits, True, False or None can."
        )
    if "\0" in value or any("\ud800" <= each <= "\udfff" for each in value):
        raise InvalidValueError(
            f"{key}: the value contains NUL or a lone surrogate, which no metadata can hold."
        )
    return json.dumps(value, ensure_ascii=False)
