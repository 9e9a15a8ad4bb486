"""Asking an application, within limits, and what is remembered of its answer."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from tenantry.testing.openapi import Operation, Schemas
from tenantry.testing.requesting import Filled, mentioned, request_of

__all__ = ["Answer", "Asker", "Limits", "OutOfLimitsError"]

_SECONDS: Final = 10.0
_FIRST_OF_ERRORS: Final = 400
_FIELDS_OF_AN_ERROR: Final = 3
# What differs from answer to answer without saying anything. Long ones first: of an id such as
# 1f…, the digit alone would be taken, and the rest would differ.
_VOLATILE: Final = re.compile(
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{16,}|\d+(\.\d+)?"
)


class OutOfLimitsError(Exception):
    """As many requests were sent, or as much time has passed, as was allowed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a walk may go."""

    requests: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Args:
        status: The HTTP status; 0 where no answer came in time.
        text: Headers and body, in lower case.
        body: The body in lower case.
        parsed: The body as JSON, or None.
        sent: All that the request has said.
        line: The request, for people.
    """

    status: int
    text: str = field(repr=False)
    body: str = field(repr=False)
    parsed: Any = field(repr=False)
    sent: str = field(repr=False)
    line: str

    @property
    def ok(self) -> bool:
        """Whether the operation was carried out."""
        return 0 < self.status < _FIRST_OF_ERRORS

    @property
    def shape(self) -> tuple[int, str]:
        """The answer without what is repeated of the request, and without numbers and ids."""
        body = self.body
        for word in sorted(set(re.findall(r"[\w.@-]{6,}", self.sent)), key=len, reverse=True):
            body = body.replace(word, "*")
        return self.status, _VOLATILE.sub("#", body)

    @property
    def complaint(self) -> str:
        """Why it was refused: the status, and the names of fields, but no values."""
        if self.status == 0:
            return f"no answer within {_SECONDS:.0f} s"
        detail = self.parsed.get("detail") if isinstance(self.parsed, dict) else None
        fields = [
            f"{'.'.join(map(str, each.get('loc', ())))} ({each.get('type')})"
            for each in (detail if isinstance(detail, list) else ())
            if isinstance(each, dict)
        ]
        return " ".join([str(self.status), *fields[:_FIELDS_OF_AN_ERROR]])


class Asker:
    """Sends requests and counts them."""

    def __init__(self, schemas: Schemas, limits: Limits) -> None:
        self._schemas = schemas
        self._limits = limits
        self._until = time.monotonic() + limits.seconds
        self.count = 0

    async def ask(self, client: httpx.AsyncClient, operation: Operation, filled: Filled) -> Answer:
        """Send one request.

        Raises:
            OutOfLimitsError: There is no request or no time left.
        """
        if self.count >= self._limits.requests or time.monotonic() > self._until:
            raise OutOfLimitsError
        self.count += 1
        request = request_of(operation, filled, self._schemas)
        line = _line(request)
        try:
            async with asyncio.timeout(_SECONDS):
                response = await client.request(**request)
        except TimeoutError:
            return Answer(0, "", "", None, mentioned(request), line)
        headers = "\n".join(f"{name}: {value}" for name, value in response.headers.items())
        body = response.text.lower()
        return Answer(
            status=response.status_code,
            text=f"{headers}\n{body}".lower(),
            body=body,
            parsed=_parsed(response),
            sent=mentioned(request),
            line=line,
        )


def _parsed(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _line(request: Mapping[str, Any]) -> str:
    options = "".join(
        f", {name}={request[name]!r}"
        for name in ("params", "headers", "json", "data")
        if request.get(name)
    )
    return f"client.request({request['method']!r}, {request['url']!r}{options})"
