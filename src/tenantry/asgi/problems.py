"""What goes wrong, as RFC 9457 problem details: the one place where errors become statuses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import islice
from typing import Any, Final

from sqlalchemy.exc import DBAPIError, NoResultFound
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from tenantry import errors

__all__ = [
    "ERRORS",
    "MEDIA_TYPE",
    "STATUSES",
    "Problem",
    "invalid_request",
    "kind_of",
    "problem_of",
    "refused",
    "status_of",
]

MEDIA_TYPE: Final = "application/problem+json"

STATUSES: Final[Mapping[type[errors.TenantryError], int]] = {
    errors.ConfigurationError: 500,
    errors.DatabaseUnavailableError: 503,
    errors.UnsupportedServerError: 500,
    errors.PrivilegeError: 500,
    errors.SchemaError: 500,
    errors.TenantError: 500,
    errors.TenantUnknownError: 404,
    errors.CrossTenantError: 403,
    errors.AuthenticationError: 401,
    errors.RetryLaterError: 503,
    errors.ThrottledError: 429,
    errors.UserUnknownError: 404,
    errors.DocumentUnknownError: 404,
    errors.ReadOnlyError: 500,
    errors.InvalidValueError: 422,
    errors.ConflictError: 409,
}
"""Of an error that is not here, the nearest class above it says."""

ERRORS: Final = (errors.TenantryError, DBAPIError, NoResultFound, PoolTimeoutError)
"""What `problem_of` knows."""

# By a SQLSTATE or its class: values that cannot be stored, constraints, limits, and a server that
# cannot now.
_SQLSTATES: Final[Mapping[str, tuple[int, str | None]]] = {
    "22": (422, None),
    "23": (409, None),
    "23502": (422, "A value is missing."),
    "23503": (409, "What it refers to is not there, or it is itself in use."),
    "23514": (422, None),
    "40": (503, None),
    "53": (503, None),
    "54": (422, "A value is too long, or too complex."),
    "55": (503, None),
    "57": (503, None),
}

# What our messages say of these is for operators. A 404 says the same of another tenant's row as of
# one that never was.
_DETAILS: Final = {
    403: "This is not permitted.",
    404: "There is no such thing here.",
    409: "It exists already, or is in use.",
    413: "The body is too long.",
    422: "A value cannot be used.",
    500: "Something went wrong. The request's id leads to what.",
    503: "The service cannot answer now. Try again.",
}
_MOST_TOLD: Final = 20
"""Faults of one request that an answer lists."""
_TOLD: Final = frozenset({401, 409, 422, 429})


@dataclass(frozen=True, slots=True)
class Problem:
    """An answer that tells of a problem.

    Args:
        status: The HTTP status.
        kind: Tells programs which one it is; `kind_of` makes them.
        detail: For people.
        headers: Of the answer.
        more: Further members.
    """

    status: int
    kind: str = "about:blank"
    detail: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, object] = field(default_factory=dict)

    def members(self, request_id: str) -> dict[str, Any]:
        """Return the problem details."""
        title = HTTPStatus(self.status).phrase if self.status in set(HTTPStatus) else "Error"
        return {
            "type": self.kind,
            "title": title,
            "status": self.status,
            "detail": self.detail or _DETAILS.get(self.status, title),
            "instance": request_id,
            **self.more,
        }

    def body(self, request_id: str) -> bytes:
        """Return them as JSON."""
        return json.dumps(self.members(request_id), ensure_ascii=False).encode("utf-8", "replace")

    def all_headers(self) -> dict[str, str]:
        """Return the headers that go with it."""
        headers = {"content-type": MEDIA_TYPE, **self.headers}
        if not any(name.lower() == "cache-control" for name in headers):
            headers["cache-control"] = "no-store"
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers.setdefault("www-authenticate", "Bearer")
        elif self.status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers.setdefault("retry-after", "1")
        return headers


def kind_of(name: str) -> str:
    """Return the URI of a kind of problem."""
    return f"urn:problem-type:tenantry:{name}"


def status_of(error: errors.TenantryError) -> int:
    """Return the status that says what ``error`` says; 500 for one that is not of our tree."""
    return next((STATUSES[each] for each in type(error).__mro__ if each in STATUSES), 500)


def problem_of(error: Exception) -> Problem | None:
    """Return the problem that one of `ERRORS` is to the client; None for a defect."""
    if isinstance(error, errors.TenantryError):
        return _of_ours(error)
    if isinstance(error, NoResultFound):
        return Problem(404)
    if isinstance(error, PoolTimeoutError):
        return Problem(503)
    state = str(getattr(getattr(error, "orig", None), "sqlstate", None))
    known = _SQLSTATES.get(state) or _SQLSTATES.get(state[:2])
    return None if known is None else Problem(known[0], detail=known[1])


def refused(status: int, detail: object, *, headers: Mapping[str, str] | None) -> Problem:
    """Return the problem that an application raises itself; what is no text goes into ``data``."""
    told = detail if isinstance(detail, str) else None
    more = {} if told is not None else {"data": detail}
    return Problem(status, detail=told, headers=headers or {}, more=more)


def invalid_request(wrong: Iterable[Mapping[str, Any]]) -> Problem:
    """Return the problem of a request that is not as documented.

    Args:
        wrong: Pydantic's errors. Their inputs are left out, as one may be a password.
    """
    return Problem(
        422,
        kind_of("invalid-request"),
        "The request is not as documented.",
        more={"errors": [_without_input(each) for each in islice(wrong, _MOST_TOLD)]},
    )


def _without_input(error: Mapping[str, Any]) -> dict[str, object]:
    message = error["msg"]
    if isinstance((error.get("ctx") or {}).get("error"), str):
        message = message.partition(",")[0]  # a parser's, then with the character that it minds
    elif error["type"] != "missing" and any(each in message for each in _texts(error.get("input"))):
        message = "The value cannot be used."
    return {"loc": error["loc"], "msg": message, "type": error["type"]}


def _texts(given: object) -> Iterator[str]:
    # No recursion: how deep a body is, strangers choose.
    ahead = [given]
    while ahead:
        each = ahead.pop()
        if isinstance(each, Mapping):
            ahead.extend(each.values())
        elif isinstance(each, list | tuple):
            ahead.extend(each)
        elif each is not None and (text := str(each)):
            yield text


def _of_ours(error: errors.TenantryError) -> Problem:
    status = status_of(error)
    more: dict[str, Any] = {}
    headers: dict[str, str] = {}
    if isinstance(error, errors.RetryLaterError):
        headers["retry-after"] = str(error.retry_after_seconds)
    if isinstance(error, errors.PasswordRefusedError):
        more["reason"] = error.reason
    name = re.sub(r"(?<!^)(?=[A-Z])", "-", type(error).__name__.removesuffix("Error")).lower()
    # That something of ours is badly set is nothing for strangers.
    kind = "about:blank" if status == HTTPStatus.INTERNAL_SERVER_ERROR else kind_of(name)
    return Problem(status, kind, str(error) if status in _TOLD else None, headers, more)
