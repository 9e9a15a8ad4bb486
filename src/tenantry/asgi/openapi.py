"""The OpenAPI of an application, with credentials and problems documented on every route."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any, Final

from tenantry.asgi.door import Door
from tenantry.asgi.problems import MEDIA_TYPE, Problem

__all__ = ["OWN", "SCHEME", "document", "reference", "references"]

SCHEME: Final = "tenantry:"
"""How the names of schemes begin that stand for kinds of credentials, as ``tenantry:api_key``."""

OWN: Final = {"x-tenantry-door": True}
"""What a door's own routes add to their operations. `tenantry.testing` leaves these out."""

_METHODS: Final = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})
_SAFE: Final = frozenset({"get", "head", "options", "trace"})
_EVERY: Final = (413, 500, 503)
_UNSAFE: Final = (400, 403, 422)
_WITH_CREDENTIAL: Final = (401, 403, 404, 409, 422)
_ERRORS: Final = (*_EVERY, *_UNSAFE, *_WITH_CREDENTIAL, 429)
_HEADERS: Final = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}

_SCHEMA: Final[dict[str, Any]] = {
    "title": "Problem",
    "description": "RFC 9457 problem details.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string", "description": "The request's id, as in X-Request-ID."},
        "reason": {"type": "string", "description": "Why a password is refused."},
        "errors": {
            "type": "array",
            "description": "What of the request is not as it should be.",
            "items": {
                "type": "object",
                "properties": {
                    "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
                    "msg": {"type": "string"},
                    "type": {"type": "string"},
                },
            },
        },
    },
}
_SENT_AWAY: Final = {"description": "To the sign-in page, for a browser that is not signed in."}
_SCHEMES: Final = {
    "session": ("sessionCookie", "sessionToken"),
    "api_key": ("apiKey", "apiKeyHeader"),
}


def document(spec: dict[str, Any], door: Door) -> dict[str, Any]:
    """Complete a specification in place, and return it; a second time changes nothing."""
    components = spec.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas["Problem"] = _SCHEMA
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    components["responses"] = {
        **components.get("responses", {}),
        **{f"Problem{status}": _response(status) for status in _ERRORS},
    }
    components["securitySchemes"] = {
        **{
            name: scheme
            for name, scheme in components.get("securitySchemes", {}).items()
            if not name.startswith(SCHEME)
        },
        **_security_schemes(door),
    }
    # In development, whoever is not on the same machine is refused, whatever is asked for.
    refusals = _EVERY if door.secure else (403, *_EVERY)
    for item in spec.get("paths", {}).values():
        for method in _METHODS & item.keys():
            unsafe = () if method in _SAFE else _UNSAFE
            _document_operation(item[method], {*refusals, *unsafe})
            if door.settings.sign_in_page is not None and item[method].get("security"):
                item[method]["responses"].setdefault("303", _SENT_AWAY)
    return spec


def _document_operation(operation: dict[str, Any], statuses: set[int]) -> None:
    needed = list(operation.get("security", ()))
    ours = [name for each in needed for name in each if name.startswith(SCHEME)]
    if ours:
        statuses.update(_WITH_CREDENTIAL)
        others = [each for each in needed if not any(name in ours for name in each)]
        operation["security"] = [*others, *_credentials(ours)]
    responses = operation.setdefault("responses", {})
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]
    if operation.get("parameters"):
        statuses.add(422)
    for status in sorted(statuses):
        responses.setdefault(str(status), reference(status))


def _credentials(names: list[str]) -> list[dict[str, list[str]]]:
    """Return what opens a route that asks for callers several times: what is right for all."""
    kinds = [name.removeprefix(SCHEME).split("|") for name in names]
    right = [kind for kind in kinds[0] if all(kind in each for each in kinds)]
    found: list[dict[str, list[str]]] = []
    for kind in right or kinds[0]:
        schemes = _SCHEMES.get(kind)
        found += [{name: []} for name in schemes] if schemes else [{}]
    return found


def reference(status: int) -> dict[str, Any]:
    """Return what stands for the answer with a problem of this status."""
    return {"$ref": f"#/components/responses/Problem{status}"}


def references(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what stands for the answers of each of these statuses."""
    return {status: reference(status) for status in statuses}


def _response(status: int) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": HTTPStatus(status).phrase,
        "content": {
            MEDIA_TYPE: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "example": json.loads(Problem(status).body("0198c0de-0000-7000-8000-000000000000")),
            }
        },
    }
    if status in _HEADERS:
        response["headers"] = {_HEADERS[status]: {"schema": {"type": "string"}}}
    return response


def _security_schemes(door: Door) -> dict[str, Any]:
    return {
        "sessionCookie": {"type": "apiKey", "in": "cookie", "name": door.cookie.wire_name},
        "sessionToken": {"type": "http", "scheme": "bearer", "description": "A session's token."},
        "apiKey": {"type": "http", "scheme": "bearer", "description": "tnt_… as a bearer token."},
        "apiKeyHeader": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
