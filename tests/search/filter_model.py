"""What filters on metadata promise, in Python, and examples of them."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from tenantry.search import Filter

__all__ = ["filters", "holds", "metadata"]

# Keys and values few enough to meet, and odd enough to hurt: syntax of JSON paths, SQL and Python.
KEYS = ["a", "b", 'q"uote', "back\\slash", "@", "ключ", "a b", "*", "?(@)", "%s", ":x", "\n\x01"]
SCALARS = [
    *(None, True, False, 0, 1, -1, 2.5, -0.5, 1e-7, 10**30, -(10**30), 1e300),
    *("", "1", "x", "xy", "X", "true", "null", '"', "\\", "'", "\\u0041", "$", "$.a", "*/"),
    *('" || true == true || "', "2024-02-29", "2024-03-01", "😀", "\x7f\u2028\t"),
]
scalars = st.sampled_from(SCALARS)
metadata = st.dictionaries(
    st.sampled_from(KEYS),
    scalars
    | st.lists(scalars, max_size=3)
    | st.dictionaries(st.sampled_from(KEYS), scalars, max_size=2),
    max_size=4,
)
conditions = (
    scalars
    | st.fixed_dictionaries({"$eq": scalars})
    | st.fixed_dictionaries({"$ne": scalars})
    | st.fixed_dictionaries({"$in": st.lists(scalars, min_size=1, max_size=3)})
    | st.fixed_dictionaries({"$nin": st.lists(scalars, min_size=1, max_size=3)})
    | st.fixed_dictionaries({"$exists": st.booleans()})
    | st.fixed_dictionaries({"$prefix": st.sampled_from([s for s in SCALARS if type(s) is str])})
    | st.dictionaries(
        st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), scalars, min_size=1, max_size=2
    )
)
paths = st.lists(st.sampled_from(KEYS), min_size=1, max_size=2).map(".".join)
filters: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.dictionaries(paths, conditions, max_size=2),
    lambda inner: (
        st.fixed_dictionaries({"$and": st.lists(inner, min_size=1, max_size=2)})
        | st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=2)})
        | st.fixed_dictionaries({"$not": inner})
    ),
    max_leaves=4,
)


def reached(value: Any, path: list[str]) -> list[Any]:
    """What a path leads to; arrays on the way are gone through."""
    if not path:
        return [value]
    if isinstance(value, list):
        return [each for item in value if isinstance(item, dict) for each in reached(item, path)]
    if isinstance(value, Mapping) and path[0] in value:
        return reached(value[path[0]], path[1:])
    return []


def kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    return "number" if isinstance(value, int | float) else type(value).__name__


_ORDER = {"$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le}


def compared(value: Any, name: str, wanted: Any) -> bool:
    if kind(value) != kind(wanted) or kind(value) in {"list", "dict"}:
        return False
    if name == "$eq":
        return bool(value == wanted)
    if value is None:
        return name in {"$gte", "$lte"}
    if name == "$prefix":
        return isinstance(value, str) and value.startswith(wanted)
    return bool(_ORDER[name](value, wanted))


def condition_holds(values: list[Any], name: str, wanted: Any) -> bool:
    items = [each for value in values for each in (value if isinstance(value, list) else [value])]
    match name:
        case "$exists":
            return bool(values) is wanted
        case "$ne":
            return not any(compared(item, "$eq", wanted) for item in items)
        case "$in" | "$nin":
            found = any(compared(item, "$eq", each) for item in items for each in wanted)
            return found is (name == "$in")
        case _:
            return any(compared(item, name, wanted) for item in items)


def holds(where: Filter, document: Mapping[str, Any]) -> bool:
    """What the documentation of `Filter` promises, in Python."""
    for key, value in where.items():
        match key:
            case "$and":
                good = all(holds(each, document) for each in value)
            case "$or":
                good = any(holds(each, document) for each in value)
            case "$not":
                good = not holds(value, document)
            case _:
                values = reached(document, key.split("."))
                wanted = value if isinstance(value, Mapping) else {"$eq": value}
                good = all(condition_holds(values, *each) for each in wanted.items())
        if not good:
            return False
    return True
