"""What every web application needs around `tenantry.auth`, whatever its framework. Pure ASGI."""

from __future__ import annotations

from tenantry.asgi.answers import answer
from tenantry.asgi.credentials import Cookie
from tenantry.asgi.door import Door
from tenantry.asgi.exchange import Exchange, Scope, path_of
from tenantry.asgi.exchanges import Exchanges
from tenantry.asgi.problems import Problem, problem_of
from tenantry.asgi.settings import DoorSettings, host_or_body

__all__ = [
    "Cookie",
    "Door",
    "DoorSettings",
    "Exchange",
    "Exchanges",
    "Problem",
    "Scope",
    "answer",
    "host_or_body",
    "path_of",
    "problem_of",
]
