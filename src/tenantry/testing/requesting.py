"""A request for an operation: its parameters filled with the values of a tenant's rows."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import quote
from uuid import UUID

from tenantry.testing.markers import new_marker
from tenantry.testing.openapi import KEY, Operation, Slot, is_reference
from tenantry.testing.planting import Snapshot

__all__ = [
    "Filled",
    "Origin",
    "Rows",
    "accepts",
    "candidates",
    "fillings",
    "ids_by_name",
    "is_cursor",
    "is_meant",
    "json_text",
    "mentioned",
    "messages_for",
    "named_in",
    "request_of",
    "rows_of",
    "singular",
]

Origin = tuple[str, str]
"""The table and column that a value comes from."""
Rows = dict[Origin, list[Any]]
"""A tenant's values by their origin, the newest last."""

_PLACE: Final = re.compile(r"\{(\w+)\.(\w+)\}")
_ADDRESSES: Final = ("id", "channel", "room", "topic")
_TEXTS: Final = ("message", "text", "content", "body", "data", "query")
_CURSOR: Final = re.compile(r"(^|_)(cursor|after|before|next|page_token)$")
_NAMED: Final = re.compile(r"(^|_)(id|uuid|slug|filename)$")
_TENANT: Final = re.compile(r"^(x_)?(tenant|organi[sz]ation|org|workspace|account|customer)(_|$)")
_MOST: Final = 12
_COMBINATIONS: Final = 24
_NAMED_ROW: Final = 7
"""From this score on, a parameter's name or place names the table."""
_NAMED_COLUMN: Final = 4
"""From this score on, it names the column at least."""
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
        messages: What to say in a WebSocket.
    """

    values: Mapping[Slot, Any] = field(default_factory=dict)
    origins: Mapping[Slot, Origin] = field(default_factory=dict)
    complete: bool = True
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    cookies: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[str, ...] = ()

    def but(self, slot: Slot, value: Any, origin: Origin) -> Filled:
        """Return the same with another value in one slot."""
        return replace(
            self,
            values={**self.values, slot: value},
            origins={**self.origins, slot: origin},
        )


def messages_for(rows: Rows, given: Sequence[str] = ()) -> tuple[str, ...]:
    """Return what to say in a WebSocket.

    Args:
        rows: Whose values to name.
        given: Messages in which ``{widgets.id}`` stands for a value. Empty: they are guessed.
    """
    if given:
        return tuple(_PLACE.sub(lambda found: _value(rows, found), each) for each in given)
    ids = ids_by_name(rows)
    named = {name: each for one, each in ids.items() for name in (one, f"{one}_id")}
    texts = dict.fromkeys(_TEXTS, new_marker())
    objects = [
        {"type": "subscribe", **texts, **named, **dict.fromkeys(_ADDRESSES, each)}
        for each in ids.values()
    ]
    return (*(json.dumps(each) for each in objects), *ids.values())


def ids_by_name(rows: Rows) -> dict[str, str]:
    """Return an id of each table, by what one of its rows is called."""
    return {singular(t): str(values[-1]) for (t, name), values in rows.items() if name == "id"}


def json_text(operation: Operation, slot: Slot, rows: Rows) -> str:
    """Return JSON that names rows, for a parameter: as is declared for it, or an id of each table.

    Args:
        operation: Whose parameter it is.
        slot: The parameter.
        rows: Whose rows to name.
    """
    schema = slot.schema.get("contentSchema")
    if not schema:
        return json.dumps({f"{one}_id": each for one, each in ids_by_name(rows).items()})
    made = operation.schemas.value(schema, complete=True)
    for each in operation.schemas.references(schema):
        found = [value for value, _ in candidates(operation, each, rows, newest=1)]
        if found:
            several = each.schema.get("type") == "array"
            _fill(operation, made, each, found if several else found[0])
    return json.dumps(_plain(made))


def _value(rows: Rows, place: re.Match[str]) -> str:
    values = rows.get((place[1], place[2]))
    return str(values[-1]) if values else place[0]


def rows_of(snapshot: Snapshot) -> Rows:
    """Return the values of a tenant's rows that a parameter may name."""
    found: Rows = {}
    for (table, _), row in snapshot.items():
        for name, value in row.items():
            named = isinstance(value, UUID | str | int) and not isinstance(value, bool)
            if named and value != "" and name != "tenant_id":
                found.setdefault((table, name), []).append(value)
    return found


