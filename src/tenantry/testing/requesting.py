"""A request for an operation: its parameters filled with the values of a tenant's rows."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import quote
from uuid import UUID

from tenantry.testing.openapi import Operation, Schemas, Slot, is_reference
from tenantry.testing.planting import Snapshot

__all__ = [
    "Filled",
    "Origin",
    "Rows",
    "candidates",
    "fillings",
    "mentioned",
    "request_of",
    "rows_of",
]

Origin = tuple[str, str]
"""The table and column that a value comes from."""
Rows = dict[Origin, list[Any]]
"""A tenant's values by their origin, the newest last."""

_TENANT: Final = re.compile(r"^(x_)?(tenant|organi[sz]ation|org|workspace|account|customer)(_|$)")
_MOST: Final = 12
_COMBINATIONS: Final = 24
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True)
class Filled:
    """Values for the slots of an operation.

    Args:
        values: What goes where.
        origins: Where it comes from.
        complete: Whether the body has its optional fields, too.
        headers: Headers that are not declared.
        query: Query parameters that are not declared.
        cookies: The same.
        body: Fields of the body that are not declared, or others than those made.
    """

    values: Mapping[Slot, Any] = field(default_factory=dict)
    origins: Mapping[Slot, Origin] = field(default_factory=dict)
    complete: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    cookies: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)

    def but(self, slot: Slot, value: Any, origin: Origin) -> Filled:
        """Return the same with another value in one slot."""
        return replace(
            self,
            values={**self.values, slot: value},
            origins={**self.origins, slot: origin},
        )


def rows_of(snapshot: Snapshot) -> Rows:
    """Return the values of a tenant's rows that a parameter may name."""
    found: Rows = {}
    for (table, _), row in snapshot.items():
        for name, value in row.items():
            named = isinstance(value, UUID | str | int) and not isinstance(value, bool)
            if named and value != "" and name != "tenant_id":
                found.setdefault((table, name), []).append(value)
    return found


def candidates(operation: Operation, slot: Slot, rows: Rows) -> list[tuple[Any, Origin]]:
    """Return what of a tenant's values may be meant by a slot, the likeliest first."""
    scored = [
        (score, origin)
        for origin in rows
        if (score := _score(operation, slot, origin)) > 0
        and _accepts(slot.schema, rows[origin][-1])
    ]
    scored.sort(key=lambda each: -each[0])
    found = [(value, origin) for _, origin in scored for value in reversed(rows[origin][-2:])]
    return found[:_MOST]


def _score(operation: Operation, slot: Slot, origin: Origin) -> int:
    table, column = origin
    name, one = slot.field, _singular(table)
    if _TENANT.match(name):
        wants = "slug" if "slug" in name or "name" in name else "id"
        return (
            9
            if (table, column) == ("tenants", wants)
            else 1
            if origin == ("tenants", "slug")
            else 0
        )
    before = operation.path.partition("{" + slot.name)[0].rstrip("/").rpartition("/")[2]
    near = slot.where == "path" and _singular(before.replace("-", "_")) in {
        one,
        one.rpartition("_")[2],
    }
    if column == "id" and re.fullmatch(rf"({one}|{one.rpartition('_')[2]})_(id|uuid)", name):
        return 8
    if near and (column == "id" if re.search(r"(^|_)(id|uuid)$", name) else column == name):
        return 7
    if column == name and name != "id":
        return 5
    if near and column == "id":
        return 4
    stored = slot.where == "path" or is_reference(slot.name, slot.schema)
    return 1 if column == "id" and stored else 0


def _singular(word: str) -> str:
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _accepts(schema: Mapping[str, Any], value: Any) -> bool:
    if schema.get("enum"):
        return value in schema["enum"]
    if schema.get("format") == "uuid":
        return isinstance(value, UUID) or _UUID.fullmatch(str(value)) is not None
    if schema.get("type") in {"integer", "number"}:
        return isinstance(value, int)
    return True


