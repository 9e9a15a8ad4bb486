"""What an application has: the operations of its document, and what its document leaves out.

An application that is made with Starlette, as those of FastAPI are, shows its routes. What is found
there and cannot be walked is named, so that it does not pass for isolated.
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any, Final, cast

import httpx
from pydantic import TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from tenantry.errors import ConfigurationError
from tenantry.testing.applications import App
from tenantry.testing.openapi import SOCKET, Operation, Slot, read_operations, slots_of_path

__all__ = ["UNSEEN", "Surface", "survey"]

UNSEEN: Final = "Routes outside the document"
"""What is named of an application that does not show its routes."""

_OK: Final = 200
_DEEPEST: Final = 10
_OF_THE_DOCUMENT: Final = ("openapi_url", "docs_url", "redoc_url", "swagger_ui_oauth2_redirect_url")
_IMPLIED: Final = frozenset({"HEAD", "OPTIONS"})


@dataclass
class Surface:
    """What can be asked of an application.

    Args:
        operations: What can be walked.
        unwalked: The names of what cannot.
    """

    operations: list[Operation] = field(default_factory=list)
    unwalked: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """All names by which something may be skipped."""
        return [*map(str, self.operations), *self.unwalked]


async def survey(app: App, client: httpx.AsyncClient) -> Surface:
    """Return what an application has.

    Args:
        app: The application.
        client: Of it; asks for the document where the application has no ``openapi()``.

    Raises:
        ConfigurationError: There is no document.
    """
    surface, shown = Surface(), _showing(app)
    make = getattr(shown, "openapi", None)
    document = make() if callable(make) else await _asked_for(client)
    _add_application(surface, shown, document, below="")
    if not hasattr(shown, "routes"):
        surface.unwalked.append(UNSEEN)
    return surface


async def _asked_for(client: httpx.AsyncClient) -> Mapping[str, Any]:
    answer = await client.get("/openapi.json")
    if answer.status_code != _OK:
        raise ConfigurationError(
            f"The application has no openapi(), and GET /openapi.json answers {answer.status_code}."
            " An OpenAPI document is required, to know its operations."
        )
    found: Mapping[str, Any] = answer.json()
    return found


def _showing(app: Any) -> Any:
    """Return the application that is inside middleware, if it shows its routes or document."""
    inner = app
    for _ in range(_DEEPEST):
        if hasattr(inner, "routes") or callable(getattr(inner, "openapi", None)):
            return inner
        inner = getattr(inner, "app", None)
    return app


def _add_application(
    surface: Surface, app: Any, document: Mapping[str, Any], *, below: str
) -> None:
    routes: Iterable[Any] = getattr(app, "routes", None) or ()
    documented = read_operations(document, below=below)
    surface.operations += documented
    # Those of our own door are in the document, and are left out on purpose.
    known = {
        (method.upper(), below + path)
        for path, item in document.get("paths", {}).items()
        for method in item
    }
    own = {getattr(app, name, None) for name in _OF_THE_DOCUMENT} | {"/openapi.json"}
    for route in _flat(routes):
        path = getattr(route, "path", None)
        if path is None:
            name = getattr(route, "host", "")
            surface.unwalked.append(f"{_kind(route)} {below}{name}".strip())
        elif "WebSocket" in _kind(route):
            surface.operations.append(_socket(route, below + path))
        elif getattr(route, "methods", None):
            found = [] if path in own else _outside_the_document(route, below)
            surface.operations += [e for e in found if (e.method, e.path) not in known]
        else:
            _add_mounted(surface, route, below=below + path)


def _add_mounted(surface: Surface, route: Any, *, below: str) -> None:
    inner = _showing(getattr(route, "app", None))
    make = getattr(inner, "openapi", None)
    if "{" not in below and (callable(make) or getattr(inner, "routes", None)):
        _add_application(surface, inner, make() if callable(make) else {}, below=below)
    else:
        surface.unwalked.append(f"{_kind(route)} {below}")


def _flat(routes: Iterable[Any]) -> Iterator[Any]:
    """Return the routes with those of included routers, which newer versions of FastAPI nest."""
    # An application of FastAPI's has imported it, and without it there is nothing to flatten.
    nested = getattr(sys.modules.get("fastapi.routing"), "iter_route_contexts", None)
    return iter(routes) if nested is None else nested(list(routes))


def _kind(route: Any) -> str:
    return type(getattr(route, "original_route", route)).__name__


def _outside_the_document(route: Any, below: str) -> list[Operation]:
    """Return the operations of a route as its document would have them, were it there."""
    path = getattr(route, "path_format", None) or route.path
    methods = sorted(set(route.methods) - _IMPLIED)
    document: Mapping[str, Any] = {"paths": {path: {each.lower(): {} for each in methods}}}
    if hasattr(route, "dependant"):
        describe = sys.modules["fastapi.openapi.utils"].__dict__["get_openapi"]
        # Newer versions of FastAPI wrap a route in a dataclass, which copy() cannot take.
        shown: Any = replace(cast("Any", route)) if is_dataclass(route) else copy.copy(route)
        object.__setattr__(shown, "include_in_schema", True)
        document = describe(title="", version="", routes=[shown])
    return read_operations(document, below=below)


def _socket(route: Any, path: str) -> Operation:
    slots = slots_of_path(path)
    for each in _slots_of(getattr(route, "dependant", None)):
        slots[each.where, each.name] = each
    plain = re.sub(r"\{(\w+):\w+\}", r"{\1}", path)
    return Operation(SOCKET, plain, tuple(slots.values()))


def _slots_of(dependant: Any) -> Iterator[Slot]:
    """Yield the parameters that a WebSocket declares; no document has them."""
    if dependant is None:
        return
    for where in ("path", "query", "header", "cookie"):
        for each in getattr(dependant, f"{where}_params", ()):
            schema = _schema_of(each.field_info.annotation)
            yield Slot(where, each.alias, schema, each.field_info.is_required())
    for each in dependant.dependencies:
        yield from _slots_of(each)


def _schema_of(annotation: Any) -> Mapping[str, Any]:
    try:
        return TypeAdapter(annotation).json_schema()
    except (PydanticSchemaGenerationError, PydanticUserError):
        return {"type": "string"}