def named_in(answer: Any) -> Iterator[tuple[str, str | int]]:
    """Yield what of an answer a later request may name: ids, slugs, names of files, cursors."""
    if isinstance(answer, list):
        for each in answer:
            yield from named_in(each)
    elif isinstance(answer, dict):
        for key, value in answer.items():
            if isinstance(value, dict | list):
                yield from named_in(value)
            elif isinstance(value, str | int) and not isinstance(value, bool):
                if _CURSOR.search(key):
                    yield "cursor", value
                elif _NAMED.search(key):
                    yield key, value


def candidates(
    operation: Operation, slot: Slot, rows: Rows, *, newest: int = 2, most: int = _MOST
) -> list[tuple[Any, Origin]]:
    """Return what of a tenant's values may be meant by a slot, the likeliest first.

    Args:
        operation: Whose slot it is.
        slot: The slot.
        rows: The tenant's values.
        newest: So many of each column.
        most: So many in all.
    """
    scored = [
        (score, origin)
        for origin in rows
        if (score := _score(operation, slot, origin)) > 0 and accepts(slot.schema, rows[origin][-1])
    ]
    scored.sort(key=lambda each: -each[0])
    found = [(value, origin) for _, origin in scored for value in reversed(rows[origin][-newest:])]
    return found[:most]


def is_meant(operation: Operation, slot: Slot, origin: Origin) -> bool:
    """Return whether a slot's name or place says that it means values of an origin."""
    return _score(operation, slot, origin) >= _NAMED_COLUMN


def is_cursor(slot: Slot) -> bool:
    """Return whether a slot says where a list goes on."""
    return _CURSOR.search(slot.field) is not None


def _score(operation: Operation, slot: Slot, origin: Origin) -> int:
    """Return how likely a slot means values of an origin; 0: not at all."""
    if origin[1] == "cursor":
        return 8 if _CURSOR.search(slot.field) else 0
    as_row = _score_as_row(operation, slot, origin)
    if _TENANT.match(slot.field):
        # It may as well be a table's of that name: an application's own customers or accounts.
        return max(_score_as_tenant(slot.field, origin), as_row + 2 if as_row >= _NAMED_ROW else 0)
    return as_row


def _score_as_tenant(name: str, origin: Origin) -> int:
    wanted = "slug" if "slug" in name or "name" in name else "id"
    if origin == ("tenants", wanted):
        return 9
    return 1 if origin == ("tenants", "slug") else 0


def _score_as_row(operation: Operation, slot: Slot, origin: Origin) -> int:
    table, column = origin
    name, one = slot.field, singular(table)
    last = one.rpartition("_")[2]
    before = operation.path.partition("{" + slot.name)[0].rstrip("/").rpartition("/")[2]
    on_the_way = {singular(each.replace("-", "_")) for each in operation.path.split("/")}
    near = slot.where == "path" and singular(before.replace("-", "_")) in {one, last}
    wanted = "id" if re.search(r"(^|_)(id|uuid)$", name) else name
    stored = slot.where == "path" or is_reference(slot.name, slot.schema)
    ranks = (
        (8, column == "id" and re.fullmatch(rf"({one}|{last})_(id|uuid)", name)),
        (7, near and column == wanted),
        (6, column == "id" and name in {one, last}),
        (5, column == name and name != "id"),
        (4, near and column == "id"),
        (2, column == "id" and stored and one in on_the_way),
        (1, column == "id" and stored),
    )
    return next((rank for rank, holds in ranks if holds), 0)


def singular(word: str) -> str:
    """Return the name of one, for the name of a table or a part of a path."""
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def accepts(schema: Mapping[str, Any], value: Any) -> bool:
    """Return whether a value is of the type that a schema asks for."""
    if schema.get("type") == "array":
        return accepts(schema.get("items", {}), value)
    if schema.get("enum"):
        return value in schema["enum"]
    if schema.get("format") == "uuid":
        return isinstance(value, UUID) or _UUID.fullmatch(str(value)) is not None
    if schema.get("type") in {"integer", "number"}:
        return isinstance(value, int)
    return True


def fillings(operation: Operation, rows: Rows, fixed: Mapping[str, Any]) -> Iterator[Filled]:
    """Yield ways to fill an operation with a tenant's own values, the likeliest first."""
    given = {s: (fixed[s.name], ("", "")) for s in operation.slots if s.name in fixed}
    wanted = [s for s in operation.slots if s not in given and (s.required or s.where == "body")]
    choices: list[list[tuple[Slot, Any, Origin]]] = []
    for slot in wanted:
        found = [(slot, *each) for each in candidates(operation, slot, rows)]
        if slot.where == "path" or not found:
            made = operation.schemas.value(slot.schema, complete=True)
            if "contentSchema" in slot.schema:
                made = json_text(operation, slot, rows)
            if slot.required:
                found.append((slot, made, ("", "")))
        if found:
            choices.append(found)
    body = {name: value for name, value in fixed.items() if not _is_parameter(operation, name)}
    messages = messages_for(rows, operation.messages) if operation.is_socket else ()
    combinations = list(itertools.islice(_nearest(choices), _COMBINATIONS))
    for complete in (True, False) if operation.body else (True,):
        for combination in combinations:
            usable = [each for each in combination if complete or each[0].required]
            values = {slot: value for slot, (value, _) in given.items()}
            values |= {slot: value for slot, value, _ in usable}
            origins = {slot: origin for slot, _, origin in usable if origin[0]}
            yield Filled(values, origins, complete, body=body, messages=messages)


