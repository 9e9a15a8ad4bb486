"""What every web application needs around `tenantry.auth`, whatever its framework. Pure ASGI."""

from __future__ import annotations

from tenantry.asgi.credentials import Cookie
from tenantry.asgi.door import Door
from tenantry.asgi.exchanges import Exchange, Exchanges
from tenantry.asgi.problems import Problem, problem_of
from tenantry.asgi.settings import DoorSettings

__all__ = ["Cookie", "Door", "DoorSettings", "Exchange", "Exchanges", "Problem", "problem_of"]
