"""An application's operations, from its OpenAPI document, and values for what they take."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

from tenantry.testing.markers import new_marker

__all__ = [
    "KEY",
    "SOCKET",
    "Operation",
    "Schemas",
    "Slot",
    "is_reference",
    "read_operations",
    "slots_of_path",
]

SOCKET: Final = "WEBSOCKET"
"""The method of an operation that is none of HTTP's."""

KEY: Final = "*"
"""What a key is called in the path of a field, where the keys of an object are values."""

_METHODS: Final = ("get", "head", "post", "put", "patch", "delete")
_SAFE: Final = frozenset({"GET", "HEAD"})
_DOOR: Final = "x-tenantry-door"
"""Marks the routes of signing in, which tenantry's own tests look at."""
_KEYS: Final = {"apiKey", "apiKeyHeader"}
"""The schemes of the door for programs."""
_JSON: Final = "application/json"
_DEEPEST: Final = 4
_LONGEST_CHAIN: Final = 20
_PATH_PARAMETER: Final = re.compile(r"\{(\w+)(?::\w+)?\}")
_REFERENCE: Final = re.compile(
    r"(^|_)(id|uuid|slug|tenant|workspace|organi[sz]ation|org|company|customer|account|key)s?$"
    r"|[a-z](Id|Ids|Uuid)$"
)


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in a request where a value goes.

    Args:
        where: ``path``, ``query``, ``header``, ``cookie`` or ``body``.
        name: Of a body, the path of the field with dots.
    """

    where: str
    name: str
    schema: Mapping[str, Any] = field(compare=False, hash=False)
    required: bool = field(compare=False)

    def __str__(self) -> str:
        return f"{self.where} {self.name}"

    @property
    def field(self) -> str:
        """The last part of the name, as ``widget_id`` for ``widgetId``."""
        name = self.name.rpartition(".")[2].replace("-", "_")
        return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


@dataclass(frozen=True, slots=True)
class Operation:
    """A method of a path.

    Args:
        method: As HTTP has it, or ``WEBSOCKET``.
        path: From the application's root, also where it is of a mounted application.
        slots: Declared parameters, and those fields of the body that name something else.
        body: The schema of the body, or None.
        media: Its media type.
        schemas: Those of the document that it is from.
        messages: What to say in a WebSocket, with ``{widgets.id}`` for values.
        by_key: Whether it takes the door's API keys, and nothing else.
    """

    method: str
    path: str
    slots: tuple[Slot, ...] = field(default=(), compare=False)
    body: Mapping[str, Any] | None = field(default=None, compare=False)
    media: str = field(default="application/json", compare=False)
    schemas: Schemas = field(default_factory=lambda: Schemas({}), compare=False, repr=False)
    messages: tuple[str, ...] = field(default=(), compare=False)
    by_key: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def is_safe(self) -> bool:
        """Whether it promises to change nothing."""
        return self.method in _SAFE

    @property
    def is_socket(self) -> bool:
        """Whether it is a WebSocket."""
        return self.method == SOCKET


class Schemas:
    """The schemas of a document, resolved, and values that fit them."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document

    def resolve(self, schema: Any) -> dict[str, Any]:
        """Return a schema without ``$ref``, ``allOf`` and alternatives; of these, the first."""
        found: dict[str, Any] = dict(schema) if isinstance(schema, Mapping) else {}
        for _ in range(_LONGEST_CHAIN):
            if "$ref" in found:
                found = {**self._referred(str(found.pop("$ref"))), **found}
            elif "allOf" in found:
                found = {**self._merged(found.pop("allOf")), **found}
            elif "anyOf" in found or "oneOf" in found:
                alternatives = [*found.pop("anyOf", ()), *found.pop("oneOf", ())]
                chosen = [each for each in alternatives if each.get("type") != "null"]
                found |= chosen[0] if chosen else {"type": "null"}
            else:
                break
        return found

    def _referred(self, reference: str) -> dict[str, Any]:
        target: Any = self._document
        for part in reference.removeprefix("#/").split("/"):
            target = target.get(part.replace("~1", "/").replace("~0", "~"), {})
        return dict(target)

    def _merged(self, schemas: list[Any]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for part in map(self.resolve, schemas):
            properties = {**merged.get("properties", {}), **part.get("properties", {})}
            required = [*merged.get("required", []), *part.get("required", [])]
            merged |= {**part, "properties": properties, "required": required}
        return merged

    def value(self, schema: Any, *, complete: bool, depth: int = 0) -> Any:
        """Return a value that fits; texts are ever new.

        Args:
            schema: Resolved or not.
            complete: With properties that are not required, unless they have a default.
            depth: How deep in another value it is; what refers to itself comes to an end.
        """
        schema = self.resolve(schema)
        kind = schema.get("type")
        kind = next((k for k in kind if k != "null"), None) if isinstance(kind, list) else kind
        for name in ("const", "enum", "example", "examples", "default"):
            free = kind == "string" and name in {"example", "examples"} and "pattern" not in schema
            if schema.get(name) is not None and not free and not isinstance(schema[name], Mapping):
                several = name in {"enum", "examples"}
                return schema[name][0] if several else schema[name]
        if kind == "object" or "properties" in schema:
            return self._object(schema, complete, depth)
        if kind == "array":
            count = max(schema.get("minItems", 0), 1 if complete and depth < _DEEPEST else 0)
            items = schema.get("items", {})
            return [self.value(items, complete=complete, depth=depth + 1) for _ in range(count)]
        if kind in {"integer", "number"}:
            return _number(schema)
        if kind in {"boolean", "null"}:
            return False if kind == "boolean" else None
        is_json = _JSON in str(schema.get("contentMediaType"))
        return self._json(schema, complete, depth) if is_json else _text(schema)

    def _json(self, schema: Mapping[str, Any], complete: bool, depth: int) -> str:
        inner = schema.get("contentSchema", {"type": "object"})
        return json.dumps(self.value(inner, complete=complete, depth=depth + 1))

    def _object(self, schema: Mapping[str, Any], complete: bool, depth: int) -> dict[str, Any]:
        required = schema.get("required", [])
        made = {}
        for name, each in schema.get("properties", {}).items():
            wanted = complete and depth < _DEEPEST and not self._has_default(each)
            if name in required or wanted:
                made[name] = self.value(each, complete=complete, depth=depth + 1)
        return made

    def _has_default(self, schema: Any) -> bool:
        return self.resolve(schema).get("default") is not None

    def references(self, schema: Any, prefix: str = "", depth: int = 0) -> Iterator[Slot]:
        """Yield the fields of a body that may name something, such as a tenant or a row.

        An element of a list has its number for a name: ``lines.0.widget_id``; a key of an object
        that may have any has `KEY`: ``counts.*``.
        """
        schema = self.resolve(schema)
        values = schema.get("additionalProperties")
        if values and "properties" not in schema:
            of_keys = self.resolve(schema.get("propertyNames", {}))
            key = {"type": "string", **of_keys, "additionalProperties": values}
            yield Slot("body", f"{prefix}{KEY}", key, False)
        if schema.get("type") == "array" and depth < _DEEPEST:
            item = self.resolve(schema.get("items", {}))
            if item.get("format") == "uuid":
                yield Slot("body", f"{prefix}0", item, False)
            yield from self.references(item, f"{prefix}0.", depth + 1)
        for name, each in schema.get("properties", {}).items():
            resolved, path = self.resolve(each), f"{prefix}{name}"
            item = self.resolve(resolved.get("items", {}))
            if "properties" not in item and is_reference(name, {**item, **resolved}):
                yield Slot("body", path, resolved, name in schema.get("required", []))
            elif depth < _DEEPEST:
                yield from self.references(resolved, f"{path}.", depth + 1)


def is_reference(name: str, schema: Mapping[str, Any]) -> bool:
    """Return whether a parameter or field of this name and type names something that is stored."""
    if schema.get("enum") or schema.get("type") in {"boolean", "object"}:
        return False
    if schema.get("format") == "uuid" or name.endswith(KEY):
        return True
    return _REFERENCE.search(name.replace("-", "_")) is not None


def _number(schema: Mapping[str, Any]) -> Any:
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    return low if high is None or low <= high else high


def _text(schema: Mapping[str, Any]) -> str:
    marker = new_marker()
    made: dict[str, str] = {
        "uuid": str(uuid4()),
        "date-time": datetime.now(UTC).isoformat(),
        "date": datetime.now(UTC).date().isoformat(),
        "time": "12:00:00",
        "email": f"{marker}@example.com",
        "uri": f"https://example.com/{marker}",
        "ipv4": "192.0.2.7",
        "ipv6": "2001:db8::7",
        "duration": "PT1S",
        "password": f"{marker} {marker}",
    }
    if schema.get("format") in made:
        return made[str(schema["format"])]
    text: str = marker + "z" * (schema.get("minLength", 0) - len(marker))
    longest: int = schema.get("maxLength", len(text))
    return str(text[:longest])


def read_operations(document: Mapping[str, Any], *, below: str = "") -> list[Operation]:
    """Return the operations of an OpenAPI document, in its order, without those of our own door.

    Args:
        document: The document.
        below: The path under which its application is mounted.
    """
    schemas, found = Schemas(document), []
    for path, item in document.get("paths", {}).items():
        for method in _METHODS:
            if method in item and not item[method].get(_DOOR):
                shared = item.get("parameters", [])
                found.append(
                    _operation(schemas, method.upper(), below + path, item[method], shared)
                )
    return found


def _as_text(parameter: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema of a parameter that is declared by what it contains, such as JSON."""
    for media, content in parameter.get("content", {}).items():
        inner = content.get("schema", {})
        return {"type": "string", "contentMediaType": media, "contentSchema": inner}
    return {}


def slots_of_path(path: str) -> dict[tuple[str, str], Slot]:
    """Return a slot for each parameter of a path, by place and name."""
    names = _PATH_PARAMETER.findall(path)
    return {("path", name): Slot("path", name, {"type": "string"}, True) for name in names}


def _operation(
    schemas: Schemas, method: str, path: str, declared: Mapping[str, Any], shared: list[Any]
) -> Operation:
    slots = slots_of_path(path)
    for each in (*shared, *declared.get("parameters", [])):
        parameter = schemas.resolve(each)
        where, name = str(parameter.get("in")), str(parameter.get("name"))
        schema = schemas.resolve(parameter.get("schema", _as_text(parameter)))
        slots[where, name] = Slot(where, name, schema, bool(parameter.get("required")))
    accepted = {name for each in declared.get("security", []) for name in each or [""]}
    by_key = accepted == _KEYS
    made = Operation(method, path, tuple(slots.values()), schemas=schemas, by_key=by_key)
    contents = schemas.resolve(declared.get("requestBody", {})).get("content", {})
    if not contents:
        return made
    media = next((each for each in contents if "json" in each), next(iter(contents)))
    body = schemas.resolve(contents[media].get("schema", {}))
    return replace(made, slots=(*made.slots, *schemas.references(body)), body=body, media=media)