def _is_parameter(operation: Operation, name: str) -> bool:
    return any(slot.name == name and slot.where != "body" for slot in operation.slots)


def _nearest(choices: list[list[tuple[Slot, Any, Origin]]]) -> Iterator[tuple[Any, ...]]:
    """Yield combinations, first those of the likeliest choices."""
    ranks = itertools.product(*(range(len(each)) for each in choices))
    for rank in sorted(itertools.islice(ranks, 20_000), key=sum):
        yield tuple(each[at] for each, at in zip(choices, rank, strict=True))


def request_of(operation: Operation, filled: Filled) -> dict[str, Any]:
    """Return the arguments of ``httpx.AsyncClient.request``; the body's texts are ever new."""
    path, headers = operation.path, dict(filled.headers)
    query: dict[str, Any] = dict(filled.query)
    cookies = dict(filled.cookies)
    for slot, value in filled.values.items():
        text = str(value)
        if slot.where == "path":
            path = re.sub(rf"{{{re.escape(slot.name)}(:\w+)?}}", quote(text, safe="-_."), path)
        elif slot.where in {"query", "header", "cookie"}:
            said = [*map(str, value)] if isinstance(value, list) and slot.where == "query" else text
            {"query": query, "header": headers, "cookie": cookies}[slot.where][slot.name] = said
    if cookies:
        headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
    made: dict[str, Any] = {"method": operation.method, "url": path, "headers": headers}
    if query:
        made["params"] = query
    if operation.body is not None:
        made |= _body(operation, filled)
    if operation.is_socket:
        made["messages"] = list(filled.messages)
    return made


def _body(operation: Operation, filled: Filled) -> dict[str, Any]:
    body = operation.schemas.value(operation.body, complete=filled.complete)
    if isinstance(body, dict | list):
        for slot, value in filled.values.items():
            if slot.where == "body":
                _fill(operation, body, slot, value)
    if isinstance(body, dict):
        body |= filled.body
    if "json" in operation.media:
        return {"json": _plain(body)}
    if not isinstance(body, dict):
        return {"content": str(body)}
    files = _files(operation) & body.keys() if "multipart" in operation.media else set()
    made: dict[str, Any] = {"data": {n: _as_form(v) for n, v in body.items() if n not in files}}
    if files:
        contents = ((n, e) for n in sorted(files) for e in _listed(body[n]))
        made["files"] = [(n, (f"{n}.txt", str(each).encode())) for n, each in contents]
    return made


def _fill(operation: Operation, body: Any, slot: Slot, value: Any) -> None:
    names = slot.name.split(".")
    if names[-1] == KEY:
        names[-1] = str(value)
        value = operation.schemas.value(slot.schema["additionalProperties"], complete=True)
    _put(body, names, value)


def _put(body: Any, names: list[str], value: Any) -> None:
    for name, following in itertools.pairwise(names):
        if isinstance(body, list):
            body[:] = body or [{}]
            body = body[0]
        else:
            body = body.setdefault(name, [] if following == "0" else {})
    if isinstance(body, list):
        body[:] = [value]
    elif isinstance(body.get(names[-1]), list) and not isinstance(value, list):
        body[names[-1]] = [value]
    else:
        body[names[-1]] = value


def _files(operation: Operation) -> set[str]:
    resolve, found = operation.schemas.resolve, set()
    for name, declared in resolve(operation.body).get("properties", {}).items():
        schema = resolve(declared)
        schema |= resolve(schema.get("items", {}))
        if schema.get("format") == "binary" or "contentMediaType" in schema:
            found.add(name)
    return found


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _as_form(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_form(each) for each in value]
    return str(value).lower() if isinstance(value, bool) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def mentioned(request: Mapping[str, Any]) -> str:
    """Return all that a request says, in lower case: an answer may repeat it."""
    names = ("url", "params", "headers", "json", "data", "files", "content", "messages")
    parts = (request.get(name) for name in names)
    return " ".join(str(part) for part in parts if part).lower()
