"""How a problem is told: to programs in JSON, to people as the application's page."""

from __future__ import annotations

import logging
import traceback
from http import HTTPStatus
from typing import Final, NamedTuple

from tenantry.asgi.exchange import Exchange, Scope, path_of
from tenantry.asgi.problems import Problem
from tenantry.errors import TenantryError

__all__ = ["Answer", "answer", "cause_of"]

_log: Final = logging.getLogger("tenantry.asgi")


class Answer(NamedTuple):
    """What is sent."""

    status: int
    headers: dict[str, str]
    body: bytes


def answer(scope: Scope, problem: Problem, *, cause: Exception | None = None) -> Answer:
    """Return what a request is answered that has a problem, and log what is our fault.

    Args:
        scope: The request's.
        problem: What it is.
        cause: Why, for the log.
    """
    exchange = Exchange.of(scope)
    settings = exchange.door.settings
    if problem.status == HTTPStatus.INTERNAL_SERVER_ERROR and cause is not None:
        _log_fault(cause, exchange)
    headers, body = problem.all_headers(), problem.body(exchange.request_id)
    if settings.page is None and settings.sign_in_page is None:
        return Answer(problem.status, headers, body)
    headers["vary"] = "accept"
    if not _is_for_people(scope):
        return Answer(problem.status, headers, body)
    # A wrong password is a 401 as well, and nothing to be sent away for.
    is_nobody = problem.status == HTTPStatus.UNAUTHORIZED and exchange.found_nobody
    if is_nobody and settings.sign_in_page not in {None, path_of(scope)}:
        place = str(settings.sign_in_page)
        if place.startswith("/"):
            place = scope.get("root_path", "") + place
        return Answer(303, {"location": place, "vary": "accept"}, b"")
    if settings.page is not None:
        try:
            page = settings.page(problem.members(exchange.request_id)).encode("utf-8", "replace")
        except Exception as error:  # noqa: BLE001 - what went wrong first is what to tell
            _log_fault(error, exchange)
        else:
            headers["content-type"] = "text/html; charset=utf-8"
            body = page
    return Answer(problem.status, headers, body)


def cause_of(error: Exception) -> Exception:
    """Return what has failed in the middle of an answer, of which frameworks make an error."""
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        return error.__cause__
    return error


def _log_fault(cause: Exception, exchange: Exchange) -> None:
    cause = cause_of(cause)
    extra = {"request_id": exchange.request_id}
    _log.error("%s, request %s", _named(cause), exchange.request_id, extra=extra)


def _is_for_people(scope: Scope) -> bool:
    return any(name == b"accept" and b"text/html" in value for name, value in scope["headers"])


def _named(error: Exception) -> str:
    # Of others' errors only the kind: their messages may quote rows, and what was sent.
    told = f": {error}" if isinstance(error, TenantryError) else ""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    place = f" at {own[-1].filename}:{own[-1].lineno}" if own else ""
    return f"{type(error).__name__}{place}{told}"