def fillings(
    operation: Operation, rows: Rows, schemas: Schemas, fixed: Mapping[str, Any]
) -> Iterator[Filled]:
    """Yield ways to fill an operation with a tenant's own values, the likeliest first."""
    given = {s: (fixed[s.name], ("", "")) for s in operation.slots if s.name in fixed}
    wanted = [s for s in operation.slots if s not in given and (s.required or s.where == "body")]
    choices: list[list[tuple[Slot, Any, Origin]]] = []
    for slot in wanted:
        found = [(slot, *each) for each in candidates(operation, slot, rows)]
        if slot.where == "path" or not found:
            made = schemas.value(slot.schema, complete=True)
            if slot.required:
                found.append((slot, made, ("", "")))
        if found:
            choices.append(found)
    body = {name: value for name, value in fixed.items() if not _is_parameter(operation, name)}
    combinations = list(itertools.islice(_nearest(choices), _COMBINATIONS))
    for complete in (True, False) if operation.body else (True,):
        for combination in combinations:
            usable = [each for each in combination if complete or each[0].required]
            values = {slot: value for slot, (value, _) in given.items()}
            values |= {slot: value for slot, value, _ in usable}
            origins = {slot: origin for slot, _, origin in usable if origin[0]}
            yield Filled(values, origins, complete, body=body)


def _is_parameter(operation: Operation, name: str) -> bool:
    return any(slot.name == name and slot.where != "body" for slot in operation.slots)


def _nearest(choices: list[list[tuple[Slot, Any, Origin]]]) -> Iterator[tuple[Any, ...]]:
    """Yield combinations, first those of the likeliest choices."""
    ranks = itertools.product(*(range(len(each)) for each in choices))
    for rank in sorted(itertools.islice(ranks, 20_000), key=sum):
        yield tuple(each[at] for each, at in zip(choices, rank, strict=True))


def request_of(operation: Operation, filled: Filled, schemas: Schemas) -> dict[str, Any]:
    """Return the arguments of ``httpx.AsyncClient.request``; the body's texts are ever new."""
    path, query, headers = operation.path, dict(filled.query), dict(filled.headers)
    cookies = dict(filled.cookies)
    for slot, value in filled.values.items():
        text = str(value)
        if slot.where == "path":
            path = re.sub(rf"{{{re.escape(slot.name)}(:\w+)?}}", quote(text, safe="-_."), path)
        elif slot.where in {"query", "header", "cookie"}:
            {"query": query, "header": headers, "cookie": cookies}[slot.where][slot.name] = text
    if cookies:
        headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
    made: dict[str, Any] = {"method": operation.method, "url": path, "headers": headers}
    if query:
        made["params"] = query
    if operation.body is not None:
        made |= _body(operation, filled, schemas)
    return made


def _body(operation: Operation, filled: Filled, schemas: Schemas) -> dict[str, Any]:
    body = schemas.value(operation.body, complete=filled.complete)
    if isinstance(body, dict):
        for slot, value in filled.values.items():
            if slot.where == "body":
                _put(body, slot.name.split("."), value)
        body |= filled.body
    if "json" in operation.media:
        return {"json": _plain(body)}
    if "multipart" in operation.media and isinstance(body, dict):
        properties = schemas.resolve(operation.body).get("properties", {})
        files = {n for n in body if schemas.resolve(properties.get(n)).get("format") == "binary"}
        files |= {n for n in body if "contentMediaType" in schemas.resolve(properties.get(n))}
        return {
            "data": {n: str(v) for n, v in body.items() if n not in files},
            "files": {n: (f"{n}.txt", str(body[n]).encode()) for n in files},
        }
    if isinstance(body, dict):
        return {"data": {name: str(value) for name, value in body.items()}}
    return {"content": str(body)}


def _put(body: dict[str, Any], names: list[str], value: Any) -> None:
    for name in names[:-1]:
        body = body.setdefault(name, {})
    body[names[-1]] = [value] if isinstance(body.get(names[-1]), list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def mentioned(request: Mapping[str, Any]) -> str:
    """Return all that a request says, in lower case: an answer may repeat it."""
    parts = (request.get(name) for name in ("url", "params", "headers", "json", "data", "content"))
    return " ".join(str(part) for part in parts if part).lower()
